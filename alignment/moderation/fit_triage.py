"""Fit the cascade's first stage: `python -m alignment.moderation.fit_triage --data DIR` (or ALIGN_DATA_DIR), after `fit`. Deterministic.

The texts are those that the heads are fitted on. What is learned is what the full path flags of them, so that path scores a sample first:
about ten minutes on one core. Evaluation sets and the bundled traffic are not read.

Effects: writes `weights/triage.safetensors` and `weights/triage.md`; prints its figures.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from alignment.models.embedder import Changes, Embedder
from alignment.moderation.corpora import (
    Answered,
    Request,
    composed,
    lengthened,
    own_answers,
    own_requests,
    public_answers,
    public_dialogues,
    public_requests,
)
from alignment.moderation.cross_validate import fit_linear
from alignment.moderation.detectors import moderate
from alignment.moderation.fit import HARM_WEIGHT, REFUSAL_WEIGHT, REQUEST_WEIGHT
from alignment.moderation.heads import TUNED, TUNED_TOKENS
from alignment.moderation.triage import JOINS, TRIAGE, VIEWS, Pieces, joined_views
from alignment.records import Interaction
from alignment.wording import opening

Matrix = npt.NDArray[np.float32]
FOLDS, RARE, SHARPNESS = 3, 1e-3, 10.0
C = {"request": 1.0, "refusal": 1.0, "harm": 1.0, "join": 1.0}
TEACH_REQUESTS, TEACH_ANSWERS, MOST_ANSWERS = 4, 8, 6000
"""The full path scores every n-th request and every n-th answer; a head reads at most so many answers."""
UNFOUND = 0.005
"""Share of flagged rows that the threshold leaves out, on rows that were not fitted on: half of what is stated, as a margin."""
BATCH = 1024


class Taught(NamedTuple):
    """An exchange, the group that no fold splits, and whether the full path flags it."""

    exchange: Interaction
    group: str
    flagged: bool


class Corpora(NamedTuple):
    """Labelled requests and answers, as for the heads."""

    requests: list[Request]
    answers: list[Answered]


def main() -> int:
    """Score the sample, fit, and write the weights and the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("ALIGN_DATA_DIR")
    parser.add_argument("--data", type=Path, default=default, required=default is None)
    folder, embedder = Path(parser.parse_args().data), Embedder()
    answers = own_answers()
    answers += lengthened(answers) + composed(answers) + public_answers(folder)
    corpora = Corpora(own_requests() + public_requests(folder), answers)
    taught = teach(corpora, folder, embedder=embedder)
    tensors, lines = fit_triage(corpora, taught, embedder=embedder)
    from safetensors.numpy import save_file

    save_file(tensors, TRIAGE)
    TRIAGE.with_suffix(".md").write_text(_CARD.format(lines="\n".join(f"    {line}" for line in lines)), encoding="utf-8")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def teach(corpora: Corpora, folder: Path, *, embedder: Embedder) -> list[Taught]:
    """Return a sample of the corpora as exchanges, with the full path's flags at its own thresholds."""
    answers = [row for row in corpora.answers if row.source not in ("own-lengthened", "own-composed", "own-yielding", "hh-even")]
    rows = [(row.group, (row.text,), "") for row in corpora.requests[::TEACH_REQUESTS]]
    rows += [(row.group, (row.prompt,), row.response) for row in answers if row.source.startswith("own")]
    rows += [(row.group, (row.prompt,), row.response) for row in answers[::TEACH_ANSWERS] if not row.source.startswith("own")]
    exchanges = [
        (group, _exchange(number, tuple({"role": "user", "content": said} for said in asked), answer))
        for number, (group, asked, answer) in enumerate(rows)
    ]
    exchanges += [
        (f"hh-{4 * number}", _exchange(len(rows) + number, messages, answer))
        for number, (messages, answer) in enumerate(public_dialogues(folder))
    ]
    found: dict[str, bool] = {}
    for start in range(0, len(exchanges), 128):
        for one in moderate([each for _, each in exchanges[start : start + 128]], embedder=embedder, thresholds={}):
            found[one.interaction_id] = found.get(one.interaction_id, False) or (one.flagged and one.detector != "pii")
        sys.stdout.write(f"scored {len(found)} of {len(exchanges)}\n")
        sys.stdout.flush()
    return [Taught(one, group, found[one.id]) for group, one in exchanges]


