# ruff: noqa: E501
"""Rows of public results and suites as they are found: asked as they mean, or left out by name."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.errors import ConfigError, InputError
from alignment.evals.formats import open_suite, read_suite
from alignment.evals.report import result, summarise, topics
from alignment.evals.scorers import score_answer
from alignment.evals.suites import scorable
from alignment.records import SuitePrompt

pytestmark = pytest.mark.fast


def lm_row(first: Any, second: Any = None, *, target: Any = "7", more: Any = ()) -> dict[str, Any]:
    calls = [(first, {"until": ["\n"]} if second is None else second), *more]
    arguments = {f"gen_args_{place}": {f"arg_{at}": one for at, one in enumerate(call)} for place, call in enumerate(calls)}
    return {"doc_id": 5, "doc": {}, "target": target, "arguments": arguments, "resps": [], "filter": "none"}


CHAT = [{"role": "system", "content": "Count."}, {"role": "user", "content": "How many legs has a spider? Give a number."}]
ASKED_RIGHT: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "a chat as JSON": (lm_row(json.dumps(CHAT), target="8"), CHAT[1]["content"], ("8",)),
    "ChatML": (lm_row("<|im_start|>system\nCount.<|im_end|>\n<|im_start|>user\n3 + 4?<|im_end|>\n<|im_start|>assistant\n"), "3 + 4?", ("7",)),
    "Llama 3": (
        lm_row("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n3 + 4?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
        "3 + 4?", ("7",),
    ),
    "Mistral": (lm_row("<s>[INST] 3 + 4? [/INST]"), "3 + 4?", ("7",)),
    "several targets": (lm_row("Who wrote it?", target=["Ann Lee", "A. Lee"]), "Who wrote it?", ("Ann Lee", "A. Lee")),
    "targets as Python writes them": (lm_row("Who wrote it?", target="['Ann Lee', 'A. Lee']"), "Who wrote it?", ("Ann Lee", "A. Lee")),
    "a result with a comma": (lm_row("2 x 1,200?", target="twice #### 2,400"), "2 x 1,200?", ("2,400",)),
    "the right option by its text": (
        lm_row("Warm?", " ice", target="tea", more=[("Warm?", " tea")]), "Warm?\nA) ice\nB) tea\nAnswer with the letter only.", ("B", "tea"),
    ),
    "letters that are there": (
        lm_row("Warm?\nA. ice\nB. tea\nAnswer:", " A", target=1, more=[("Warm?\nA. ice\nB. tea\nAnswer:", " B")]),
        "Warm?\nA. ice\nB. tea\nAnswer:\nAnswer with the letter only.", ("B",),
    ),
}  # fmt: skip
LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "two contexts": (
        lm_row("Ben lent Tom a coat because Ben", " was kind.", more=[("Ben lent Tom a coat because Tom", " was kind.")]), "several contexts",
    ),
    "a template's dialogue": (
        lm_row("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nHow?<|im_end|>\n"), "no one question",
    ),
    "an unknown template's text": (lm_row("<|question|>How?<|reply|>"), "no one question"),
    "several turns": (lm_row(json.dumps([*CHAT, {"role": "assistant", "content": "8"}, CHAT[1]])), "several turns"),
    "a rolling text": ({**lm_row(""), "arguments": {"gen_args_0": {"arg_0": "It rained in May."}}}, "weighed"),
    "one continuation": (lm_row("She opened the", " door"), "weighed"),
    "the same option twice": (lm_row("Warm?", " tea", target=0, more=[("Warm?", " Tea")]), "the same"),
    "an option that is none": (lm_row("Warm?", " ice", target="soup", more=[("Warm?", " tea")]), "'soup' is none of 2"),
    "the tests of a program": (lm_row("def twice(x):\n", target="assert twice(2) == 4\ncheck(twice)"), "nothing says how to score"),
    "one test of a program": (lm_row("def twice(x):\n", target="assert twice(2) == 4"), "nothing says how to score"),
    "a criterion": (lm_row("Write.", target="It is done when the reader is sure that each of the three points has been met in full."), "score"),
}  # fmt: skip


def lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("kind", ASKED_RIGHT)
def test_a_row_of_results_is_asked_as_it_means(kind: str, tmp_path: Path) -> None:
    row, asked, right = ASKED_RIGHT[kind]
    [prompt] = open_suite(lines(tmp_path / "l.jsonl", [row]))
    assert (prompt.prompt, prompt.right) == (asked, right)


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_a_row_that_is_no_question_is_left_out_by_name_and_refuses_no_file(kind: str, tmp_path: Path) -> None:
    row, why = LEFT_OUT[kind]
    plain = {**lm_row("3 + 4?"), "doc_id": 9}
    with pytest.raises(ConfigError, match=re.escape(why)):
        open_suite(lines(tmp_path / "one.jsonl", [row]))
    prompts, told = read_suite(lines(tmp_path / "two.jsonl", [row, plain]))
    assert [prompt.prompt for prompt in prompts] == ["3 + 4?"]
    assert why in "\n".join(told)


SAMPLE = {"epoch": 1, "metadata": {}, "input": "Is tea warm?", "target": "yes"}
ODD_SAMPLES: dict[str, tuple[Any, str]] = {
    "several turns": (
        {**SAMPLE, "id": 1, "input": [{"role": role, "content": "Hm"} for role in ("user", "assistant", "user")]}, "row 1: ValueError: a conv",
    ),
    "an image": (
        {**SAMPLE, "id": 1, "input": [{"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image", "image": "x"}]}]}, "(image)",
    ),
    "27 options": ({**SAMPLE, "id": 1, "choices": [f"o{number}" for number in range(27)], "target": "A"}, "27 options; at most 26"),
    "no input": ({"id": 1, "epoch": 1, "target": "a"}, "row 1: KeyError"),
    "no object": (17, "row 1: ValueError: a JSON int"),
    "a criterion": ({**SAMPLE, "id": 1, "target": "The grader is content when every one of these many points is met by it."}, "how to score"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD_SAMPLES)
def test_an_odd_sample_refuses_no_log(kind: str, tmp_path: Path) -> None:
    odd, why = ODD_SAMPLES[kind]
    log = {"version": 2, "samples": [odd, {**SAMPLE, "id": 2}]}
    (tmp_path / "log.json").write_text(json.dumps(log))
    prompts, told = read_suite(str(tmp_path / "log.json"))
    assert [prompt.id for prompt in prompts] == ["2"]
    assert why in "\n".join(told)


def test_a_line_that_is_no_object_refuses_no_file(tmp_path: Path) -> None:
    prompts, told = read_suite(lines(tmp_path / "l.jsonl", ['{"doc_id": ', '"{}"', lm_row("3 + 4?")]))
    assert [prompt.prompt for prompt in prompts] == ["3 + 4?"]
    assert [line.split("(")[0] for line in told] == [
        "2 rows are left out", "row 1: ValueError: no JSON ", "row 2: ValueError: a JSON str where an object is needed",
    ]  # fmt: skip


def test_a_number_is_a_target_and_a_system_message_is_told(tmp_path: Path) -> None:
    asked = {**SAMPLE, "id": 1, "target": 1200, "input": [{"role": "system", "content": "Count."}, {"role": "user", "content": "4 x 300?"}]}
    (tmp_path / "log.json").write_text(json.dumps({"samples": [asked]}))
    [prompt], told = read_suite(str(tmp_path / "log.json"))
    assert (prompt.prompt, prompt.right) == ("4 x 300?", ("1200",))
    assert told == ("1 samples have a system message, which is not asked; the first is row 1",)
    assert score_answer(prompt, "That makes 1,200.")[1] == 0


@pytest.mark.parametrize(
    ("right", "said", "outcome"),
    [
        ("2,400", "It is 2400 in all.", 0), ("2400", "It is 2,400.", 0), ("2400", "$2,400.00", 0), ("12.5", "12.50 metres", 0),
        ("-5", "It is \u22125 degrees.", 0), ("2400", "It is 24,00.", 1), ("2400", "2,400,000", 1), ("15", "150 or 1,5", 1),
        ("3", "1,2,3", 1), ("1.5", "version 1.5.2", 1), ("two", "2", 1),
    ],
)  # fmt: skip
def test_numbers_match_by_their_value(right: str, said: str, outcome: int) -> None:
    assert score_answer(SuitePrompt("1", "mine", "?", "c", "x", "match", (right,)), said)[1] == outcome


MIRRORS: dict[str, tuple[str, dict[str, Any], tuple[str, str, str]]] = {
    "JailbreakBench": (
        "behaviors.csv",
        {"Index": 0, "Goal": "Say how", "Target": "Sure", "Behavior": "Saying", "Category": "Fraud", "Source": "Original"},
        ("jailbreakbench", "Fraud", "harm"),
    ),
    "its benign half": (
        "benign-behaviors.csv",
        {"Index": 0, "Goal": "Say how", "Target": "Sure", "Behavior": "Saying", "Category": "Fraud", "Source": "Original"},
        ("jailbreakbench", "Fraud", "help"),
    ),
    "OR-Bench": ("or-bench-80k.csv", {"prompt": "Say how", "category": "deception"}, ("orbench", "deception", "help")),
    "its toxic half": ("or_bench_toxic.jsonl", {"prompt": "Say how", "category": "deception"}, ("orbench", "deception", "harm")),
    "Do-Not-Answer": (
        "dna.jsonl",
        {"id": 1, "risk_area": "Misuse", "types_of_harm": "Fraud", "specific_harm": "Scam", "question": "Say how"},
        ("donotanswer", "Fraud", "harm"),
    ),
    "SimpleSafetyTests": (
        "sst.csv",
        {"id": "sst_9", "harm_area": "Fraud", "counter": 9, "category": "Advice", "prompts_final": "Say how"},
        ("simplesafetytests", "Fraud", "harm"),
    ),
    "HarmBench on the hub": ("harmbench-standard.jsonl", {"prompt": "Say how", "category": "illegal"}, ("harmbench", "standard", "harm")),
    "StrongREJECT on the hub": ("StrongREJECT.csv", {"prompt": "Say how", "category": "Fraud"}, ("strongreject", "Fraud", "harm")),
    "AdvBench on the hub": ("train.csv", {"prompt": "Say how", "target": "Sure, here is how"}, ("advbench", "harmful", "harm")),
    "other capitals": ("s.csv", {"Forbidden Prompt": "Say how", "CATEGORY": "Fraud"}, ("strongreject", "Fraud", "harm")),
    "HarmBench": (
        "h.csv",
        {"Behavior": "Say how", "FunctionalCategory": "standard", "SemanticCategory": "illegal", "Tags": "", "ContextString": "", "BehaviorID": "b"},
        ("harmbench", "standard", "harm"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MIRRORS)
def test_a_mirror_of_a_public_suite_is_known(kind: str, tmp_path: Path) -> None:
    file, row, expected = MIRRORS[kind]
    if file.endswith(".csv"):
        with (tmp_path / file).open("w", newline="") as out:
            writer = csv.DictWriter(out, list(row))
            writer.writeheader()
            writer.writerow(row)
    else:
        lines(tmp_path / file, [row])
    [prompt] = open_suite(str(tmp_path / file))
    assert (prompt.suite, prompt.category, prompt.scorer, prompt.prompt) == (*expected, "Say how")
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / Path(file).with_suffix(".parquet"))
    assert open_suite(str(tmp_path / Path(file).with_suffix(".parquet"))) == [prompt]


@pytest.mark.parametrize("row", [{"prompt": "Say how", "category": "Fraud"}, {"prompt": "3 + 4?", "target": "7"}])
def test_a_file_that_could_be_anything_has_to_say_how_it_is_scored(row: dict[str, Any], tmp_path: Path) -> None:
    path = lines(tmp_path / "mine.jsonl", [row])
    with pytest.raises(ConfigError, match="give --scorer"):
        open_suite(path)
    assert open_suite(path, scorer="harm")[0].scorer == "harm"


def test_a_request_for_a_protected_text_is_scored_beside_that_text_only() -> None:
    text = "The lamp burned low while the snow went on falling over the empty yard and nobody came to shut the gate."
    asked = SuitePrompt("1", "mine", "Recite it.", "c", "copyright", "copyright")
    assert score_answer(asked, text)[1] is None
    known = replace(asked, right=(text,))
    assert [score_answer(known, said)[1] for said in (f"Gladly: {text}", "The lamp burned low, and it snowed.")] == [1, 0]
    assert (scorable(asked), scorable(known)) == (False, True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("goal,target\nSay how, and when,Sure\nDo it,Sure\n", "row 1: ValueError: it has more or fewer cells than the header"),
        ("goal,target\nSay how\nDo it,Sure\n", "row 1: ValueError: it has more or fewer cells than the header"),
    ],
)
def test_a_row_of_csv_that_is_cut_wrong_is_named(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    prompts, told = read_suite(str(tmp_path / "a.csv"))
    assert [prompt.prompt for prompt in prompts] == ["Do it"]
    assert any(line.startswith(why) for line in told)


def test_a_file_of_rows_that_are_all_cut_wrong_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("goal,target\nSay how, and when,Sure\n")
    with pytest.raises(ConfigError, match="row 1: it has more or fewer cells"):
        open_suite(str(tmp_path / "a.csv"))


def test_an_open_quote_mark_swallows_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('goal,target\nDo it,Sure\n"Say how,Sure\nTell me,Sure\n')
    with pytest.raises(InputError, match="begins on line 3 is no CSV"):
        open_suite(str(tmp_path / "a.csv"))


HARMBENCH = [
    ("Say how", "standard", "illegal"),
    ("Say more", "contextual", "illegal"),
    ("Say why", "standard", "harassment_bullying"),
    ("Recite it", "copyright", "copyright"),
]


def test_harmbench_is_reported_by_functional_and_by_semantic_category_and_copyright_is_not_scored(tmp_path: Path) -> None:
    path = tmp_path / "behaviours.csv"
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["Behavior", "FunctionalCategory", "SemanticCategory", "Tags", "ContextString", "BehaviorID"])
        writer.writerows([text, kind, topic, "", "A letter." if kind == "contextual" else "", text] for text, kind, topic in HARMBENCH)
    prompts = open_suite(str(path))
    assert [(prompt.category, prompt.topic, prompt.scorer) for prompt in prompts] == [
        (kind, topic, "copyright" if kind == "copyright" else "harm") for _, kind, topic in HARMBENCH
    ]
    said = ["Sure, here is how: first take the tools, then cut the wires.", *["I'm sorry, but I can't help with that."] * 3]
    rows = [result(prompt, [text], [score_answer(prompt, text)]) for prompt, text in zip(prompts, said, strict=True)]
    rows[0]["outcome"] = 1
    assert {line.category: (line.failures, line.n, line.unscored) for line in summarise(rows)} == {
        "standard": (1, 2, 0), "contextual": (0, 1, 0), "copyright": (0, 0, 1), "overall": (1, 3, 1),
    }  # fmt: skip
    assert {line.category: (line.failures, line.n, line.unscored) for line in topics(rows)} == {
        "illegal": (1, 2, 0), "harassment_bullying": (0, 1, 0), "copyright": (0, 0, 1),
    }  # fmt: skip
    assert [line.rate for line in (*summarise(rows), *topics(rows)) if line.category == "copyright"] == [None, None]


def test_a_mirrors_file_name_says_which_behaviours_it_holds(tmp_path: Path) -> None:
    for kind in ("standard", "contextual", "copyright"):
        topic = "copyright" if kind == "copyright" else "illegal"
        [prompt] = open_suite(lines(tmp_path / f"harmbench-{kind}.jsonl", [{"prompt": "Say how", "category": topic}]))
        assert (prompt.category, prompt.topic, prompt.scorer) == (kind, topic, "copyright" if kind == "copyright" else "harm")
