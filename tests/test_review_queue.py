"""Who holds an item and whose verdict is stored, under every order of claims, verdicts, lapses, undos and steps of the clock."""

from __future__ import annotations

import json
import random
import re
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import InputError
from alignment.ids import content_id
from alignment.labels import review_queue
from alignment.labels.review_queue import LEASE, claim, decide, release, renew, undo
from alignment.store import append, migrate, query, session, sql
from alignment.store.journal import read_journal

NOW = datetime(2026, 11, 28, 12, 0)
PEOPLE = ("Ada", "Ben", "Cleo")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    migrate(tmp_path)
    items = [
        {
            "id": f"item-{number}", "kind": "low_margin", "interaction_id": f"x{number}", "prompt": "p", "answer_a": "a", "answer_b": "b",
            "proposal": "A is better", "detail": {}, "priority": 9.0 - number, "created_at": NOW,
        }
        for number in range(4)
    ]  # fmt: skip
    with session(tmp_path, write=True) as connection:
        append(connection, "review_items", items)
    return tmp_path


def hold(home: Path, token: str, who: str, *, now: datetime = NOW, item: str | None = None) -> str | None:
    """Claim; return the item that is held."""
    shown = claim(home, token, who, now=now, item=item).showing
    return shown.item if shown else None


def stored(home: Path) -> list[dict[str, Any]]:
    return query(home, "SELECT * FROM verdicts ORDER BY seq")


def test_others_are_given_the_next_free_item_until_the_hold_runs_out(home: Path) -> None:
    assert [hold(home, f"t{number}", PEOPLE[number % 3]) for number in range(5)] == ["item-0", "item-1", "item-2", "item-3", None]
    assert hold(home, "t0", "Ada") == "item-0"  # the same showing, drawn again
    release(home, "t2", now=NOW)
    assert hold(home, "t5", "Ben") == "item-2"
    late = NOW + LEASE
    assert renew(home, "t1", now=late - timedelta(seconds=1)) == ""
    assert [hold(home, f"late {number}", "Cleo", now=late) for number in range(4)] == ["item-0", "item-2", "item-3", None]


@pytest.mark.parametrize(("step", "held"), [(timedelta(seconds=-100), True), (-LEASE, False), (timedelta(hours=-5), False)])
def test_a_clock_that_steps_back_does_not_hold_an_item_for_ever(home: Path, step: timedelta, held: bool) -> None:
    assert hold(home, "t", "Ada") == "item-0"
    assert hold(home, "u", "Ben", now=NOW + step) == ("item-1" if held else "item-0")
    # Whoever was shown it first is told, and nothing is overwritten, whatever the clock says.
    assert decide(home, "t", "agree", reviewer="Ada", now=NOW + step).stored == held


def test_a_page_that_is_left_open_does_not_hold_its_item_for_ever(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_queue, "RENEWALS", 3)
    assert hold(home, "t", "Ada") == "item-0"
    moment = NOW
    for number in range(5):
        assert hold(home, f"other {number}", "Cleo", now=moment, item="item-0") != "item-0"
        release(home, f"other {number}", now=moment)
        moment += timedelta(seconds=100)
        assert renew(home, "t", now=moment) == ""
    assert hold(home, "u", "Ben", now=moment) == "item-0"
    assert (
        renew(home, "t", now=moment)
        == "Ben opened this item after your hold on it had run out; it comes back to you if they do not decide it"
    )


def test_a_verdict_after_the_hold_ran_out_counts_while_nobody_else_has_opened_the_item(home: Path) -> None:
    hold(home, "t", "Ada")
    assert decide(home, "t", "agree", reviewer="Ada", now=NOW + timedelta(hours=2)).stored
    assert [(row["item_id"], row["seq"], row["showing"]) for row in stored(home)] == [("item-0", 1, "t")]
    assert list(read_journal(home)[0]) == ["verdicts"]


def test_a_repeat_of_a_verdict_is_the_same_verdict(home: Path) -> None:
    hold(home, "t", "Ada")
    assert [decide(home, "t", word, reviewer="Ada", now=NOW).stored for word in ("agree", "agree", "flip")] == [True] * 3
    assert [row["verdict"] for row in stored(home)] == ["agree"]
    assert len(read_journal(home)[0]["verdicts"]) == 1


