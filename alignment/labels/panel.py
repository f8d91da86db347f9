"""Voting: the constitution proposes a best and a worst answer, every labeler allowed to vote does so, and the votes decide.

Does not access the store: the caller passes in known votes and receives new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from alignment.labels.aggregate import aggregate, weight
from alignment.labels.calibration import Reliability
from alignment.labels.constitution import Principle
from alignment.labels.decide import Edited, comparison, decide, edited, edits_of, own_vote, question
from alignment.labels.judge import LABELER, judge
from alignment.labels.labeler import Comparison, Labeler, Vote
from alignment.labels.llm_judge import ModelJudge
from alignment.labels.rule import ConstitutionLabeler, Scores, SignalsLabeler
from alignment.records import Candidate, Judgement, Selected
from alignment.sections import Labels

SELF_REWARDING = ("implicit_reward", "self_judge")
_BATCH = 128


class Voter(NamedTuple):
    """A labeler that may vote, and its measured reliability; None if that is assumed."""

    labeler: Labeler
    reliability: Reliability | None


class Proposal(NamedTuple):
    """The constitution's judgement of an exchange; `doubtful`: ask a person whatever the votes, `ruled`: a person has decided."""

    selected: Selected
    candidates: Mapping[str, Candidate]
    judgement: Judgement
    comparison: Comparison
    doubtful: bool = False
    ruled: bool = False


class Conclusion(NamedTuple):
    """The result of the votes on a proposal, and the review item if a person is to be asked."""

    judgement: Judgement
    question: dict[str, Any] | None


Votes = dict[str, dict[str, Vote]]
"""Votes by comparison and labeler."""
Known = Callable[[Labeler, Sequence[Proposal]], Mapping[str, Vote]]
"""Returns a labeler's known votes by comparison, which are not asked for again."""
Keep = Callable[[Labeler, Sequence[Proposal], Sequence[Vote]], None]
"""Receives new votes, batch by batch."""


def propose(
    selected: Selected,
    answers: Sequence[Candidate],
    scores: Sequence[Scores],
    principle: Principle,
    *,
    scorer_version: str,
    settings: Labels,
    declines_at: float,
    doubtful: bool = False,
    ruled: bool = False,
) -> Proposal:
    """Return the constitution's own judgement of two or more answers, and the comparison for the other labelers."""
    judgement = judge(
        selected, answers, scores, principle, scorer_version=scorer_version, min_margin=settings.min_margin, declines_at=declines_at
    )
    named = {candidate.id: candidate for candidate in answers}
    return Proposal(selected, named, judgement, comparison(selected, principle, judgement, named), doubtful, ruled)


def poll(proposals: Sequence[Proposal], voters: Mapping[str, Voter], *, known: Known | None = None, keep: Keep | None = None) -> Votes:
    """Return every voter's vote on each proposal that it is asked about."""
    votes: Votes = {one.comparison.id: {} for one in proposals}
    for name, voter in voters.items():
        # Free votes are recomputed: they may have changed with the signals.
        free = isinstance(voter.labeler, ConstitutionLabeler | SignalsLabeler)
        given_before = known(voter.labeler, proposals) if known and not free else {}
        for one in proposals:
            if one.comparison.id in given_before:
                votes[one.comparison.id][name] = given_before[one.comparison.id]
        open_ = [one for one in proposals if one.comparison.id not in given_before and _asked(voter.labeler, one)]
        # Ask a judge model once: a failed control item voids all its votes, and an endpoint that does not answer is not retried.
        size = max(len(open_), 1) if isinstance(voter.labeler, ModelJudge) else _BATCH
        for start in range(0, len(open_), size):
            batch = open_[start : start + size]
            given = [own_vote(one.judgement) for one in batch] if name == LABELER else voter.labeler.vote([one.comparison for one in batch])
            if keep:
                keep(voter.labeler, batch, given)
            for one, vote in zip(batch, given, strict=True):
                votes[one.comparison.id][name] = vote
    return votes


def _asked(labeler: Labeler, one: Proposal) -> bool:
    """Say whether a labeler is asked. On what a person decided, only labelers that people's verdicts can halt are asked.

    A model does not vote on an answer that it wrote: it prefers its own.
    """
    name = labeler.name
    if isinstance(labeler, ModelJudge) and labeler.model.model_id in (one.comparison.first.model, one.comparison.second.model):
        return False
    if one.ruled:
        return name in SELF_REWARDING and one.judgement.verdict != "unscored"
    # On what must not be taught in any case, nobody else is asked.
    return name == LABELER or one.judgement.verdict != "unscored"


def conclude(proposals: Sequence[Proposal], votes: Votes, voters: Mapping[str, Voter], settings: Labels) -> list[Conclusion]:
    """Return the conclusion on each proposal that no person has decided; only votes of `voters` count."""
    return [_conclude(one, votes[one.comparison.id], voters, settings) for one in proposals if not one.ruled]


def _conclude(one: Proposal, votes: Mapping[str, Vote], voters: Mapping[str, Voter], settings: Labels) -> Conclusion:
    given = {name: vote for name, vote in votes.items() if name in voters}
    weights = {name: weight(voter.reliability, one.selected.side) for name, voter in voters.items()}
    outcome = aggregate(given, weights, settings)
    judgement = decide(one.judgement, one.comparison, given, outcome)
    return Conclusion(judgement, question(one.selected, judgement, one.candidates, given, outcome, complained=one.doubtful))


def rewritten(
    proposals: Sequence[Proposal], signals: Mapping[str, Sequence[tuple[str, str]]], mask: Callable[[str], str], *, version: str
) -> list[Edited]:
    """Return questions about answers that users rewrote; each replaces the other question about its exchange."""
    found = []
    for one in proposals:
        logged = next((each for each in one.candidates.values() if each.kind == "logged"), None)
        text = edits_of(signals.get(one.selected.interaction.id, ()))
        if logged is not None and (offered := edited(one.selected, logged, mask(text), version=version)):
            found.append(offered)
    return found
