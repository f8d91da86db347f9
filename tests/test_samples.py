"""The bundled traffic and the suites: what they hold, and that they share nothing."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from datetime import datetime
from importlib.resources import files
from pathlib import Path

import pytest

from alignment.candidates import PoolRow, select
from alignment.evals import held_out_texts, load_suite
from alignment.moderation import DETECTORS, moderate
from alignment.pairs.contamination import SAME_MEANING, SAME_TEXT
from alignment.sections import Candidates
from alignment.text import similar
from tests.conftest import make_interaction

TRAFFIC = Path(str(files("alignment.samples") / "traffic.jsonl.gz"))
CATEGORIES = {"violence", "weapons", "self_harm", "hate", "sexual", "crime", "fraud", "privacy", "malware", "misinformation"}


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (files("alignment.samples") / name).read_text(encoding="utf-8").splitlines()]


def traffic() -> list[dict]:
    found = []
    for line in gzip.decompress(TRAFFIC.read_bytes()).decode().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("messages"), list) and row["messages"]:
            found.append(row)
    return found


def user_texts() -> list[str]:
    return sorted({turn["content"] for row in traffic() for turn in row["messages"] if turn["role"] == "user"})


def taught_texts() -> list[str]:
    """Everything that anything here learns from: traffic, and the examples that detectors were fitted on."""
    fitted = [json.loads(line)["text"] for line in (files("alignment.moderation") / "data" / "requests.jsonl").read_text().splitlines()]
    return [*user_texts(), *(row["text"] for row in rows("prompts.jsonl")), *fitted]


def test_traffic_is_what_the_readme_says() -> None:
    found = traffic()
    distinct = {json.dumps(row, sort_keys=True) for row in found if row.get("response")}
    assert len(distinct) >= 2000
    days = {datetime.fromisoformat(row["created_at"]).date() for row in found if row["created_at"][:2] == "20"}
    assert len(days) >= 21
    assert any(len(row["messages"]) > 1 for row in found)
    signals = Counter(key for row in found for key in row.get("signals", {}))
    assert set(signals) == {"thumbs", "regenerated", "edit"}
    assert TRAFFIC.stat().st_size < 2_000_000
    prompts = rows("prompts.jsonl")
    assert {row["category"] for row in prompts if row["kind"] == "harm"} == CATEGORIES
    assert {row["category"] for row in prompts if row["kind"] == "lookalike"} == CATEGORIES


def test_suites_are_large_enough_and_cover_every_category() -> None:
    assert len(load_suite("harm")) >= 250
    assert len(load_suite("lookalike")) >= 250
    assert len(load_suite("ordinary")) >= 300
    assert {prompt.category for prompt in load_suite("harm")} == CATEGORIES


def test_a_sample_of_a_suite_is_always_the_same() -> None:
    sample = load_suite("harm", 60)
    assert len(sample) == 60
    assert sample == load_suite("harm", 60)
    assert load_suite("harm", 10_000) == load_suite("harm")


def test_suites_share_no_wording_with_what_is_taught() -> None:
    taught, asked = taught_texts(), held_out_texts()
    shared = [(taught[i], asked[j], round(score, 2)) for i, j, score in similar(taught, asked, SAME_TEXT)]
    assert shared == []


@pytest.mark.model
def test_suites_share_no_meaning_with_the_traffic() -> None:
    from alignment.models.embedder import Embedder

    embedder = Embedder()
    taught, asked = user_texts(), held_out_texts()
    cosines = embedder.embed(asked) @ embedder.embed(taught).T
    close = [
        (asked[i], taught[cosines[i].argmax()], float(cosines[i].max())) for i in range(len(asked)) if cosines[i].max() >= SAME_MEANING
    ]
    assert close == []


@pytest.mark.model
def test_a_night_of_the_traffic_chooses_what_it_says() -> None:
    """The limits of the choice belong to one version of the detectors: a new fit must meet them, or they must move with it."""
    from alignment.models.embedder import Embedder

    kinds, embedder = {row["text"]: row["kind"] for row in rows("prompts.jsonl")}, Embedder()
    asked = [make_interaction(text, text, user_id=text) for text in kinds]
    request = [one for one in DETECTORS if one.name == "harmful_request"]
    found = moderate(asked, embedder=embedder, thresholds={}, detectors=request)
    pool = [PoolRow(one, said.score, said.label or "", 0.0, 0.0, False) for one, said in zip(asked, found, strict=True)]
    chosen = select(pool, Candidates(), refusal_threshold=0.5, embedder=embedder)
    share: dict[str, Counter[str]] = {"harm": Counter(), "lookalike": Counter(), "ordinary": Counter()}
    for one in chosen:
        share[one.category if one.category in share else "harm"][kinds[one.interaction.prompt]] += 1
    assert share["harm"]["harm"] > 0.92 * share["harm"].total()
    assert share["lookalike"]["lookalike"] > 0.5 * share["lookalike"].total()
    assert share["lookalike"]["harm"] < 0.08 * share["lookalike"].total()
    assert share["ordinary"]["harm"] < 0.02 * share["ordinary"].total()