def test_nobody_answers_for_another_or_for_a_page_that_holds_nothing(home: Path) -> None:
    hold(home, "t", "Ada")
    for token, who in (("t", "Ben"), ("no such page", "Ada")):
        assert decide(home, token, "agree", reviewer=who, now=NOW).refused == "this page does not hold the item; open it again"
    for token, who in (("", "Ada"), ("u", ""), ("u", " ")):
        with pytest.raises(InputError, match="who decides"):
            claim(home, token, who, now=NOW)
    assert stored(home) == []


def test_the_same_person_in_two_windows_decides_in_the_last_one(home: Path) -> None:
    hold(home, "t", "Ada")
    assert hold(home, "u", "Ada") == "item-1"
    assert hold(home, "v", "Ada", item="item-0") == "item-0"
    assert decide(home, "t", "agree", reviewer="Ada", now=NOW).refused == "you opened this item in another window since; decide it there"
    assert decide(home, "v", "flip", reviewer="Ada", now=NOW).stored


def test_a_question_about_the_same_exchange_that_another_answered_is_stale(home: Path) -> None:
    hold(home, "t", "Ada")
    newer = {"id": "newer", "kind": "disagreement", "interaction_id": "x0", "proposal": "", "created_at": NOW + timedelta(hours=1)}
    with session(home, write=True) as connection:
        append(connection, "review_items", [newer])
    assert hold(home, "u", "Ben", item="newer") == "newer"
    assert decide(home, "u", "both_bad", reviewer="Ben", now=NOW).stored
    assert "Ben found both answers bad" in decide(home, "t", "agree", reviewer="Ada", now=NOW).refused


def test_a_second_opinion_that_differs_teaches_nothing_and_a_third_settles_it(home: Path) -> None:
    def standing() -> list[str]:
        return [row["verdict"] for row in query(home, sql("flows", "human_verdicts"))]

    for token, who, verdict, expected in (
        ("t", "Ada", "agree", "agree"), ("u", "Ben", "flip", "disputed"), ("v", "Cleo", "both_bad", "disputed"),
        ("w", "Dan", "flip", "flip"),
    ):  # fmt: skip
        hold(home, token, who, item="item-0")
        assert decide(home, token, verdict, reviewer=who, now=NOW).stored  # type: ignore[arg-type]
        assert standing() == [expected]
    [last] = [row for row in stored(home) if row["reviewer"] == "Dan"]
    assert undo(home, last["id"], reviewer="Dan", now=NOW) == "item-0"
    assert standing() == ["disputed"]


def test_order_is_a_number_and_no_clock(home: Path) -> None:
    for number, verdict in enumerate(("agree", "flip", "both_bad")):
        hold(home, f"t{number}", "Ada", item="item-0")
        assert decide(home, f"t{number}", verdict, reviewer="Ada", now=NOW - timedelta(hours=number)).stored  # type: ignore[arg-type]
    assert [row["verdict"] for row in query(home, sql("flows", "human_verdicts"))] == ["both_bad"]


