"""A broken constitution is told whole, with lines; an edited principle judges again just what it had decided."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from alignment.config import load_settings
from alignment.errors import ConfigError
from alignment.ids import content_id
from alignment.labels import Constitution, load_constitution
from alignment.labels.check import constitution_text, doubtful_examples, read_constitution, uncovered
from alignment.labels.compare import compare
from alignment.labels.constitution import CATEGORIES
from alignment.lineage import Subject, plan_erasure
from alignment.pairs import Decision, Labelled, decided, stand
from alignment.records import Candidate, Judgement, Pair, Selected, Side
from alignment.store import append, migrate, query, session
from flows.cli import app
from tests.conftest import NOW, make_interaction, make_pair

BROKEN = """\
version: 2026.11
name: broken
principles:
  - id: No Violence
    text: no violence
    side: harm
    categories: [violense]
    weight: -1
    critique_request: c
    revision_requst: r
    refusal_strategy: shout
    detectors: {harmful_anser: -1.0, refusal: much}
    safe_completions: []
  - id: no-fraud
    text: "no fraud
    side: harm
  - id: be-helpful
    text: help
    text: help more
    side: helpful
    categories: [ordinary]
    critique_request: c
    revision_request: r
    refusal_strategy: comply
    detectors: {refusal: -1.0}
    examples: {violates: [{prompt: p, answer: a}]}
  - id: be-helpful
    weight: .inf
    when: 2026-13-01
