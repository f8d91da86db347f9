"""What the flow hands to the stages: a person's verdict belongs to the answers that this person saw."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from alignment.config import Settings
from alignment.records import Selected, Side
from alignment.store import append, migrate, session
from flows.labelled import judgements_of
from tests.conftest import NOW, make_interaction

pytestmark = pytest.mark.fast


def test_a_verdict_keeps_the_judgement_that_was_shown(home: Path) -> None:
    migrate(home)
    one = make_interaction("x")
    row = {"interaction_id": one.id, "labeler": "constitution", "labeler_version": "1", "principle_ids": ["p"], "chosen_id": "a"}
    row |= {"rejected_id": "b", "verdict": "preferred", "judge_margin": 0.5, "scores": {}}
    with session(home, write=True) as connection:
        append(connection, "judgements", [{**row, "id": "shown", "created_at": NOW}])
        append(connection, "judgements", [{**row, "id": "later", "created_at": NOW + timedelta(days=1), "chosen_id": "c"}])
    chosen = [Selected(one, Side.HARM, "violence", "p")]
    settings = Settings(home=home)
    assert judgements_of(settings, chosen, [])[one.id].id == "later"
    assert judgements_of(settings, chosen, ["shown"])[one.id].id == "shown"
