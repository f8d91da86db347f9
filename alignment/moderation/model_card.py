"""Write the card that ships with the heads: data, licences and measured figures.

Effects: writes `weights/card.json` and `weights/card.md`.
"""

from __future__ import annotations

import json
from typing import Any

from alignment.models.embedder import Embedder
from alignment.moderation.cross_validate import FOLDS, TUNED_FOLDS, figures
from alignment.moderation.features import RULES_ID
from alignment.moderation.heads import TUNED, TUNED_TOKENS, WEIGHTS

_CARD = """# Card of the moderation heads

What they are: four linear heads on all-MiniLM-L6-v2 vectors (mean pooled, {embedder}), phrase counts and, for requests, hashed
words: harmful request, its category, refusal, harmful answer. All but the category are also scored by MiniLM tuned to requests, or to
exchanges (the prompt's end and the answer; refusals and harmful answers share it): low-rank changes (rank {rank}) of its linear layers,
{mebibytes:.1f} MiB in tuned.safetensors, merged into copies of it when loaded. A logistic regression of both scores, fitted on rows that
neither saw, blends them. The embedder itself stays as it was. Weights in heads.safetensors and tuned.safetensors, fitted by
`python -m alignment.moderation.fit --data DIR`.

Data (labels are people's unless marked weak; none of these texts ships, except the project's own):

- The project's own requests (data/requests.jsonl), pairs of a harmful request and a harmless one that differ in little else
  (data/contrasts.jsonl), and answers (data/answers.jsonl; by hand, and answers of SmolLM2-135M-Instruct, Apache-2.0, labelled by
  hand). The bundled traffic and the gate's suites are not in them.
- Answers composed of the project's own sentences (data/frames.json): refusals that lecture, offer or turn to something harmless,
  help with cautions around it (both for refusals only), and harm after a refusal or a caution (for harmful answers only).
- AdvBench, HarmBench validation, GPTFuzz questions with an even index (MIT): harmful requests.
- OpenAI moderation release (MIT): categories of prompts, at low weight; rows without a positive label count as harmless.
- GPTFuzz answers to questions with an even index (MIT): harmful labels; refusal labels are weak.
- OpenAI safety-RBR (MIT): propositions of people, at low weight, as they are noisy.
- HH-RLHF harmless-base test (MIT), of every other preferred answer: 183 labelled by hand for this project (data/hh_labels.json names
  the rows; it holds no text), and those without declining words as weak "does not decline".

Figures from cross-validation ({folds} folds, {tuned_folds} for tuned encoders), folds never splitting a question (threshold 0.5;
"recall" is the share found, "false" the share of the rest that is called so; weak labels flatter the refusal figures of gptfuzz and
hh-even; composed answers share sentences between folds, so their figure is no evidence; the hand-written answers are hard on purpose).
What was measured on other people's data is in held_out.md:

{lines}

Limits: hard look-alikes are the weak spot of requests; English; only the first 128 tokens ({tokens} by the tuned encoders), the opening
and the last 400 characters of an answer are read; the category is a best guess even where the request is harmless. Of a
conversation only the user's last message is read: harm that is built up over several turns is not seen.
"""


def write_card(report: dict[str, Any], *, embedder: Embedder) -> None:
    """Write the card as JSON and as Markdown."""
    card = {"embedder": embedder.version, "rules": RULES_ID, "figures": report}
    WEIGHTS.with_name("card.json").write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    lines = "\n".join(f"    {line}" for line in figures(report))
    from alignment.models.lowrank import RANK

    text = _CARD.format(
        lines=lines, folds=FOLDS, tuned_folds=TUNED_FOLDS, rank=RANK, mebibytes=TUNED.stat().st_size / 2**20, embedder=embedder.version,
        tokens=" and ".join(map(str, TUNED_TOKENS.values())),
    )  # fmt: skip
    WEIGHTS.with_name("card.md").write_text(text, encoding="utf-8")
