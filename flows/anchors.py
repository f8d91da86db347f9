"""Anchors: releases besides the champion that a challenger is compared with, which do not move along with every night.

Effects: asks an anchor the suites that it has no stored answers to, as for the champion.
"""

from __future__ import annotations

from typing import NamedTuple

from alignment.config import Settings
from alignment.errors import ModelError, ReleaseError, Transient
from alignment.evals.rules import Anchor, Since
from alignment.release import BASE
from alignment.release.approval import last_approved
from flows.evaluate import adapter_of, evaluate


class AnchorAnswers(NamedTuple):
    """An anchor and the id of the model that answered for it; empty if it could not answer."""

    anchor: Anchor
    model_id: str = ""


def answered(settings: Settings, champion: str, challenger: str) -> list[AnchorAnswers]:
    """Return the base model and the last release that a person approved, with their answers stored, except the champion.

    An anchor is asked any suite prompts that are new to it. An anchor that cannot answer (its files were changed, or it belongs to another
    base) has a flaw, and nothing passes against it.
    """
    approved = last_approved(settings.home, besides=challenger)
    wanted: list[tuple[str, Since]] = [(BASE, "base"), *([(approved, "approved")] if approved else [])]  # type: ignore[list-item]
    return [_answer(settings, Anchor(name, since)) for name, since in wanted if name != champion]


def _answer(settings: Settings, anchor: Anchor) -> AnchorAnswers:
    try:
        return AnchorAnswers(anchor, evaluate(anchor.release_id, adapter_of(settings, anchor.release_id)))
    except (ReleaseError, ModelError) as error:
        if isinstance(error, Transient):
            raise  # transient: the next run asks again, as for the champion
        return AnchorAnswers(anchor._replace(flaw=f"{anchor.words} gives no answers: {error}{_exit(anchor)}"))


def _exit(anchor: Anchor) -> str:
    return f"; 'align release quarantine {anchor.release_id}' takes it out of the comparison" if anchor.since == "approved" else ""
