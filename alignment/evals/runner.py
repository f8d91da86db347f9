"""Ask a model the prompts of a suite: batches depend only on the suite, each is stored when answered, and nothing is asked twice.

An answer's address is a hash of its inputs (weights, prompt, length, and for samples the temperature and the draw). A run that was killed
therefore resumes where it stopped, and answers that a model already gave are reused. Bundled prompts share their addresses with the
nightly gate; prompts of other files have separate addresses, because the gate reads its suite's name with the answer.

Effects: reads and appends `eval_answers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from alignment.evals.answer import answer_id, batches
from alignment.evals.seals import answer_digest
from alignment.evals.suites import bundled, suite_version
from alignment.ids import content_id, unit_interval
from alignment.models.chat import ChatModel, Progress
from alignment.records import Message, SuitePrompt
from alignment.store import append, query, session

TEMPERATURE = 0.7
"""Temperature of sampled answers."""
_TOGETHER = 4
"""Batches that a model gets and that are stored at once: small models answer several side by side."""


class Asking(NamedTuple):
    """The model and the generation settings: after the greedy answer, `samples` more per prompt are drawn at `TEMPERATURE`.

    `max_new_tokens` limits the answer, `thinking_tokens` the thinking before it.
    """

    release_id: str
    max_new_tokens: int
    batch_size: int
    samples: int = 0
    thinking_tokens: int = 0


def ask(
    home: Path, model: ChatModel, prompts: Sequence[SuitePrompt], how: Asking, *, now: datetime, progress: Progress | None = None
) -> dict[str, list[str]]:
    """Return for each prompt id its greedy answer, followed by `how.samples` sampled answers.

    Raises:
        ModelError: the model cannot answer; earlier answers are kept.
    """
    cut = batches(prompts, _TOGETHER * how.batch_size)
    draws = range(how.samples + 1)
    wanted = {
        (prompt.id, draw): address(prompt, model.model_id, how.max_new_tokens, draw, thinking_tokens=how.thinking_tokens)
        for prompt in prompts
        for draw in draws
    }
    known = _known(home, wanted.values())
    version, done = suite_version(list(prompts)), 0
    for draw in draws:
        for batch in cut:
            ids = [wanted[prompt.id, draw] for prompt in batch]
            # Rerun the whole batch or none of it: in bfloat16, tokens depend on what else is in the batch.
            if not known.keys() >= set(ids):
                replies = _replies(model, batch, how.max_new_tokens, draw)
                _save(home, how.release_id, version, batch, ids, replies, now)
                known = {**dict(zip(ids, replies, strict=True)), **known}
            done += len(batch)
            if progress:
                progress(done, len(wanted))
    return {prompt.id: [known[wanted[prompt.id, draw]] for draw in draws] for prompt in prompts}


def address(prompt: SuitePrompt, model_id: str, max_new_tokens: int, draw: int = 0, *, thinking_tokens: int = 0) -> str:
    """Return the address of a model's answer: draw 0 is greedy, higher draws are samples."""
    greedy = answer_id(prompt, model_id, max_new_tokens, thinking_tokens)
    if draw:
        return content_id("sample", greedy, TEMPERATURE, draw)
    return greedy if bundled(prompt) else content_id("file", greedy)


def _replies(model: ChatModel, batch: Sequence[SuitePrompt], limit: int, draw: int) -> list[str]:
    conversations: list[list[Message]] = [prompt.conversation for prompt in batch]
    if not draw:
        return model.generate(conversations, max_new_tokens=limit)
    seed = int(unit_interval("sample", draw, batch[0].id) * 2**31)
    return model.generate(conversations, max_new_tokens=limit, temperature=TEMPERATURE, seed=seed)


def _known(home: Path, ids: Iterable[str]) -> dict[str, str]:
    rows = query(home, "SELECT id, response FROM eval_answers WHERE list_contains($ids, id)", {"ids": sorted(set(ids))})
    return {row["id"]: row["response"] for row in rows}


def _save(
    home: Path, release_id: str, version: str, batch: Sequence[SuitePrompt], ids: Sequence[str], replies: Sequence[str], now: datetime
) -> None:
    rows = [stored(prompt, one, reply, release_id, version, now) for prompt, one, reply in zip(batch, ids, replies, strict=True)]
    with session(home, write=True) as connection:
        append(connection, "eval_answers", rows)


def stored(prompt: SuitePrompt, name: str, reply: str, release_id: str, version: str, now: datetime) -> dict[str, Any]:
    """Return the sealed store row for an answer with the address `name`; `version` is the version of its suite."""
    return {
        "id": name,
        "model_id": release_id,
        "suite": prompt.suite,
        "suite_version": version,
        "prompt_id": prompt.id,
        "prompt": prompt.transcript,
        "cluster": prompt.cluster,
        "category": prompt.category,
        "response": reply,
        "created_at": now,
        "digest": answer_digest(name, prompt.transcript, reply),
    }
