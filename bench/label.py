"""Measure the speed of labelers and the cost of an accepted pair, compared with one call at a time.

`align bench label` gives each labeler the same pairs: the teacher of `[teacher]` or, without one, a loopback endpoint with 200 ms of
latency, and on request the embedded model as its own judge. A pair is accepted if it got a verdict.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignment.ids import content_id
from alignment.labels.attacks import attacks
from alignment.labels.labeler import Comparison
from alignment.labels.llm_judge import ModelJudge, teacher
from alignment.sections import Teacher
from alignment.store import query
from bench.endpoint import counts, running


def comparisons(pairs: int) -> list[Comparison]:
    """Return `pairs` different comparisons of two answers, from the clean pairs of the attack set."""
    clean = list({one.clean.id: one.clean for one in attacks()}.values())
    found = []
    for number in range(pairs):
        one = clean[number % len(clean)]
        text = f"{one.second.text} This is text {number}."
        found.append(one._replace(second=replace(one.second, id=content_id(one.second.id, number), text=text)))
    return found


def run(pairs: int, concurrency: int, settings: Teacher, *, latency: float = 0.2, embedded: Path | None = None) -> list[dict[str, Any]]:
    """Return one row per source: pairs/s, accepted pairs, calls, and calls and tokens per accepted pair."""
    if settings.base_url:
        rows = [_teacher(pairs, "teacher", settings.model_copy(update={"concurrency": concurrency}))]
    else:
        with running(latency) as url:
            rows = []
            for width in (1, concurrency):
                # One call at a time takes minutes for what parallel calls do in seconds: measure a few pairs.
                few = pairs if width > 1 else max(2, pairs // concurrency)
                before = counts(url)["asked"]
                rows.append(_teacher(few, f"loopback, {width} at a time", Teacher(base_url=url, model="words", concurrency=width)))
                rows[-1]["calls_at_server"] = counts(url)["asked"] - before
            rows[1]["times_one_at_a_time"] = rows[1]["calls_per_second"] / rows[0]["calls_per_second"]
            rows[0]["times_one_at_a_time"] = 1.0
    if embedded:
        rows.append(_local(pairs, embedded))
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name, "") for name in names} for row in rows]


def _teacher(pairs: int, source: str, settings: Teacher) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        judge = teacher(settings, home)
        assert judge is not None
        row = _measure(source, judge, comparisons(pairs))
        [spent] = query(
            home,
            "SELECT count(*) AS calls, sum(tokens_in) AS tokens_in, sum(tokens_out) AS tokens_out, sum(cost) AS cost FROM teacher_calls",
        )
    calls, accepted = spent["calls"], max(row["accepted"], 1)
    return row | {
        "calls": calls,
        "calls_per_second": calls / row["seconds"],
        "calls_per_accepted": calls / accepted,
        "tokens_per_accepted": ((spent["tokens_in"] or 0) + (spent["tokens_out"] or 0)) / accepted,
        "cost_per_accepted": (spent["cost"] or 0.0) / accepted,
    }


def _local(pairs: int, home: Path) -> dict[str, Any]:
    from alignment.labels.llm_judge import self_judge
    from alignment.models.embedded import chat_model_path
    from alignment.models.local import LocalModel

    model = LocalModel(chat_model_path(home), batch_size=16)
    model.choose([[{"role": "user", "content": "Load."}]], ("A", "B"))
    # Without the control items, which the model fails: this measures only the speed of asking.
    judge = replace(self_judge(model), with_controls=False)
    row = _measure("embedded, self_judge without control items", judge, comparisons(pairs))
    return row | {
        "calls": 2 * pairs,
        "calls_per_second": 2 * pairs / row["seconds"],
        "calls_per_accepted": 2 * pairs / max(row["accepted"], 1),
    }


def _measure(source: str, judge: ModelJudge, chosen: Sequence[Comparison]) -> dict[str, Any]:
    started = time.perf_counter()
    votes = judge.vote(chosen)
    seconds = time.perf_counter() - started
    accepted = sum(vote.verdict in ("first", "second") for vote in votes)
    return {"source": source, "pairs": len(chosen), "seconds": seconds, "pairs_per_second": len(chosen) / seconds, "accepted": accepted}
