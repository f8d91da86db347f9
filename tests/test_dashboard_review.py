"""The review page: an item is held, its answers are unmarked, a verdict is stored once, and nobody overwrites another's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from alignment.ids import content_id
from alignment.labels import review_queue
from alignment.store import append, query, session
from dashboard import conversation, review_data
from dashboard.views import deciding
from tests.dashboard_pages import APP, opened, press, texts
from tests.dashboard_store import COMPLIES, REFUSES


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test press as soon as an item is there."""
    monkeypatch.setattr(deciding, "QUICK", 0.0)


def verdicts(home: Path, columns: str = "item_id, reviewer, verdict, note") -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in query(home, f"SELECT {columns} FROM verdicts ORDER BY seq")]


def on_screen(app: AppTest) -> str:
    return str(app.session_state["review_item"])


def prefer(app: AppTest, home: Path, side: str) -> AppTest:
    """Press the button of the side on which answer `side` (a, b) stands."""
    [row] = query(home, "SELECT left_answer FROM review_holds WHERE showing = ? AND event = 'claim'", [app.session_state["review_token"]])
    return press(app, "Left" if row["left_answer"] == side else "Right")


def lapse(home: Path) -> None:
    """Let all holds run out."""
    with session(home, write=True) as connection:
        connection.execute("UPDATE review_holds SET recorded_at = recorded_at - INTERVAL 4 MINUTE")


def said_of_the_last(app: AppTest) -> str:
    return " ".join([*(element.value for element in app.markdown), *(element.value for element in app.caption), *texts(app)])


def test_a_verdict_is_stored_once_and_the_next_item_comes(own: Path) -> None:
    app = opened("review", reviewer="Ada")
    before = on_screen(app)
    app.text_input(key="review_note").set_value("clear case; mail ada@example.org").run()
    prefer(app, own, "b")
    [(item, who, verdict, note)] = verdicts(own)
    assert (item, who, verdict) == (before, "Ada", "flip")
    assert note.startswith("clear case")
    assert "ada@example.org" not in note
    assert on_screen(app) != before
    assert app.session_state["review_note"] == ""


def test_nothing_marks_an_answer_before_the_verdict_and_the_proposal_comes_after(own: Path) -> None:
    app = opened("review", reviewer="Ada")
    press(app, "Both bad")  # the first item is hostile text
    before = said_of_the_last(app).split("Your last verdict")[-1]
    for word in ("proposed as", "A is better", "Answer A", "margin", "constitution:"):
        assert word not in before.replace("had been proposed", "")
    prefer(app, own, "b")
    last = said_of_the_last(app)
    assert "one is better." in last
    assert "had been proposed." in last
    assert "principle harm.privacy decides by a margin of 0.12 only" in last


def test_both_orders_are_shown_and_stored_with_the_verdict(own: Path) -> None:
    orders = {review_queue.left_of("item", f"showing {number}") for number in range(40)}
    assert orders == {"a", "b"}
    app = opened("review", reviewer="Ada")
    press(app, "Skip")
    left = next(text for text in texts(app) if text in (REFUSES, COMPLIES))
    press(app, "Left")
    [(verdict, side)] = verdicts(own, "verdict, left_answer")[1:]
    assert (left == REFUSES) == (side == "a") == (verdict == "agree")
    app.segmented_control(key="review_view").set_value("History").run()
    assert any("The answer on the left was preferred in 100.0% of 1 verdicts" in element.value for element in app.caption)


def test_two_reviewers_are_given_different_items(own: Path) -> None:
    ada, ben = opened("review", reviewer="Ada"), opened("review", reviewer="Ben")
    assert on_screen(ada) != on_screen(ben)
    for _ in range(12):
        for app in (ada, ben):
            if "review_item" in app.session_state:
                press(app, "Skip" if len(verdicts(own)) > 11 else next(b.label for b in app.button if b.label in ("Both bad", "Refusal")))
    decided = [item for item, _, verdict, _ in verdicts(own) if verdict != "skip"]
    assert sorted(decided) == sorted(row["id"] for row in query(own, "SELECT id FROM review_items"))
    assert {who for _, who, _, _ in verdicts(own)} == {"Ada", "Ben"}


