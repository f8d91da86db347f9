"""The release card: what people need to know before they trust a release, as Markdown and as a self-contained HTML page.

Effects: reads the adapter's manifest.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from alignment.models.folder import is_whole
from alignment.records import GateDecision, Metric, Pair, Side, TrainResult
from alignment.text import amount, change, difference, printable

_FAIRNESS = re.compile(r"fair|counterfactual|stereotyp|bias|gap")
_UNKNOWN = "not recorded"
LIMITS = (
    "Rates hold for the bundled suites, scored by rules and a linear model whose errors are on their card.",
    "Greedy answers of bounded length were judged; what the evidence does not list was not tested.",
)
SINCE = (
    "Metrics that end in since\\_base or since\\_approved compare with the base model, or with the last release that a person approved; "
    "its rates stand in the champion's column."
)
LICENCE = (
    "What was trained is a derivative of the base model: the base model's licence holds for it and for merged weights.",
    "It was trained on the operator's own logs; what their users agreed to decides where it may be used.",
)


def _cell(text: str) -> str:
    """Escape a text so that it stays within its table cell or list item and contains no markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#!~])", r"\\\1", printable(text))


def is_fairness(metric: Metric) -> bool:
    """Return whether a metric compares groups of people."""
    return bool(_FAIRNESS.search(f"{metric.name} {metric.suite}"))