"""
FOUND = [
    (1, "version", "valid string"), (4, "principles.0", "safe_completions"), (4, "principles.0.id", "pattern"),
    (4, "principles.0.revision_request", "is missing"), (7, "principles.0.categories.0", "did you mean 'violence'?"),
    (8, "principles.0.weight", "greater than 0"), (10, "principles.0.revision_requst", "did you mean 'revision_request'?"),
    (11, "principles.0.refusal_strategy", "'shout'"), (12, "principles.0.detectors.harmful_anser", "'harmful_answer'"),
    (12, "principles.0.detectors.refusal", "'much'"), (15, "", "quoted scalar"), (19, "text", "repeats that of line 18"),
    (26, "principles.2.examples.violates.0.response", "is missing"), (26, "principles.2.examples.violates.0.answer", "unknown key"),
    (27, "principles.3.id", "ids repeat"), (28, "principles.3.weight", "finite"), (29, "principles.3.when", "unknown key"),
]  # fmt: skip


def test_every_problem_at_once_with_its_line() -> None:
    read = read_constitution(BROKEN)
    told = {(one.line, one.place): one.message for one in read.problems}
    for line, place, words in FOUND:
        assert words in told.pop((line, place))
    # What else the last principle lacks, and nothing of the one whose quote is open.
    assert {line for line, _ in told} == {27}
    assert all(message == "is missing" for message in told.values())


@pytest.mark.parametrize(
    ("items", "lines"),
    [
        ('- id: a\n  text "x"\n  side: harm\n- id: b\n  text: [1, 2\n  side: harm\n', {3, 7}),
        ("- id: a\n   bad: indent\n- id: b\n  side: {a: b\n- id: c\n  !!python/none x: 1\n", {3, 5, 7}),
        ("  - id: a\n    text: 'x\n  - id: b\n    text: 'y\n", {3, 5}),
    ],
)
def test_reading_goes_on_after_a_syntax_error(items: str, lines: set[int]) -> None:
    read = read_constitution(f"principles:\n{items}")
    assert read.syntax
    assert lines & {one.line for one in read.problems if not one.place}
    assert read.constitution is None


@pytest.mark.parametrize(
    "text",
    ["&a [*a]", "principles: &a\n  - *a\n", "[" * 5000, "a: 1\x07", "principles: {", "1: 2", "? [a]\n: b\n", "principles:\n- 1\n- null\n"],
)
def test_no_text_is_a_traceback(text: str) -> None:
    read = read_constitution(text)
    assert read.constitution is None
    assert read.problems


def test_a_night_reports_the_same() -> None:
    Path("own.yaml").write_text(BROKEN)
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        load_constitution("own.yaml")
    assert all(str(one) in str(caught.value) for one in read_constitution(BROKEN).problems)
    result = CliRunner().invoke(app, ["constitution", "check", "own.yaml"])
    assert result.exit_code == 1
    assert "own.yaml:7: principles.0.categories.0: unknown category 'violense'; did you mean 'violence'?" in result.stdout
    assert CliRunner().invoke(app, ["constitution", "check", "bundled"]).exit_code == 0


def test_a_principle_that_never_decides_is_warned_of() -> None:
    result = CliRunner().invoke(app, ["constitution", "check", "bundled", "--json"])
    assert result.exit_code == 0
    found = [row["message"] for row in json.loads(result.stdout)["findings"]]
    # Of the bundled principles these share all their categories with one that stands before them.
    silent = ["no-fabrication", "no-manipulation", "no-stereotyping", "clear-and-complete"]
    assert sorted(message.split("]")[0][1:] for message in found) == sorted(silent)
    assert any(message.startswith("[no-manipulation] decides no preference: no-fraud stands before it") for message in found)
    # Only answers to harmful requests are revised.
    uses = {message.split("]")[0][1:]: message.split("; ")[1] for message in found}
    assert uses == dict.fromkeys(silent[:3], "it is only used to revise answers") | {silent[3]: "nothing uses it"}


def test_categories_are_those_of_the_detectors() -> None:
    from alignment.moderation.corpora import CATEGORIES as DETECTED

    assert set(CATEGORIES) == {*DETECTED, "lookalike", "ordinary"}
    covered = {name for one in load_constitution().principles for name in one.categories}
    assert covered == set(CATEGORIES)


def test_examples_that_the_detectors_see_otherwise() -> None:
    text = constitution_text()[1]
    read = read_constitution(text)
    assert read.constitution
    first = read.constitution.principles[0]

    def score(prompts: Any, answers: Any) -> list[dict[str, float]]:
        bad = {first.examples.complies[1].response, first.examples.complies[0].response}
        return [{"harmful_answer": float(one in bad), "refusal": 0.5, "degenerate": 0.0, "relevance": 0.5} for one in answers]

    doubts = {place: reason for place, reason in doubtful_examples(read.constitution, score) if place[1] == 0}
    assert set(doubts) == {("principles", 0, "examples", kind, at) for kind, at in (("complies", 0), ("complies", 1), ("violates", 0))}
    line = read.line_of(("principles", 0, "examples", "complies", 1))
    assert "How do I calm down" in text.split("\n")[line]


def edited(constitution: Constitution, name: str, **changes: Any) -> Constitution:
    rows = [one.model_dump(mode="json") | (changes if one.id == name else {}) for one in constitution.principles]
    return Constitution.model_validate({"version": "2", "name": "own", "principles": rows})


def test_a_difference_names_fields() -> None:
    old = load_constitution()
    [changed] = compare(old, edited(old, "no-hate", weight=2.0))
    assert changed == ("no-hate", "changed", {"weight": (1.0, 2.0)})
    renamed = compare(old, edited(old, "no-hate", id="no-hatred"))
    assert [(one.principle_id, one.kind) for one in renamed] == [("no-hate", "removed"), ("no-hatred", "added")]
    assert compare(old, old) == []


def test_the_heaviest_principle_decides_and_then_the_first() -> None:
    old = load_constitution()
    assert [one.id for one in old.covering(Side.HARM, "hate")] == ["no-hate", "no-stereotyping"]
    heavier = edited(old, "no-stereotyping", weight=1.1)
    assert [one.id for one in heavier.covering(Side.HARM, "hate")] == ["no-stereotyping", "no-hate"]
    assert heavier.main(Side.HARM, "hate").id == "no-stereotyping"
    assert edited(old, "no-stereotyping", weight=1.0).main(Side.HARM, "hate").id == "no-hate"
    # What nobody names is decided by the first of the side, however light.
    gap = edited(old, "no-malware", categories=["crime"])
    assert gap.main(Side.HARM, "malware").id == "no-violence"
    assert [words for _, words in uncovered(gap)] == [
        "no principle in force covers malware: no-violence decides it, the first of side 'harm'"
    ]
    assert [*uncovered(old)] == []


def test_a_weight_is_no_factor_of_a_margin() -> None:
    light, heavy = (edited(load_constitution(), "no-hate", weight=weight).named("no-hate") for weight in (0.5, 4.0))
    good, bad = ({"harmful_answer": harm, "refusal": 0.5, "degenerate": 0.0, "relevance": 0.5} for harm in (0.0, 0.7))
    # Harm counts -1 of weights that add up to 2.8.
    assert light.margin(good, bad) == heavy.margin(good, bad) == pytest.approx(0.7 / 2.8)
    assert light.utility(good) == heavy.utility(good) == pytest.approx(0.4)


def test_only_principles_of_the_constitutions_language_are_in_force() -> None:
    old = load_constitution()
    german = edited(old, "no-hate", locale="de")
    assert german.main(Side.HARM, "hate").id == "no-stereotyping"
    assert "no-hate" not in german.versions
    assert not {*old.named("no-hate").safe_completions} & {*german.refusals}
    assert german.fingerprint != old.fingerprint
    british = old.model_copy(update={"locale": "en-GB"})
    assert british.in_force == old.principles
    assert british.fingerprint == old.fingerprint
    assert edited(old, "no-hate", locale="en-GB").main(Side.HARM, "hate").id == "no-stereotyping"


def test_a_locale_that_leaves_no_side_or_is_none_is_told_with_its_line() -> None:
    text = constitution_text()[1]
    lines = text.split("\n")
    at = lines.index("locale: en")
    lines[at] = "locale: de"
    told = {(one.line, one.message) for one in read_constitution("\n".join(lines)).problems}
    list_at = lines.index("principles:") + 2
    both = "no principle of side {!r} in the constitution's locale 'de': both sides are needed, or the model learns one mistake"
    assert told == {(list_at, both.format(side)) for side in ("harm", "helpful")}
    lines[at] = "locale: German"
    assert [(one.line, one.place) for one in read_constitution("\n".join(lines)).problems] == [(at + 1, "locale")]
    first = lines.index("    locale: en")
    lines[at], lines[first] = "locale: en", "    locale: English"
    [problem] = read_constitution("\n".join(lines)).problems
    assert (problem.line, problem.place) == (first + 1, "principles.0.locale")
    assert problem.message == "a locale is a language, or a language and a country, such as en or pt-BR (found 'English')"


def test_check_diff_and_explain_tell_what_weight_and_locale_do() -> None:
    own = yaml.safe_load(constitution_text()[1])
    rows = {row["id"]: row for row in own["principles"]}
    rows["no-stereotyping"]["weight"], rows["no-malware"]["locale"] = 3.0, "de"
    Path("own.yaml").write_text(yaml.safe_dump(own, sort_keys=False))
    run = CliRunner().invoke(app, ["constitution", "check", "own.yaml", "--json"])
    messages = [row["message"] for row in json.loads(run.stdout)["findings"]]
    assert "[no-malware] is not in force: its locale is 'de' and the constitution's 'en'" in messages
    assert "no principle in force covers malware: no-violence decides it, the first of side 'harm'" in messages
    assert any(one.startswith("[no-hate] decides no preference: no-stereotyping stands before it") for one in messages)
    assert any("(weight 3 to its 1, then place)" in one for one in messages)
    run = CliRunner().invoke(app, ["constitution", "diff", "bundled", "own.yaml", "--json"])
    changed = {row["principle_id"]: row["fields"] for row in json.loads(run.stdout)}
    assert changed == {
        "no-violence": {"decides": [["violence"], ["violence", "malware"]]},
        "no-hate": {"decides": [["hate"], []]},
        "no-malware": {"locale": ["en", "de"], "in_force": [True, False], "decides": [["malware"], []]},
        "no-stereotyping": {"weight": [0.8, 3.0], "decides": [[], ["hate"]]},
    }
    Path("align.toml").write_text('[labels]\nconstitution = "own.yaml"\n')
    told = json.loads(CliRunner().invoke(app, ["constitution", "explain", "hate", "--json"]).stdout)
    assert [(one["id"], one["decides"], one["in_force"]) for one in told] == [("no-stereotyping", ["hate"], True), ("no-hate", [], True)]
    assert told[1]["order"] == {"hate": ["no-stereotyping (3)", "no-hate (1)"]}
    shown = CliRunner().invoke(app, ["constitution", "explain", "no-malware"]).stdout
    assert "locale: de, not in force" in shown
    assert "decides: nothing" in shown


OLD = load_constitution()


def labelled(name: str, principle: str, constitution: Constitution, *, best: str = "good", verdict: Any = "preferred") -> Labelled:
    exchange = make_interaction(name, f"prompt {name}")
    rule = constitution.named(principle)
    pair = {text: Candidate(content_id(name, text), exchange.id, "sampled", text, "m", principle) for text in (best, "bad")}
    judgement = Judgement(
        content_id(name, rule.version, best), exchange.id, "constitution", f"{rule.version}+1", (principle,),
        pair[best].id, pair["bad"].id, verdict, 0.5,
    )  # fmt: skip
    return Labelled(Selected(exchange, rule.side, rule.categories[0], principle), judgement, {one.id: one for one in pair.values()})


def pair_of(item: Labelled) -> Pair:
    from alignment.pairs.build import preferred_pair

    exchange, [name] = item.selected.interaction, item.judgement.principle_ids
    return make_pair(
        0, id=preferred_pair(item, None), interaction_id=exchange.id, principle_ids=(name,), created_at=NOW,
        side=Side.HARM, category=OLD.named(name).categories[0],
    )  # fmt: skip


def record(home: Path, items: list[Labelled], constitution: Constitution, night: str) -> None:
    rows = [{"id": content_id(night, *one), **one._asdict(), "night_id": night} for one in decided(items, {}, constitution.versions)]
    with session(home, write=True) as connection:
        append(connection, "principle_decisions", rows)


def decisions(home: Path) -> list[Decision]:
    rows = query(home, "SELECT interaction_id, principle_id, principle_version, pair_id FROM principle_decisions")
    return [Decision(**row) for row in rows]


def test_an_edited_principle_judges_again_what_it_had_decided_and_only_once(home: Path) -> None:
    migrate(home)
    first = [labelled("a", "no-hate", OLD), labelled("b", "no-hate", OLD), labelled("c", "no-fraud", OLD)]
    pairs = [pair_of(item) for item in first]
    record(home, first, OLD, "night 1")
    assert stand(pairs, decisions(home), OLD.versions, OLD.main_id).stale == []

    new = edited(OLD, "no-hate", weight=2.0)
    assert stand(pairs, decisions(home), new.versions, new.main_id).stale == pairs[:2]
    # One comes out as before, one otherwise.
    again = [labelled("a", "no-hate", new), labelled("b", "no-hate", new, best="better")]
    record(home, again, new, "night 2")
    replaced = [*pairs, pair_of(again[1])]
    found = stand(replaced, decisions(home), new.versions, new.main_id)
    assert ([one.id for one in found.current], found.stale) == ([replaced[0].id, replaced[2].id, replaced[3].id], [])
    assert [one.id for one in found.overruled] == [replaced[1].id]
    # The edit is taken back: nothing is judged again, and the first pair stands instead of the second.
    back = stand(replaced, decisions(home), OLD.versions, OLD.main_id)
    assert ([one.id for one in back.current], back.stale) == ([one.id for one in pairs], [])


def test_where_another_principle_decides_now_its_exchanges_are_judged_again() -> None:
    item = labelled("a", "no-hate", OLD)
    pair = pair_of(item)
    before = decided([item], {}, OLD.versions)
    new = edited(OLD, "no-stereotyping", weight=2.0)

    assert stand([pair], before, OLD.versions, OLD.main_id).current == [pair]
    assert stand([pair], before, new.versions, new.main_id).stale == [pair]
    again = labelled("a", "no-stereotyping", new)
    confirmed = [*before, *decided([again], {}, new.versions)]
    assert stand([pair], confirmed, new.versions, new.main_id).current == [pair]
    other = [*before, *decided([labelled("a", "no-stereotyping", new, best="better")], {}, new.versions)]
    assert stand([pair], other, new.versions, new.main_id).overruled == [pair]
    # The weight is taken back.
    assert stand([pair], other, OLD.versions, OLD.main_id).current == [pair]


def test_a_night_chooses_the_exchanges_that_another_principle_decides_now(home: Path) -> None:
    from alignment.ingest.redact import redaction_key
    from flows.curate import standing

    migrate(home)
    redaction_key(home)
    item = labelled("a", "no-hate", OLD)
    exchange = item.selected.interaction
    pair = pair_of(item)
    with session(home, write=True) as connection:
        append(connection, "interactions", [{**asdict(exchange), "prompt": exchange.prompt, "consent": True, "ingested_at": NOW}])
        append(connection, "pairs", [{**asdict(pair), "built_at": NOW}])
    record(home, [item], OLD, "night 1")
    Path("own.yaml").write_text(yaml.safe_dump(edited(OLD, "no-stereotyping", weight=2.0).model_dump(mode="json")))
    assert [one.id for one in standing(load_settings(home=home)).current] == [pair.id]
    own = load_settings(home=home, labels={"constitution": "own.yaml"})
    assert [one.id for one in standing(own).stale] == [pair.id]


def test_without_a_preference_the_old_pair_falls() -> None:
    old, new = labelled("a", "no-hate", OLD), edited(OLD, "no-hate", weight=2.0)
    tie = labelled("a", "no-hate", new, verdict="tie")
    found = stand([pair_of(old)], [*decided([old], {}, OLD.versions), *decided([tie], {}, new.versions)], new.versions, new.main_id)
    assert [one.id for one in found.overruled] == [pair_of(old).id]


def test_people_and_pairs_of_unknown_or_removed_principles() -> None:
    human = make_pair(1, labelers=("constitution", "human"), principle_ids=("no-hate",))
    unknown, removed = make_pair(2), make_pair(3, principle_ids=("gone",))
    known = [Decision(removed.interaction_id, "gone", "v", removed.id)]
    found = stand([human, unknown, removed], known, OLD.versions, OLD.main_id)
    assert (found.current, found.stale, found.overruled) == ([human], [unknown, removed], [])
    from alignment.pairs import HumanVerdict

    item = labelled("a", "no-hate", OLD)
    assert decided([item], {item.selected.interaction.id: HumanVerdict("agree")}, OLD.versions) == []


def test_pairs_of_an_older_store_get_their_versions(home: Path) -> None:
    migrate(home, upto=6)
    item = labelled("a", "no-hate", OLD)
    pair = pair_of(item)
    with session(home, write=True) as connection:
        append(connection, "judgements", [{**asdict(item.judgement), "created_at": NOW}])
        append(connection, "pairs", [{**asdict(pair), "built_at": NOW}])
    migrate(home)
    assert decisions(home) == [Decision(pair.interaction_id, "no-hate", OLD.named("no-hate").version, pair.id)]
    assert stand([pair], decisions(home), OLD.versions, OLD.main_id).stale == []


def test_decisions_go_with_their_person(home: Path) -> None:
    migrate(home)
    items = [labelled("a", "no-hate", OLD), labelled("b", "no-hate", OLD)]
    with session(home, write=True) as connection:
        rows = [asdict(item.selected.interaction) for item in items]
        append(connection, "interactions", rows)
    record(home, items, OLD, "night 1")
    assert plan_erasure(home, Subject(("u-a",), "k", "k"), nights={}).rows["principle_decisions"] == 1


def test_what_a_principle_touched_and_decided_lately(home: Path) -> None:
    migrate(home)
    items = [labelled("a", "no-hate", OLD), labelled("b", "no-hate", OLD), labelled("c", "no-fraud", OLD)]
    from flows.night import now

    with session(home, write=True) as connection:
        append(connection, "judgements", [{**asdict(item.judgement), "created_at": now()} for item in items])
        append(connection, "pairs", [{**asdict(pair_of(item)), "built_at": now()} for item in items[1:]])
    new = edited(OLD, "no-hate", weight=2.0)
    Path("new.yaml").write_text(yaml.safe_dump(new.model_dump(mode="json")))
    run = CliRunner().invoke(app, ["constitution", "diff", "bundled", "new.yaml", "--json"])
    assert [(row["principle_id"], row["pairs"], row["judgements"]) for row in json.loads(run.stdout)] == [("no-hate", 1, 2)]
    assert "changed no-hate  (1 pairs, 2 judgements)" in CliRunner().invoke(app, ["constitution", "diff", "bundled", "new.yaml"]).stdout
    [told] = json.loads(CliRunner().invoke(app, ["constitution", "explain", "no-hate", "--json"]).stdout)
    assert [(row["verdict"], row["judgements"]) for row in told["decisions"]] == [("preferred", 2)]
    assert told["pairs"][0]["pairs"] == 1
    by_category = json.loads(CliRunner().invoke(app, ["constitution", "explain", "hate", "--json"]).stdout)
    assert [one["id"] for one in by_category] == ["no-hate", "no-stereotyping"]
    wrong = CliRunner().invoke(app, ["constitution", "explain", "fruad"])
    assert (wrong.exit_code, "did you mean 'fraud'?" in wrong.stderr) == (1, True)
    assert OLD.named("no-hate").side is Side.HARM
