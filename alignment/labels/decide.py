"""Turn a comparison's votes into the judgement that pairs are built from, and into questions for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from alignment.ids import content_id
from alignment.labels.aggregate import Preference, told
from alignment.labels.constitution import Principle
from alignment.labels.judge import LABELER, NEVER_CHOSEN, review_item
from alignment.labels.labeler import Comparison, Vote
from alignment.records import Candidate, Judgement, Selected

USER_EDIT = "user_edit"


def comparison(selected: Selected, principle: Principle, judgement: Judgement, candidates: Mapping[str, Candidate]) -> Comparison:
    """Return the comparison for the other labelers: the answers that the constitution ranked best and worst."""
    return Comparison(selected, principle, candidates[judgement.chosen_id], candidates[judgement.rejected_id])


def own_vote(judgement: Judgement) -> Vote:
    """Return the constitution's vote on its own comparison."""
    return Vote("first" if judgement.verdict == "preferred" else judgement.verdict, judgement.judge_margin)


def decide(judgement: Judgement, one: Comparison, votes: Mapping[str, Vote], outcome: Preference) -> Judgement:
    """Return the judgement of all labelers; if only the constitution decided, its own judgement is unchanged.

    What the constitution found unfit to teach stays `unscored`, whatever others say, and so does an answer that must never be chosen.
    A judgement of several labelers names those who preferred its chosen answer, joined by `+`.
    """
    verdict: Literal["preferred", "tie", "unscored"] = "preferred" if outcome.verdict in ("first", "second") else outcome.verdict  # type: ignore[assignment]
    spoke = {name for name, vote in votes.items() if vote.verdict in ("first", "second")}
    if judgement.verdict == "unscored" or (spoke <= {LABELER} and verdict == judgement.verdict):
        return judgement
    chosen, rejected = (one.second, one.first) if outcome.verdict == "second" else (one.first, one.second)
    if chosen.kind in NEVER_CHOSEN:
        verdict = "unscored"
    key = content_id(judgement.id, verdict, chosen.id, sorted((name, vote.verdict) for name, vote in votes.items()))
    return replace(
        judgement,
        id=key,
        labeler="+".join(outcome.sources) or LABELER,
        labeler_version=key[:16] if spoke - {LABELER} else judgement.labeler_version,
        chosen_id=chosen.id,
        rejected_id=rejected.id,
        verdict=verdict,
        judge_margin=outcome.margin,
    )


def question(
    selected: Selected,
    judgement: Judgement,
    candidates: Mapping[str, Candidate],
    votes: Mapping[str, Vote],
    outcome: Preference,
    *,
    complained: bool,
) -> dict[str, Any] | None:
    """Return the review item if labelers dispute the preference or the judgement needs a person, else None."""
    item = review_item(selected, judgement, candidates, complained=complained)
    if item is None or not outcome.disputed:
        return item
    key = content_id("review", judgement.id, "disagreement")
    return {**item, "id": key, "kind": "disagreement", "reason": f"the labelers disagree ({told(votes)})"}


class Edited(NamedTuple):
    """A user's own version of an answer, as a candidate that only a person can accept."""

    candidate: Candidate
    judgement: Judgement
    item: dict[str, Any]


def edited(selected: Selected, logged: Candidate, text: str, *, version: str) -> Edited | None:
    """Return the review question about an answer that a user rewrote as `text`; None if the rewrite changes nothing."""
    if not text.strip() or text.strip() == logged.text.strip():
        return None
    one = selected.interaction.id
    rule = selected.principle_id
    candidate = Candidate(content_id(one, USER_EDIT, text, rule), one, USER_EDIT, text, "user", rule)
    judgement = Judgement(
        content_id("signals", version, candidate.id, logged.id), one, "signals", version, (rule,), candidate.id, logged.id, "tie", 0.0
    )
    item = review_item(selected, judgement, {candidate.id: candidate, logged.id: logged}, complained=True)
    return Edited(candidate, judgement, {**(item or {}), "reason": "a user rewrote this answer; A is the user's version"})


def edits_of(signals: Sequence[tuple[str, str]]) -> str:
    """Return the last text that a user wrote to replace an answer, or ''."""
    return next((value for kind, value in reversed(signals) if kind == "edit" and value), "")
