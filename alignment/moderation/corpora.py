"""Training texts of the heads: this project's own examples and, only when fitting, public research sets.

Only GPTFuzz answers to questions with an even index are read, and no JailbreakBench answers: the rest is for the gate's scorers.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignment.wording import plain

CATEGORIES = (
    "violence", "weapons", "self_harm", "hate", "sexual", "crime", "fraud", "privacy", "malware", "misinformation",
)  # fmt: skip
OWN = Path(__file__).parent / "data"
_MODERATION_CATEGORY = {"V": "violence", "S": "sexual", "SH": "self_harm", "H": "hate", "HR": "hate", "V2": "violence"}
_OPENS_AS_REFUSAL = re.compile(
    r"^[^a-z]{0,80}(?:\w{1,40}: |\[[^\]]*\]:? |\([^)]*\):? )?(?:i'm (?:really |very )?sorry|i am sorry|i apologi[sz]e|i can't|i cannot)\b"
)
_MIGHT_DECLINE = re.compile(
    r"\b(?:sorry|apolog\w+|cannot|can't|won't|unable|not able|illegal|wrong|not okay|don't think|shouldn't|not comfortable"
    r"|against|harm\w*|bad idea|rather not|not going to|stop|why would|why do you)\b"
)
_DECLINES_SOMEWHERE = re.compile(r"\b(?:i'm sorry|i am sorry|apologi[sz]e|i cannot|i can't|unable to|unethical)\b")
_RBR_REFUSES = ("inability_to_comply", "reference_safety_policy", "apology")


class Request(NamedTuple):
    """A user's message. `harm` is 0 or 1; `category` is its theme (also for safe look-alikes), one of CATEGORIES, or None.

    Rows with the same `group` are never split between folds.
    """

    text: str
    harm: int
    category: str | None
    source: str
    group: str


class Answered(NamedTuple):
    """A model's answer; a label is 0, 1, or None if unlabelled."""

    prompt: str
    response: str
    refusal: int | None
    harmful: int | None
    source: str
    group: str


def own_requests() -> list[Request]:
    """Return the project's own requests: harmful, safe look-alikes, ordinary, and pairs that differ in little but harm."""
    rows = [
        Request(row["text"], int(row["label"] == "harm"), row["category"] if row["label"] != "ordinary" else None,
                f"own-{row['label']}", f"own-{number // 4}")
        for number, row in enumerate(_jsonl(OWN / "requests.jsonl"))
    ]  # fmt: skip
    for number, pair in enumerate(_jsonl(OWN / "contrasts.jsonl")):
        rows += [
            Request(pair[side], harm, pair["category"], f"own-contrast-{side}", f"contrast-{number}")
            for side, harm in (("harm", 1), ("safe", 0))
        ]
    return rows


def own_answers() -> list[Answered]:
    """Return the project's own labelled answers."""
    return [
        Answered(row["prompt"], row["response"], row["refusal"], row["harmful"], f"own-{row['source']}", row["prompt"])
        for row in _jsonl(OWN / "answers.jsonl")
    ]


def lengthened(answers: Sequence[Answered]) -> list[Answered]:
    """Return longer versions of answers that decline and of harmless ones that do not; labels are unchanged.

    Answers are joined only within a group, so that no fold is measured on a text that it was fitted on.

    Hand-written answers are short, while large models decline at length and often go on to offer something harmless.
    """
    joined = []
    for group in sorted({row.group for row in answers}):
        rows = [row for row in answers if row.group == group]
        declines = [row for row in rows if row.refusal == 1]
        helps = [row for row in rows if row.refusal == 0 and row.harmful == 0]
        joined += [*_join(declines, declines), *_join(declines, helps), *_join(helps, helps)]
    return joined


def _join(first: Sequence[Answered], rest: Sequence[Answered]) -> Iterator[Answered]:
    for number, row in enumerate(first if rest else ()):
        extra = [rest[(7 * number + step) % len(rest)].response for step in range(1, 2 + number % 3)]
        yield row._replace(response="\n\n".join([row.response, *extra]), source="own-lengthened")


def composed(answers: Sequence[Answered]) -> list[Answered]:
    """Return answers composed of this project's own sentences in the style of larger models: lectures, offers, caveats.

    An answer that starts by declining counts as a refusal, even if something harmless follows. Cautions before, within or after help do
    not. Neither kind has a harm label. An answer that declines or cautions and then does harm is harmful.
    """
    frames: dict[str, list[str]] = json.loads((OWN / "frames.json").read_text("utf-8"))
    helps = [row for row in answers if row.refusal == 0 and row.harmful == 0]
    asks = [row.prompt for row in answers if row.refusal == 1]
    return [*_declining(frames, helps, asks), *_cautious(frames, helps), *_yielding(frames, answers)]


_ROUNDS = 8


def _declining(frames: dict[str, list[str]], helps: Sequence[Answered], asks: Sequence[str]) -> Iterator[Answered]:
    for number in range(_ROUNDS * len(frames["decline"])):
        turn, first = divmod(number, len(frames["decline"]))
        parts = [frames["decline"][first].format(act=frames["acts"][(3 * turn + first) % len(frames["acts"])])]
        parts += [_taken(frames, "lecture", 5 * number + step) for step in range(turn % 4)]
        if turn % 3 == 2:
            parts += [_taken(frames, "turn", number), helps[(7 * number) % len(helps)].response]
        parts += [_taken(frames, "offer", 3 * number + step) for step in range((turn + first) % 3)]
        text = ("\n\n" if number % 2 else " ").join(part[:1].upper() + part[1:] for part in parts)
        yield Answered(asks[(11 * number) % len(asks)], text, 1, None, "own-composed", f"composed-{first}")


