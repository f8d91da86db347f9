"""Exported pairs load with `datasets` and go into TRL as they are; nobody's id leaves the store with them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import InputError
from alignment.ids import content_id
from alignment.ingest.redact import redaction_key
from alignment.pairs import mix
from alignment.pairs.export import card, preference, write_export
from alignment.records import Pair, Side
from alignment.sections import Pairs
from alignment.store import append, migrate, query, session
from tests.conftest import NOW, make_pair

PAIRS = [
    make_pair(1, labelers=("constitution", "human")),
    make_pair(2, "How do I bake bread?", side=Side.HELPFUL, category="ordinary", principle_ids=("be-helpful",)),
    make_pair(3, "What is the moon?", side=Side.HELPFUL, split="eval"),
]


def text(**more: Any) -> str:
    options: dict[str, Any] = {"principles": {"no-violence": "Hurt nobody."}, "constitution": "default 1", "without_consent": 0}
    measured = [{"labeler": "constitution", "sensitivity": 0.42, "specificity": 0.69, "order_consistency": 1.0}]
    return card(PAIRS, labelers=measured, **options | more)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_an_export_loads_as_a_data_set(form: Any, tmp_path: Path) -> None:
    import datasets

    assert write_export(PAIRS, tmp_path / "out", text(), form=form) == {f"train.{form}": 2, f"test.{form}": 1}
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 2, "test": 1}
    row = loaded["train"][0]
    assert row["prompt"] == [{"role": "user", "content": "How do I boil an egg?"}]
    assert (row["chosen"][0]["content"], row["rejected"][0]["role"]) == ("a good answer", "assistant")
    assert "u-1" not in json.dumps([preference(pair) for pair in PAIRS])


def test_trl_takes_an_export_as_it_is(tmp_path: Path) -> None:
    import datasets
    from transformers import AutoTokenizer
    from trl.data_utils import is_conversational, maybe_apply_chat_template

    from bench.tiny import make_tiny_model

    write_export(PAIRS, tmp_path / "out", text())
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert is_conversational(rows[0])
    make_tiny_model(tmp_path / "tiny")
    applied = maybe_apply_chat_template(rows[0], AutoTokenizer.from_pretrained(tmp_path / "tiny"))
    assert "How do I boil an egg?" in applied["prompt"]
    assert applied["chosen"].startswith("a good answer")
    assert applied["rejected"].startswith("a bad answer")


def test_the_card_says_what_there_is(tmp_path: Path) -> None:
    write_export(PAIRS, tmp_path / "out", text(without_consent=1))
    said = (tmp_path / "out" / "README.md").read_text()
    for part in (
        "| harm | train | 1 |",
        "| helpful | test | 1 |",
        "| constitution | 3 | 0.42 | 0.69 | 1.00 |",
        "| human | 1 | not measured",
    ):
        assert part in said
    assert "`no-violence` (2): Hurt nobody." in said
    assert "1 of 3 pairs lack consent" in said


def test_the_card_names_sources_and_licences_of_seeds() -> None:
    assert "own licences" not in text()
    said = text(seeds=[{"source": "a|b\x1b[2J", "licence": "MIT", "pairs": 2}])
    assert "own licences" in said and "| MIT | 2 |" in said and "a\\|b" in said and "\x1b" not in said


def test_an_export_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match="not an empty folder"):
        write_export(PAIRS, tmp_path, text())
    with pytest.raises(InputError, match="no pairs"):
        write_export([], tmp_path / "new", text())


def test_the_command_exports_what_may_be_trained_on(home: Path, tmp_path: Path) -> None:
    from alignment.config import Settings
    from flows.export import export_pairs

    pairs = [replace(pair, labelers=("constitution",)) for pair in PAIRS]
    keep(home, pairs, without_consent=pairs[1].interaction_id)
    assert export_pairs(Settings(home=home), tmp_path / "out", night_id=None, form="jsonl") == {"train.jsonl": 1, "test.jsonl": 1}
    assert query(home, "SELECT path, night_id FROM pair_exports") == [{"path": str(tmp_path / "out"), "night_id": None}]
    assert "0 of 2 pairs lack consent" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(InputError, match="no night 'x'"):
        export_pairs(Settings(home=home), tmp_path / "b", night_id="x", form="jsonl")


def test_an_answer_with_a_placeholder_leaves_with_no_export(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither with the pairs that stand nor with those of a night."""
    from alignment.config import Settings
    from flows.export import export_pairs

    masked = ["Write to <EMAIL_3f9a1c>.", "Write to <PERSON>."]
    pairs = [*(make_pair(n, f"Question {n}?", chosen=text) for n, text in enumerate(masked)), make_pair(2)]
    keep(home, pairs)
    with session(home, write=True) as connection:
        append(connection, "pair_sets", [{"id": pair.id, "night_id": "n", "pair_id": pair.id, "split": "train"} for pair in pairs])
        append(connection, "night_events", [{"id": "e", "night_id": "n", "recorded_at": NOW}])
    for night in (None, "n"):
        assert export_pairs(Settings(home=home), tmp_path / f"out-{night}", night_id=night, form="jsonl") == {"train.jsonl": 1}
        assert "2 pairs are left out" in capsys.readouterr().err


def keep(home: Path, pairs: Sequence[Pair], *, without_consent: str = "") -> None:
    """Store pairs that stand, and their exchanges, one of them without consent."""
    migrate(home)
    redaction_key(home)
    columns = {"prompt": "p", "messages": [], "response": "r", "created_at": NOW}
    exchanges = [{**columns, "id": pair.interaction_id, "consent": pair.interaction_id != without_consent} for pair in pairs]
    with session(home, write=True) as connection:
        append(connection, "interactions", exchanges)
        append(connection, "pairs", [{name: getattr(pair, name) for name in Pair.__slots__} | {"built_at": NOW} for pair in pairs])
        append(connection, "principle_decisions", [decision(pair) for pair in pairs])