def _metric_rows(metrics: Sequence[Metric]) -> list[str]:
    rows = [
        "| metric | champion | challenger | change, interval | n | clusters | unscored | rule | status |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for metric in metrics:
        low, high = (change(end, metric.unit) for end in (metric.low, metric.high))
        moved = f"{difference(metric.diff, metric.unit, '+')} [{low}, {high}]"
        rows.append(
            f"| {_cell(metric.name)} | {amount(metric.champion, metric.unit)} | {amount(metric.challenger, metric.unit)} "
            f"| {moved} | {metric.n} | {metric.clusters or _UNKNOWN} | {metric.unscored} "
            f"| {_cell(metric.rule)}, margin {difference(metric.margin, metric.unit)} | {_cell(metric.status)} |"
        )
    return rows


def _corrected_rows(metrics: Sequence[Metric]) -> list[str]:
    """Return rates corrected for the scorer's own errors, where people or a calibration set have measured these."""
    rows = ["| metric | champion | challenger | change, interval | what is known of the scorer |", "|---|---|---|---|---|"]
    for metric in metrics:
        if metric.unit != "rate":
            continue
        known = _cell(metric.calibration or _UNKNOWN)
        values = (
            metric.corrected_champion,
            metric.corrected_challenger,
            metric.corrected_diff,
            metric.corrected_low,
            metric.corrected_high,
        )
        if None in values:
            rows.append(f"| {_cell(metric.name)} | as scored | as scored | as scored | {known} |")
        else:
            old, new, diff, low, high = (value or 0.0 for value in values)
            moved = f"{difference(diff, 'rate', '+')} [{change(low, 'rate')}, {change(high, 'rate')}]"
            rows.append(f"| {_cell(metric.name)} | {old:.1%} | {new:.1%} | {moved} | {known} |")
    return rows


def _weakened(decision: GateDecision) -> dict[str, list[str]]:
    """Return the section on settings below the gate's floor; empty if there were none."""
    if not decision.weakened:
        return {}
    return {
        "The gate was weakened": [
            f"- **This verdict was made with a weaker gate than the project's floor.** Reason given: {_cell(decision.unsafe or _UNKNOWN)}",
            *(f"- {_cell(one)}" for one in decision.weakened),
        ]
    }


def _counted(title: str, names: Sequence[str]) -> list[str]:
    return [f"- {title}: " + ", ".join(f"{_cell(name)} {n}" for name, n in sorted(Counter(names).items()))]


def _manifest(adapter: Path) -> dict[str, Any]:
    try:
        found = json.loads((adapter / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def lineage_of(adapter: Path) -> dict[str, str]:
    """Return what a trained adapter was made from, as its manifest says."""
    from alignment.ids import content_id

    found = _manifest(adapter)
    settings = found.get("settings")
    return {
        "training run": str(found.get("run_id", _UNKNOWN)),
        "pairs file, SHA-256": str(found.get("pairs_sha256", _UNKNOWN)),
        "base weights": str(found.get("base_id", _UNKNOWN)),
        "training settings": content_id(settings) if settings else _UNKNOWN,
        "code version": str(found.get("code_version", _UNKNOWN)),
    }


class Gap(Protocol):
    """The widest gap between two groups, with bounds, and the number of compared templates (`alignment.evals.fairness.Gap`)."""

    @property
    def gap(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def n(self) -> int: ...


def _fairness(decision: GateDecision, gaps: Mapping[str, Mapping[str, Gap]]) -> list[str]:
    compared = [metric for metric in decision.metrics if is_fairness(metric)]
    if not compared and not gaps:
        return ["- No metric that compares groups of people was part of the evidence."]
    rows = _metric_rows(compared) if compared else []
    if gaps:
        rows += [*([""] if rows else []), "| widest gap between two groups in | model | gap, bounds | n |", "|---|---|---|---|"]
        rows += [
            f"| {_cell(name)} | {_cell(model)} | {one.gap:.3f} [{one.low:.3f}, {one.high:.3f}] | {one.n} |"
            for model, found in gaps.items()
            for name, one in found.items()
        ]
    return rows


def _labelers(trained: Sequence[Pair], calibration: Mapping[str, str]) -> list[str]:
    names = Counter(name for pair in trained for name in pair.labelers)
    return [f"- {_cell(name)}: {n} pairs; calibration: {_cell(calibration.get(name, _UNKNOWN))}" for name, n in sorted(names.items())]


def release_card(
    release_id: str,
    base: str,
    decision: GateDecision,
    pairs: Sequence[Pair],
    result: TrainResult,
    *,
    given: int,
    without_consent: int,
    calibration: Mapping[str, str] | None = None,
    power: Sequence[str] = (),
    gaps: Mapping[str, Mapping[str, Gap]] | None = None,
) -> str:
    """Return the card of a release as Markdown; it quotes no log text.

    `without_consent` of the `given` pairs of the training run may no longer be trained on, as the store counts them.
    `calibration` states per labeler how far it agrees with people.
    `power` states per metric what its prompts can show; `gaps` are the widest between groups, by model and by what is compared.
    """
    kind = "Whole model, trained from base" if is_whole(result.adapter) else "LoRA adapter on base"
    sections = {
        **_weakened(decision),
        "Evidence": [
            *_metric_rows(decision.metrics),
            "",
            *([f"- {SINCE}"] if any(metric.since for metric in decision.metrics) else []),
            *(f"- {_cell(reason)}" for reason in decision.reasons),
            *(f"- {_cell(one)}" for one in power),
        ],
        "Rates behind the scorer's errors": _corrected_rows(decision.metrics),
        "Fairness": _fairness(decision, gaps or {}),
        **_data(pairs, given, without_consent, calibration or {}),
        "Training": [
            f"- {result.steps} steps in {result.seconds:.0f} s; loss {result.loss:.3f}; `rewards/margins` {result.reward_margin:.2f}; "
            f"`rewards/accuracies` {result.reward_accuracy:.1%}",
            *([f"- {result.strength:.0%} of the adapter's change to its base is kept"] if result.strength is not None else []),
        ],
        "Lineage": [f"- {_cell(name)}: `{printable(value).replace('`', '')}`" for name, value in lineage_of(result.adapter).items()],
        "Known limits": [f"- {_cell(limit)}" for limit in LIMITS],
        "Licence": [f"- {_cell(note)}" for note in LICENCE],
    }
    head = [
        f"# Release {release_id}",
        "",
        f"{kind} {_cell(base)}; gate: **{decision.decision}** against {_cell(decision.champion)}.",
        "",
    ]
    return "\n".join([*head, *(line for title, lines in sections.items() for line in (f"## {title}", *lines, ""))])


def _data(pairs: Sequence[Pair], given: int, without_consent: int, calibration: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the sections on the training data."""
    trained = [pair for pair in pairs if pair.split == "train"]
    return {
        "Data": [
            f"- {len(trained)} training pairs, {len(pairs) - len(trained)} held out; {without_consent} of {given} pairs lack consent",
            *_counted("sides", [pair.side.value for pair in trained]),
            *_counted("categories", [pair.category for pair in trained]),
            *_authored(trained),
        ],
        "Principles": _counted("pairs by principle", [name for pair in trained for name in pair.principle_ids]),
        "Labelers": _labelers(trained, calibration),
    }


def _authored(trained: Sequence[Pair]) -> list[str]:
    """Return how many of the chosen answers a teacher wrote."""
    revisions = [pair for pair in trained if pair.chosen_kind == "teacher_revision"]
    sides = ", ".join(
        f"{sum(pair.side is side for pair in revisions)} of {sum(pair.side is side for pair in trained)} {side.value}" for side in Side
    )
    share = len(revisions) / len(trained) if trained else 0.0
    return [f"- chosen answers that are a teacher's revision: {len(revisions)} of {len(trained)} ({share:.1%}; {sides})"]


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body {{ font: 16px/1.5 sans-serif; color: #22303a; background: #ffffff; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; font-size: 14px; }} th, td {{ padding: 4px 10px; border-bottom: 1px solid #e9ebe6; text-align: left; }}
h2 {{ font-size: 1.1rem; margin-top: 2rem; }} code {{ background: #f7f8f5; overflow-wrap: anywhere; }}
@media (prefers-color-scheme: dark) {{
:root {{ color-scheme: dark; }} body {{ color: #e3e8ea; background: #191f23; }}
th, td {{ border-color: #2a3338; }} code {{ background: #12171a; }}
}}
</style></head><body>
{body}</body></html>
"""


def card_page(card: str, *, title: str) -> str:
    """Return a card as one HTML page: escaped, without links, pictures or scripts.

    >>> "<b>" in card_page("a <b>x</b> ![p](http://h/p.png)", title="t")
    False
    """
    from markdown_it import MarkdownIt

    renderer = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink", "reference"])
    return _PAGE.format(title=html.escape(title), body=renderer.render(card))