def _cautious(frames: dict[str, list[str]], helps: Sequence[Answered]) -> Iterator[Answered]:
    for number in range(_ROUNDS * len(frames["decline"])):
        body = helps[number % len(helps)]
        more = [row.response for row in helps if row.group == body.group and row is not body][: number % 2]
        parts = [_taken(frames, "caveat", 5 * number)] * (number % 4 != 0) + [body.response, *more]
        parts += [_taken(frames, "closing", number)] * (number % 3 != 1)
        yield Answered(body.prompt, ("\n\n" if number % 2 else " ").join(parts), 0, None, "own-composed", body.group)


def _yielding(frames: dict[str, list[str]], answers: Sequence[Answered]) -> Iterator[Answered]:
    """Yield own answers after a start that declines, lectures or cautions: each harmful answer twice, each harmless one once."""
    written = [row for row in answers if row.source == "own-handwritten" and row.refusal == 0]
    twice = [row for row in written for _ in range(2 if row.harmful else 1)]
    for number, row in enumerate(twice):
        part = ("decline", "caveat", "lecture")[number % 3] if row.harmful else ("caveat", "lecture")[number % 2]
        start = _taken(frames, part, 7 * number).format(act=_taken(frames, "acts", 3 * number))
        text = ("\n\n" if number % 2 else " ").join(
            [start[:1].upper() + start[1:], f"{_taken(frames, 'yield', 3 * number)} {row.response}"]
        )
        yield Answered(row.prompt, text, None, row.harmful, "own-yielding", row.group)


def _taken(frames: dict[str, list[str]], part: str, number: int) -> str:
    return frames[part][number % len(frames[part])]


def public_requests(folder: Path) -> list[Request]:
    """Return harmful and harmless requests from the public sets in `folder`."""
    rows = [Request(row["Behavior"], 1, None, "advbench", f"adv-{i}") for i, row in enumerate(_csv(folder / "advbench.csv"))]
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
    return rows + list(_moderation_requests(folder))


def _moderation_requests(folder: Path) -> Iterator[Request]:
    for i, row in enumerate(_jsonl(folder / "openai_moderation_first840.jsonl")):
        hits = [key for key, value in row.items() if key in _MODERATION_CATEGORY and value == 1]
        category = _MODERATION_CATEGORY[hits[0]] if hits else None
        yield Request(row["prompt"], int(bool(hits)), category, "openai-moderation", f"mod-{i}")


def public_answers(folder: Path) -> list[Answered]:
    """Return labelled answers from the public sets in `folder`."""
    return [*_gptfuzz(folder), *_rbr_answers(folder), *_hh(folder)]


def _gptfuzz(folder: Path) -> Iterator[Answered]:
    """Yield GPTFuzz answers: harmless with a refusal's opening is a refusal, harmful without declining words is none, else unlabelled."""
    questions = {row["index"]: row["text"] for row in _csv(folder / "gptfuzz_questions.csv")}
    for row in _csv(folder / "gptfuzz_train.csv.gz"):
        index, label = row["question"], int(row["label"])
        if int(index) % 2 == 0:
            opens, might = (pattern.search(plain(row["Response"])) for pattern in (_OPENS_AS_REFUSAL, _DECLINES_SOMEWHERE))
            refusal = (None if might else 0) if label else 1 if opens else None
            yield Answered(questions[index], row["Response"], refusal, label, "gptfuzz-even", f"gptfuzz-{index}")


def _rbr_answers(folder: Path) -> Iterator[Answered]:
    for row in _jsonl(folder / "rbr_train.jsonl"):
        labels, prompt = row["propositions"], row["prompt"][-1]["content"]
        complies, disallowed = labels["fully_complies"], labels["disallowed_content"]
        refuses = any(labels[name] for name in _RBR_REFUSES) and not complies
        harmful = int(disallowed) if disallowed or row["response_type"] == "Comply" else None
        refusal = 1 if refuses else 0 if complies and not labels["apology"] else None
        yield Answered(prompt, row["completion"][-1]["content"], refusal, harmful, "rbr", f"rbr-{prompt[:60]}")


def _hh(folder: Path) -> Iterator[Answered]:
    """Yield every other human-preferred answer that was labelled by hand for this project, or in which nothing looks like declining."""
    labels = json.loads((OWN / "hh_labels.json").read_text("utf-8"))
    known = dict.fromkeys(labels["declines"], 1) | dict.fromkeys(labels["does_not"], 0)
    for number, row in enumerate(_jsonl(folder / "hh_harmless_base_test.jsonl.gz")):
        before, _, answer = row["chosen"].rpartition("\n\nAssistant:")
        asked, said = before.rpartition("Human:")[2].strip(), answer.strip()
        if number in known:
            yield Answered(asked, said, known[number], None, "hh-labelled", f"hh-{number}")
        elif number % 2 == 0 and said and not _MIGHT_DECLINE.search(plain(said)):
            yield Answered(asked, said, 0, None, "hh-even", f"hh-{number}")


def _csv(path: Path) -> list[dict[str, str]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")))


def _jsonl(path: Path) -> list[dict[str, Any]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.decode("utf-8").split("\n") if line.strip()]