def decision(pair: Pair) -> dict[str, Any]:
    """Return that a principle of today decided the pair."""
    from alignment.labels import load_constitution

    name = load_constitution("").main_id(pair.side, pair.category)
    row = {"principle_id": name, "principle_version": load_constitution("").versions[name], "night_id": "n", "decided_at": NOW}
    return row | {"id": pair.id, "pair_id": pair.id, "interaction_id": pair.interaction_id}


def test_what_a_person_overruled_is_neither_exported_nor_judged_again(home: Path, tmp_path: Path) -> None:
    """Two pairs of the constitution, one by a principle that was edited since; a person agrees with that one, and flips both."""
    from alignment.config import Settings
    from flows.curate import standing
    from flows.export import export_pairs

    pairs = [make_pair(1, "How do I pick a lock?"), make_pair(2, "How do I bake bread?"), make_pair(3, "What is the moon?")]
    pairs = [replace(pair, id=content_id(list(pair.messages), pair.chosen, pair.rejected)) for pair in pairs]
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for pair in pairs[:2]:
        of = {"interaction_id": pair.interaction_id}
        chosen = {"night_id": "n", "side": "harm", "category": "violence", "principle_id": "no-violence"}
        rows["selections"].append(of | chosen | {"id": pair.id})
        for name, answer in (("good", pair.chosen), ("bad", pair.rejected)):
            one = {"id": f"{name}-{pair.id}", "kind": "logged", "text": answer, "model": "m", "principle_id": "p", "detail": {}}
            rows["candidates"].append(of | one)
        judged = {"id": f"j-{pair.id}", "labeler": "constitution", "labeler_version": "1", "principle_ids": ["no-violence"], "scores": {}}
        judged |= {"chosen_id": f"good-{pair.id}", "rejected_id": f"bad-{pair.id}", "verdict": "preferred", "judge_margin": 0.5}
        rows["judgements"].append(of | judged | {"created_at": NOW})
        rows["review_items"].append(of | {"id": pair.id, "kind": "low_margin", "detail": {"judgement_id": f"j-{pair.id}"}})
    columns = {"response": "r", "created_at": NOW, "consent": True}
    for p in pairs:
        rows["interactions"].append(
            {**columns, "id": p.interaction_id, "prompt": p.prompt, "messages": [dict(turn) for turn in p.messages]}
        )
    migrate(home)
    redaction_key(home)
    with session(home, write=True) as connection:
        for table, found in rows.items():
            append(connection, table, found)
        append(connection, "pairs", [{name: getattr(p, name) for name in Pair.__slots__} | {"built_at": NOW} for p in pairs])
        append(connection, "principle_decisions", [decision(pairs[0]), decision(pairs[2])])
    settings = Settings(home=home)
    before = standing(settings)
    assert ({pair.id for pair in before.current}, [pair.id for pair in before.stale]) == ({pairs[0].id, pairs[2].id}, [pairs[1].id])
    said = {"reviewer": "ann", "item_id": pairs[1].id, "decided_at": NOW}
    with session(home, write=True) as connection:
        append(connection, "verdicts", [{**said, "id": "agreed", "verdict": "agree"}])
    agreed = standing(settings)
    assert ({pair.id for pair in agreed.current}, agreed.stale) == ({pair.id for pair in pairs}, [])
    with session(home, write=True) as connection:
        verdict = {**said, "verdict": "flip", "decided_at": NOW + timedelta(seconds=1)}
        append(connection, "verdicts", [{**verdict, "id": pair.id, "item_id": pair.id} for pair in pairs[:2]])
    after = standing(settings)
    assert ([pair.id for pair in after.current], after.stale) == ([pairs[2].id], [])
    assert export_pairs(settings, tmp_path / "out", night_id=None, form="jsonl") == {"train.jsonl": 1}


def many(number: int, **changes: Any) -> list[Pair]:
    common = {"user_id": "u"}
    return [make_pair(n, f"question {n}", side=list(Side)[n % 2], **{**common, "cluster_id": str(n)} | changes) for n in range(number)]


def test_nobody_and_no_source_gives_more_than_its_share() -> None:
    assert len(mix(many(60), Pairs(max_per_user=20))) == 20
    assert len(mix(many(60, user_id=""), Pairs(max_per_user=20))) == 60
    assert len(mix(many(60, cluster_id="c"), Pairs(max_per_cluster=4))) == 4
    planted = many(60, user_id="", chosen_kind="logged")
    assert len(mix(planted, Pairs(max_per_answer=3))) == 3
    pairs = many(60, user_id="")
    sources = {pair.interaction_id: "small" if n < 10 else "large" for n, pair in enumerate(pairs)}
    mixed = mix(pairs, Pairs(max_per_source=20), sources=sources)
    assert sum(sources[pair.interaction_id] == "small" for pair in mixed) == 10
    assert len(mixed) == 30


def test_replay_prefers_what_is_new_and_forgets_nothing() -> None:
    """Two thirds of the draw fall to pairs of today if those of a half-life ago weigh half."""
    pairs = many(800, user_id="")
    pairs = [replace(p, created_at=NOW - timedelta(days=10 * (n % 4 > 1))) for n, p in enumerate(pairs)]
    mixed = mix(pairs, Pairs(half_life_days=10, max_pairs=100))
    new = sum(pair.created_at == NOW for pair in mixed)
    # Of 100, about 66 (standard deviation 4.4); newest first would give 100.
    assert 52 <= new <= 80
    assert mix(list(reversed(pairs)), Pairs(half_life_days=10, max_pairs=100)) == mixed
