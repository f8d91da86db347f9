"""A whole night whose harm pairs a teacher writes: what they are about, and where it can be read how they came about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from alignment.conversation import everything_asked
from alignment.evals.match import content
from alignment.lineage import trace
from alignment.store import query
from bench.tiny import make_tiny_model
from tests.dashboard_pages import opened, texts
from tests.scripted_teacher import Scripted
from tests.test_endpoint_cases import endpoint
from tests.test_flow import CONFIG, align, sample_lines

pytestmark = [pytest.mark.flow, pytest.mark.timeout(1800)]
SETTINGS = CONFIG.replace("pairs = 40", "pairs = 0").replace("[candidates]\n", '[candidates]\nauthor = "teacher"\n')


class Done(NamedTuple):
    """A night that ended: its state folder, its summary, what it said, and what the teacher was asked."""

    home: Path
    summary: dict[str, Any]
    errors: str
    asked: list[str]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("authored")
    make_tiny_model(folder / "tiny")
    (folder / "logs.jsonl").write_text("\n".join(sample_lines(200)) + "\n")
    with endpoint(teacher := Scripted()) as (url, _):
        (folder / "align.toml").write_text(f'{SETTINGS}[teacher]\nbase_url = "{url}"\nmodel = "scripted"\n')
        output, errors = align(folder, "home", "nightly", "--json")
    return Done(folder / "home", json.loads(output), errors, teacher.asked)


def harm_pairs(home: Path) -> list[dict[str, Any]]:
    return query(
        home,
        "SELECT pairs.id, messages::VARCHAR AS messages, chosen, rejected, chosen_kind, rejected_kind FROM pair_sets "
        "JOIN pairs ON pairs.id = pair_id WHERE side = 'harm' ORDER BY pairs.id",
    )


def names_its_subject(messages: str, answer: str) -> bool:
    """Say whether an answer has a content word of its request that no canned completion has."""
    from alignment.labels import load_constitution

    canned = content(" ".join(load_constitution().refusals))
    return bool((content(answer) - canned) & content(everything_asked(json.loads(messages))))


def test_most_harm_pairs_choose_a_revision_about_their_own_request(night: Done) -> None:
    pairs = harm_pairs(night.home)
    assert len(pairs) >= 8
    about = [pair for pair in pairs if pair["chosen_kind"] == "teacher_revision" and names_its_subject(pair["messages"], pair["chosen"])]
    print(f"{len(about)} of {len(pairs)} harm pairs")
    assert len(about) >= len(pairs) / 2
    assert not any(names_its_subject(pair["messages"], "I'm sorry, but I can't help with that. It could hurt people.") for pair in pairs)
    assert {pair["rejected_kind"] for pair in pairs} <= {"logged"}


def test_the_night_says_what_it_owes_to_the_teacher(night: Done) -> None:
    counts = night.summary["counts"]
    pairs = harm_pairs(night.home)
    taught = sum(pair["chosen_kind"] == "teacher_revision" for pair in pairs)
    assert counts["teacher_revisions_share_harm"] == pytest.approx(taught / len(pairs))
    outcomes = query(night.home, "SELECT outcome, count(*) AS n FROM author_outcomes GROUP BY outcome")
    told = {"revised": counts["teacher_revised"], **counts["teacher_fell_back"]}
    assert {row["outcome"]: row["n"] for row in outcomes} == told
    card = next((night.home / "releases").glob("*/card.md")).read_text()
    [line] = [line for line in card.split("\n") if "teacher's revision" in line]
    assert f"{counts['teacher_revisions'] - _held_out(night.home)} of " in line
    assert night.asked.count("critique") == night.asked.count("revision")


def _held_out(home: Path) -> int:
    [row] = query(
        home,
        "SELECT count(*) AS n FROM pair_sets JOIN pairs ON pairs.id = pair_id "
        "WHERE pair_sets.split = 'eval' AND chosen_kind = 'teacher_revision'",
    )
    return int(row["n"])


def test_the_page_of_pairs_shows_how_an_answer_was_written(night: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(night.home))
    app = opened("pairs")
    app.selectbox(key="pairs_side").set_value("harm").run()
    assert not app.exception
    shown = texts(app)
    assert any(text.startswith("It goes along with ") for text in shown)
    assert any(text.startswith("By scripted, ") for text in shown)
    assert any("serves the harm: no" in text and "names its subject: yes" in text for text in shown)
    chosen = [pair["chosen"] for pair in harm_pairs(night.home)]
    assert any(shown.count(text) >= 2 for text in chosen), "as the chosen answer, and as the last revision"


def test_a_trace_says_who_wrote_it_and_what_was_checked(night: Done) -> None:
    pair = next(one for one in harm_pairs(night.home) if one["chosen_kind"] == "teacher_revision")
    judgement = next(node for node in trace(night.home, pair["id"]).origin if node.kind == "judgement")
    [written] = [node.facts for node in judgement.parts if node.facts["kind"] == "teacher_revision"]
    assert written["author"] == "scripted" and written["critique"].startswith("It goes along")
    assert "names its subject: yes" in written["verification"] and "unfit" not in written
