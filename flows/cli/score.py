"""`align score`: try the detectors on your own data."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Annotated

import typer

from alignment.errors import InputError
from flows.cli.base import Misuse, app, command
from flows.environment import quiet_models

_SHOWN = 5


@command(app, "score")
def score_command(
    source: Annotated[str, typer.Argument(metavar="IN.jsonl", help="lines of {prompt, response}, either may be missing; - is stdin")],
    out: Annotated[str, typer.Option("--out", help="output file for the scored lines; - is stdout")] = "-",
) -> None:
    """Add the detectors' scores, flags and places of personal data to each line. Exit status 1 if a line could not be scored.

    Added keys: harmful_request, refusal, harmful_answer, toxicity (0 to 1, null where their text is missing), flags, and pii (field, kind,
    start, end; never the value). The input's keys of these names are replaced, all others are kept; a line that cannot be scored gets
    'error' and 'line' instead. No store is needed.
    """
    if source != "-" and out != "-" and Path(source).resolve() == Path(out).resolve():
        raise Misuse(f"--out {out!r} is the input itself; name another file")
    quiet_models()
    with _reading(source) as lines, _writing(out) as target:
        bad = _score(lines, target)
    for number, error in bad[:_SHOWN]:
        print(f"line {number}: {error}", file=sys.stderr)
    if bad:
        raise InputError(f"{len(bad)} lines could not be scored; they are in the output with an 'error' of their own")


def _score(lines: Iterable[bytes], target: IO[bytes]) -> list[tuple[int, str]]:
    from alignment.config import load_settings
    from alignment.models.embedder import Embedder
    from alignment.moderation import DETECTORS, score_texts
    from flows.score import ADDED, score_lines

    embedder = Embedder()
    thresholds = {one.name: one.threshold for one in DETECTORS} | load_settings().moderation.model_dump()
    bad: list[tuple[int, str]] = []
    replaced: set[str] = set()
    begun, done = time.monotonic(), 0
    for block in score_lines(lines, lambda asked, said: score_texts(asked, said, embedder=embedder), thresholds=thresholds):
        target.writelines(f"{text}\n".encode() for _, text in block)
        target.flush()
        own = {name for line, _ in block if not line.error for name in line.row.keys() & {*ADDED, "error"}}
        if own - replaced:
            print(f"replaced keys of the input: {', '.join(sorted(own - replaced))}", file=sys.stderr)
        replaced |= own
        bad += [(line.number, line.error) for line, _ in block if line.error]
        done += len(block)
        print(f"scored {done:,} lines ({done / (time.monotonic() - begun):.0f} a second)", file=sys.stderr)
    return bad


def _reading(source: str) -> IO[bytes] | nullcontext[IO[bytes]]:
    if source == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(source).open("rb")
    except OSError as error:
        raise InputError(f"cannot read {source!r}: {error.strerror}; give a JSON Lines file or - for stdin") from error


@contextmanager
def _writing(out: str) -> Iterator[IO[bytes]]:
    """Yield the output stream. A file gets its name only when it is complete."""
    if out == "-":
        yield sys.stdout.buffer
        return
    part = Path(f"{out}.partial")
    try:
        file = part.open("wb")
    except OSError as error:
        raise InputError(f"cannot write {str(part)!r}: {error.strerror}; name a file in a folder that can be written") from error
    with file:
        yield file
    os.replace(part, out)
