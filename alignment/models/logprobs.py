"""Log-probabilities of answers, computed in bounded batches and cached by their exact tokens.

Effects: `CachedLogProbs` reads and writes one Parquet file per model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.ids import content_id
from alignment.models.cores import fits_side_by_side, side_by_side
from alignment.records import Message

_SCHEMA = pa.schema([("key", pa.string()), ("sum", pa.float64()), ("tokens", pa.int64())])
_BATCH_TOKENS, _HEAD_TOKENS = 16_384, 512
"""Limits: tokens of a batch with padding, and answer tokens whose logits are in memory at once (512 x 49,152 floats are 100 MB)."""


_COMPUTED = "log-probs 2"
"""Rename whenever a number may change, so that no cached number of older code is read."""
LogitsOf = Callable[[Any, Sequence["TurnIds"], Any, Any], Iterator[tuple[Any, Any, Any]]]


class LogProb(NamedTuple):
    """The natural log-probability of a whole answer (at most 0), and its number of tokens, including its end of turn."""

    sum: float
    tokens: int


class TurnIds(NamedTuple):
    """Tokens of a conversation up to the assistant's turn, and of that turn."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class Scorer(Protocol):
    """A model that returns the log-probabilities of answers."""

    @property
    def model_id(self) -> str: ...
    @property
    def precision(self) -> str: ...
    def turns(self, conversations: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[TurnIds]: ...
    def score(self, turns: Sequence[TurnIds]) -> list[LogProb]: ...


def score_turns(model: Any, turns: Sequence[TurnIds], *, batch_size: int) -> list[LogProb]:
    """Return each turn's log-probability under a causal `model`: the answer tokens' only, given all tokens before them.

    Batches hold rows of similar length, at most `batch_size` of them and 16,384 tokens with padding. An answer without tokens has sum 0.
    Models that scale or cap their logits (Granite, Gemma, Cohere and others) run their own forward pass.
    """
    import torch

    order = sorted(range(len(turns)), key=lambda index: (len(turns[index].prompt) + len(turns[index].answer), turns[index]))
    found = [LogProb(0.0, len(turn.answer)) for turn in turns]
    waiting = [index for index in order if turns[index].answer]
    logits_of = _at_once if waiting and plain_head(model) else _forward
    batches: list[tuple[list[int], int]] = []
    while waiting:
        # Longest first: it determines how many rows fit, and a row that exceeds the memory fails at once.
        width = len(turns[waiting[-1]].prompt) + len(turns[waiting[-1]].answer)
        rows = max(1, min(batch_size, _BATCH_TOKENS // width))
        batches.append((waiting[-rows:], width))
        waiting = waiting[:-rows]

    def run(one: tuple[list[int], int]) -> list[float]:
        batch, width = one
        with torch.inference_mode():
            return _batch_sums(model, [turns[index] for index in batch], width, logits_of)

    together = bool(batches) and fits_side_by_side(model)
    for (batch, _), sums in zip(batches, side_by_side(run, batches) if together else map(run, batches), strict=True):
        for index, total in zip(batch, sums, strict=True):
            found[index] = LogProb(total, len(turns[index].answer))
    return found


def _batch_sums(model: Any, turns: Sequence[TurnIds], width: int, logits_of: LogitsOf) -> list[float]:
    import torch

    tokens = torch.zeros((len(turns), width), dtype=torch.long)
    visible = torch.zeros_like(tokens)
    for row, turn in enumerate(turns):
        ids = (*turn.prompt, *turn.answer)
        tokens[row, : len(ids)], visible[row, : len(ids)] = torch.tensor(ids), 1
    tokens, visible = tokens.to(model.device), visible.to(model.device)
    totals = torch.zeros(len(turns), dtype=torch.float64, device=model.device)
    for row, column, logits in logits_of(model, turns, tokens, visible):
        picked = logits.gather(-1, tokens[row, column].unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
        totals.index_add_(0, row, picked.double())
    return [float(value) for value in totals.tolist()]


def _at_once(model: Any, turns: Sequence[TurnIds], tokens: Any, visible: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield rows (M,) and columns (M,) of answer tokens with the logits (M, V) before each, from one pass through the body."""
    import torch

    hidden = model.base_model(input_ids=tokens, attention_mask=visible, use_cache=False).last_hidden_state
    at = [(row, len(turn.prompt) + step) for row, turn in enumerate(turns) for step in range(len(turn.answer))]
    for part in torch.tensor(at, device=model.device).split(_HEAD_TOKENS):
        row, column = part[:, 0], part[:, 1]
        yield row, column, model.get_output_embeddings()(hidden[row, column - 1]).float()


def _forward(model: Any, turns: Sequence[TurnIds], tokens: Any, visible: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the same from the model's own forward pass, with as many rows and columns at once as fit in memory."""
    import torch

    starts, ends = ([len(turn.prompt) + more * len(turn.answer) for turn in turns] for more in (0, 1))
    columns = torch.arange(min(starts), max(ends), device=model.device)
    for rows in torch.arange(len(turns), device=model.device).split(max(1, _HEAD_TOKENS // len(columns))):
        for part in columns.split(_HEAD_TOKENS):
            asked = {"input_ids": tokens[rows], "attention_mask": visible[rows], "use_cache": False}
            logits = model(**asked, logits_to_keep=part - 1).logits.float()
            first, last = (torch.tensor(ends_of, device=model.device)[rows].unsqueeze(1) for ends_of in (starts, ends))
            here = ((part >= first) & (part < last)).nonzero()
            yield rows[here[:, 0]], part[here[:, 1]], logits[here[:, 0], here[:, 1]]


def plain_head(model: Any) -> bool:
    """Return whether a causal model's logits are just its head on its last hidden states: no scale, no cap, no shift.

    Tests eight tokens, bit for bit, instead of the configuration: model families use many names for changes to logits.
    """
    import torch

    tokens = torch.arange(8, device=model.device).unsqueeze(0) % model.config.get_text_config().vocab_size
    with torch.inference_mode():
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        alone = model.get_output_embeddings()(hidden).float()
        return bool(torch.equal(alone, model(input_ids=tokens, use_cache=False).logits.float()))


class CachedLogProbs:
    """A cache of log-probabilities: the same weights always give the same tokens the same number."""

    def __init__(self, model: Scorer, folder: Path) -> None:
        self.model, self.path = model, folder / f"{model.model_id[:32]}.parquet"

    @property
    def model_id(self) -> str:
        """Content address of the weights."""
        return self.model.model_id

    def log_probs(self, conversations: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[LogProb]:
        """Return each answer's log-probability; computes only those not in the cache."""
        turns = self.model.turns(conversations, answers)
        keys = [content_id(_COMPUTED, self.model.model_id, self.model.precision, *turn) for turn in turns]
        known = _load(self.path)
        missing = {key: turn for key, turn in zip(keys, turns, strict=True) if key not in known}
        if missing:
            known |= dict(zip(missing, self.model.score(list(missing.values())), strict=True))
            _save(self.path, known)
        return [known[key] for key in keys]


def _load(path: Path) -> dict[str, LogProb]:
    """Return the cached log-probabilities; an unreadable cache counts as empty."""
    try:
        rows = pq.read_table(path, schema=_SCHEMA).to_pylist()
    except (OSError, pa.ArrowInvalid):
        return {}
    return {row["key"]: LogProb(row["sum"], row["tokens"]) for row in rows}


def _save(path: Path, known: dict[str, LogProb]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"key": key, **value._asdict()} for key, value in sorted(known.items())]
    scratch = path.with_suffix(f".{os.getpid()}.part")
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), scratch)
    os.replace(scratch, path)