class Model:
    """What reviewers did and were told, to compare the store with."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.draw, self.now = home, random.Random(seed), NOW
        self.open: dict[str, tuple[str, str]] = {}
        self.acknowledged: dict[str, tuple[str, str, str]] = {}
        self.undone: set[str] = set()
        self.number = 0

    def step(self) -> None:
        """Do one thing that a reviewer, a page or the clock may do."""
        act = self.draw.choice(("claim", "claim", "decide", "decide", "decide", "again", "undo", "renew", "release", "lapse", "back"))
        who = self.draw.choice(PEOPLE)
        if act == "claim":
            self.number += 1
            token = f"t{self.number}"
            wanted = f"item-{self.draw.randrange(4)}" if self.draw.random() < 0.5 else None
            if (item := hold(self.home, token, who, now=self.now, item=wanted)) is not None:
                self.open[token] = (item, who)
        elif act == "lapse":
            self.now += self.draw.choice((LEASE, timedelta(seconds=20)))
        elif act == "back":
            self.now -= self.draw.choice((timedelta(hours=3), timedelta(seconds=40)))
        elif act == "undo":
            self._undo(who)
        elif self.open:
            token = self.draw.choice(sorted(self.open))
            self._on(act, token)

    def _on(self, act: str, token: str) -> None:
        item, who = self.open[token]
        if act == "renew":
            renew(self.home, token, now=self.now)
        elif act == "release":
            release(self.home, token, now=self.now)
        else:
            verdict = self.draw.choice(("agree", "flip", "both_bad", "skip"))
            for _ in range(1 + (act == "again")):
                if decide(self.home, token, verdict, reviewer=who, now=self.now).stored:
                    self.acknowledged.setdefault(token, (item, who, verdict))

    def _undo(self, who: str) -> None:
        last = query(self.home, sql("alignment.store", "review_undoable"), {"reviewer": who, "undo": review_queue.UNDO})
        for row in last:
            assert undo(self.home, row["id"], reviewer=who, now=self.now) == row["item_id"]
            self.undone.add(row["id"])

    def check(self) -> None:
        """Nothing lost, nothing twice, nothing overwritten that its author did not know of."""
        rows = stored(self.home)
        assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
        given = {row["showing"]: (row["item_id"], row["reviewer"], row["verdict"]) for row in rows if row["showing"]}
        assert given == self.acknowledged
        assert len(rows) == len(self.acknowledged) + len(self.undone)
        seen = {row["showing"]: row["seen"] for row in query(self.home, "SELECT showing, seen FROM review_holds WHERE event = 'claim'")}
        for number, row in enumerate(rows):
            if row["showing"]:
                # What stood of others just before, and came after this one was shown.
                last = {one["reviewer"]: one for one in rows[:number] if one["item_id"] == row["item_id"]}
                silent = [one for one in last.values() if one["verdict"] != "skip" and one["seq"] > seen[row["showing"]]]
                assert silent == []


@pytest.mark.parametrize("seed", range(2))
def test_in_any_order_no_verdict_is_lost_doubled_or_overwritten(home: Path, seed: int) -> None:
    model = Model(home, seed)
    for _ in range(60):
        model.step()
    model.check()
    assert model.acknowledged


def test_reviewers_at_the_same_time_share_a_queue(home: Path) -> None:
    with session(home, write=True) as connection:
        append(
            connection,
            "review_items",
            [{"id": f"more-{number}", "kind": "low_margin", "prompt": "p", "priority": 1.0, "created_at": NOW} for number in range(8)],
        )
    told: dict[str, str] = {}
    start = threading.Barrier(3)

    def review(who: str) -> None:
        start.wait(30)
        for number in range(40):
            token = f"{who} {number}"
            item = hold(home, token, who)
            if item is None:
                return
            if decide(home, token, "agree", reviewer=who, now=NOW).stored:
                told[token] = item

    threads = [threading.Thread(target=review, args=(who,)) for who in PEOPLE]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    rows = stored(home)
    assert {row["showing"]: row["item_id"] for row in rows} == told
    assert sorted(row["item_id"] for row in rows) == sorted(row["id"] for row in query(home, "SELECT id FROM review_items"))


def test_an_item_brings_the_principles_of_its_judgement(home: Path) -> None:
    """Ids are hexadecimal: as JSON, which an operator's precedence once made of them, most are malformed."""
    names = [content_id("judgement", number) for number in range(20)]
    rows = [
        {
            "id": name, "interaction_id": "x0", "labeler": "constitution", "labeler_version": "1", "principle_ids": [f"p-{number}"],
            "chosen_id": "a", "rejected_id": "b", "verdict": "preferred", "judge_margin": 0.1, "scores": {}, "created_at": NOW,
        }
        for number, name in enumerate(names)
    ]  # fmt: skip
    item = {"id": "asked", "kind": "low_margin", "interaction_id": "x0", "prompt": "p", "answer_a": "a", "answer_b": "b"}
    item |= {"proposal": "A", "detail": {"judgement_id": names[7]}, "priority": 1.0, "created_at": NOW}
    with session(home, write=True) as connection:
        append(connection, "judgements", rows)
        append(connection, "review_items", [item])
    assert hold(home, "t", "Ada", item="asked") == "asked"
    [shown] = query(home, sql("alignment.store", "review_item"), {"item": "asked"})
    assert json.loads(shown["principles"]) == ["p-7"]


def test_no_statement_compares_with_what_an_arrow_takes_out_of_json_without_parentheses() -> None:
    """Comparisons and arrows have one precedence in DuckDB, from the left: `a = b ->> 'c'` is `(a = b) ->> 'c'`."""
    wrong = re.compile(r"(?:=|<>|!=|<|>)\s*[a-z_]+(?:\.[a-z_]+)*\s*->>?\s*'")
    root = Path(__file__).parents[1]
    files = [path for folder in ("alignment", "dashboard", "flows") for path in (root / folder).rglob("*.sql")]
    assert len(files) > 100
    assert [str(path) for path in files if wrong.search(path.read_text(encoding="utf-8"))] == []