def test_what_is_left_on_other_screens_is_told(own: Path) -> None:
    keep = content_id("item", 5)
    with session(own, write=True) as connection:
        connection.execute("DELETE FROM review_items WHERE id <> ?", [keep])
    ada, ben = opened("review", reviewer="Ada"), opened("review", reviewer="Ben")
    assert on_screen(ada) == keep
    assert any("Nothing is free now" in element.value for element in ben.markdown)
    assert "Ada: 1" in texts(ben)
    press(ada, "Refusal")
    press(ben, "Look again")
    assert any("Nothing is waiting" in element.value for element in ben.markdown)


def test_a_verdict_on_an_item_that_another_decided_is_refused_and_says_who(own: Path) -> None:
    ada = opened("review", reviewer="Ada")
    item = on_screen(ada)
    lapse(own)
    ben = opened("review", reviewer="Ben")
    assert on_screen(ben) == item
    press(ben, "Both bad")
    press(ada, "Left")
    assert verdicts(own) == [(item, "Ben", "both_bad", None)]
    assert not ada.exception
    assert any(text.startswith("Ben decided this item at ") and text.endswith("Ben found both answers bad") for text in texts(ada))
    assert on_screen(ada) != item


def test_a_hold_that_was_lost_is_told_when_the_page_is_drawn(own: Path) -> None:
    ada = opened("review", reviewer="Ada")
    item = on_screen(ada)
    lapse(own)
    ben = opened("review", reviewer="Ben")
    assert on_screen(ben) == item
    ada.run()
    assert any("Ben opened this item after your hold on it had run out" in text for text in texts(ada))
    assert on_screen(ada) != item


def test_a_second_press_for_the_same_showing_stores_nothing(own: Path) -> None:
    app = opened("review", reviewer="Ada")
    item, token = on_screen(app), app.session_state["review_token"]
    press(app, "Both bad")
    for verdict in ("both_bad", "agree"):
        assert review_data.record_verdict(token, verdict, reviewer="Ada").stored
    assert verdicts(own) == [(item, "Ada", "both_bad", None)]


