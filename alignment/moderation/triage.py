"""The cascade's first stage: the risk that the detectors would flag an exchange, from word pieces alone, in a fraction of a millisecond.

Each word piece has a number per view (the request; an answer's opening; all of an answer), distilled from vectors of the encoders: the
weighted mean over a text is what a linear head would say of the mean of its pieces' vectors. A second linear model joins the views. Low
risk clears an exchange, everything else takes the full path (`moderate`).

Source: static embeddings of an encoder, Tulkens & van Dongen 2024 (model2vec); weights of rare words, Arora et al. 2017 (SIF).

Effects: reads `weights/triage.safetensors` on first use, which `python -m alignment.moderation.fit_triage` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alignment.conversation import FIRST, LAST
from alignment.errors import ModelError
from alignment.ids import content_id, file_sha256, unit_interval
from alignment.models.embedder import Embedder
from alignment.moderation.detectors import toxicity, versions
from alignment.reasoning import apart
from alignment.records import Interaction
from alignment.wording import opening

Matrix = npt.NDArray[np.float32]
TRIAGE = Path(__file__).parent / "weights" / "triage.safetensors"
VIEWS = ("request", "refusal_opening", "refusal_whole", "harm_opening", "harm_whole")
"""Columns of the table of word pieces."""
CHARS, PIECES = 1500, 256
"""Of a text, as much is read: its beginning and its end."""
JOINS = (
    "worst turn", "last turn", "all turns", "answer declines", "answer harms", "toxic request", "toxic answer", "answered",
    "length of answer", "turns",
)  # fmt: skip
"""Columns that the second model joins."""
_RULES = 1
"""Raise this when the same weights would give other risks."""


def risks(exchanges: Sequence[Interaction], *, embedder: Embedder) -> Matrix:
    """Return the risk of each exchange, in 0..1, shape (exchanges,). Risks order exchanges; they are no probabilities of harm.

    Raises:
        ModelError: the shipped weights are missing.
    """
    tensors = _tensors()
    raw = joined_views(exchanges, tensors["pieces"].astype(np.float32), tensors["weight"].astype(np.float32), embedder=embedder)
    columns = (raw - tensors["mean"]) / tensors["scale"]
    risk: Matrix = (1 / (1 + np.exp(-np.clip(columns @ tensors["kernel"] + tensors["bias"], -30, 30)))).astype(np.float32)
    return risk


def threshold() -> float:
    """Return the risk below which an exchange is cleared."""
    return float(_tensors()["threshold"][0])


def triage_version(*, embedder: Embedder) -> str:
    """Return the content address of what clears: these weights and the detectors whose flags they foretell, 12 hex digits."""
    return content_id("triage", _RULES, file_sha256(TRIAGE), CHARS, PIECES, sorted(versions(embedder=embedder).items()))[:12]


def is_audited(interaction_id: str, share: float) -> bool:
    """Say whether an exchange belongs to a random sample of about `share` of all, the same in every run.

    >>> 900 < sum(is_audited(str(number), 0.1) for number in range(10_000)) < 1_100
    True
    """
    return unit_interval("audit", interaction_id) < share


def joined_views(exchanges: Sequence[Interaction], pieces: Matrix, weight: Matrix, *, embedder: Embedder) -> Matrix:
    """Return the (exchanges, len(JOINS)) input of the second model, from a table (pieces, len(VIEWS)) and the pieces' weights."""
    if not exchanges:
        return np.zeros((0, len(JOINS)), np.float32)
    turns = [_turns(one) for one in exchanges]
    answers = [apart(one.response).answer.strip() for one in exchanges]
    asked = [turn for row in turns for turn in row]
    ends = np.cumsum([len(row) for row in turns])
    starts = ends - [len(row) for row in turns]
    column = {name: number for number, name in enumerate(VIEWS)}
    reads = Pieces(pieces, weight, embedder)
    of_turns = reads.means(asked)
    request, weights = of_turns.mean[:, column["request"]], of_turns.weight
    whole, first = reads.means(answers).mean, reads.means([opening(text) for text in answers]).mean
    said = np.array([bool(text) for text in answers], np.float32)
    toxic = np.asarray(toxicity([*map(" ".join, turns), *answers]), np.float32).reshape(2, -1)
    return np.column_stack(
        [
            np.maximum.reduceat(request, starts),
            request[ends - 1],
            np.add.reduceat(request * weights, starts) / np.maximum(np.add.reduceat(weights, starts), 1e-6),
            said * (first[:, column["refusal_opening"]] + whole[:, column["refusal_whole"]]),
            said * (first[:, column["harm_opening"]] + whole[:, column["harm_whole"]]),
            toxic[0],
            toxic[1],
            said,
            np.log1p([len(text) for text in answers]),
            np.log([len(row) for row in turns]),
        ]
    ).astype(np.float32)


def _turns(exchange: Interaction) -> list[str]:
    """Return what system and user say, never an empty list; of a long conversation the first and last turns."""
    said = [turn["content"] for turn in exchange.messages if turn["role"] != "assistant"] or [""]
    return said if len(said) <= FIRST + LAST else [*said[:FIRST], *said[-LAST:]]


class Means:
    """Weighted means over texts, (texts, columns), and the sums of the weights, (texts,)."""

    __slots__ = ("mean", "weight")

    def __init__(self, mean: Matrix, weight: Matrix) -> None:
        self.mean, self.weight = mean, weight


class Pieces:
    """A table of word pieces: means of its rows over texts."""

    def __init__(self, table: Matrix, weight: Matrix, embedder: Embedder) -> None:
        self.table, self.weight = table * weight[:, None], weight
        self._tokenizer = _tokenizer(embedder.folder)

    def means(self, texts: Sequence[str]) -> Means:
        """Return the mean rows of each text's word pieces, each piece with its weight; 0 for a text without any."""
        encoded = self._tokenizer.encode_batch_fast([_ends(text) for text in texts], add_special_tokens=False)
        ids = [_ends_of(one.ids) for one in encoded]
        lengths = np.array([len(one) for one in ids])
        found, weight = np.zeros((len(ids), self.table.shape[1]), np.float32), np.zeros(len(ids), np.float32)
        full = lengths > 0
        if full.any():
            flat = np.concatenate([np.asarray(one, np.int64) for one in ids if one])
            starts = (np.cumsum(lengths[full]) - lengths[full]).astype(np.int64)
            weight[full] = np.add.reduceat(self.weight[flat], starts)
            found[full] = np.add.reduceat(self.table[flat], starts, axis=0) / weight[full, None]
        return Means(found, weight)


def _ends(text: str) -> str:
    return text if len(text) <= CHARS else f"{text[: CHARS // 2]} {text[-CHARS // 2 :]}"


def _ends_of(ids: Sequence[int]) -> Sequence[int]:
    return ids if len(ids) <= PIECES else [*ids[: PIECES // 2], *ids[-PIECES // 2 :]]


@cache
def _tokenizer(folder: Path) -> Any:
    """Return a tokenizer of its own: the embedder's keeps a padding and a length as its state."""
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found.no_padding()
    found.no_truncation()
    return found


@cache
def _tensors() -> dict[str, Matrix]:
    from safetensors.numpy import load_file

    if not TRIAGE.is_file():
        raise ModelError(f"{str(TRIAGE)!r} is missing; fit it with 'python -m alignment.moderation.fit_triage --data DIR'")
    return dict(load_file(TRIAGE))
