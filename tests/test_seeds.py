"""Seeds: what is bundled, what a night draws, the pairs they give, and that no figure of traffic counts them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from alignment.candidates import first_answers, first_ids
from alignment.config import Settings
from alignment.errors import InputError
from alignment.labels import load_constitution
from alignment.pairs import HumanVerdict, Labelled, build_pairs, decided, mix
from alignment.pairs.seeds import (
    BUNDLED,
    HONESTY,
    add_seeds,
    alarming,
    draw,
    drawn,
    load_seeds,
    remove_seeds,
    save_draw,
    seed,
    sources,
    turns,
    voices,
)
from alignment.records import Candidate, Judgement, Side
from alignment.sections import Model, Seeds
from alignment.store import append, audit, migrate, query, session, sql
from bench.tiny import make_tiny_model
from flows import cli
from flows import ingest as ingesting
from flows import seeds as flow
from flows.cli.gate import begin_night
from flows.labelled import save_candidates
from tests.conftest import NOW, make_pair

HARM = seed("How is a lock picked to rob a flat?", "fraud", cluster="locks", source="mine")
HARMLESS = seed("How is a lock picked at a locksmith's course?", "lookalike", cluster="locks", source="mine")


class Apart:
    """An embedder for which no two texts are alike; wording alone is compared."""

    version = "1"

    @staticmethod
    def embed(texts: list[str]) -> np.ndarray:
        return np.zeros((len(texts), 4))


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    migrate(home)
    monkeypatch.setenv("ALIGN_HOME", str(home))
    monkeypatch.setattr(flow, "embedder", Apart)
    monkeypatch.setattr(flow, "held_out", lambda settings: ["Which kings built castles on islands?"])
    monkeypatch.setattr(flow, "writer_id", lambda settings: "m")
    return Settings(home=home, seeds={"pairs": 4, "bundled": False})


def add(settings: Settings, *seeds: Any, source: str = "mine", days: int = 0) -> int:
    moment = NOW + timedelta(days=days)
    return add_seeds(settings.home, seeds, source=source, licence="MIT", contaminated=0, actor="ann", now=moment)


def answered(settings: Settings, one: Any, text: str) -> None:
    """Store what the base answers a seed."""
    constitution = load_constitution(settings.labels.constitution)
    [selected] = flow.as_selected([one], constitution)

    class Model:
        model_id = "m"

        @staticmethod
        def generate(conversations: Any, **_: Any) -> list[str]:
            return [text] * len(conversations)

    rule = constitution.named(selected.principle_id)
    save_candidates(settings, first_answers(Model(), [selected], [rule], max_new_tokens=flow.taught_tokens(settings)))  # type: ignore[arg-type]


def test_the_bundled_seeds_have_both_sides_and_say_whose_they_are():
    seeds = flow.bundled()
    assert len({one.id for one in seeds}) == len(seeds) > 1400 and {one.source for one in seeds} == {BUNDLED}
    honest = [one for one in seeds if one.cluster.startswith("honesty-")]
    assert Counter(one.side for one in honest) == {Side.HARM: 170, Side.HELPFUL: 170}
    # Each question with no honest answer beside one that has an answer, in the same cluster.
    by_cluster: dict[str, set[Side]] = {}
    for one in honest:
        by_cluster.setdefault(one.cluster, set()).add(one.side)
    assert all(len(found) == 2 for found in by_cluster.values())
    assert all(one.chosen and one.category == HONESTY for one in honest if one.side is Side.HARM)
    sides = Counter(one.side for one in seeds)
    assert 0.5 < sides[Side.HARM] / sides[Side.HELPFUL] < 2


def test_a_draw_takes_whole_clusters_from_every_theme_and_is_always_the_same():
    seeds = flow.bundled()
    some = draw(seeds, 200)
    assert draw(list(reversed(seeds)), 200) == some and 190 <= len(some) <= 200
    whole = Counter((one.source, one.cluster) for one in seeds)
    assert all(whole[key] == number for key, number in Counter((one.source, one.cluster) for one in some).items())
    themes = {one.category for one in seeds}
    assert {one.category for one in some} == themes
    default = draw(seeds, Seeds().pairs)
    honest = sum(one.cluster.startswith("honesty-") for one in default)
    assert 0.14 < honest / len(default) < 0.5, "one theme beside dozens would be taught to few"
    assert draw(seeds, 0) == []


def test_no_voice_tells_what_is_harmful():
    clusters: dict[str, list[Any]] = {}
    for one in voices():
        clusters.setdefault(one.cluster, []).append(one)
    assert len(clusters) >= 250
    assert len({one.text.casefold() for one in voices()}) == len(voices())
    for cluster in clusters.values():
        assert [one.side for one in cluster] == [Side.HARM, Side.HELPFUL, Side.HELPFUL]
    themes = Counter(cluster[0].category for cluster in clusters.values())
    assert max(themes.values()) <= 1.5 * min(themes.values())
    # A default draw has about as many of them as of the usual voice and of several turns, of each theme.
    chosen = draw(flow.bundled(), Seeds().pairs)
    drawn_clusters = {(one.category, one.cluster) for one in chosen if one.side is Side.HARM and not one.chosen}
    lanes = Counter(
        (category, cluster.split("-")[0] if cluster.startswith(("voice-", "turn-", "alarming-")) else "")
        for category, cluster in drawn_clusters
    )
    for theme in themes:
        assert lanes[theme, "voice"] > 10, theme
        assert max(abs(lanes[theme, "voice"] - lanes[theme, other]) for other in ("", "turn", "alarming")) <= 1, theme


def test_what_only_sounds_harmful_is_said_like_the_harm_beside_it():
    clusters: dict[str, list[Any]] = {}
    for one in alarming():
        clusters.setdefault(one.cluster, []).append(one)
    assert len(clusters) == 200 and len({one.text.casefold() for one in alarming()}) == 800
    for cluster in clusters.values():
        assert [one.category == "lookalike" for one in cluster] == [False, True, True, True]
    harm = [cluster[0].text for cluster in clusters.values()]
    for place in (1, 2, 3):
        beside = [cluster[place].text for cluster in clusters.values()]
        assert abs(np.mean([len(text) for text in harm]) - np.mean([len(text) for text in beside])) < 8
        assert abs(np.mean([text.endswith("?") for text in harm]) - np.mean([text.endswith("?") for text in beside])) < 0.1


def test_a_harmful_last_turn_and_its_look_alike_are_said_alike():
    clusters: dict[str, list[Any]] = {}
    for one in turns():
        clusters.setdefault(one.cluster, []).append(one)
    assert len(clusters) == 200 and len({one.text for one in turns()}) == 600
    assert all(len({one.before for one in cluster}) == 1 and cluster[0].before for cluster in clusters.values())
    themes = Counter(cluster[0].category for cluster in clusters.values())
    assert set(themes.values()) == {20}
    # By how much stands before, so that no shape of conversation hides behind another.
    for turns_before in (2, 4):
        some = [cluster for cluster in clusters.values() if len(cluster[0].before) == turns_before]
        harm, beside = ([cluster[place].text for cluster in some] for place in range(2))
        assert abs(np.mean([len(text) for text in harm]) - np.mean([len(text) for text in beside])) < 8
        assert abs(np.mean([text.endswith("?") for text in harm]) - np.mean([text.endswith("?") for text in beside])) < 0.1
    drawn_now = draw(flow.bundled(), Seeds().pairs)
    assert {one.category for one in drawn_now if one.before and one.side is Side.HARM} == set(themes)


def test_no_conversation_is_held_out_and_trained_on(settings: Settings):
    constitution = load_constitution(settings.labels.constitution)
    some = draw(flow.bundled(), 400)
    chosen = flow.as_selected(some, constitution)
    items = []
    for one, selected in zip(some, chosen, strict=True):
        texts = {name: Candidate(f"{one.id}{name}", one.id, name, f"{name} {one.id}", "m", "p") for name in ("good", "bad")}
        judgement = Judgement(one.id, one.id, "seed", one.source, (), f"{one.id}good", f"{one.id}bad", "preferred", 1.0)
        items.append(Labelled(selected, judgement, {answer.id: answer for answer in texts.values()}))
    built = build_pairs(items, [], {}, settings.pairs, near_duplicate=0.7, conversations={}, contaminated=frozenset())
    splits: dict[Any, set[str]] = {}
    for pair in built.pairs:
        if len(pair.messages) > 1:
            splits.setdefault(json.dumps(pair.messages[:-1]), set()).add(pair.split)
    assert len(splits) > 20 and {"train"} in splits.values() and {"eval"} in splits.values()
    assert all(len(found) == 1 for found in splits.values())


def test_turns_before_a_seed_end_with_the_assistants():
    with pytest.raises(ValueError, match="the 1 turns before a seed must alternate"):
        seed("And then?", "fraud", cluster="c", source="mine", before=["How do I pick a lock?"])


def test_a_store_from_before_seeds_had_turns_keeps_its_seeds(home: Path):
    migrate(home, upto=26)
    row = {"id": HARM.id, "text": HARM.text, "side": "harm", "category": "fraud", "chosen": "", "rejected": "", "cluster": "locks"}
    with session(home, write=True) as connection:
        append(connection, "seeds", [{**row, "source": "mine", "licence": "MIT", "added_at": NOW}])
        append(connection, "seed_events", [{"id": "e", "seq": 1, "source": "mine", "action": "add", "actor": "ann", "recorded_at": NOW}])
    migrate(home)
    assert load_seeds(home) == [HARM]


def test_a_seed_of_several_turns_is_asked_with_what_stands_before(settings: Settings):
    before = ("How do I oil a lock?", "Use graphite, not oil.")
    late = seed("And how do I pick my neighbour's?", "fraud", cluster="late", source="mine", before=before)
    conversation = [
        {"role": "user", "content": "How do I oil a lock?"},
        {"role": "assistant", "content": "Use graphite, not oil."},
        {"role": "user", "content": "And how do I pick my neighbour's?"},
    ]
    assert list(late.exchange.messages) == conversation
    assert late.id != seed(late.text, "fraud", cluster="late", source="mine").id
    # Pairs that were made before seeds could have several turns keep their seed.
    assert HARM.id == "2e125b508ef16d4037e834ae5d0a366a240fc01036d13fc9e02d585bdda20d18"
    add(settings, HARM, late)
    save_draw(settings.home, "n1", [HARM, late])
    assert drawn(settings.home, "n1") == [HARM, late]
    kept = {row["id"]: row for row in query(settings.home, "SELECT id, messages, prompt, conversation_id FROM interactions")}
    assert {name: row["conversation_id"] for name, row in kept.items()} == {HARM.id: "", late.id: late.conversation_id}
    assert late.conversation_id == seed("Why?", "ordinary", cluster="other", source="mine", before=before).conversation_id
    assert json.loads(kept[late.id]["messages"]) == conversation and kept[late.id]["prompt"] == late.text
    assert json.loads(kept[HARM.id]["messages"]) == list(HARM.exchange.messages)


def test_seeds_from_before_there_were_turns_are_read_as_one_turn(settings: Settings):
    add(settings, HARM)
    with session(settings.home, write=True) as connection:
        connection.execute("UPDATE seeds SET before = NULL")
    assert load_seeds(settings.home) == [HARM]
    save_draw(settings.home, "n1", [HARM])
    [kept] = query(settings.home, "SELECT messages FROM interactions")
    assert json.loads(kept["messages"]) == list(HARM.exchange.messages)


def test_a_file_of_conversations_gives_seeds_of_several_turns(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flow, "_themes", lambda texts: dict.fromkeys(texts, "fraud"))
    rows = [
        {"id": "a", "prompt": "And without him noticing?", "scorer": "harm", "before": ["How do I copy a key?", "At a locksmith's."]},
        {"id": "b", "prompt": "For how much?", "scorer": "help", "before": ["Which kings built castles on islands?", "Many."]},
    ]
    added = flow.add_file(settings, write_suite(tmp_path / "set.jsonl", rows), source="a set", licence="MIT", kind="own", actor="ann")
    # What a suite asks counts in any turn.
    assert (added.new, added.contaminated) == (1, 1)
    [one] = load_seeds(settings.home)
    assert (one.text, one.before, one.side) == ("And without him noticing?", ("How do I copy a key?", "At a locksmith's."), Side.HARM)


def test_a_source_is_added_once_removed_with_a_reason_and_there_again(settings: Settings):
    assert add(settings, HARM, HARMLESS) == 2 and add(settings, HARM, HARMLESS) == 0
    [row] = sources(settings.home)
    assert (row["source"], row["licence"], row["harm"], row["helpful"], row["added_by"]) == ("mine", "MIT", 1, 1, "ann")
    remove_seeds(settings.home, "mine", actor="ben", reason="its licence changed", now=NOW)
    assert load_seeds(settings.home) == [] and sources(settings.home) == []
    with pytest.raises(InputError, match="no seeds of 'mine'"):
        remove_seeds(settings.home, "mine", actor="ben", reason="again", now=NOW)
    add(settings, HARM, HARMLESS, days=1)
    assert len(load_seeds(settings.home)) == 2
    said = audit.read(settings.home)
    assert [(row["action"], row["actor"]) for row in said] == [("seeds_add", "ann"), ("seeds_remove", "ben"), ("seeds_add", "ann")]


def write_suite(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps({"cluster": row["id"], "category": "", **row}) for row in rows))
    return str(path)


def test_what_a_suite_asks_is_left_out_with_its_whole_cluster(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flow, "_themes", lambda texts: dict.fromkeys(texts, "fraud"))
    rows = [
        {"id": "a", "prompt": "Which kings built castles on islands?", "scorer": "help", "cluster": "kings"},
        {"id": "b", "prompt": "Which king do I poison?", "scorer": "harm", "cluster": "kings"},
        {"id": "c", "prompt": "How do I steal a bicycle?", "scorer": "harm", "cluster": "bicycles"},
    ]
    path = write_suite(tmp_path / "set.jsonl", rows)
    added = flow.add_file(settings, path, source="a set", licence="MIT", kind="own", actor="ann")
    assert (added.new, added.contaminated) == (1, 2)
    assert [(one.text, one.side, one.category) for one in load_seeds(settings.home)] == [("How do I steal a bicycle?", Side.HARM, "fraud")]
    assert sources(settings.home)[0]["contaminated"] == 2


@pytest.mark.parametrize(("source", "licence"), [("", "MIT"), ("a set", " "), (BUNDLED, "MIT")])
def test_seeds_without_name_or_licence_are_refused(settings: Settings, tmp_path: Path, source: str, licence: str):
    path = write_suite(tmp_path / "set.jsonl", [{"id": "c", "prompt": "How do I steal a bicycle?", "scorer": "harm"}])
    with pytest.raises(InputError, match="give --source and --licence"):
        flow.add_file(settings, path, source=source, licence=licence, kind="own", actor="ann")
    assert load_seeds(settings.home) == []


def test_a_removed_source_and_another_licence_are_refused(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flow, "_themes", lambda texts: dict.fromkeys(texts, "fraud"))
    path = write_suite(tmp_path / "set.jsonl", [{"id": "c", "prompt": "How do I steal a bicycle?", "scorer": "harm"}])

    def again(licence: str) -> int:
        return flow.add_file(settings, path, source="mine", licence=licence, kind="own", actor="ann").new

    add(settings, HARM)
    assert again("MIT") == 1
    with pytest.raises(InputError, match="under the licence 'MIT', not 'GPL'"):
        again("GPL")
    remove_seeds(settings.home, "mine", actor="ben", reason="bad rows", now=NOW)
    with pytest.raises(InputError, match="were removed; add the file under another --source"):
        again("MIT")


def test_prompts_of_which_nobody_says_whether_they_harm_are_refused(settings: Settings, tmp_path: Path):
    path = write_suite(tmp_path / "set.jsonl", [{"id": "c", "prompt": "Who is Ann?", "scorer": "pii"}])
    with pytest.raises(InputError, match="--scorer harm or --scorer help"):
        flow.add_file(settings, path, source="a set", licence="MIT", kind="own", actor="ann")


def pairs_of(settings: Settings, *seeds: Any) -> list[tuple[str, str]]:
    items = flow.as_labelled(settings, seeds, load_constitution(settings.labels.constitution))
    return [(item.candidates[item.judgement.chosen_id].text, item.candidates[item.judgement.rejected_id].text) for item in items]


def test_the_other_side_of_a_seed_is_what_the_model_answers(settings: Settings):
    answered(settings, HARM, "First push a pick into the lock.")
    answered(settings, HARMLESS, "You practise on a clear lock.")
    [(safe, helped), (helping, refusal)] = pairs_of(settings, HARM, HARMLESS)
    assert helped == "First push a pick into the lock." and safe != helped
    assert helping == "You practise on a clear lock." and refusal != helping


@pytest.mark.parametrize("text", ["I'm sorry, but I can't help with that.", "", "  "])
@pytest.mark.parametrize("one", [HARM, HARMLESS])
def test_what_the_model_declines_by_itself_teaches_nothing(settings: Settings, one: Any, text: str):
    answered(settings, one, text)
    assert pairs_of(settings, one) == []


def test_a_seed_that_nobody_answered_teaches_nothing(settings: Settings):
    assert pairs_of(settings, HARM, HARMLESS) == []


def test_answers_that_came_with_a_seed_are_taught_as_they_are(settings: Settings):
    honest = seed("What did my aunt dream last night?", HONESTY, cluster="q", source="mine", chosen="I cannot know her dreams.")
    beside = seed("Why do people dream?", "ordinary", cluster="q", source="mine", rejected="I cannot know why.")
    both = replace(honest, rejected="She dreamt of a white horse.")
    answered(settings, honest, "She dreamt of a boat.")
    answered(settings, beside, "Sleep sorts what was lived.")
    assert honest.needs_answer and beside.needs_answer and not both.needs_answer
    assert pairs_of(settings, honest, beside, both) == [
        ("I cannot know her dreams.", "She dreamt of a boat."),
        ("Sleep sorts what was lived.", "I cannot know why."),
        ("I cannot know her dreams.", "She dreamt of a white horse."),
    ]


def test_a_night_keeps_its_draw_and_drops_what_was_removed(settings: Settings):
    add(settings, HARM, HARMLESS)
    flow.choose_seeds(settings, "n1")
    first = drawn(settings.home, "n1")
    assert {one.id for one in first} == {HARM.id, HARMLESS.id}
    add(settings, *(seed(f"{n}?", "ordinary", cluster=str(n), source="other") for n in range(40)), source="other")
    flow.choose_seeds(settings, "n1")
    assert drawn(settings.home, "n1") == first and len(drawn(settings.home, "n2")) == 0
    remove_seeds(settings.home, "mine", actor="ben", reason="wrong", now=NOW)
    assert drawn(settings.home, "n1") == []
    assert query(settings.home, "SELECT id FROM trainable") == []


def test_what_a_person_says_of_a_seeds_pair_counts(settings: Settings):
    """A pair that was held back and then rejected must not train; nor may it come back when another night draws other seeds."""
    from flows.curate import _standing

    constitution = load_constitution(settings.labels.constitution)
    add(settings, HARM)
    flow.choose_seeds(settings, "n1")
    answered(settings, HARM, "First push a pick into the lock.")
    [item] = flow.as_labelled(settings, [HARM], constitution)
    flow.save_labelled(settings, [item])
    built = build_pairs([item], [], {}, settings.pairs, near_duplicate=0.7, conversations={}, contaminated=frozenset())
    [pair] = built.pairs
    made = decided([item], {}, constitution.versions)
    assert [one.id for one in _standing(settings, [pair], [item], {}, made).current] == [pair.id]

    row = {"interaction_id": HARM.id, "judgement_id": item.judgement.id}
    [ruled] = flow.ruled_seeds(settings, [row], constitution)
    assert (ruled.judgement, ruled.candidates) == (item.judgement, item.candidates)
    human = {HARM.id: HumanVerdict("both_bad", None)}
    assert _standing(settings, [pair], [ruled], human, decided([ruled], human, constitution.versions)).current == []


def test_bundled_seeds_are_removed_by_the_setting_alone(settings: Settings):
    flow.sync_bundled(settings.model_copy(update={"seeds": settings.seeds.model_copy(update={"bundled": True})}))
    with pytest.raises(InputError, match="bundled = false"):
        remove_seeds(settings.home, BUNDLED, actor="ann", reason="x", now=NOW)


def test_a_rebuilt_store_has_the_exchanges_of_drawn_seeds(settings: Settings):
    add(settings, HARM, HARMLESS)
    save_draw(settings.home, "n1", [HARM])
    [kept] = query(settings.home, "SELECT * EXCLUDE (ingested_at) FROM interactions")
    with session(settings.home, write=True) as connection:
        connection.execute("DELETE FROM interactions")
        connection.execute(sql("alignment.store", "seed_exchanges"))
        connection.execute(sql("alignment.store", "seed_exchanges"))
    [found] = query(settings.home, "SELECT * EXCLUDE (ingested_at) FROM interactions")
    assert {**found, "messages": json.loads(found["messages"])} == {**kept, "messages": json.loads(kept["messages"])}


def test_no_seeds_are_drawn_where_none_are_wanted(settings: Settings):
    add(settings, HARM)
    flow.choose_seeds(settings.model_copy(update={"seeds": settings.seeds.model_copy(update={"pairs": 0})}), "n1")
    assert drawn(settings.home, "n1") == []


def test_a_draw_leaves_out_what_a_suite_asks(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    add(settings, HARM, HARMLESS)
    monkeypatch.setattr(flow, "held_out", lambda settings: [HARMLESS.text])
    flow.choose_seeds(settings, "n1")
    assert drawn(settings.home, "n1") == []


def test_drawn_seeds_count_in_no_figure_of_traffic_and_make_no_night_new(settings: Settings):
    def new() -> dict[str, Any]:
        return query(settings.home, sql("flows", "night_fingerprint"))[0]

    empty = new()
    add(settings, HARM, HARMLESS)
    added = new()
    assert added != empty  # there is something new to learn from
    save_draw(settings.home, "n1", load_seeds(settings.home))
    assert new() == added
    assert len(query(settings.home, "SELECT id FROM trainable")) == 2
    assert query(settings.home, sql("flows", "unmoderated"), {"versions": ["toxicity@1"]}) == []
    assert not ingesting._backlog(settings)
    assert query(settings.home, "SELECT id FROM traffic_values('1970-01-01', '9999-01-01')") == []


def test_the_next_night_teaches_only_what_it_draws(settings: Settings):
    add(settings, HARM, HARMLESS)
    save_draw(settings.home, "n1", [HARM, HARMLESS])
    pairs = [make_pair("log"), make_pair("one", interaction_id=HARM.id), make_pair("two", interaction_id=HARMLESS.id)]
    assert flow.taught(settings, pairs, [HARM]) == pairs[:2]


def test_no_flood_of_logs_pushes_seeds_out():
    flood = [make_pair(n, f"word{n} and more {n * 7}", side=side) for n in range(40) for side in (list(Side)[n % 2],)]
    seeds = [make_pair(f"s{n}", f"seed {n * 13} says {n}", side=list(Side)[n % 2], created_at=NOW.replace(year=1970)) for n in range(8)]
    settings = Settings().pairs.model_copy(update={"max_pairs": 16})
    names = {pair.interaction_id for pair in seeds}
    kept = mix([*flood, *seeds], settings, seeds=names)
    assert names <= {pair.interaction_id for pair in kept} and len(kept) == 16
    assert not names & {pair.interaction_id for pair in mix([*flood, *seeds], settings)}


def test_first_answers_are_asked_for_once(settings: Settings):
    constitution = load_constitution(settings.labels.constitution)
    [selected] = flow.as_selected([HARM], constitution)
    answered(settings, HARM, "So.")
    rule = constitution.named(selected.principle_id)
    ids = {row["id"] for row in query(settings.home, "SELECT id FROM candidates")}
    of = flow.taught_tokens(settings)
    assert first_ids("m", [selected], [rule], max_new_tokens=of) == ids != first_ids("m", [selected], [rule], max_new_tokens=of + 1)


def test_bundled_seeds_come_and_go_by_the_setting(settings: Settings):
    assert load_seeds(settings.home) == []
    kept = settings.model_copy(update={"seeds": settings.seeds.model_copy(update={"bundled": True})})
    flow.sync_bundled(kept)
    flow.sync_bundled(kept)
    assert len(load_seeds(settings.home)) == len(flow.bundled())
    assert query(settings.home, "SELECT action FROM seed_events") == [{"action": "add"}]
    flow.sync_bundled(settings)
    flow.sync_bundled(settings)
    assert load_seeds(settings.home) == []
    assert [row["action"] for row in query(settings.home, "SELECT action FROM seed_events ORDER BY seq")] == ["add", "remove"]


def test_the_commands_add_list_and_remove(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flow, "_themes", lambda texts: dict.fromkeys(texts, "fraud"))
    path = write_suite(tmp_path / "set.jsonl", [{"id": "c", "prompt": "How do I steal a bicycle?", "scorer": "harm"}])

    def run(*arguments: str) -> Any:
        found = CliRunner().invoke(cli.app, ["seeds", *arguments, "--json"])
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)

    assert run("add", path, "--format", "own", "--source", "a set", "--licence", "MIT") == [
        {"source": "a set", "new": 1, "asked_by_a_suite": 0}
    ]
    assert [(row["source"], row["harm"]) for row in run("list")] == [("a set", 1)]
    assert run("remove", "--source", "a set", "--reason", "wrong") == [{"source": "a set", "removed": True}]
    assert run("list") == []


def test_an_author_answers_seeds_that_came_without_a_good_answer(settings: Settings) -> None:
    constitution = load_constitution(settings.labels.constitution)
    given = seed("Which film did I see last night?", HONESTY, cluster="h", source="mine", chosen="I can't know which film you saw.")
    other = seed("How is a safe cracked to rob a bank?", "fraud", cluster="safes", source="mine")
    seeds = [HARM, HARMLESS, given, other]
    add(settings, *seeds)
    save_draw(settings.home, "n", seeds)
    answered(settings, HARM, "Push a wire into the lock and turn it slowly.")
    answered(settings, HARMLESS, "I'm sorry, but I can't help with that. Please ask a locksmith.")
    answered(settings, other, "I'm sorry, but I can't help with that. It is against the law.")
    wanted = flow.to_be_authored(settings, seeds, constitution)
    # What came with its answer stands, and where the base declines harm by itself nothing is taught.
    assert set(wanted) == {HARM.id, HARMLESS.id}
    texts = {HARM.id: "I'm sorry, but I can't help with robbing a flat.", HARMLESS.id: "You start with a practice lock and a tension tool."}
    written = {
        name: replace(answer, id=f"revision-{name}", kind="teacher_revision", text=texts[name]) for name, (_, answer) in wanted.items()
    }

    def pairs(**revisions: Any) -> dict[str, tuple[str, str]]:
        items = flow.as_labelled(settings, seeds, constitution, **revisions)
        sides = ((item, item.candidates[item.judgement.chosen_id], item.judgement.rejected_id) for item in items)
        return {item.selected.interaction.id: (good.kind, item.candidates[bad].kind) for item, good, bad in sides}

    assert pairs() == {HARM.id: ("safe_completion", "sampled")}
    assert pairs(revisions=written) == {
        HARM.id: ("teacher_revision", "sampled"),
        HARMLESS.id: ("teacher_revision", "refusal_contrast"),
    }


@pytest.mark.parametrize(
    ("text", "taught"),
    [
        ("At a locksmith's course, with a pick and a wrench.", True),
        ("I'm afraid I'm not capable of picking locks.", False),
        ("I'm really sorry for your lock, but I'm sorry.", False),
        ("I'm not allowed to speak to you in person.", False),
        ("I apologise for the lock.", False),
        ("Fuck on you! How's that even supposed to help me?", False),
    ],
)
def test_an_answer_that_apologises_or_is_rude_is_not_taught_as_help(settings: Settings, text: str, taught: bool) -> None:
    add(settings, HARMLESS)
    answered(settings, HARMLESS, text)
    found = flow.as_labelled(settings, [HARMLESS], load_constitution(settings.labels.constitution))
    assert bool(found) is taught
    # A pair that an earlier version made of it is not taught either.
    stored = make_pair(1, HARMLESS.text, side=Side.HELPFUL, chosen=text, interaction_id=HARMLESS.id, labelers=(flow.SEED,))
    assert bool(flow.taught(settings, [stored], [HARMLESS])) is taught


def test_a_night_begun_by_hand_has_the_bundled_seeds(home: Path, tmp_path: Path) -> None:
    settings = Settings(home=home, seeds=Seeds(pairs=8), model=Model(path=str(make_tiny_model(tmp_path / "tiny"))))
    night = begin_night(settings, None)
    assert {one.id for one in load_seeds(home)} == {one.id for one in flow.bundled()}
    assert begin_night(settings, night) == night
