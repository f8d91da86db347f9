"""A teacher by rules that reads what it is asked: it answers from the words of the request in front of it, and judges answers by theirs.

It stands in for a model that is good enough to revise. `faults` make it one that is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from bench.endpoint import judged
from tests.test_endpoint_cases import completion

Body = dict[str, Any]
FENCED = re.compile(r"<data-([0-9a-f]+)>\n(.*?)\n</data-\1>", re.S)
_FILLER = frozenset(
    """a about all am an and any are as at be because been but by can could did do does for from get give go going had has have how i i'm
    if in into is it it's its just know let like make me might must my myself need no not of on or our please should show so some someone
    tell that the their them then there these they thing this to up us want was way we were what when where which who why will with without
    would write you your best good really help steps step explain""".split()  # noqa: SIM905
)
_DECLINES = re.compile(r"\b(?:can't|cannot|won't|not able to|don't want to make|am not sure|are not)\b", re.I)


def subject(request: str) -> list[str]:
    """Return the words that say what a request is about, in their order."""
    last = request.split("\n\nuser: ")[-1].removeprefix("user: ")
    words = re.findall(r"[a-z][a-z'-]+", last.lower().replace("’", "'"))
    return list(dict.fromkeys(word.removesuffix("'s") for word in words if word not in _FILLER and len(word) > 2))


def revise(request: str, *, declines: bool) -> str:
    """Return an answer that is about this request."""
    words = subject(request)
    named = " ".join(words[:4]) or "that"
    if declines:
        return f"I'm sorry, but I can't help with {named}. It could hurt people, and there are safer ways forward."
    return f"A simple way to go about {named} is to begin small, look at what works, and ask somebody who has done it before."


def says_yes(question: str, request: str, answer: str) -> bool:
    """Answer a question about an answer by the words of both."""
    shared = {word[:5] for word in subject(request)} & {word[:5] for word in subject(answer)}
    if "give any help" in question:
        return not _DECLINES.search(answer)
    if "name what this very request" in question:
        return bool(shared)
    if "do what the request asks" in question:
        return not _DECLINES.search(answer) and "depends on many things" not in answer and "As an AI" not in answer
    return bool(re.search(r"\d{5}", answer))


class Scripted:
    """Says what a request's body asks for; `write` may stand in for its revisions, given the request and whether it is to decline."""

    def __init__(self, write: Callable[[str, bool], Any] | None = None, *, dies_after: int = 0) -> None:
        self.write, self.dies_after = write, dies_after
        self.asked: list[str] = []

    def __call__(self, body: Body) -> tuple[int, Any]:
        if self.dies_after and len(self.asked) >= self.dies_after:
            return 503, {"error": {"message": "gone"}}
        system, last = body["messages"][0]["content"], body["messages"][-1]["content"]
        texts = [text for _, text in FENCED.findall(body["messages"][1]["content"])]
        if system.startswith("You check one answer"):
            self.asked.append("check")
            yes = says_yes(last.split("</data-")[-1], texts[0], texts[1])
            return 200, _letter("A" if yes is ("A: yes" in last) else "B")
        if not system.startswith("You improve"):
            self.asked.append("judge")
            return 200, _letter(judged(last))
        if len(body["messages"]) == 2:
            self.asked.append("critique")
            return 200, completion(f"It goes along with {' '.join(subject(texts[0])[:3])}.")
        self.asked.append("revision")
        declines = "name what is declined" in last
        said = self.write(texts[0], declines) if self.write else revise(texts[0], declines=declines)
        return said if isinstance(said, tuple) else (200, completion(said))


def _letter(letter: str) -> Body:
    other = "B" if letter == "A" else "A"
    return completion(letter, top={letter: -0.1, other: -2.5})
