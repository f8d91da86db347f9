"""The constitution labeler: a principle's detector weights rank the candidates; the best and the worst form a preference.

It reads detector scores, not instructions, so a text that talks to its judge has no effect. It scores each answer by itself, so the order
of answers cannot matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from alignment.ids import content_id
from alignment.labels.constitution import Principle
from alignment.records import Candidate, Judgement, Selected, Side

LABELER = "constitution"
NEVER_CHOSEN = frozenset({"refusal_contrast", "contrast_unsafe", "user_edit", "teacher_unfit"})
"""Candidate kinds that must never be chosen: made to be rejected, written by a user and not yet reviewed, or found unfit."""
_ONLY_REJECTED = "contrast_unsafe"


def judge(
    selected: Selected,
    candidates: Sequence[Candidate],
    scores: Sequence[Mapping[str, float]],
    principle: Principle,
    *,
    scorer_version: str,
    min_margin: float,
    declines_at: float = 0.5,
) -> Judgement:
    """Return the preference between the best and the worst candidate under `principle`.

    `scores` are detector scores in 0..1, one mapping per candidate. The margin is the difference in utility divided by the
    largest possible difference, in 0..1. Ties in utility go to the smaller candidate id, so the order of candidates does not matter.
    Below `min_margin`, and always without any difference, the verdict is `tie`. It is `unscored` if the best answer must not be
    taught: a contrast, which exists only to be rejected, or an answer that declines a harmless request (a refusal score of at least
    `declines_at`). A sample that was prompted to do harm is never taken as the best if there is another answer.

    Raises:
        ValueError: fewer than two candidates.
    """
    if len(candidates) < 2:
        raise ValueError(f"exchange {selected.interaction.id!r} has {len(candidates)} candidate; a preference needs two")
    utilities = [principle.utility(dict(one)) for one in scores]
    indices = range(len(candidates))
    # A sample that was prompted to do harm may have declined after all; it is skipped, because another answer can still be taught.
    teachable = [index for index in indices if candidates[index].kind != _ONLY_REJECTED] or indices
    best = min(teachable, key=lambda index: (-utilities[index], candidates[index].id))
    # Among equally bad answers, the model's own teaches most.
    worst = min(
        (index for index in indices if index != best),
        key=lambda index: (utilities[index], candidates[index].kind != "logged", candidates[index].id),
    )
    margin = principle.margin(dict(scores[best]), dict(scores[worst]))
    verdict: Literal["preferred", "tie", "unscored"] = "preferred"
    declines = selected.side is Side.HELPFUL and scores[best].get("refusal", 0.0) >= declines_at
    if declines or candidates[best].kind in NEVER_CHOSEN:
        verdict = "unscored"
    elif margin <= 0 or margin < min_margin:
        verdict = "tie"
    version = f"{principle.version}+{scorer_version}"
    return Judgement(
        id=content_id(LABELER, version, sorted(candidate.id for candidate in candidates), min_margin),
        interaction_id=selected.interaction.id,
        labeler=LABELER,
        labeler_version=version,
        principle_ids=(principle.id,),
        chosen_id=candidates[best].id,
        rejected_id=candidates[worst].id,
        verdict=verdict,
        judge_margin=margin,
        scores={candidate.id: utility for candidate, utility in zip(candidates, utilities, strict=True)},
    )


def review_item(
    selected: Selected, judgement: Judgement, candidates: Mapping[str, Candidate], *, complained: bool = False
) -> dict[str, Any] | None:
    """Return the review question if the labeler is not sure or the user complained, else None."""
    if judgement.verdict == "preferred" and not complained:
        return None
    kind = "disagreement" if complained or judgement.verdict == "unscored" else "low_margin"
    reason = (
        "the user complained about this answer"
        if complained
        else "no candidate may be taught: the best one declines"
        if judgement.verdict == "unscored"
        else f"principle {judgement.principle_ids[0]} decides by a margin of {judgement.judge_margin:.2f} only"
    )
    harm = selected.side is Side.HARM
    return {
        "id": content_id("review", judgement.id, kind),
        "kind": kind,
        "reason": reason,
        "interaction_id": selected.interaction.id,
        "prompt": selected.interaction.prompt,
        "answer_a": candidates[judgement.chosen_id].text,
        "answer_b": candidates[judgement.rejected_id].text,
        "proposal": "" if judgement.verdict == "unscored" else "A is better",
        "detail": {"judgement_id": judgement.id, "side": selected.side, "category": selected.category},
        # Review first what could teach the model to do harm; then what is least certain.
        "priority": (1.0 if harm else 0.5) + (1.0 - judgement.judge_margin) / 2,
    }
