"""What a model thinks aloud is told apart from what it answers."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.reasoning import Apart, apart

CASES = [
    ("Water boils at 100 °C.", "Water boils at 100 °C.", ""),
    ("  spaces stay  ", "  spaces stay  ", ""),
    ("", "", ""),
    ("<think>easy</think>Water boils.", "Water boils.", "easy"),
    ("\n <THINK >\neasy\n</ Think>\n\nWater boils.\n", "Water boils.", "easy"),
    ("<thinking>easy</thinking>Water", "Water", "easy"),
    ("<reasoning>easy</reasoning>\nWater", "Water", "easy"),
    ("easy\n</think>\n\nWater", "Water", "easy"),
    ("</think>Water", "Water", ""),
    ("<think>\n\n</think>\n\nWater", "Water", ""),
    ("<think>never done, policy and all", "", "never done, policy and all"),
    ("first</think><think>second", "", "first\nsecond"),
    ("<think>a</think></think>Water", "Water", "a"),
    ("<think>a</think>Take <b>rice</think> and boil it.", "Take <b>rice and boil it.", "a"),
    ("<think>a</think>Water.\n<think>b</think>\nSteam.", "Water.\nSteam.", "a\nb"),
    ("<think>a</think> <reasoning>b</reasoning>Water", "Water", "a\nb"),
    ("<think>what is <think>?</think>Water", "Water", "what is <think>?"),
    ("<think>they wrote </reasoning>; so</think>Water", "Water", "they wrote </reasoning>; so"),
    ("The tag <think>x</think> marks thought.", "The tag <think>x</think> marks thought.", ""),
    ("Steps:\n<think> and the rest", "Steps:\n<think> and the rest", ""),
    ("<thinker>no tag</thinker>", "<thinker>no tag</thinker>", ""),
]


@pytest.mark.parametrize(("text", "answer", "thinking"), CASES)
def test_answer_and_thinking_are_told_apart(text: str, answer: str, thinking: str) -> None:
    assert apart(text) == Apart(answer, thinking)


@pytest.mark.parametrize(
    "piece",
    [
        "<think>",
        "</think>",
        "<think></think>",
        "\n<think>",
        "x\n<think>",
        "<think>\n</reasoning>",
        "\n<reasoning>a</think>",
        " \t",
        "< / think",
    ],
)
def test_hostile_texts_take_time_as_they_are_long(piece: str) -> None:
    begin = time.process_time()
    apart("a" + piece * 100_000)
    apart(piece * 100_000)
    assert time.process_time() - begin < 5


@given(st.lists(st.sampled_from(["<think>", "</think>", "<reasoning>", "</REASONING>", "\n", " ", "a", "b."]), max_size=12).map("".join))
def test_nothing_is_invented_and_the_answer_has_no_block_left(text: str) -> None:
    found = apart(text)
    assert set(found.answer + found.thinking) <= set(text) | {"\n", " "}
    assert apart(found.answer).answer == found.answer, "what was read once is all answer"
    assert not found.thinking or found.answer == found.answer.strip()
