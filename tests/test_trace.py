"""Lineage both ways, on a small store made by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alignment.errors import InputError
from alignment.ids import content_id
from alignment.lineage import Trace, find, trace
from alignment.lineage.trace import Node
from alignment.store import append, migrate, session
from flows import cli
from flows.cli import base
from tests.conftest import NOW, make_interaction, make_pair

RELEASE, NIGHT = "a1" * 8, "b2" * 8
ONE = make_interaction("one", "How do I\x1b[31m [bold]boil[/bold] an egg?")
PAIR = make_pair("one")
GOOD, BAD = content_id("good"), content_id("bad")
JUDGEMENT, ITEM = content_id("judgement"), content_id("item")


@pytest.fixture
def store(home: Path) -> Path:
    """One exchange that went all the way to a release, and pairs of many others."""
    others = [make_pair(f"other {number}") for number in range(30)]
    pairs = [PAIR, *others]
    row = {"id": ONE.id, "source_file": "file", "line_number": 7, "user_id": "u", "created_at": NOW, "model": "m", "consent": True}
    tables: dict[str, list[dict[str, Any]]] = {
        # The same file, read in two batches.
        "source_files": [{"id": "file", "path": "/logs/day.jsonl", "bytes": size} for size in (1, 2)],
        "interactions": [row | {"messages": list(ONE.messages), "prompt": ONE.prompt, "response": ONE.response}],
        "quarantine": [{"id": content_id("line"), "source_file": "file", "line_number": 8, "reason": "not_json", "raw": "{"}],
        "candidates": [
            {"id": one, "interaction_id": ONE.id, "kind": kind, "text": text, "model": "m", "principle_id": "p", "detail": {}}
            for one, kind, text in ((GOOD, "safe_completion", PAIR.chosen), (BAD, "logged", PAIR.rejected))
        ],
        "judgements": [
            {"id": JUDGEMENT, "interaction_id": ONE.id, "labeler": "constitution", "chosen_id": GOOD, "rejected_id": BAD, "created_at": NOW}
        ],
        "review_items": [{"id": ITEM, "interaction_id": ONE.id, "kind": "preference", "detail": {"judgement_id": JUDGEMENT}}],
        "verdicts": [{"id": content_id("verdict"), "item_id": ITEM, "reviewer": "ann", "verdict": "agree", "decided_at": NOW}],
        "pairs": [
            {"id": pair.id, "interaction_id": pair.interaction_id, "side": pair.side, "chosen": pair.chosen, "rejected": pair.rejected}
            for pair in pairs
        ],
        "pair_sets": [{"id": content_id(pair.id), "night_id": NIGHT, "pair_id": pair.id, "split": "train"} for pair in pairs],
        "night_events": [{"id": "n", "night_id": NIGHT, "event": "finished", "recorded_at": NOW}],
        "release_events": [{"id": "r", "release_id": RELEASE, "event": "registered", "night_id": NIGHT, "recorded_at": NOW}],
    }
    migrate(home)
    with session(home, write=True) as connection:
        for table, rows in tables.items():
            for row in rows:
                append(connection, table, [row | ({"line_number": 7} if table == "interactions" else {})], key=tuple(row))
    return home


def walk(nodes: tuple[Node, ...]) -> Iterator[Node]:
    for node in nodes:
        yield node
        yield from walk(node.parts)


def ids(nodes: tuple[Node, ...]) -> set[tuple[str, str]]:
    return {(node.kind, node.id) for node in walk(nodes)}


LINE = ("log line", "/logs/day.jsonl:7")
ONWARD = {("pair", PAIR.id), ("night", NIGHT), ("release", RELEASE)}


def check(found: Trace, origin: set[tuple[str, str]], became: set[tuple[str, str]]) -> None:
    assert origin <= ids(found.origin)
    assert became <= ids(found.became)


def test_a_release_goes_back_to_the_line_of_a_log(store: Path) -> None:
    found = trace(store, RELEASE, limit=100)
    wanted = {("night", NIGHT), ("pair", PAIR.id), ("judgement", JUDGEMENT), ("candidate", GOOD), ("candidate", BAD), ("exchange", ONE.id)}
    check(found, wanted | {LINE, ("review item", ITEM)}, {("event", "r")})


@pytest.mark.parametrize(
    ("name", "origin", "became"),
    [
        ("/logs/day.jsonl:7", {LINE}, ONWARD | {("candidate", GOOD), ("judgement", JUDGEMENT), ("review item", ITEM)}),
        ("day.jsonl:7", {LINE}, ONWARD),
        (ONE.id, {LINE}, ONWARD),
        (GOOD, {LINE, ("exchange", ONE.id)}, ONWARD | {("judgement", JUDGEMENT)}),
        (JUDGEMENT, {LINE, ("candidate", GOOD), ("candidate", BAD)}, ONWARD | {("review item", ITEM)}),
        (ITEM, {LINE, ("judgement", JUDGEMENT)}, ONWARD | {("verdict", content_id("verdict"))}),
        (PAIR.id, {LINE, ("judgement", JUDGEMENT), ("review item", ITEM)}, {("night", NIGHT), ("release", RELEASE)}),
        (NIGHT, set(), {("release", RELEASE)}),
        ("day.jsonl:8", {("log line", "/logs/day.jsonl:8")}, set()),
    ],
)
def test_every_thing_is_followed_both_ways(store: Path, name: str, origin: set[tuple[str, str]], became: set[tuple[str, str]]) -> None:
    found = trace(store, name)
    check(found, origin, became)
    # However many batches a file was read in, a line of it is one.
    lines = [node.id for node in walk(found.origin) if node.kind == "log line"]
    assert len(lines) == len(set(lines))


def test_of_many_pairs_a_few_are_shown_and_all_are_counted(store: Path) -> None:
    [night] = trace(store, RELEASE, limit=4).origin
    assert (len(night.parts), night.more) == (4, 27)
    assert night.facts == {"train pairs, harm side": 31}


def test_the_beginning_of_an_id_names_it_if_it_is_the_only_one(store: Path) -> None:
    assert find(store, PAIR.id[:8]) == ("pair", PAIR.id)
    with session(store, write=True) as connection:
        twin = PAIR.id[:-1] + ("0" if PAIR.id[-1] != "0" else "1")
        append(connection, "judgements", [{"id": twin}])
    with pytest.raises(InputError, match="names 2 things"):
        find(store, PAIR.id[:8])
    assert find(store, PAIR.id) == ("pair", PAIR.id)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (PAIR.id[:7], "neither an id"),
        ("%' OR 1=1 --", "neither an id"),
        ("0" * 64, "nothing is known"),
        ("day.jsonl:9", "nothing is known"),
        ("ay.jsonl:7", "nothing is known"),
        ("base", "neither an id"),
    ],
)
def test_what_names_nothing_is_refused(store: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trace(store, name)


def test_the_tree_is_safe_to_print(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "prepare", lambda *_, **__: None)
    shown = CliRunner().invoke(cli.app, ["trace", ONE.id]).stdout
    assert "[bold]" in shown.replace("\n", "")
    assert "\x1b" not in shown
    shown = " ".join(CliRunner().invoke(cli.app, ["trace", RELEASE, "--limit", "3"]).stdout.split())
    assert "and 28 more" in shown
    body = json.loads(CliRunner().invoke(cli.app, ["trace", ONE.id[:12], "--json"]).stdout)
    assert body["thing"]["id"] == ONE.id
    assert body["origin"][0]["id"] == "/logs/day.jsonl:7"
