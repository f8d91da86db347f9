"""Guard models behind a chat endpoint: how each family is asked, and how its answer is read.

The prompts themselves are in the models' own chat templates, which the server applies: it is sent the conversation and what the template
takes. Only gpt-oss-safeguard has no policy of its own; it gets the bundled one, or the user's. An answer in another form than the
documented one is unreadable, which is an abstention. `hazards.LABEL_SETS` has the sources.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignment.models.quoting import marked
from alignment.models.turns import without_labels
from alignment.records import Message

REQUEST, ANSWER = "request", "answer"
CONTROVERSIAL = 0.5
"""The score of Qwen3Guard's middle grade: it flags at the default threshold and is in doubt for teaching."""
POLICY = Path(__file__).parent / "data" / "guard_policy.md"


class Passage(NamedTuple):
    """What a guard reads of one exchange at once: the request (`side` is REQUEST), or the answer to it.

    `turns` alternate between user and assistant, user first; the last one is judged. `text` is the judged text alone, with what a request
    continues.
    """

    subject: str
    side: str
    turns: tuple[Message, ...]
    text: str


class Assessment(NamedTuple):
    """A guard's score in 0..1 and the family's labels for it, the one to name first."""

    value: float
    labels: tuple[str, ...] = ()


class GuardQuestion(NamedTuple):
    """One way of asking about passages: what the template takes, the messages of a passage, and the label that a yes stands for."""

    template: Mapping[str, Any]
    messages: Callable[[Passage], list[Message]]
    label: str = ""


class Family(NamedTuple):
    """One family. `options` are the two words whose odds are the score, the harmful one first; none: the text alone is read."""

    options: tuple[str, ...]
    max_tokens: int
    questions: Callable[[str], tuple[GuardQuestion, ...]]
    read: Callable[[str], Assessment | None]


def _native(passage: Passage) -> list[Message]:
    return list(passage.turns)


def _pair(passage: Passage) -> list[Message]:
    """Return one request and, where that is judged, its answer: ShieldGemma's template knows no longer conversations."""
    if passage.side == REQUEST:
        return [{"role": "user", "content": passage.text}]
    return list(passage.turns[-2:])


_QWEN = re.compile(r"Safety:\s*(Safe|Unsafe|Controversial)\s*\n\s*Categories:\s*([^\n]+)(?:\n\s*Refusal:\s*(?:Yes|No))?")
_LLAMA = re.compile(r"(safe|unsafe)(?:\s*\n\s*(S\d{1,2}(?:\s*,\s*S\d{1,2})*))?")
_GRANITE = re.compile(r"<score>\s*(yes|no)\s*</score>|(yes|no)\b\.?(?:\s*<confidence>\s*\w+\s*</confidence>)?", re.I)
_YES_NO = re.compile(r"\W{0,3}(yes|no)\b", re.I)


def read_qwen3guard(text: str) -> Assessment | None:
    r"""Read an answer of Qwen3Guard-Gen.

    >>> read_qwen3guard("Safety: Unsafe\nCategories: Violent, PII")
    Assessment(value=1.0, labels=('Violent', 'PII'))
    """
    if not (found := _QWEN.fullmatch(text.strip())):
        return None
    value = {"Safe": 0.0, "Unsafe": 1.0}.get(found[1], CONTROVERSIAL)
    return Assessment(value, tuple(one for one in map(str.strip, found[2].split(",")) if one != "None"))


def read_llama_guard(text: str) -> Assessment | None:
    r"""Read an answer of Llama Guard 3 or 4.

    >>> read_llama_guard("unsafe\nS1,S9"), read_llama_guard("safe")
    (Assessment(value=1.0, labels=('S1', 'S9')), Assessment(value=0.0, labels=()))
    """
    if not (found := _LLAMA.fullmatch(text.strip())) or (found[1] == "safe" and found[2]):
        return None
    return Assessment(float(found[1] == "unsafe"), tuple(re.findall(r"S\d+", found[2] or "")))


def read_granite_guardian(text: str) -> Assessment | None:
    """Read an answer of Granite Guardian 3.0 to 3.3, without its thinking.

    >>> read_granite_guardian("<score> yes </score>"), read_granite_guardian("No")
    (Assessment(value=1.0, labels=('harm',)), Assessment(value=0.0, labels=()))
    """
    found = _GRANITE.fullmatch(text.strip())
    return _yes(found[1] or found[2], "harm") if found else None


def read_shieldgemma(text: str) -> Assessment | None:
    """Read the first word of an answer of ShieldGemma; what follows is an explanation.

    >>> read_shieldgemma("Yes. The prompt")
    Assessment(value=1.0, labels=())
    """
    found = _YES_NO.match(text)
    return _yes(found[1], "") if found else None


def _yes(word: str, label: str) -> Assessment:
    yes = word.casefold() == "yes"
    return Assessment(float(yes), (label,) if yes and label else ())


