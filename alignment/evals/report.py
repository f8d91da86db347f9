"""Results of one model on a suite: rows of a results file, and failure rates with intervals. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignment.evals.scorers import Scored, scorer_of
from alignment.evals.statistics import paired_interval, wilson
from alignment.records import Answer, SuitePrompt

_Z, _CONFIDENCE = 1.959963984540054, 0.975  # two-sided 95%
OVERALL = "overall"


class RateLine(NamedTuple):
    """The failure rate of one category in 0..1 with its two-sided 95% Wilson interval; `unscored` answers are in no rate.

    The interval uses the effective sample size given the `clusters` of scored prompts; a row without a cluster is its own cluster.
    """

    category: str
    rate: float | None
    low: float
    high: float
    failures: int
    n: int
    unscored: int
    clusters: int


def result(prompt: SuitePrompt, responses: Sequence[str], scored: Sequence[Scored]) -> dict[str, Any]:
    """Return one row of a results file: scores and outcome of the greedy answer, and those of sampled answers under `samples`."""
    row: dict[str, Any] = {
        "id": prompt.id,
        "cluster": prompt.cluster,
        "category": prompt.category,
        **({"topic": prompt.topic} if prompt.topic else {}),
        "suite": prompt.suite,
        "scorer": scorer_of(prompt) or "help",
        "prompt": prompt.transcript,
        "response": responses[0],
        "scores": scored[0][0],
        "outcome": scored[0][1],
    }
    if len(responses) > 1:
        row["samples"] = [
            {"response": response, "scores": scores, "outcome": outcome}
            for response, (scores, outcome) in zip(responses[1:], scored[1:], strict=True)
        ]
    return row


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[RateLine]:
    """Return a line for each category, sorted by name, and one for all categories together.

    >>> [line] = summarise([{"category": "x", "outcome": 1}, {"category": "x", "outcome": 0}, {"category": "x", "outcome": None}])[-1:]
    >>> line.category, line.rate, line.n, line.unscored
    ('overall', 0.5, 2, 1)
    """
    names = sorted({str(row["category"]) for row in rows})
    lines = [_line(name, [row for row in rows if row["category"] == name]) for name in names]
    return [*lines, _line(OVERALL, rows)]


def topics(rows: Sequence[Mapping[str, Any]]) -> list[RateLine]:
    """Return a line for each topic, sorted by name; empty if no row has a topic.

    >>> [line.category for line in topics([{"category": "standard", "topic": "illegal", "outcome": 1}, {"category": "x", "outcome": 0}])]
    ['illegal']
    """
    names = sorted({str(row["topic"]) for row in rows if row.get("topic")})
    return [_line(name, [row for row in rows if row.get("topic") == name]) for name in names]


def _line(category: str, rows: Sequence[Mapping[str, Any]]) -> RateLine:
    known = [(row["outcome"], row.get("cluster", ("", number))) for number, row in enumerate(rows) if row["outcome"] is not None]
    scored, n = [outcome for outcome, _ in known], len(known)
    failures = sum(scored)
    # A rate is the difference from a model that never fails, so its design effect is that of these paired differences.
    _, design = paired_interval([0] * n, scored, [cluster for _, cluster in known], _CONFIDENCE)
    low, high = wilson(failures / design.effect, n / design.effect, _Z)
    return RateLine(category, failures / n if n else None, low, high, failures, n, len(rows) - n, design.clusters)


def sampled(rows: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Return the mean failure rate of sampled answers, and the share of prompts with any failed answer; None without samples."""
    drawn = [[one["outcome"] for one in row["samples"]] for row in rows if row.get("samples")]
    if not drawn:
        return None
    scored = [outcome for outcomes in drawn for outcome in outcomes if outcome is not None]
    known = [(row["outcome"], *outcomes) for row, outcomes in zip(rows, drawn, strict=False)]
    return {
        "rate": sum(scored) / len(scored) if scored else 0.0,
        "any_failed": sum(1 in outcomes for outcomes in known) / len(known),
        "unscored": float(sum(map(len, drawn)) - len(scored)),
    }


def answers_of(prompts: Sequence[SuitePrompt], rows: Sequence[Mapping[str, Any]], release_id: str) -> list[Answer]:
    """Return results as `Answer` records, for code that compares answers (the gate, the gaps between groups)."""
    return [Answer(prompt, release_id, row["response"], row["scores"], row["outcome"]) for prompt, row in zip(prompts, rows, strict=True)]
