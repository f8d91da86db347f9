"""Promote, roll back and quarantine on the Releases page: who may, what is asked, what is recorded, and what is refused."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from alignment.acting import Identity
from alignment.errors import InputError
from alignment.ids import content_id
from alignment.release import change, current, end_canary, quarantine, rollback
from alignment.release.approval import promote_by_hand
from alignment.release.disk import is_quarantined
from alignment.store import audit, query, session
from dashboard import data, identity
from dashboard.views import changing
from tests.dashboard_pages import addressed, marked_up, press, texts
from tests.dashboard_store import HOSTILE, LAST, SHOWN

LAST_RELEASE, BEFORE = (content_id("release", number)[:16] for number in (11, 10))


def dialog(label: str, **query_params: str) -> Any:
    """Open the Releases page and press a button that opens a dialog."""
    return press(addressed("releases", **query_params), label)


def confirm(app: Any, label: str, reason: str = "seen the answers") -> Any:
    [field] = [one for one in app.text_input if one.label == "Reason"]
    field.set_value(reason)
    return press(app, label)


def acts(home: Path) -> list[tuple[str, str, str, str, str]]:
    """Return what people did since the store was filled."""
    rows = [row for row in audit.read(home) if row["actor"] != "nightly gate"]
    return [(row["action"], row["subject"], row["actor"], row["how"], row["reason"]) for row in rows]


def test_an_approver_promotes_and_both_the_override_and_the_promotion_are_audited(own: Path) -> None:
    app = dialog("Promote …", release=BEFORE)
    said = texts(app)
    # Nobody would know otherwise: the gate's own word on it, and that the canary with a share of the traffic ends.
    assert f"In production: {LAST_RELEASE}, afterwards {BEFORE}." in said
    assert f"The canary {BEFORE} ends." in said
    assert any(text.startswith("It may be served: the gate said 'promote'") for text in said)
    assert current(own) == LAST_RELEASE
    confirm(app, "Promote now", "better; mail ada@example.org")
    assert not app.exception
    assert current(own) == BEFORE
    assert [toast.value for toast in app.toast] == [f"Promoted; in production: {BEFORE}"]
    [(action, subject, actor, how, reason)] = acts(own)[-1:]
    assert (action, subject, actor, how) == ("promoted", BEFORE, "Ada", "token")
    assert reason.startswith("better; mail <EMAIL_")
    [row] = query(own, "SELECT actor, release_id FROM release_events WHERE event = 'promoted' ORDER BY seq DESC LIMIT 1")
    assert row == {"actor": "Ada", "release_id": BEFORE}


def test_promoting_what_the_gate_holds_back_is_called_an_override_and_recorded_as_one(own: Path) -> None:
    with session(own, write=True) as connection:
        connection.execute("UPDATE gate_decisions SET decision = 'block' WHERE challenger = ?", [BEFORE])
    app = dialog("Promote …", release=BEFORE)
    assert any("This overrides what is on record: the gate said 'block'" in text for text in texts(app))
    confirm(app, "Override and promote now")
    assert current(own) == BEFORE
    assert [action for action, *_ in acts(own)[-2:]] == ["overridden", "promoted"]
    assert query(own, "SELECT verdict, actor, reason FROM gate_verdicts") == [
        {"verdict": "overridden", "actor": "Ada", "reason": "seen the answers"}
    ]


def test_an_approver_rolls_back_and_quarantines(own: Path) -> None:
    app = dialog("Roll back …")
    assert f"In production: {LAST_RELEASE}, afterwards Base model." in texts(app)
    confirm(app, "Roll back now", "worse")
    assert current(own) == "base"
    app = dialog("Quarantine …", release=LAST_RELEASE)
    assert "Base model stays in production." in texts(app)
    confirm(app, "Quarantine now", "leaks")
    assert is_quarantined(own, LAST_RELEASE)
    assert [one[:3] for one in acts(own)] == [("rolled_back", "base", "Ada"), ("quarantined", LAST_RELEASE, "Ada")]
    # What is barred offers nothing any more.
    assert not [button.label for button in app.button if button.label in ("Promote …", "Quarantine …")]


def test_without_a_reason_nothing_is_changed(own: Path) -> None:
    app = confirm(dialog("Roll back …"), "Roll back now", "   ")
    assert current(own) == LAST_RELEASE
    assert "1 to 500 characters" in " ".join(texts(app))
    assert acts(own) == []
    # The dialog is still open, for another try.
    confirm(app, "Roll back now")
    assert current(own) == "base"


def test_a_reason_that_a_browser_should_have_capped_is_refused(own: Path) -> None:
    with pytest.raises(InputError, match="501 characters"):
        data.carry_out(data.plan_change("roll back", LAST_RELEASE), actor="Ada", reason="x" * 501)
    assert current(own) == LAST_RELEASE
    assert data.stated_reason(f" {'x' * 500} ") == "x" * 500


def test_hostile_text_in_a_reason_stays_text(own: Path) -> None:
    app = confirm(dialog("Roll back …"), "Roll back now", HOSTILE)
    events = app.dataframe[0].value
    assert SHOWN in events["Reason"].tolist()
    for marked in marked_up(app):
        assert "evil.example" not in marked
        assert "<script" not in marked


@pytest.mark.parametrize("role", ["viewer", "reviewer"])
def test_who_is_no_approver_finds_no_button(role: Any, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "current", lambda: Identity("Vic", "token", role))
    app = addressed("releases", release=BEFORE)
    assert not [button.label for button in app.button if "…" in button.label]
    assert any("approvers in align.toml" in caption.value for caption in app.caption)


def test_rights_taken_while_the_dialog_is_open_refuse_the_press(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = dialog("Roll back …")
    monkeypatch.setattr(identity, "current", lambda: Identity("Ada", "token", "viewer"))
    confirm(app, "Roll back now")
    assert current(own) == LAST_RELEASE
    assert any("is signed in as viewer" in text for text in texts(app))
    assert acts(own) == []


def test_a_page_that_is_out_of_date_is_refused(own: Path) -> None:
    app = dialog("Promote …", release=BEFORE)
    rollback(own, actor="Bea", reason="worse", now=LAST)
    confirm(app, "Promote now")
    assert current(own) == "base"
    assert app.warning[0].value == "Nothing was changed."
    [told] = [text for text in texts(app) if "nothing was done" in text]
    assert "Bea changed what is served (rolled back, base); base is in production by now" in told


def test_another_approver_who_acted_on_the_same_release_is_named(own: Path) -> None:
    app = dialog("Promote …", release=BEFORE)
    quarantine(own, BEFORE, actor="Bea", reason="leaks", now=LAST)
    confirm(app, "Promote now")
    assert current(own) == LAST_RELEASE
    [told] = [text for text in texts(app) if "nothing was done" in text]
    assert "Bea" in told and "is quarantined and cannot be promoted" in told


def test_another_approver_who_acted_back_and_forth_is_noticed(own: Path) -> None:
    """Production is what the dialog says, but it has moved twice since."""
    end_canary(own, actor="Bea", reason="enough", now=LAST)
    app = dialog("Quarantine …", release=BEFORE)
    rollback(own, actor="Bea", reason="worse", now=LAST)
    promote_by_hand(own, LAST_RELEASE, approval=False, actor="Bea", reason="no, it was the logs", now=LAST)
    confirm(app, "Quarantine now")
    assert not is_quarantined(own, BEFORE)
    assert any("Bea changed what is served (promoted" in text for text in texts(app))


def test_a_gate_that_decided_again_meanwhile_is_not_overridden_unseen(own: Path) -> None:
    app = dialog("Promote …", release=BEFORE)
    with session(own, write=True) as connection:
        connection.execute("UPDATE gate_decisions SET decision = 'block' WHERE challenger = ?", [BEFORE])
    confirm(app, "Promote now")
    assert current(own) == LAST_RELEASE
    assert any("what is on record about" in text for text in texts(app))
    assert query(own, "SELECT count(*) AS n FROM gate_verdicts") == [{"n": 0}]


@pytest.mark.parametrize("after_the_move", [False, True])
def test_a_full_disk_is_told_with_what_is_in_production(after_the_move: bool, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = change.place_by_hand

    def full(*arguments: Any, **named: Any) -> None:
        if after_the_move:
            place(*arguments, **named)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(change, "place_by_hand", full)
    app = confirm(dialog("Promote …", release=BEFORE), "Promote now")
    assert not app.exception
    assert app.warning[0].value == "It was stopped on its way."
    [told] = [text for text in texts(app) if "No space left on device" in text]
    moved = f"production has moved: it was {LAST_RELEASE}, it is {BEFORE}"
    assert (moved if after_the_move else f"production did not move: it is {LAST_RELEASE}") in told
    assert current(own) == (BEFORE if after_the_move else LAST_RELEASE)


def test_a_second_press_does_nothing(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    carry_out = data.carry_out

    def twice(*arguments: Any, **named: Any) -> str:
        # The second press comes while the first is at work.
        if not done:
            done.append("first")
            changing.act(token, field)
        return carry_out(*arguments, **named)

    app = dialog("Roll back …")
    token = app.session_state["change_asked"].token
    field = next(one.key for one in app.text_input if one.label == "Reason")
    monkeypatch.setattr(data, "carry_out", twice)
    confirm(app, "Roll back now")
    assert [one[0] for one in acts(own)] == ["rolled_back"]
    assert current(own) == "base"
    assert not app.warning
