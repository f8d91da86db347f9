"""A night's labelling through the flow's own code, with made-up scores and judges."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import ConfigError, TeacherUnavailable
from alignment.labels import load_constitution
from alignment.labels.calibration import Reliability
from alignment.labels.labeler import Labeler
from alignment.labels.llm_judge import ModelJudge
from alignment.labels.rule import ConstitutionLabeler, SignalsLabeler
from alignment.models.chat import Choice
from alignment.records import Candidate, Side
from alignment.store import append, migrate, query, session, sql
from bench.endpoint import judged
from flows import label as flow
from tests.conftest import NOW, make_interaction

REFUSES = "I'm sorry, but I can't help with that."
CONSTITUTION = load_constitution()
RULE = CONSTITUTION.main(Side.HELPFUL, "ordinary")
GOOD = Reliability("x", "1", 122, 0.9, 0.9, 1.0, 0.0, NOW, 61, 61)
Say = Callable[[str], tuple[float, float]]


class Model:
    """A model whose answers a function of the question decides, and that counts what it is asked."""

    model_id = "scripted"

    def __init__(self, say: Say) -> None:
        self.say, self.asked, self.calls = say, 0, 0

    def choose(self, conversations: Any, options: Any, *, subjects: Any = ()) -> list[Choice]:
        self.calls += 1
        found = []
        for one in conversations:
            self.asked += 1
            found.append(Choice(self.say(one[-1]["content"])))
        return found


def able(text: str) -> tuple[float, float]:
    return (0.9, 0.1) if judged(text) == "A" else (0.1, 0.9)


def score(prompts: Sequence[str], answers: Sequence[str], **_: Any) -> list[dict[str, float]]:
    return [{"harmful_answer": 0.0, "refusal": float("sorry" in text), "degenerate": 0.0, "relevance": 0.5} for text in answers]


class Night:
    """A store with harmless exchanges that a night chose: each was declined, and has another answer that helps."""

    def __init__(self, home: Path, exchanges: int) -> None:
        migrate(home)
        self.home, self.ids = home, [make_interaction(number).id for number in range(exchanges)]
        interactions, candidates = [], []
        for number in range(exchanges):
            one = make_interaction(number, f"How do I boil egg {number}?", REFUSES)
            interactions.append({**asdict(one), "prompt": one.prompt, "consent": True, "ingested_at": NOW})
            for kind, text in (("logged", REFUSES), ("written", f"To boil egg {number} takes eight minutes.")):
                answer = Candidate(f"{kind}-{number}", one.id, kind, text, "m", RULE.id)
                candidates.append({**asdict(answer), "created_at": NOW})
        self.store(interactions=interactions, candidates=candidates)
        self.choose("one")

    def store(self, **tables: list[dict[str, Any]]) -> None:
        with session(self.home, write=True) as connection:
            for table, rows in tables.items():
                append(connection, table, rows)

    def choose(self, night: str) -> None:
        where = {"night_id": night, "side": "helpful", "category": "ordinary", "principle_id": RULE.id}
        rows = [{**where, "id": f"{night}-{n}", "interaction_id": one, "position": n} for n, one in enumerate(self.ids)]
        self.store(selections=rows)

    def votes(self, labeler: str) -> list[dict[str, Any]]:
        return query(self.home, "SELECT * FROM votes WHERE labeler = ? ORDER BY created_at, interaction_id", [labeler])


@pytest.fixture
def everybody(monkeypatch: pytest.MonkeyPatch) -> list[Labeler]:
    """The labelers of the night: the constitution, and whom a test adds."""
    monkeypatch.setattr("alignment.moderation.score_answers", score)
    monkeypatch.setattr("alignment.moderation.versions", lambda **_: {})
    monkeypatch.setattr(flow, "embedder", lambda: None)
    monkeypatch.setattr(flow, "measure_detectors", lambda _: None)
    monkeypatch.setattr(flow, "masking", lambda _: lambda text: (text, {}))
    monkeypatch.setattr(flow, "current", lambda candidates, *_, **__: candidates)
    monkeypatch.setattr("flows.calibrate.calibrate", lambda labeler, *_, **__: GOOD._replace(labeler=labeler.name, version=labeler.version))
    found: list[Labeler] = [ConstitutionLabeler(CONSTITUTION, score, "s", 0.2)]
    monkeypatch.setattr(flow, "labelers", lambda _, signals: [*found, SignalsLabeler(signals)])
    return found


def test_a_control_item_that_fails_late_takes_every_vote_of_the_night(home: Path, everybody: list[Labeler]) -> None:
    night = Night(home, 200)
    model = Model(able)

    def tires(text: str) -> tuple[float, float]:
        good = able(text)
        return good if model.asked < 300 else good[::-1]

    model.say = tires
    everybody.append(ModelJudge("teacher", model, b"k"))
    flow.label.fn("one")
    votes = night.votes("teacher")
    assert len(votes) == 200
    assert {vote["verdict"] for vote in votes} == {"unscored"}
    assert query(home, "SELECT DISTINCT labeler FROM judgements") == [{"labeler": "constitution"}]


def test_an_endpoint_that_dies_is_asked_once(home: Path, everybody: list[Labeler]) -> None:
    Night(home, 200)
    model = Model(able)

    def dies(_: str) -> tuple[float, float]:
        raise TeacherUnavailable("no answer")

    model.say = dies
    everybody.append(ModelJudge("teacher", model, b"k"))
    flow.label.fn("one")
    assert model.calls == 1


def test_what_a_person_decided_is_neither_asked_nor_judged_again(home: Path, everybody: list[Labeler]) -> None:
    night = Night(home, 3)
    model = Model(able)
    everybody.append(ModelJudge("teacher", model, b"k"))
    # The user is content with the refusal, so that the labelers disagree.
    thumbs = [{"id": f"s{n}", "interaction_id": one, "kind": "thumbs", "value": "up"} for n, one in enumerate(night.ids)]
    night.store(signals=thumbs)
    flow.label.fn("one")
    before = query(home, "SELECT id, interaction_id FROM judgements")
    [judgement] = [row["id"] for row in before if row["interaction_id"] == night.ids[0]]
    item = {"id": "item", "kind": "low_margin", "interaction_id": night.ids[0], "detail": {"judgement_id": judgement}}
    verdict = {"id": "v", "item_id": "item", "reviewer": "me", "verdict": "agree", "decided_at": NOW}
    night.store(review_items=[item], verdicts=[verdict])
    night.choose("two")
    everybody[0] = ConstitutionLabeler(CONSTITUTION, score, "other", 0.2)
    everybody[1] = ModelJudge("teacher", other := Model(lambda text: able(text)[::-1]), b"k", min_margin=0.1, with_controls=False)
    flow.label.fn("two")
    assert other.asked == 2 * 2
    count = "SELECT interaction_id, count(*) AS n FROM judgements GROUP BY ALL"
    judged = {row["interaction_id"]: row["n"] for row in query(home, count)}
    assert [judged[one] for one in night.ids] == [1, 2, 2]
    asked = {row["interaction_id"] for row in query(home, "SELECT interaction_id FROM review_items WHERE id <> 'item'")}
    assert asked == set(night.ids[1:])


def test_a_key_that_is_not_there_stops_the_night_before_it_begins(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nightly = importlib.import_module("flows.nightly")
    monkeypatch.setenv("ALIGN_TEACHER__BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("ALIGN_TEACHER__MODEL", "m")
    monkeypatch.setenv("ALIGN_TEACHER__API_KEY_ENV", "NO_SUCH_KEY")
    monkeypatch.setattr(nightly, "ingest", lambda _: pytest.fail("the night has begun"))
    with pytest.raises(ConfigError, match="'NO_SUCH_KEY', which is not set"):
        nightly.nightly.fn(force=True)


def test_a_signal_that_changes_a_vote_is_stored_with_it(home: Path, everybody: list[Labeler]) -> None:
    night = Night(home, 2)
    said: list[str] = []
    for number, value in enumerate(["up", "down", "down", "up", "up"]):
        signal = {"id": f"s{number}", "interaction_id": night.ids[0], "kind": "thumbs", "value": value}
        night.store(signals=[signal])
        flow.label.fn("one")
        votes = [row for row in night.votes("signals") if row["interaction_id"] == night.ids[0]]
        said.append(votes[-1]["verdict"])
        assert len(votes) == number + 1
    # The answer that was liked is the second one.
    assert said == ["second", "unscored", "first", "unscored", "second"]


def open_questions(home: Path) -> list[dict[str, Any]]:
    """Return what waits for a person, as the command line and the page of progress count it."""
    found = query(home, "SELECT * FROM open_reviews ORDER BY id")
    progress = query(home, sql("dashboard", "review_progress"))
    assert sum(row["items"] - row["decided"] for row in progress) == len(found)
    return found


def test_an_exchange_has_one_open_question_whatever_the_others_vote(home: Path, everybody: list[Labeler]) -> None:
    night = Night(home, 2)
    everybody.append(ModelJudge("teacher", Model(lambda text: able(text)[::-1]), b"k", min_margin=0.1, with_controls=False))
    flow.label.fn("one")
    first = open_questions(home)
    assert {row["reason"] for row in first} == {"the labelers disagree (constitution: A, teacher: B)"}
    # Users take the teacher's side; the constitution's comparison is the same.
    thumbs = [{"id": f"s{n}", "interaction_id": one, "kind": "thumbs", "value": "up"} for n, one in enumerate(night.ids)]
    night.store(signals=thumbs)
    flow.label.fn("one")
    second = open_questions(home)
    assert {row["reason"] for row in second} == {"the labelers disagree (constitution: A, signals: B, teacher: B)"}
    assert sorted(row["interaction_id"] for row in second) == sorted(night.ids)
    assert len(query(home, "SELECT id FROM review_items")) == 4
    # Repeated, nothing is asked anew.
    flow.label.fn("one")
    assert open_questions(home) == second
    # A person who still had the older question on screen has decided the exchange.
    [answered] = [row["id"] for row in first if row["interaction_id"] == night.ids[0]]
    night.store(verdicts=[{"id": "v", "item_id": answered, "reviewer": "me", "verdict": "flip", "decided_at": NOW, "seq": 1}])
    assert [row["interaction_id"] for row in open_questions(home)] == [night.ids[1]]
    # A verdict that is taken back leaves the newer question.
    night.store(
        verdicts=[{"id": "w", "item_id": answered, "reviewer": "me", "verdict": "skip", "decided_at": NOW + timedelta(1), "seq": 2}]
    )
    assert sorted(row["id"] for row in open_questions(home)) == sorted(row["id"] for row in second)


def test_votes_that_are_used_again_count_in_the_night_that_uses_them(home: Path, everybody: list[Labeler]) -> None:
    night = Night(home, 3)
    everybody.append(ModelJudge("teacher", Model(able), b"k"))
    flow.label.fn("one")
    night.choose("two")
    flow.label.fn("two")
    rows = {row["labeler"]: row for row in query(home, sql("alignment.store", "labelers"))}
    assert {name: (row["votes"], row["decided"]) for name, row in rows.items()} == {
        "constitution": (3, 3), "teacher": (3, 3), "signals": (3, 0),
    }  # fmt: skip