def _exchange(number: int, messages: Any, answer: str) -> Interaction:
    return Interaction(f"taught-{number}", "", "", datetime(2026, 1, 1, tzinfo=UTC), "", messages, answer)


def fit_triage(corpora: Corpora, taught: Sequence[Taught], *, embedder: Embedder) -> tuple[dict[str, Matrix], list[str]]:
    """Return the tensors that ship and the figures on unseen rows, as lines. Folds split no group, in either model."""
    from sklearn.model_selection import GroupKFold

    vectors, weight = _static(embedder), _weight(corpora, embedder)
    flags, groups = np.array([row.flagged for row in taught]), [row.group for row in taught]
    exchanges = [row.exchange for row in taught]
    views = np.zeros((len(taught), len(JOINS)), np.float32)
    folds = list(GroupKFold(FOLDS, shuffle=True, random_state=0).split(flags, flags, groups))
    for _, unseen in folds:
        out = {groups[row] for row in unseen}
        # A table for each fold: its rows were never read with a label.
        seen = Corpora([row for row in corpora.requests if row.group not in out], [row for row in corpora.answers if row.group not in out])
        table = _table(seen, vectors, weight, embedder)
        views[unseen] = joined_views([exchanges[row] for row in unseen], table, weight, embedder=embedder)
    mean, scale = views.mean(axis=0), views.std(axis=0) + 1e-6
    crossed = np.zeros(len(taught), np.float32)
    for seen_rows, unseen in folds:
        crossed[unseen] = _join(views[seen_rows], flags[seen_rows], mean, scale)(views[unseen])
    kernel, bias = fit_linear((views - mean) / scale, flags, np.ones(len(flags)), c=C["join"])
    # Log lines have answers: bare requests are flagged so plainly that they would say little about a threshold.
    answered = np.array([bool(one.response.strip()) for one in exchanges])
    cut = np.quantile(crossed[answered & flags], UNFOUND)
    table = _table(corpora, vectors, weight, embedder)
    tensors = {
        "pieces": table.astype(np.float16),
        "weight": weight.astype(np.float16),
        "mean": mean,
        "scale": scale,
        "kernel": kernel[:, 0],
        "bias": bias,
        "threshold": np.array([1 / (1 + np.exp(-cut))], np.float32),
    }
    return {name: np.ascontiguousarray(one) for name, one in tensors.items()}, _figures(crossed, cut, flags, answered)


def _join(views: Matrix, flags: Any, mean: Matrix, scale: Matrix) -> Any:
    kernel, bias = fit_linear((views - mean) / scale, flags, np.ones(len(flags)), c=C["join"])
    return lambda unseen: ((unseen - mean) / scale) @ kernel[:, 0] + bias[0]


def _figures(crossed: Matrix, cut: float, flags: Any, answered: Any) -> list[str]:
    from sklearn.metrics import roc_auc_score

    parts = {"requests alone": ~answered, "with an answer": answered}
    return [
        f"{name:16} n {part.sum()}  flagged by the full path {flags[part].mean():.3f}  "
        f"AUC {roc_auc_score(flags[part], crossed[part]):.3f}  of flagged passed on {(crossed[part & flags] >= cut).mean():.4f}  "
        f"of the rest cleared {(crossed[part & ~flags] < cut).mean():.3f}"
        for name, part in parts.items()
    ]


def _static(embedder: Embedder) -> dict[str, Matrix]:
    """Return unit vectors of all word pieces by task, (pieces, 2 × 384): the plain encoder's and the tuned one's."""
    plain = _piece_vectors(embedder)
    return {
        task: np.hstack([plain, _piece_vectors(embedder.tuned(Changes(TUNED, task), max_tokens=tokens))])
        for task, tokens in TUNED_TOKENS.items()
    }


