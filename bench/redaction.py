"""Measure how much personal data and how many secrets the fast rules miss, by kind, and how often they mask harmless text.

`python -m bench.redaction` prints the held-out set, `--development` the other. A value counts as missed if half of it can still be read
in one piece.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from alignment.ingest.normalize import view
from alignment.ingest.redact import redact
from bench.redaction_items import DEVELOPMENT, FILL, HARMLESS_DEVELOPMENT, HARMLESS_HELD_OUT, HELD_OUT, Item

KEY = b"bench"
HARMLESS = 500


class Result(NamedTuple):
    """The result of redacting one text."""

    kind: str
    text: str
    masked: str
    failed: bool


def items(lines: Sequence[Item], seed: int) -> Iterator[tuple[str, str, str]]:
    """Yield kind, text and value (in its plain form)."""
    draw = random.Random(seed)
    for kind, around, make, spell in lines:
        value = make(draw)
        yield kind, around.replace("{}", spell(value), 1).replace("{{", "{").replace("}}", "}"), value


def harmless(lines: Sequence[str], count: int, seed: int) -> Iterator[str]:
    """Yield `count` texts that name nobody."""
    draw = random.Random(seed)
    for number in range(count):
        text = lines[number % len(lines)].replace("{{", "\x02").replace("}}", "\x03")
        for name, make in FILL.items():
            while f"{{{name}}}" in text:
                text = text.replace(f"{{{name}}}", make(draw), 1)
        yield text.replace("\x02", "{").replace("\x03", "}")


def stays(masked: str, value: str) -> bool:
    """Return whether at least half of the value is in the masked text in one piece, however it is spelled."""
    left, whole = (view(text).text.casefold() for text in (masked, value))
    left, whole = ("".join(one for one in text if one.isalnum()) for text in (left, whole))
    return 2 * SequenceMatcher(None, left, whole, autojunk=False).find_longest_match().size >= len(whole)


def recall(lines: Sequence[Item], seed: int) -> list[Result]:
    """Return the results on the items."""
    found = []
    for kind, text, value in items(lines, seed):
        masked = redact(text, KEY)[0]
        found.append(Result(kind, text, masked, stays(masked, value)))
    return found


def false_alarms(lines: Sequence[str], seed: int, count: int = HARMLESS) -> list[Result]:
    """Return the results on the harmless texts."""
    return [Result("harmless", text, masked, masked != text) for text in harmless(lines, count, seed) for masked in (redact(text, KEY)[0],)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--development", action="store_true", help="the set that the rules were tuned on")
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--show", action="store_true", help="print what failed")
    given = parser.parse_args()
    lines, plain = (DEVELOPMENT, HARMLESS_DEVELOPMENT) if given.development else (HELD_OUT, HARMLESS_HELD_OUT)
    found, alarms = recall(lines, given.seed), false_alarms(plain, given.seed)
    by_kind: dict[str, list[Result]] = defaultdict(list)
    for one in found:
        by_kind[one.kind].append(one)
    print(f"{'kind':14}{'items':>6}{'stay':>6}")
    for kind, results in [*by_kind.items(), ("all", found), ("look-alikes", alarms)]:
        print(f"{kind:14}{len(results):>6}{sum(one.failed for one in results):>6}")
    if given.show:
        for one in [*found, *alarms]:
            if one.failed:
                print(f"{one.kind}: {one.text!r}\n   -> {one.masked!r}")


if __name__ == "__main__":
    main()
