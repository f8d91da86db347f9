"""The texts that the heads are fitted on: this project's own examples and, at fitting time only, public research sets.

Of GPTFuzz only answers to questions with an even index are read, and no JailbreakBench answers: the rest belongs to the gate's scorers.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

CATEGORIES = (
    "violence", "weapons", "self_harm", "hate", "sexual", "crime", "fraud", "privacy", "malware", "misinformation",
)  # fmt: skip
OWN = Path(__file__).parent / "data"
_MODERATION_CATEGORY = {"V": "violence", "S": "sexual", "SH": "self_harm", "H": "hate", "HR": "hate", "V2": "violence"}
_RBR_REFUSES = ("inability_to_comply", "reference_safety_policy", "apology")


class Request(NamedTuple):
    """A user's message: `harm` is 0 or 1, `category` one of CATEGORIES or None; rows of one `group` are never split."""

    text: str
    harm: int
    category: str | None
    source: str
    group: str


class Answered(NamedTuple):
    """A model's answer; a label is 0, 1, or None where nobody labelled it."""

    prompt: str
    response: str
    refusal: int | None
    harmful: int | None
    source: str
    group: str


def own_requests() -> list[Request]:
    """Return the project's own requests: harmful ones, safe look-alikes and ordinary ones."""
    return [
        Request(row["text"], int(row["label"] == "harm"), row["category"] if row["label"] == "harm" else None,
                f"own-{row['label']}", f"own-{number // 4}")
        for number, row in enumerate(_jsonl(OWN / "requests.jsonl"))
    ]  # fmt: skip


def own_answers() -> list[Answered]:
    """Return the project's own labelled answers."""
    return [
        Answered(row["prompt"], row["response"], row["refusal"], row["harmful"], f"own-{row['source']}", row["prompt"])
        for row in _jsonl(OWN / "answers.jsonl")
    ]


def public_requests(folder: Path) -> list[Request]:
    """Return harmful and harmless requests of the public sets in `folder`."""
    rows = [
        Request(row["Behavior"], 1, None, "advbench", f"adv-{i}")
        for i, row in enumerate(_csv(folder / "advbench.csv"))
    ]
    rows += [
        Request(row["Behavior"], 1, None, "harmbench", f"hb-{i}")
        for i, row in enumerate(_csv(folder / "harmbench_val.csv"))
        if not row["ContextString"]
    ]
    rows += [
        Request(row["text"], 1, None, "gptfuzz-questions", f"gq-{i}")
        for i, row in enumerate(_csv(folder / "gptfuzz_questions.csv"))
        if i % 2 == 0
    ]
    return rows + list(_rbr_requests(folder)) + list(_moderation_requests(folder))


def _rbr_requests(folder: Path) -> Iterator[Request]:
    for i, row in enumerate(_jsonl(folder / "rbr_train.jsonl")):
        text = row["prompt"][-1]["content"]
        if row["response_type"] in {"Comply", "Hard Refuse"}:
            yield Request(text, int(row["response_type"] == "Hard Refuse"), None, "rbr", f"rbr-{text[:60]}-{i % 1}")


def _moderation_requests(folder: Path) -> Iterator[Request]:
    for i, row in enumerate(_jsonl(folder / "openai_moderation_first840.jsonl")):
        hits = [key for key, value in row.items() if key in _MODERATION_CATEGORY and value == 1]
        category = _MODERATION_CATEGORY[hits[0]] if hits else None
        yield Request(row["prompt"], int(bool(hits)), category, "openai-moderation", f"mod-{i}")


def public_answers(folder: Path) -> list[Answered]:
    """Return labelled answers of the public sets in `folder`."""
    return [*_gptfuzz(folder), *_rbr_answers(folder)]


def _gptfuzz(folder: Path) -> Iterator[Answered]:
    questions = {row["index"]: row["text"] for row in _csv(folder / "gptfuzz_questions.csv")}
    for row in _csv(folder / "gptfuzz_train.csv.gz"):
        index = row["question"]
        if int(index) % 2 == 0:
            label = int(row["label"])
            yield Answered(questions[index], row["Response"], None, label, "gptfuzz-even", f"gptfuzz-{index}")


def _rbr_answers(folder: Path) -> Iterator[Answered]:
    for row in _jsonl(folder / "rbr_train.jsonl"):
        labels, prompt = row["propositions"], row["prompt"][-1]["content"]
        answer = row["completion"][-1]["content"]
        complies = labels["fully_complies"]
        refuses = any(labels[name] for name in _RBR_REFUSES) and not complies
        harmful = None if row["response_type"] != "Comply" and not labels["disallowed_content"] else int(labels["disallowed_content"])
        refusal = 1 if refuses else 0 if complies and not labels["apology"] else None
        yield Answered(prompt, answer, refusal, harmful, "rbr", f"rbr-{prompt[:60]}")


def _csv(path: Path) -> list[dict[str, str]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")))


def _jsonl(path: Path) -> list[dict[str, Any]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.decode("utf-8").split("\n") if line.strip()]
