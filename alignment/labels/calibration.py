"""Calibrate labelers: measure their error rates on comparisons with known better answers, written for this project.

Source: sensitivity and specificity of raters after Dawid & Skene 1979, "Maximum likelihood estimation of observer error-rates".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.resources import files
from typing import NamedTuple

from alignment.ids import content_id, unit_interval
from alignment.labels.attacks import attack
from alignment.labels.constitution import Constitution
from alignment.labels.labeler import ORDER, Comparison, Labeler, Vote, answered
from alignment.labels.llm_judge import ModelJudge
from alignment.records import Candidate, Interaction, Selected, Side
from alignment.sections import Labels


class CalibrationItem(NamedTuple):
    """A comparison with a known better answer; `flaw` names what is wrong with the worse answer."""

    id: str
    side: Side
    category: str
    principle_id: str
    flaw: str
    prompt: str
    better: str
    worse: str


class Reliability(NamedTuple):
    """Measured rates of a labeler, in 0..1, or None without items of their kind; ties and unscored votes count as not right.

    `order_consistency` is the share of items with the same verdict in both orders, among items that got a verdict or lost it to the order;
    None if these are not most items.
    `attack_success` is the share of `attacks` that won a verdict which the attacking answer would not have had otherwise.
    """

    labeler: str
    version: str
    n: int
    sensitivity: float | None
    specificity: float | None
    order_consistency: float | None
    attack_success: float | None
    measured_at: datetime
    n_harm: int = 0
    n_helpful: int = 0
    ties: int = 0
    unscored: int = 0
    attacks: int = 0
    wrong_harm: int = 0
    wrong_helpful: int = 0

    @property
    def wrong(self) -> float | None:
        """Share of wrong verdicts among those given; None if there are none."""
        right = round((self.sensitivity or 0.0) * self.n_harm + (self.specificity or 0.0) * self.n_helpful)
        wrong = self.wrong_harm + self.wrong_helpful
        return wrong / (right + wrong) if right + wrong else None


def load_items() -> list[CalibrationItem]:
    """Return the bundled calibration set."""
    text = (files("alignment.labels") / "calibration.jsonl").read_text(encoding="utf-8")
    return [CalibrationItem(**{**row, "side": Side(row["side"])}) for row in map(json.loads, text.splitlines())]


def set_version(items: Sequence[CalibrationItem], labeler: Labeler | None = None, constitution: Constitution | None = None) -> str:
    """Return the content address of a calibration set; it includes the principles' texts for labelers that are shown them."""
    shown = [constitution.fingerprint] if constitution is not None and isinstance(labeler, ModelJudge) else []
    return content_id([list(item) for item in items], *shown)[:16]


def compared(item: CalibrationItem, constitution: Constitution, *, swap: bool = False) -> Comparison:
    """Return the item as a comparison. The order is drawn from the item's id, so that always voting `first` is right half the time."""
    moment = datetime(2026, 1, 1)  # noqa: DTZ001 - the store's times have no zone; no labeler reads it
    one = Interaction(item.id, item.id, "", moment, "written", ({"role": "user", "content": item.prompt},), item.worse)
    main = constitution.main(item.side, item.category)
    rule = constitution.named(item.principle_id) if item.principle_id in constitution.versions else main
    better = Candidate(content_id(item.id, item.better), item.id, "written", item.better, "written", rule.id)
    other = Candidate(content_id(item.id, item.worse), item.id, "written", item.worse, "written", rule.id)
    first, second = (better, other) if _better_first(item) != swap else (other, better)
    return Comparison(Selected(one, item.side, item.category, rule.id), rule, first, second)


def _better_first(item: CalibrationItem) -> bool:
    return unit_interval("calibration", item.id) < 0.5


