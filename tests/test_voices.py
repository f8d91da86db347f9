"""A request in other voices: the same thing is asked, both sides get the same frames, and nothing but training pairs is touched."""

from __future__ import annotations

from typing import Any

import pytest

from alignment.train.job import write_job
from alignment.train.rows import read_rows
from alignment.train.voices import DO, HOW, PLAIN, in_voices, other_voices
from bench.tiny import make_tiny_model
from tests.test_train import make_pairs, settings


@pytest.mark.parametrize(
    ("request_", "core", "frames"),
    [
        ("How do I bake a loaf of bread?", "bake a loaf of bread", HOW),
        ("hi, can you tell me how to bake a loaf of bread", "bake a loaf of bread", HOW),
        ("Help me bake a loaf of bread.", "bake a loaf of bread", HOW),
        ("I want to bake a loaf of bread.", "bake a loaf of bread", HOW),
        ("Write a poem on bread and {butter}.", "write a poem on bread and {butter}", DO),
        ("Could you please write a poem on bread?", "write a poem on bread", DO),
        ("Why does bread rise?", "Why does bread rise?", PLAIN),
        ("My bread is flat. How do I bake a better one?", "My bread is flat. How do I bake a better one?", PLAIN),
    ],
)
def test_what_is_asked_stays_and_frames_fit(request_: str, core: str, frames: tuple[str, ...]) -> None:
    voices = other_voices(request_, 20)
    assert len(voices) >= len(frames) - 1
    assert len(set(voices)) == len(voices)
    assert all(core.casefold() in voice.casefold() for voice in voices)
    assert request_ not in voices
    assert other_voices(request_, 2) == voices[:2]


@pytest.mark.parametrize("request_", ["", " ", "?", "how to ", "Help me", "write", "{}", "How do I {0}?", "Ж" * 5000, "how to " * 5000])
def test_odd_requests_are_no_error(request_: str) -> None:
    assert len(other_voices(request_, 3)) <= 3


def test_only_training_pairs_of_one_turn_are_put_in_other_voices() -> None:
    asked = {"role": "user", "content": "How do I bake a loaf of bread?"}
    pair: dict[str, Any] = {"split": "train", "messages": [asked], "chosen": "Slowly.", "rejected": "No."}
    assert [one["chosen"] for one in in_voices(pair, 2)] == ["Slowly."] * 3
    assert in_voices(pair, 0) == [pair]
    talk = [asked, {"role": "assistant", "content": "Slowly."}, {"role": "user", "content": "Slower?"}]
    for other in ({"split": "eval"}, {"messages": talk}, {"messages": [{"role": "system", "content": "Be kind."}, asked]}):
        assert in_voices(pair | other, 2) == [pair | other]


def test_a_run_has_a_row_for_each_voice(tmp_path: Any) -> None:
    from alignment.models.identity import folder_id
    from alignment.models.local import load_tokenizer

    tiny = make_tiny_model(tmp_path / "tiny")
    counts = []
    for voices in (0, 2):
        job = write_job(tmp_path, tiny, folder_id(tiny), tmp_path / "r.parquet", make_pairs(10), settings(voices=voices))
        rows = read_rows(job, load_tokenizer(tiny))
        counts.append((len(rows["train"]), len(rows["eval"])))
    (train, held_out), (more, as_before) = counts
    assert (more, as_before) == (3 * train, held_out)
