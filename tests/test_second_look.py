"""The last look over a training set: what is held back, why, what people are asked, and that others take the place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import flows.second_look as flow
from alignment.config import Settings
from alignment.models.vectors import kept_vectors
from alignment.moderation import neighbours
from alignment.moderation.corpora import own_requests
from alignment.moderation.neighbours import request_vectors, write_vectors
from alignment.pairs.second_look import (
    INVENTS,
    PLACEHOLDER,
    REFUSES,
    RETURNS,
    SAFE_REJECTED,
    SERVES,
    WEAK,
    WORDS,
    Look,
    RequestReader,
    held_back,
    look_at,
    look_at_requests,
)
from alignment.pairs.seeds import SEED
from alignment.records import Pair, Side
from alignment.store import migrate, query
from alignment.text import looks_masked
from tests.conftest import make_pair

HARMFUL = ["How do I stab a man", "How do I poison a man", "How do I stab a dog", "How do I poison a dog"]
HARMLESS = ["How do I bake a cake", "How do I paint a wall", "How do I bake bread", "How do I paint a fence"]


def embed(texts):
    """One direction for what stabs or poisons, another for the rest."""
    rows = [[1.0, 0.0] if "stab" in text or "poison" in text else [0.0, 1.0] for text in texts]
    return np.array(rows, dtype=np.float32).reshape(len(texts), 2)


@pytest.fixture(scope="module")
def reader() -> RequestReader:
    texts = HARMFUL + HARMLESS
    return RequestReader(texts, [1] * 4 + [0] * 4, embed(texts))


def helpful(name: object, prompt: str = "How do I bake a cake", **changes) -> Pair:
    more = {
        "side": Side.HELPFUL,
        "chosen_kind": "logged",
        "rejected_kind": "refusal_contrast",
        "category": "ordinary",
        "chosen": f"So {name}.",
    }
    return make_pair(name, prompt, **more | changes)


def looked(pair: Pair, reader: RequestReader) -> str:
    [look] = look_at([pair], reader, embed, *[lambda request, answer: answer.startswith("No")] * 2)
    return held_back(pair, look)


def talk(*texts: str):
    return tuple({"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts))


def test_help_with_harm_asked_in_any_turn_is_held_back(reader):
    assert looked(helpful(1), reader) == ""
    assert looked(helpful(2, "How do I stab a man"), reader) == SERVES
    turns = talk("How do I stab a man", "So.", "Can you add a bit more detail?")
    assert looked(helpful(3, messages=turns), reader) == SERVES
    assert looked(helpful(4, messages=talk("How do I bake a cake", "So.", "Can you add more detail?")), reader) == ""


def test_a_refusal_of_what_is_harmless_is_held_back(reader):
    assert looked(make_pair(1, "How do I stab a man"), reader) == ""
    assert looked(make_pair(2, "How do I bake a cake"), reader) == REFUSES


def test_an_answer_to_harm_that_does_not_decline_is_held_back(reader):
    revised = {"chosen_kind": "critique_revision", "prompt": "How do I stab a man"}
    assert looked(make_pair(1, chosen="No. Please talk to somebody.", **revised), reader) == ""
    assert looked(make_pair(2, chosen="Take a knife.", **revised), reader) == WEAK
    close = {"chosen": "No, take a sharp knife and go for it.", "rejected": "Yes, take a sharp knife and go for it."}
    assert looked(make_pair(3, **close, **revised), reader) == WEAK


def test_an_honest_answer_is_not_taught_away(reader):
    honest = {"rejected_kind": "logged", "rejected": "I don't have access to your calendar."}
    assert looked(helpful(1, **honest), reader) == SAFE_REJECTED
    assert looked(helpful(2, rejected_kind="logged", rejected="I can't help with cakes."), reader) == ""


def test_a_life_that_no_model_has_is_not_taught(reader):
    assert looked(helpful(1, chosen="When I was a kid, I baked with my mother."), reader) == INVENTS
    assert looked(helpful(2, "Write a toast for my cake", chosen="My mother baked for me when I was a child."), reader) == ""
    assert looked(helpful(3, chosen='Bakers say: "I grew up on this cake." Beat the eggs first.'), reader) == ""


def test_an_answer_that_returns_to_what_was_declined_is_held_back(reader):
    declined = talk("How do I film the women at our pool", "No, I won't help with that.", "How do I paint a wall")
    strays, answers = "Film the women first.", "Paint the wall twice."
    assert looked(helpful(1, messages=declined, chosen=strays), reader) == RETURNS
    assert looked(helpful(2, messages=declined, chosen=strays, labelers=(SEED,)), reader) == RETURNS
    assert looked(helpful(3, messages=declined, chosen=answers), reader) == ""
    worm = talk("How do I write a worm", "No, self-spreading code does harm.", "How do I paint a wall")
    assert looked(helpful(6, messages=worm, chosen="That kind of code is great."), reader) == RETURNS
    # What the last turn asks about itself may be answered, and so may what nobody declined.
    again = (*declined[:-1], {"role": "user", "content": "How do I film the women's race they asked me to film"})
    assert looked(helpful(4, messages=again, chosen=strays), reader) == ""
    helped = talk("How do I film the women at our pool", "From the stands.", "How do I paint a wall")
    assert looked(helpful(5, messages=helped, chosen=strays), reader) == ""


def test_only_an_answer_that_declines_makes_its_request_a_declined_one():
    bank = ("I want a fake banking app that grabs logins. Where do I start?", "I won't help with stealing logins; it harms people.")
    tracker = ("How exact is the tracker in my backpack?", "In a city usually to within some metres, as long as phones are nearby.")
    assert [flow._declined(*bank), flow._declined(*tracker)] == [True, False]


def test_placeholders_are_never_taught(reader):
    assert looked(helpful(1, chosen="Write to <EMAIL_3f9a1c> today."), reader) == PLACEHOLDER
    assert [looks_masked(text) for text in ("<PHONE_1>", "<PRIVATE_KEY_0a1b2c>", "<NAME_12ab34>", "<CNPJ_2>")] == [True] * 4
    assert not any(map(looks_masked, ("<b>", "<EMAIL>", "a < B_1 > c", "<my_tag>")))


def test_each_reason_has_its_words_and_a_cue_changes_the_threshold():
    assert set(WORDS) == {SERVES, REFUSES, WEAK, SAFE_REJECTED, PLACEHOLDER, INVENTS, RETURNS}
    assert not Look(0.5, False, False).would_serve and Look(0.5, True, False).would_serve and Look(0.5, False, True).would_serve
    assert not Look(0.5, True, False).would_refuse and Look(0.5, False, False).would_refuse and Look(0.5, True, True).would_refuse
    assert Look(0.8, False, False, protective=True).would_refuse and not Look(0.95, True, False, protective=True).would_refuse


@pytest.fixture
def night(home: Path, reader, monkeypatch: pytest.MonkeyPatch) -> Settings:
    migrate(home)
    monkeypatch.setattr(flow, "request_reader", lambda settings: reader)
    monkeypatch.setattr(flow, "embedder", lambda: type("E", (), {"embed": staticmethod(embed)}))
    monkeypatch.setattr(flow, "_declines", lambda request, answer: True)
    return Settings(home=home)


PAIRS = [
    *(make_pair(f"h{at}", f"How do I stab a man {at}") for at in range(3)),
    *(helpful(at, f"How do I bake a cake {at}") for at in range(2)),
]


def test_what_is_held_back_does_not_train_and_is_asked_about(night):
    bad = helpful("bad", "How do I poison a dog")
    kept, held = flow.chosen_pairs(night, [*PAIRS, bad], ruled=(), sources={})
    assert bad not in kept and len(kept) == len(PAIRS) and [one.pair for one in held] == [bad]
    flow.save_held(night, "n1", held, lambda pair: "judgement")
    flow.save_held(night, "n1", held, lambda pair: "judgement")
    assert flow.held_counts(night, "n1") == {SERVES: 1}
    [item] = query(night.home, "SELECT *, detail ->> 'judgement_id' AS judgement FROM open_reviews")
    assert item["interaction_id"] == bad.interaction_id and item["judgement"] == "judgement" and WORDS[SERVES] in item["reason"]
    [kept_out] = query(night.home, "SELECT interaction_id, reason, detail FROM pair_exclusions")
    assert bad.id in kept_out["detail"]


def test_another_pair_takes_the_place_of_one_that_is_held_back(night):
    night = night.model_copy(update={"pairs": night.pairs.model_copy(update={"max_pairs": 4, "max_side_ratio": 1.0})})
    newest = helpful(99, "How do I stab a dog")
    kept, held = flow.chosen_pairs(night, [*PAIRS, newest], ruled=(), sources={})
    assert len(held) == 1 and sum(pair.side is Side.HELPFUL for pair in kept) == 2


def test_what_people_decided_is_not_looked_at_again(night):
    agreed = helpful("agreed", "How do I stab a dog", labelers=("constitution", "human"))
    ruled = helpful("ruled", "How do I poison a man")
    kept, held = flow.chosen_pairs(night, [*PAIRS, agreed, ruled], ruled={ruled.interaction_id}, sources={})
    assert not held and agreed in kept and ruled in kept


def test_nobody_can_decide_to_teach_a_placeholder(night):
    masked = helpful("masked", chosen="Write to <EMAIL_3f9a1c>.", labelers=("human",))
    kept, held = flow.chosen_pairs(night, [*PAIRS, masked], ruled={masked.interaction_id}, sources={})
    assert masked not in kept and [one.reason for one in held] == [PLACEHOLDER]


def test_what_is_held_back_is_no_accepted_pair_until_a_person_decides(night):
    bad = helpful("bad", "How do I poison a dog")
    _, held = flow.chosen_pairs(night, [*PAIRS, bad], ruled=(), sources={})
    flow.save_held(night, "n1", held, lambda pair: "judgement")
    assert flow.without_held(night, [*PAIRS, bad], ruled=()) == PAIRS
    assert flow.without_held(night, [*PAIRS, bad], ruled={bad.interaction_id}) == [*PAIRS, bad]


def test_people_are_asked_about_the_turn_that_was_said(night):
    last = "How do I poison a dog"
    turns = (
        {"role": "user", "content": "How do I bake a cake"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": last},
    )
    bad = helpful("talk", last, messages=turns)
    _, held = flow.chosen_pairs(night, [*PAIRS, bad], ruled=(), sources={})
    flow.save_held(night, "n1", held, lambda pair: "judgement")
    assert query(night.home, "SELECT prompt FROM review_items") == [{"prompt": last}]


class Words:
    """An embedder of random directions that counts what it is asked."""

    version = "words"
    asked = 0

    def embed(self, texts):
        self.asked += len(texts)
        rows = np.random.default_rng(0).normal(size=(len(texts), 32)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_vectors_of_labelled_requests_are_computed_once(tmp_path: Path):
    words = Words()
    first, again = (request_vectors(["a", "b"], embedder=words, folder=tmp_path) for _ in range(2))
    assert words.asked == 2 and np.array_equal(first, again)


def test_kept_vectors_are_of_these_texts_or_computed_anew(tmp_path: Path):
    words = Words()
    assert kept_vectors("suites", ["a", "b"], embedder=words, folder=tmp_path).shape == (2, 32)
    assert kept_vectors("suites", ["b", "a"], embedder=words, folder=tmp_path).shape == (2, 32) and words.asked == 4
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-10])
    assert np.array_equal(kept_vectors("suites", ["b", "a"], embedder=words, folder=tmp_path), words.embed(["b", "a"]))
    assert [file] == list(tmp_path.iterdir())
    # The format has no checksum.
    file.write_bytes(file.read_bytes()[:-4] + b"\xff\xff\xff\xff")
    assert np.isfinite(kept_vectors("suites", ["b", "a"], embedder=words, folder=tmp_path)).all()


def test_vectors_that_cannot_be_kept_are_computed_each_time(tmp_path: Path):
    (tmp_path / "vectors").write_text("no folder")
    words = Words()
    for asked in (2, 4):
        assert kept_vectors("suites", ["a", "b"], embedder=words, folder=tmp_path / "vectors").shape == (2, 32) and words.asked == asked


def test_shipped_vectors_are_of_the_labelled_requests_of_today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words, texts = Words(), [row.text for row in own_requests()][:50]
    vectors = words.embed(texts)
    write_vectors(texts, vectors, embedder=words, path=tmp_path / "v.safetensors")
    monkeypatch.setattr(neighbours, "VECTORS", tmp_path / "v.safetensors")
    found = request_vectors(texts, embedder=words, folder=tmp_path)
    assert words.asked == len(texts) and np.abs(found @ found.T - vectors @ vectors.T).max() < 0.02
    assert request_vectors(texts[:3], embedder=words, folder=tmp_path).shape == (3, 32) and words.asked == len(texts) + 3


@pytest.mark.model
def test_evading_care_is_held_back_and_giving_care_is_not(home: Path) -> None:
    """The first was taught on a real night: a hand count found it."""
    reader = flow.request_reader(Settings(home=home))
    asked = [
        "Give me tricks for getting rid of food during supervised meals in recovery.",
        "How do I support my sister during supervised meals in recovery?",
        "How do I get rid of food smells in a fridge?",
    ]
    looks = look_at_requests([[{"role": "user", "content": text}] for text in asked], reader, flow.embedder().embed)
    assert [look.would_serve for look in looks] == [True, False, False]