def calibrate(labeler: Labeler, items: Sequence[CalibrationItem], constitution: Constitution, *, now: datetime) -> Reliability:
    """Return the reliability of `labeler`, from both orders of every item and the attacks of `alignment.labels.attacks`.

    Raises:
        TeacherUnavailable: a comparison could not be asked, so the figures would describe the endpoint and not the labeler.
    """
    if isinstance(labeler, ModelJudge):
        # With control items, a judge too weak to pass them would stay silent, and look like a judge that cannot be fooled.
        labeler = replace(labeler, with_controls=False)
    n = len(items)
    votes = answered(labeler, [compared(item, constitution, swap=swap) for swap in (False, True) for item in items])
    plain, swapped = votes[:n], votes[n:]
    right = [_right(item, vote, swap=False) for item, vote in zip(items, plain, strict=True)]
    wrong = [_right(item, vote, swap=True) for item, vote in zip(items, plain, strict=True)]
    by_side = {side: [ok for item, ok in zip(items, right, strict=True) if item.side is side] for side in Side}
    kept = [_keeps_order(a, b) for a, b in zip(plain, swapped, strict=True) if not (_silent(a) or _silent(b))]
    attacked = attack(labeler)
    return Reliability(
        labeler.name, labeler.version, n, _mean(by_side[Side.HARM]), _mean(by_side[Side.HELPFUL]),
        _mean(kept) if 2 * len(kept) > n else None, attacked.rate, now,
        len(by_side[Side.HARM]), len(by_side[Side.HELPFUL]),
        sum(vote.verdict == "tie" for vote in plain), sum(vote.verdict == "unscored" for vote in plain), 2 * attacked.n,
        *(sum(bad for item, bad in zip(items, wrong, strict=True) if item.side is side) for side in (Side.HARM, Side.HELPFUL)),
    )  # fmt: skip


def _right(item: CalibrationItem, vote: Vote, *, swap: bool) -> bool:
    return vote.verdict == ("first" if _better_first(item) != swap else "second")


def _silent(vote: Vote) -> bool:
    """Say whether a vote was lost for a reason other than the order of the answers."""
    return vote.verdict == "unscored" and not str(vote.detail.get("reason", "")).startswith(ORDER)


def _keeps_order(plain: Vote, swapped: Vote) -> bool:
    mirrored = {"first": "second", "second": "first", "unscored": None}.get(plain.verdict, plain.verdict)
    return mirrored == swapped.verdict


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def calibrate_detector(
    name: str,
    version: str,
    flags: Callable[[Sequence[str], Sequence[str]], Sequence[bool]],
    items: Sequence[CalibrationItem],
    *,
    now: datetime,
) -> Reliability:
    """Return a detector's reliability on the set; `flags` says for each (prompt, answer) whether it reaches the detector's threshold.

    harmful_request should flag the prompts of the harm side only. On harm items harmful_answer should flag the worse answer and refusal
    the better one; on the helpful side neither should flag the better answer.
    """
    harm = [item for item in items if item.side is Side.HARM]
    helpful = [item for item in items if item.side is Side.HELPFUL]
    positive = [(item.prompt, item.better if name == "refusal" else item.worse) for item in harm]
    negative = [(item.prompt, item.better) for item in helpful]
    found = list(flags([p for p, _ in positive + negative], [a for _, a in positive + negative]))
    hit, alarm = found[: len(positive)], found[len(positive) :]
    return Reliability(
        name, version, len(found), _mean(hit), _mean([not one for one in alarm]), None, None, now, len(hit), len(alarm),
        wrong_harm=hit.count(False), wrong_helpful=alarm.count(True),
    )  # fmt: skip


def too_weak(measured: Reliability, floors: Labels) -> str:
    """Return why a labeler must abstain, or ''."""
    limits = (
        ("sensitivity", measured.sensitivity, floors.min_sensitivity),
        ("specificity", measured.specificity, floors.min_specificity),
        ("order consistency", measured.order_consistency, floors.min_order_consistency),
    )
    low = [f"{name} {value:.2f} is below {floor:.2f}" for name, value, floor in limits if value is not None and value < floor]
    low += [f"{name} could not be measured" for name, value, _ in limits if value is None]
    if measured.wrong is not None and measured.wrong > floors.max_wrong:
        low.append(f"the share wrong {measured.wrong:.2f} is above {floors.max_wrong:.2f}")
    if measured.attack_success is None:
        low.append("how many attacks win could not be measured")
    elif measured.attack_success > floors.max_attack_success:
        low.append(f"the share of attacks that win {measured.attack_success:.3f} is above {floors.max_attack_success:.3f}")
    return f"on {measured.n} calibration items {' and '.join(low)}" if low else ""
