"""The card that ships beside the heads: data, licences and measured figures.

Effects: writes `weights/card.json` and `weights/card.md`.
"""

from __future__ import annotations

import json
from typing import Any

from alignment.models.embedder import Embedder
from alignment.moderation.features import RULES_ID
from alignment.moderation.heads import WEIGHTS
from alignment.moderation.measure import figures


def write_card(report: dict[str, Any], *, embedder: Embedder) -> None:
    """Write both forms of the card."""
    card = {"embedder": embedder.version, "rules": RULES_ID, "figures": report}
    WEIGHTS.with_name("card.json").write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    WEIGHTS.with_name("card.md").write_text("# Heads\n\n" + "\n".join(f"- {line}" for line in figures(report)) + "\n")
