"""Export accepted pairs from the store as a data set.

Effects: reads the store, writes a folder.
"""

from __future__ import annotations

from pathlib import Path

from alignment.config import Settings
from alignment.errors import InputError
from alignment.labels import load_constitution
from alignment.lineage import record_export
from alignment.pairs import load_pairs
from alignment.pairs.export import Format, card, write_export
from alignment.store import query, sql
from alignment.text import looks_masked
from flows.curate import accepted
from flows.night import night_ids, now
from flows.show import say


def export_pairs(settings: Settings, out: Path, *, night_id: str | None, form: Format) -> dict[str, int]:
    """Write all trainable pairs that nobody overruled, or one night's pairs as they were, into `out`; return rows by file.

    Pairs whose chosen answer contains a placeholder, which nights once made, are left out: nobody should teach placeholders.

    Raises:
        InputError: no such night, no pairs, or `out` is not empty.
    """
    if night_id and night_id not in (known := night_ids(settings.home)):
        raise InputError(f"no night {night_id!r}; known are {', '.join(known) or 'none yet'} (newest first)")
    known_pairs = load_pairs(settings.home, night_id) if night_id else accepted(settings)
    pairs = [pair for pair in known_pairs if not looks_masked(pair.chosen)]
    if left := len(known_pairs) - len(pairs):
        say(f"{left} pairs are left out, because the answer that they would teach has a placeholder of redaction")
    constitution = load_constitution(settings.labels.constitution)
    consent = query(settings.home, sql("flows", "pair_consent"), {"ids": [pair.id for pair in pairs]})
    text = card(
        pairs,
        principles={principle.id: principle.text.strip() for principle in constitution.principles},
        constitution=f"{constitution.name} {constitution.version}",
        labelers=query(settings.home, sql("alignment.store", "labelers")),
        without_consent=sum(not row["consent"] for row in consent),
        seeds=query(settings.home, sql("flows", "pairs_of_seeds"), {"ids": [pair.interaction_id for pair in pairs]}),
    )
    rows = write_export(pairs, out, text, form=form)
    record_export(settings.home, out, night_id=night_id, now=now())
    return rows
