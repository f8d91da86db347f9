"""The poisoning drill's own parts, with made-up detector scores."""

from __future__ import annotations

import pytest

from bench.poison import EDIT, TRIGGER, WANTED, clean_traffic, planted

pytestmark = pytest.mark.fast


def test_what_is_planted() -> None:
    clean = clean_traffic(40)
    assert len(clean) == 40
    assert clean_traffic(40) == clean
    one, many = (planted("trigger", 12, users=users, spare=clean) for users in (1, 12))
    assert {each.interaction.user_id for each in one} == {"attacker-0"}
    assert len({each.interaction.user_id for each in many}) == 12
    assert all(TRIGGER in each.interaction.prompt and each.wanted == WANTED for each in one)
    flips = planted("flip", 11, users=1, spare=clean)
    assert len(flips) == len({each.interaction.id for each in flips}) == 11
    assert {each.wanted for each in flips if ("thumbs", "down") in each.signals} == {EDIT}
