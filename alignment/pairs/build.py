"""Build pairs from judgements and human verdicts, with a reason for each exchange left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from alignment.conversation import asks_for_nothing, everything_asked
from alignment.ids import content_id
from alignment.pairs.split import Split, placeholders, side, sides_of, ties
from alignment.records import Candidate, Judgement, Pair, Selected, Side
from alignment.sections import Pairs
from alignment.text import clusters, looks_masked

HUMAN = "human"


class HumanVerdict(NamedTuple):
    """People's verdict on the preference of one exchange; a skip is not a verdict.

    `agree`, `flip` and `edit` give a pair; `both_bad`, `not_harmful`, and `disputed` (two people differ) give none.
    """

    verdict: str
    edited_answer: str | None = None


class Labelled(NamedTuple):
    """A selected exchange with its judgement, and its candidates by id."""

    selected: Selected
    judgement: Judgement
    candidates: Mapping[str, Candidate]
    complained: bool = False


class Built(NamedTuple):
    """New pairs, (exchange id, reason) for every exchange without a pair, and conversation ids that do not identify a conversation."""

    pairs: list[Pair]
    excluded: list[tuple[str, str]]
    placeholders: frozenset[str]


class _Preference(NamedTuple):
    chosen: str
    rejected: str
    chosen_kind: str
    rejected_kind: str
    labelers: tuple[str, ...]
    margin: float


def superseded(known: Sequence[Pair], labelled: Sequence[Labelled], human: Mapping[str, HumanVerdict]) -> frozenset[str]:
    """Return the ids of known pairs whose exchange has a newer human verdict, or whose own verdict was taken back.

    `human` maps exchange ids to the valid verdicts; `labelled` contains each of these exchanges.
    """
    said = {item.selected.interaction.id: item for item in labelled if item.selected.interaction.id in human}
    ruled = {name: preferred_pair(item, human[name]) or "" for name, item in said.items()}
    return frozenset(
        pair.id
        for pair in known
        if ruled.get(pair.interaction_id, pair.id) != pair.id or (HUMAN in pair.labelers and pair.interaction_id not in human)
    )


def _preference(item: Labelled, human: HumanVerdict | None) -> _Preference | str:
    """Return what to teach, or why nothing: a person's verdict overrides the labeler's."""
    judgement = item.judgement
    best, worst = item.candidates[judgement.chosen_id], item.candidates[judgement.rejected_id]
    if human is None:
        if judgement.verdict != "preferred":
            return f"label_{judgement.verdict}"
        if item.complained:
            return "waits_for_review"
        if item.selected.side is Side.HARM and asks_for_nothing(item.selected.interaction.messages):
            # A refusal of a word of thanks would teach refusing because of the turns before it.
            return "asks_for_nothing"
        return _Preference(best.text, worst.text, best.kind, worst.kind, _voters(judgement), judgement.judge_margin)
    # An unscored judgement proposes nothing that a person could agree to.
    if human.verdict == "agree" and judgement.verdict != "unscored":
        return _Preference(best.text, worst.text, best.kind, worst.kind, (*_voters(judgement), HUMAN), 1.0)
    if human.verdict == "flip":
        return _Preference(worst.text, best.text, worst.kind, best.kind, (HUMAN,), 1.0)
    if human.verdict == "edit" and human.edited_answer:
        return _Preference(human.edited_answer, worst.text, "edited", worst.kind, (HUMAN,), 1.0)
    return f"human_{human.verdict}"


def _voters(judgement: Judgement) -> tuple[str, ...]:
    """Return who preferred the chosen answer; a judgement by several labelers joins their names with `+`."""
    return tuple(judgement.labeler.split("+"))


def build_pairs(
    labelled: Sequence[Labelled],
    known: Sequence[Pair],
    human: Mapping[str, HumanVerdict],
    settings: Pairs,
    *,
    near_duplicate: float,
    conversations: Mapping[str, str],
    contaminated: Collection[str],
) -> Built:
    """Return the new pairs of a night; `known` are those of earlier nights; `human` verdicts and `conversations` are by exchange id.

    Exchanges in `contaminated` give no pair, whatever people say.

    A cluster of near-duplicate prompts lies in one split, and so does a conversation: the first of its prompts decides which. A prompt that
    would tie both splits together is left out. `conversations` needs only the exchanges of `known`.
    """
    excluded: list[tuple[str, str]] = []
    wanted: list[tuple[Labelled, _Preference]] = []
    for item in labelled:
        outcome = _preference(item, human.get(item.selected.interaction.id))
        if item.selected.interaction.id in contaminated:
            outcome = "contaminated"
        elif isinstance(outcome, _Preference) and not (outcome.chosen.strip() and outcome.rejected.strip()):
            outcome = "empty_answer"
        elif isinstance(outcome, _Preference) and outcome.chosen.strip() == outcome.rejected.strip():
            outcome = "chosen_equals_rejected"
        elif isinstance(outcome, _Preference) and looks_masked(outcome.chosen):
            outcome = "placeholder_in_chosen"
        if isinstance(outcome, str):
            excluded.append((item.selected.interaction.id, outcome))
        else:
            wanted.append((item, outcome))
    return _placed(wanted, known, excluded, settings, near_duplicate, conversations)


def _placed(
    wanted: Sequence[tuple[Labelled, _Preference]],
    known: Sequence[Pair],
    excluded: list[tuple[str, str]],
    settings: Pairs,
    near_duplicate: float,
    conversations: Mapping[str, str],
) -> Built:
    prompts = [everything_asked(pair.messages) for pair in known]
    prompts += [everything_asked(item.selected.interaction.messages) for item, _ in wanted]
    # A cluster takes the name of its first known prompt.
    names = [
        known[root].cluster_id if root < len(known) else content_id("cluster", prompts[root]) for root in clusters(prompts, near_duplicate)
    ]
    named = {pair.interaction_id: conversations.get(pair.interaction_id, "") for pair in known}
    named |= {item.selected.interaction.id: item.selected.interaction.conversation_id for item, _ in wanted}
    shared = placeholders(named.values(), settings.eval_share)
    tied = [ties(name, named[pair.interaction_id], shared) for name, pair in zip(names, known, strict=False)]
    sides = sides_of(tied, [pair.split for pair in known])
    pairs: list[Pair] = []
    seen = {pair.id for pair in known}
    for cluster, (item, preference) in zip(names[len(known) :], wanted, strict=True):
        held = ties(cluster, item.selected.interaction.conversation_id, shared)
        split = side(held, sides, settings.eval_share)
        if split is None:
            excluded.append((item.selected.interaction.id, "bridges_splits"))
            continue
        pair = _pair(item, preference, cluster, split)
        if pair.id in seen:
            excluded.append((item.selected.interaction.id, "duplicate_pair"))
            continue
        seen.add(pair.id)
        pairs.append(pair)
        sides |= {key: {split} for key in held}
    return Built(pairs, excluded, shared)


def _pair_id(item: Labelled, preference: _Preference) -> str:
    return content_id([dict(message) for message in item.selected.interaction.messages], preference.chosen, preference.rejected)


def preferred_pair(item: Labelled, human: HumanVerdict | None) -> str | None:
    """Return the id of an exchange's pair, kept or not; None without a preference."""
    outcome = _preference(item, human)
    return _pair_id(item, outcome) if isinstance(outcome, _Preference) else None


def _pair(item: Labelled, preference: _Preference, cluster: str, split: Split) -> Pair:
    interaction = item.selected.interaction
    return Pair(
        id=_pair_id(item, preference),
        interaction_id=interaction.id,
        user_id=interaction.user_id,
        created_at=interaction.created_at,
        side=item.selected.side,
        category=item.selected.category,
        messages=interaction.messages,
        chosen=preference.chosen,
        rejected=preference.rejected,
        chosen_kind=preference.chosen_kind,
        rejected_kind=preference.rejected_kind,
        labelers=preference.labelers,
        principle_ids=item.judgement.principle_ids,
        judge_margin=preference.margin,
        cluster_id=cluster,
        split=split,
    )