def test_a_press_on_an_item_that_has_only_just_appeared_is_not_taken(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened("review", reviewer="Ada")
    monkeypatch.setattr(deciding, "QUICK", 60.0)
    item = on_screen(app)
    press(app, "Left")
    assert verdicts(own) == []
    assert on_screen(app) == item
    assert [toast.value for toast in app.toast] == ["Not taken: this item had only just appeared"]


def test_items_come_by_priority_and_all_of_them_can_be_decided(own: Path) -> None:
    app = opened("review", reviewer="Ada")
    seen = []
    for _ in range(12):
        seen.append(on_screen(app))
        press(app, next(button.label for button in app.button if button.label in ("Left", "Refusal")))
    priorities = {row["id"]: row["priority"] for row in query(own, "SELECT id, priority FROM review_items")}
    assert [priorities[item] for item in seen] == sorted(priorities.values(), reverse=True)
    assert len(verdicts(own)) == 12
    assert any("Nothing is waiting" in element.value for element in app.markdown)


def test_skip_comes_back_last_and_undo_brings_the_item_back(own: Path) -> None:
    app = opened("review", reviewer="Ada")
    first = on_screen(app)
    press(app, "Skip")
    second = on_screen(app)
    press(app, "Both bad")
    press(app, "Undo")
    assert on_screen(app) == second
    assert [toast.value for toast in app.toast] == ["Taken back"]
    press(app, "Undo")
    assert on_screen(app) == first
    assert verdicts(own) == [
        (first, "Ada", "skip", None),
        (second, "Ada", "both_bad", None),
        (second, "Ada", "skip", "undo"),
        (first, "Ada", "skip", "undo"),
    ]
    assert not [button for button in app.button if button.label == "Undo"]


def test_a_repeated_undo_takes_back_one_verdict(own: Path) -> None:
    app = opened("review", reviewer="Ada")
    first = on_screen(app)
    press(app, "Both bad")
    second = on_screen(app)
    press(app, "Both bad")
    [last] = query(own, "SELECT id FROM verdicts WHERE item_id = ?", [second])
    assert [review_data.undo_verdict(last["id"], "Ada") for _ in range(2)] == [second, None]
    assert [item for item, _, verdict, _ in verdicts(own) if verdict == "skip"] == [second]
    assert review_data.undo_verdict(last["id"], "Ben") is None
    assert query(own, "SELECT item_id FROM latest_verdicts WHERE verdict <> 'skip'") == [{"item_id": first}]


def test_an_edited_answer_is_stored(own: Path) -> None:
    app = opened("review", reviewer="Ada")
    press(app, "Skip")
    item = on_screen(app)
    app.text_input(key="review_note").set_value("shorter").run()
    press(app, "Edit")
    assert app.text_area[0].value in (REFUSES, COMPLIES)
    other = {REFUSES, COMPLIES} - {app.text_area[0].value}
    app.segmented_control[-1].set_value("Right").run()
    assert {app.text_area[0].value} == other
    app.text_area[0].set_value(" ")
    press(app, "Save the edited answer")
    assert [toast.value for toast in app.toast] == ["Nothing saved: the answer is empty"]
    app.text_area[0].set_value("Ask them for the password.")
    press(app, "Save the edited answer")
    [row] = query(own, "SELECT item_id, edited_answer, note FROM verdicts WHERE verdict = 'edit'")
    assert row == {"item_id": item, "edited_answer": "Ask them for the password.", "note": "shorter"}
    assert on_screen(app) != item
    assert not app.text_area


def test_people_who_differ_are_listed_and_nothing_is_taught_until_a_third_decides(own: Path) -> None:
    ada = opened("review", reviewer="Ada")
    item = on_screen(ada)
    prefer(ada, own, "a")
    for name, side, disputed in (("Ben", "b", True), ("Cleo", "b", False)):
        app = AppTest.from_file(APP, default_timeout=30)
        app.session_state["reviewer"], app.query_params["item"] = name, item
        app.switch_page("views/review.py").run()
        assert on_screen(app) == item
        # A second opinion knows that there is a first one, and not what it was.
        assert any(text.startswith("Ada") for text in texts(app))
        assert not any("Agree" in text for text in texts(app))
        prefer(app, own, side)
        [row] = query(own, "SELECT verdict, disputed FROM latest_verdicts WHERE item_id = ?", [item])
        assert row["disputed"] == disputed
    assert row["verdict"] == "flip"
    ada.segmented_control(key="review_view").set_value("Disagreements").run()
    assert not ada.exception
    assert "1–1 of 1" in [element.value for element in ada.caption]
    assert {"Ada", "Ben", "Cleo"} <= set(texts(ada))
    ada.selectbox(key="differing_between").set_value("gate").run()
    assert "Nobody differs here." in [element.value for element in ada.caption]
    ada.selectbox(key="differing_between").set_value("people").run()
    press(ada, "Open it")
    assert on_screen(ada) == item


def test_a_person_against_the_labelers_and_against_the_gate_is_listed(own: Path) -> None:
    app = opened("review", reviewer="Ada")
    prefer(app, own, "b")
    app.segmented_control(key="review_kind").set_value("gate_audit").run()
    press(app, "Helpful")
    assert any("The gate had scored it as: refusal (you differ)." in element.value for element in app.caption)
    found = review_data.review_disagreements(kind=None, between=None, side=None, reviewer=None, limit=9, offset=0)
    assert [(row["between"], row["verdict"], row["disputed"]) for row in found] == [("gate", "flip", False), ("labelers", "flip", False)]
    assert review_data.review_disagreements(kind=None, between=None, side=None, reviewer="Ben", limit=9, offset=0) == []


def test_the_kind_filter_shows_only_that_kind_and_lets_the_item_go(own: Path) -> None:
    app = opened("review", reviewer="Ada")
    before = on_screen(app)
    app.segmented_control(key="review_kind").set_value("gate_audit").run()
    [row] = query(own, "SELECT kind FROM review_items WHERE id = ?", [on_screen(app)])
    assert row["kind"] == "gate_audit"
    assert "Edit" not in [button.label for button in app.button]
    assert on_screen(opened("review", reviewer="Ben")) == before


def test_a_busy_store_loses_no_verdict_silently(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignment.errors import StoreBusy

    def busy(*_: object, **__: object) -> None:
        raise StoreBusy("the store stayed locked")

    app = opened("review", reviewer="Ada")
    item = on_screen(app)
    with monkeypatch.context() as patched:
        patched.setattr(review_data, "record_verdict", busy)
        press(app, "Left")
    assert not app.exception
    assert app.warning[0].value == "Nothing was stored; try again."
    assert on_screen(app) == item
    assert verdicts(own) == []
    press(app, "Left")
    assert len(verdicts(own)) == 1


def test_an_item_that_was_erased_takes_no_verdict(own: Path) -> None:
    app = opened("review", reviewer="Ada")
    item = on_screen(app)
    with session(own, write=True) as connection:
        connection.execute("DELETE FROM review_items WHERE id = ?", [item])
    press(app, "Left")
    assert not app.exception
    assert any(text.startswith("the item is no longer there") for text in texts(app))
    assert on_screen(app) != item
    assert verdicts(own) == []


def test_an_item_that_was_changed_since_it_was_shown_takes_no_verdict(own: Path) -> None:
    app = opened("review", reviewer="Ada")
    item = on_screen(app)
    with session(own, write=True) as connection:
        connection.execute("UPDATE review_items SET answer_a = 'masked <NAME>' WHERE id = ?", [item])
    press(app, "Left")
    assert verdicts(own) == []
    assert "the item was changed since it was shown to you; read it again and decide then" in texts(app)
    assert on_screen(app) == item
    assert "masked <NAME>" in texts(app)


def test_an_address_opens_its_item_until_it_is_decided(own: Path) -> None:
    item = content_id("item", 7)
    app = AppTest.from_file(APP, default_timeout=30)
    app.session_state["reviewer"], app.query_params["item"] = "Ada", item
    app.switch_page("views/review.py").run()
    assert on_screen(app) == item
    press(app, "Both bad")
    assert on_screen(app) != item
    assert app.query_params["item"] == on_screen(app)


def test_a_press_that_overtakes_the_page_does_not_bring_the_decided_item_back(own: Path) -> None:
    app = opened("review", reviewer="Ada")
    first = on_screen(app)
    press(app, "Both bad")
    # The browser sends its address with every press: still that of the first item, while the run that claimed the next was cut off.
    app.query_params["item"] = first
    for name in ("review_item", "review_for", "review_token"):
        del app.session_state[name]
    app.run()
    assert on_screen(app) != first


def test_an_item_that_another_holds_is_not_given_by_its_address(own: Path) -> None:
    ada = opened("review", reviewer="Ada")
    ben = AppTest.from_file(APP, default_timeout=30)
    ben.session_state["reviewer"], ben.query_params["item"] = "Ben", on_screen(ada)
    ben.switch_page("views/review.py").run()
    assert on_screen(ben) != on_screen(ada)
    assert "Ada has the item open that was asked for; this is the next one" in texts(ben)
    item = on_screen(ben)
    press(ben, "Both bad")
    assert verdicts(own) == [(item, "Ben", "both_bad", None)]


def test_who_may_only_look_holds_nothing_and_decides_nothing(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignment.acting import Identity
    from alignment.errors import NotAllowed
    from dashboard import identity, review_data

    monkeypatch.setattr(identity, "current", lambda: Identity("Eve", "oidc", "viewer"))
    app = opened("review", reviewer="Eve")
    assert all(button.disabled for button in app.button if button.label in ("Left", "Right", "Both bad", "Skip"))
    assert query(own, "SELECT * FROM review_holds") == []
    # A hidden button is no lock: what writes asks for the role itself.
    with pytest.raises(NotAllowed, match="reviewer"):
        review_data.claim_item("a" * 32, "Eve", kind=None, item=None)
    with pytest.raises(NotAllowed, match="reviewer"):
        review_data.record_verdict("a" * 32, "agree", reviewer="Eve")
    with pytest.raises(NotAllowed, match="reviewer"):
        review_data.rule_on_pair(content_id("pair", 1), "exclude", actor="Eve", reason="no")
    assert verdicts(own) == []


def test_who_is_no_reviewer_any_more_loses_what_they_hold_and_may_let_it_go(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignment.acting import Identity
    from dashboard import identity

    monkeypatch.setattr(identity, "current", lambda: Identity("Ada", "oidc", "reviewer"))
    assert review_data.claim_item("t", "Ada", kind=None, item=None).showing
    assert review_data.renew_hold("t") == ""
    monkeypatch.setattr(identity, "current", lambda: Identity("Ada", "oidc", "viewer"))
    held = len(query(own, "SELECT * FROM review_holds"))
    assert "is for a reviewer" in review_data.renew_hold("t")
    assert len(query(own, "SELECT * FROM review_holds")) == held
    review_data.release_hold("t")
    assert len(query(own, "SELECT * FROM review_holds")) == held + 1


def test_a_reviewer_sees_the_whole_of_a_conversation_and_its_principle(own: Path) -> None:
    long = "an earlier turn " * 400 + "its end"
    turns = [("system", "Be kind."), ("user", "How do I cook for two?"), ("assistant", long), ("user", "And for ten?")]
    with session(own, write=True) as connection:
        connection.execute(
            "UPDATE interactions SET messages = ? WHERE id = ?",
            [json.dumps([{"role": role, "content": text} for role, text in turns]), content_id("exchange", 3)],
        )
        connection.execute("UPDATE review_items SET prompt = 'And for ten?', priority = 9 WHERE id = ?", [content_id("item", 3)])
    app = opened("review", reviewer="Ada")
    shown = texts(app)
    assert {text for _, text in turns} <= set(shown)
    assert shown.index("Be kind.") < shown.index("And for ten?")
    assert any(expander.label == f"The whole turn · {len(long):,} characters" for expander in app.expander)
    assert "no-privacy-violation" in shown
    assert any(text.startswith("The answer must not help anyone find, expose, track or spy") for text in shown)


def test_a_long_prompt_is_not_cut(own: Path) -> None:
    with session(own, write=True) as connection:
        connection.execute(
            "UPDATE review_items SET prompt = repeat('long ', 20000) || 'the end', priority = 9 WHERE id = ?", [content_id("item", 3)]
        )
    assert any(text.endswith("the end") for text in texts(opened("review")))


@pytest.mark.parametrize("messages", [None, "no JSON", "[]", "[1, null]", '{"role": "user"}', '[{"content": null}]'])
def test_a_conversation_that_cannot_be_read_still_shows_the_prompt(messages: str | None) -> None:
    assert conversation.turns_of(messages, "What now?")[-1] == conversation.ShownTurn("user", "What now?")


def ruled(home: Path) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in query(home, "SELECT action, actor, reason FROM pair_events ORDER BY seq")]


def test_a_pair_is_ruled_on_with_a_reason_and_that_is_shown(own: Path) -> None:
    app = opened("pairs", reviewer="Ada")
    app.text_input(key="pairs_text").set_value("PROMPT 5").run()
    [pair] = query(own, "SELECT id, interaction_id FROM pairs WHERE messages::VARCHAR LIKE '%prompt 5\"%'")
    assert all(button.disabled for button in app.button if button.label in ("Exclude", "Flip", "Review"))
    app.text_input(key=f"ruling-reason-{pair['id'][:16]}").set_value("teaches harm; mail ada@example.org").run()
    press(app, "Exclude")
    assert not app.exception
    [(action, actor, reason)] = ruled(own)
    assert (action, actor) == ("exclude", "Ada")
    assert "ada@example.org" not in reason
    assert any(text.startswith("Ada: teaches harm") for text in texts(app))
    app.text_input(key=f"ruling-reason-{pair['id'][:16]}").set_value("a mistake").run()
    press(app, "Take it back")
    assert [action for action, _, _ in ruled(own)] == ["exclude", "restore"]
    assert not any(text.startswith("Ada: ") for text in texts(app))


def test_a_pair_that_was_sent_to_review_is_asked_about(own: Path) -> None:
    [pair] = query(own, "SELECT id, chosen FROM pairs WHERE messages::VARCHAR LIKE '%prompt 5\"%'")
    assert review_data.rule_on_pair(pair["id"], "review", actor="Ada", reason="is this right?")
    app = opened("review", reviewer="Ben")
    [row] = query(own, "SELECT kind, answer_a FROM review_items WHERE id = ?", [on_screen(app)])
    assert row == {"kind": "pair_review", "answer_a": pair["chosen"]}
    prefer(app, own, "a")
    assert query(own, "SELECT verdict FROM latest_verdicts") == [{"verdict": "agree"}]


def test_what_a_person_ruled_on_is_not_asked_about_any_more(own: Path) -> None:
    app = opened("review", reviewer="Ada")
    [item] = query(own, "SELECT interaction_id FROM review_items WHERE id = ?", [on_screen(app)])
    pair = {"id": "p" * 64, "interaction_id": item["interaction_id"], "messages": [], "principle_ids": [], "chosen": "c", "rejected": "r"}
    with session(own, write=True) as connection:
        append(connection, "pairs", [pair])
    open_before = {row["id"] for row in query(own, "SELECT id FROM open_reviews")}
    review_data.rule_on_pair("p" * 64, "exclude", actor="Ada", reason="no")
    assert open_before - {row["id"] for row in query(own, "SELECT id FROM open_reviews")} == {on_screen(app)}
