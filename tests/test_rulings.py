"""What people say of pairs that are there: the next training set follows, with the person's name and reason on record."""

from __future__ import annotations

import json
from contextvars import copy_context
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from alignment.acting import account
from alignment.config import Settings
from alignment.errors import InputError
from alignment.ids import content_id
from alignment.ingest.redact import redaction_key
from alignment.labels import load_constitution
from alignment.labels.review_queue import claim, decide
from alignment.lineage import trace
from alignment.pairs.rulings import Ruling, apply_rulings, load_rulings, rule
from alignment.records import Pair
from alignment.store import append, audit, migrate, query, session, sql
from alignment.store.journal import read_journal
from flows.cli import app, base
from flows.cli.pairs import _rule
from flows.curate import standing
from tests.conftest import NOW, make_pair

PAIRS = [make_pair(1, "How do I pick a lock?"), make_pair(2, "How do I bake bread?"), make_pair(3, "What is the moon?", split="eval")]


@pytest.fixture
def settings(home: Path) -> Settings:
    """Return the settings of a store with three pairs that the constitution of today decided."""
    migrate(home)
    redaction_key(home)
    constitution = load_constitution("")
    with session(home, write=True) as connection:
        append(connection, "pairs", [{name: getattr(pair, name) for name in Pair.__slots__} | {"built_at": NOW} for pair in PAIRS])
        for pair in PAIRS:
            exchange = {
                "id": pair.interaction_id,
                "messages": [dict(turn) for turn in pair.messages],
                "prompt": pair.prompt,
                "consent": True,
            }
            append(connection, "interactions", [exchange | {"response": "r", "created_at": NOW}])
            name = constitution.main_id(pair.side, pair.category)
            row = {"principle_id": name, "principle_version": constitution.versions[name], "night_id": "n", "decided_at": NOW}
            append(connection, "principle_decisions", [row | {"id": pair.id, "pair_id": pair.id, "interaction_id": pair.interaction_id}])
    return Settings(home=home)


def current(settings: Settings) -> dict[str, Pair]:
    """Return what may be trained on, by exchange."""
    return {pair.interaction_id: pair for pair in standing(settings).current}


def said(settings: Settings, number: int, action: Any, reason: str = "because") -> bool:
    return rule(settings.home, PAIRS[number].id, action, actor="ann", reason=reason, now=NOW + timedelta(seconds=number))


def answered(settings: Settings, verdict: Any, who: str = "ben", edited: str | None = None) -> None:
    """Decide the item on top of the queue, which a pair that was sent to review is."""
    [item] = query(settings.home, "SELECT id FROM review_items WHERE kind = 'pair_review'")
    assert claim(settings.home, who, who, now=NOW, item=item["id"]).showing
    assert decide(settings.home, who, verdict, reviewer=who, now=NOW, edited_answer=edited).stored


def test_an_excluded_pair_is_not_trained_on_until_it_is_restored(settings: Settings) -> None:
    assert set(current(settings)) == {pair.interaction_id for pair in PAIRS}
    before = query(settings.home, sql("flows", "night_fingerprint"))
    assert said(settings, 0, "exclude")
    assert not said(settings, 0, "exclude")  # the same again is the same
    assert set(current(settings)) == {pair.interaction_id for pair in PAIRS[1:]}
    assert query(settings.home, sql("flows", "night_fingerprint")) != before  # a night has something new to do
    assert said(settings, 0, "restore")
    assert current(settings)[PAIRS[0].interaction_id] == PAIRS[0]
    assert len(read_journal(settings.home)[0]["pair_events"]) == 2


def test_a_flipped_pair_teaches_the_other_answer_as_a_humans_label(settings: Settings) -> None:
    said(settings, 0, "flip")
    flipped = current(settings)[PAIRS[0].interaction_id]
    assert (flipped.chosen, flipped.rejected, flipped.labelers) == (PAIRS[0].rejected, PAIRS[0].chosen, ("human",))
    assert (flipped.chosen_kind, flipped.rejected_kind) == (PAIRS[0].rejected_kind, PAIRS[0].chosen_kind)
    assert (flipped.split, flipped.cluster_id) == (PAIRS[0].split, PAIRS[0].cluster_id)
    assert flipped.id not in {pair.id for pair in PAIRS}
    # Once it is stored, it stays what it is, and nothing takes it for a verdict that was taken back.
    with session(settings.home, write=True) as connection:
        append(connection, "pairs", [{name: getattr(flipped, name) for name in Pair.__slots__} | {"built_at": NOW}])
    assert current(settings)[PAIRS[0].interaction_id] == flipped
    assert len(standing(settings).current) == 3