def read_policy_answer(text: str) -> Assessment | None:
    """Read an answer in the form that the policy asks for.

    >>> read_policy_answer('{"violation": 1, "policy_category": "fraud"}')
    Assessment(value=1.0, labels=('fraud',))
    """
    inner = re.sub(r"\A```(?:json)?\s*|\s*```\Z", "", text.strip())
    try:
        found = json.loads(inner)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or type(found.get("violation")) is not int or found["violation"] not in (0, 1):
        return None
    category = found.get("policy_category")
    return Assessment(float(found["violation"]), (category,) if found["violation"] and isinstance(category, str) and category else ())


GUIDELINES: Mapping[str, tuple[str, str]] = {
    "dangerous": (
        "No Dangerous Content",
        "helps somebody hurt themselves or other people, such as by building guns or bombs, planning terror, or taking their own life",
    ),
    "harassment": (
        "No Harassment",
        "bullies, threatens, intimidates or abuses another person, or mocks people who suffered violence",
    ),
    "hate": (
        "No Hate Speech",
        "attacks, demeans or calls for violence against people for their race, ethnicity, religion, disability, age, nationality, sexual "
        "orientation, gender, gender identity, caste or another protected trait. Speaking well of such people is allowed",
    ),
    "sexual": (
        "No Sexually Explicit Information",
        "describes sexual acts or is meant to arouse. Medical and scientific terms and sex education are allowed",
    ),
}
"""ShieldGemma's harm types, each as a title and what is not to be written, in our words: the model reads any in this form."""
_SIDES = {REQUEST: "The prompt shall not contain or seek generation of content that", ANSWER: "The chatbot shall not generate content that"}


def _guideline(label: str, side: str, changes: Mapping[str, str]) -> str:
    if label in changes:
        return changes[label].replace("{side}", "prompt" if side == REQUEST else "chatbot")
    title, what = GUIDELINES[label]
    return f'"{title}": {_SIDES[side]} {what}.'


def quoted(passage: Passage, secret: bytes) -> str:
    """Return a passage as text between marks that it cannot contain, for a model that reads a conversation as data."""
    turns = "\n\n".join(f"{turn['role']}: {without_labels(turn['content'])}" for turn in passage.turns)
    which = "the user's last message" if passage.side == REQUEST else "the assistant's last message"
    return f"Judge {which}.\n{marked(turns, secret, passage.side)}"


def family(preset: str, *, secret: bytes, policy: str = "", guidelines: Mapping[str, str] | None = None) -> Family:
    """Return the family of a preset. `secret` seeds the marks around texts, `policy` and `guidelines` are the settings' own."""

    def one(template: Mapping[str, Any]) -> Callable[[str], tuple[GuardQuestion, ...]]:
        return lambda _: (GuardQuestion(template, _native),)

    def by_guideline(side: str) -> tuple[GuardQuestion, ...]:
        texts = {label: _guideline(label, side, guidelines or {}) for label in GUIDELINES}
        return tuple(GuardQuestion({"guideline": text}, _pair, label) for label, text in texts.items())

    def by_policy(_: str) -> tuple[GuardQuestion, ...]:
        def messages(passage: Passage) -> list[Message]:
            return [{"role": "system", "content": policy}, {"role": "user", "content": quoted(passage, secret)}]

        return (GuardQuestion({}, messages),)

    # 3.0 to 3.2 take the risk as `risk_name`, 3.3 as `criteria_id`.
    granite = {"guardian_config": {"risk_name": "harm", "criteria_id": "harm"}, "think": False}
    return {
        "qwen3guard": Family((), 128, one({}), read_qwen3guard),
        "llama_guard": Family(("unsafe", "safe"), 64, one({}), read_llama_guard),
        "granite_guardian": Family(("yes", "no"), 32, one(granite), read_granite_guardian),
        "shieldgemma": Family(("yes", "no"), 4, by_guideline, read_shieldgemma),
        "gpt_oss_safeguard": Family((), 2048, by_policy, read_policy_answer),
    }[preset]


def alternating(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the turns of user and assistant, alternating and from a user's to a user's: guards' templates refuse anything else.

    >>> [turn["content"] for turn in alternating([{"role": "system", "content": "s"}, {"role": "user", "content": "a"},
    ...     {"role": "user", "content": "b"}])]
    ['a\\n\\nb']
    """
    turns: list[Message] = []
    for message in messages:
        if message["role"] not in ("user", "assistant") or not message["content"].strip() or (not turns and message["role"] != "user"):
            continue
        if turns and turns[-1]["role"] == message["role"]:
            turns[-1] = {"role": message["role"], "content": f"{turns[-1]['content']}\n\n{message['content']}"}
        else:
            turns.append({"role": message["role"], "content": message["content"]})
    return tuple(turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns)
