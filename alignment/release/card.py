"""The release card: what a person needs to know before they trust a release."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from alignment.records import GateDecision, Pair, TrainResult


def _metric_rows(decision: GateDecision) -> list[str]:
    rows = [
        "| metric | champion | challenger | change, interval | n | unscored | rule | status |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for metric in decision.metrics:
        rows.append(
            f"| {metric.name} | {metric.champion:.1%} | {metric.challenger:.1%} | {metric.diff:+.1%} "
            f"[{metric.low:+.1%}, {metric.high:+.1%}] | {metric.n} | {metric.unscored} | {metric.rule}, margin {metric.margin:.1%} "
            f"| {metric.status} |"
        )
    return rows


def _counted(title: str, names: Sequence[str]) -> list[str]:
    return [f"- {title}: " + ", ".join(f"{name} {n}" for name, n in sorted(Counter(names).items()))]


def release_card(
    release_id: str,
    base: str,
    decision: GateDecision,
    pairs: Sequence[Pair],
    result: TrainResult,
    *,
    given: int,
    without_consent: int,
) -> str:
    """Return the card of a release as Markdown; it quotes no log text.

    `without_consent` of the `given` pairs that the training run read may not be trained on by now, as the store counts them.
    """
    trained = [pair for pair in pairs if pair.split == "train"]
    lines = [
        f"# Release {release_id}",
        "",
        f"LoRA adapter on base `{base}`; gate: **{decision.decision}** against `{decision.champion}`.",
        "",
        "## Evidence",
        *_metric_rows(decision),
        "",
        *(f"- {reason}" for reason in decision.reasons),
        "",
        "## Data",
        f"- {len(trained)} training pairs, {len(pairs) - len(trained)} held out; {without_consent} of {given} pairs lack consent",
        *_counted("sides", [pair.side.value for pair in trained]),
        *_counted("categories", [pair.category for pair in trained]),
        *_counted("labelers", [name for pair in trained for name in pair.labelers]),
        *_counted("principles", [name for pair in trained for name in pair.principle_ids]),
        "",
        "## Training",
        f"- {result.steps} steps in {result.seconds:.0f} s; loss {result.loss:.3f}; `rewards/margins` {result.reward_margin:.2f}; "
        f"`rewards/accuracies` {result.reward_accuracy:.1%}",
        "",
        "## Known limits",
        "- Rates hold for the bundled suites, scored by rules and a linear model whose errors are on their card.",
        "- Greedy answers of bounded length in English were judged; jailbreaks and other languages were not.",
        "",
    ]
    return "\n".join(lines)