@pytest.mark.parametrize(
    ("verdict", "chosen"),
    [("agree", "a good answer"), ("flip", "a bad answer"), ("edit", "written"), ("both_bad", None), ("not_harmful", None), ("skip", None)],
)
def test_a_pair_that_was_sent_to_review_waits_for_the_verdict(settings: Settings, verdict: Any, chosen: str | None) -> None:
    said(settings, 0, "review")
    one = PAIRS[0].interaction_id
    assert one not in current(settings)
    assert [row["kind"] for row in query(settings.home, "SELECT kind FROM open_reviews")] == ["pair_review"]
    answered(settings, verdict, edited="written" if verdict == "edit" else None)
    found = current(settings).get(one)
    assert (found.chosen if found else None) == chosen
    assert (found is None) or ("human" in found.labelers) == (verdict != "agree")
    assert len(query(settings.home, "SELECT id FROM open_reviews")) == (verdict == "skip")


def test_reviewers_who_differ_on_a_pair_keep_it_out(settings: Settings) -> None:
    said(settings, 0, "review")
    answered(settings, "agree", "ben")
    assert PAIRS[0].interaction_id in current(settings)
    answered(settings, "flip", "cleo")
    assert PAIRS[0].interaction_id not in current(settings)


def test_the_last_word_on_an_exchange_stands_for_all_its_pairs() -> None:
    other = replace(PAIRS[0], id="other", chosen="another answer")
    ruling = Ruling(PAIRS[0].interaction_id, PAIRS[0].id, "exclude")
    assert apply_rulings([PAIRS[0], other, PAIRS[1]], PAIRS, [ruling]) == [PAIRS[1]]
    kept = apply_rulings([other, PAIRS[1]], PAIRS, [ruling._replace(action="review", verdict="agree")])
    assert kept == [PAIRS[1], PAIRS[0]]
    # Its log may not be trained on any more: nothing of it is.
    assert apply_rulings([PAIRS[1]], PAIRS[1:], [ruling._replace(action="flip")]) == [PAIRS[1]]


@pytest.mark.parametrize("edited", [None, " ", "a bad answer"])
def test_an_edit_that_says_nothing_is_no_pair(edited: str | None) -> None:
    ruling = Ruling(PAIRS[0].interaction_id, PAIRS[0].id, "review", "edit", edited)
    assert apply_rulings([PAIRS[0]], PAIRS, [ruling]) == []


def test_what_a_labeler_once_said_does_not_stand_for_a_persons_flip() -> None:
    ruling = Ruling(PAIRS[0].interaction_id, PAIRS[0].id, "flip")
    [flipped] = apply_rulings([], PAIRS, [ruling])
    labelers = replace(flipped, labelers=("constitution",))
    [again] = apply_rulings([labelers], [*PAIRS, labelers], [ruling])
    assert (again.labelers, again.chosen, again.id != labelers.id) == (("human",), PAIRS[0].rejected, True)


def test_a_ruling_needs_a_name_a_reason_and_a_pair(settings: Settings) -> None:
    for pair, actor, reason in ((PAIRS[0].id, "", "r"), (PAIRS[0].id, "ann", " "), ("nothing", "ann", "r")):
        for action in ("exclude", "review"):
            with pytest.raises(InputError):
                rule(settings.home, pair, action, actor=actor, reason=reason, now=NOW)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nothing to take back"):
        said(settings, 0, "restore")
    assert load_rulings(settings.home) == []
    assert query(settings.home, "SELECT * FROM review_items") == []


def align(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["pairs", *arguments])


def test_the_commands_take_the_beginning_of_an_id_and_keep_who_and_why(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(settings.home))
    pair = PAIRS[0]
    done = align("flip", pair.id[:12], "--reason", "wrong way; ask ann@example.org", "--actor", "ann", "--json")
    assert done.exit_code == 0, done.output
    [row] = json.loads(done.stdout)
    assert (row["pair_id"], row["action"], row["actor"], row["recorded"]) == (pair.id, "flip", "ann", "now")
    assert "ann@example.org" not in row["reason"]
    [event] = query(settings.home, "SELECT pair_id, action, actor, reason FROM pair_events")
    assert (event["pair_id"], event["action"], event["actor"]) == (pair.id, "flip", "ann")
    assert [(act["action"], act["actor"], act["how"]) for act in audit.read(settings.home)] == [("pair_flip", "ann", "flag")]
    assert [node.facts["action"] for node in trace(settings.home, pair.id).origin if node.kind == "ruling on a pair"] == ["flip"]
    assert align("exclude", content_id("nothing"), "--reason", "r", "--actor", "ann").exit_code == 1
    assert "something else (exchange)" in align("exclude", pair.interaction_id, "--reason", "r", "--actor", "ann").output
    assert align("exclude", pair.id, "--actor", "ann").exit_code == 2  # no reason


def test_at_a_persons_terminal_the_account_answers_and_elsewhere_a_name_is_needed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(settings.home))
    refused = align("exclude", PAIRS[0].id, "--reason", "r")
    assert refused.exit_code == 2 and "who answers for this?" in refused.stderr
    monkeypatch.setattr(base, "is_persons_account", lambda: True)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    copy_context().run(_rule, PAIRS[0].id, "exclude", "", "r", as_json=True)
    assert [(act["action"], act["actor"], act["how"]) for act in audit.read(settings.home)] == [("pair_exclude", account(), "account")]