def _piece_vectors(embedder: Embedder) -> Matrix:
    import torch

    tokenizer, model = embedder._parts
    found = []
    with torch.inference_mode():
        for ids in torch.arange(len(tokenizer)).split(BATCH):
            framed = torch.stack([torch.full_like(ids, tokenizer.cls_token_id), ids, torch.full_like(ids, tokenizer.sep_token_id)], 1)
            states = model(input_ids=framed, attention_mask=torch.ones_like(framed)).last_hidden_state
            found.append(states.float().mean(1).numpy())
    vectors = np.vstack(found)
    vectors = vectors - vectors.mean(axis=0)
    unit: Matrix = vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-6)
    return unit


def _weight(corpora: Corpora, embedder: Embedder) -> Matrix:
    """Return each word piece's weight: the rarer it is in the corpora, the nearer to 1."""
    from alignment.moderation.triage import _tokenizer

    texts = [row.text for row in corpora.requests] + [row.response for row in corpora.answers]
    tokenizer = _tokenizer(embedder.folder)
    counts = np.ones(tokenizer.get_vocab_size(), np.float64)
    for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
        np.add.at(counts, one.ids, 1)
    weight: Matrix = (RARE / (RARE + counts / counts.sum())).astype(np.float32)
    return weight


def _table(corpora: Corpora, vectors: dict[str, Matrix], weight: Matrix, embedder: Embedder) -> Matrix:
    """Return the (pieces, len(VIEWS)) table: a linear head per task, told for each word piece by itself."""
    asks, says = (Pieces(vectors[task], weight, embedder) for task in ("request", "exchange"))
    width = vectors["request"].shape[1]
    columns = SHARPNESS * asks.means([row.text for row in corpora.requests]).mean
    shares = np.array([REQUEST_WEIGHT.get(row.source, 1.0) for row in corpora.requests])
    kernel, bias = fit_linear(columns, np.array([row.harm for row in corpora.requests]), shares, c=C["request"])
    parts = {"request": SHARPNESS * vectors["request"] @ kernel[:, 0] + bias[0]}
    for task, weights in (("refusal", REFUSAL_WEIGHT), ("harm", HARM_WEIGHT)):
        rows = [row for row in corpora.answers if (row.refusal if task == "refusal" else row.harmful) is not None]
        rows = [rows[at] for at in np.random.default_rng(0).permutation(len(rows))[:MOST_ANSWERS]]
        labels = np.array([row.refusal if task == "refusal" else row.harmful for row in rows])
        first, whole = (says.means(texts).mean for texts in ([opening(row.response) for row in rows], [row.response for row in rows]))
        shares = np.array([weights.get(row.source, 1.0) for row in rows])
        kernel, bias = fit_linear(SHARPNESS * np.hstack([first, whole]), labels, shares, c=C[task])
        parts[f"{task}_opening"] = SHARPNESS * vectors["exchange"] @ kernel[:width, 0] + bias[0]
        parts[f"{task}_whole"] = SHARPNESS * vectors["exchange"] @ kernel[width:, 0]
    table: Matrix = np.column_stack([parts[name] for name in VIEWS]).astype(np.float32)
    return table


_CARD = """# Card of the cascade's first stage

What it is: a number per word piece of all-MiniLM-L6-v2 for the request, for an answer's opening and for all of an answer (linear heads on
the pieces' own vectors, of the plain and the tuned encoders), and a logistic regression that joins the views of an exchange. It foretells
whether the full path flags anything but personal data. Weights in triage.safetensors, fitted by
`python -m alignment.moderation.fit_triage --data DIR`.

Data: the texts that the heads are fitted on (card.md), with the heads' labels for the table of pieces; for the join, what the full path
flags of a sample of them and of every fourth dialogue of HH-RLHF (MIT). The bundled traffic and the gate's suites are not in them.

Figures on rows that neither model was fitted on (three folds that split no question), at the threshold that ships. It was chosen on these
rows, those with an answer, to pass on 99.5% of what the full path flags:

{lines}

What it does on other data is in docs/detectors.md. Limits: English; of a text only beginning and end are read; the full path itself
flags some harmless exchanges, and these are passed on like others.
"""


if __name__ == "__main__":
    raise SystemExit(main())
