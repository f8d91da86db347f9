"""Exchanges a second of the full path and of the cascade, interleaved, on three streams, and what the cascade's first stage loses.

The streams: the bundled traffic, HH dialogues of an odd number (nothing was fitted on them), and ordinary traffic with 2% harm, made of
both. Each round times the first stage and the full path on the same exchanges; what the cascade takes follows from both, its share passed
on and its audit. What is flagged is what the full path flags, other than personal data.

Effects: loads the embedding model; reads `ALIGN_DATA_DIR`; measures memory in a process of its own.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from gzip import open as open_gzip
from importlib.resources import files
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from alignment.records import Interaction

HARM, AUDIT = 0.02, 0.02
_TURN = re.compile(r"\n\n(Human|Assistant):")
_BLOCK = 4096


class Stream(NamedTuple):
    """One stream. Rates are exchanges per second; `times` is the cascade's over the full path's, `at_best` that of a perfect first stage.

    `recall` is of what the full path flags, `auc_lost` the full path's AUC for labelled harm less the cascade's, where there are labels.
    """

    stream: str
    n: int
    flagged: float
    passed: float
    full_rate: float
    first_stage_rate: float
    cascade_rate: float
    times: float
    at_best: float
    recall: float
    recall_low: float
    auc_lost: float | None


def bundled() -> Iterator[tuple[Interaction, bool | None]]:
    """Yield the sample traffic's usable exchanges, and whether the request was written to be harmful."""
    folder = files("alignment.samples")
    kinds = {row["text"]: row["kind"] for row in map(json.loads, (folder / "prompts.jsonl").read_text("utf-8").splitlines())}
    with open_gzip(str(folder / "traffic.jsonl.gz"), "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            try:
                row = json.loads(line)
                opening = row["messages"][0]["content"]
                known = kinds.get(opening)
                yield exchange(f"b{number}", row["messages"], row["response"]), None if known is None else known == "harm"
            except (ValueError, KeyError, TypeError, IndexError):
                continue  # A few sample lines are broken on purpose.


def dialogues(folder: Path) -> Iterator[tuple[Interaction, bool | None]]:
    """Yield HH dialogues of an odd number; nobody labelled them."""
    with open_gzip(folder / "hh_harmless_base_test.jsonl.gz", "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if number % 2:
                parts = _TURN.split(json.loads(line)["chosen"])[1:]
                turns = [
                    {"role": "user" if who == "Human" else "assistant", "content": said.strip()}
                    for who, said in zip(parts[::2], parts[1::2], strict=True)
                ]
                yield exchange(f"h{number}", turns[:-1], turns[-1]["content"]), None


def exchange(name: str, messages: Sequence[Any], response: str) -> Interaction:
    """Return an exchange as the store would give it."""
    return Interaction(name, "", "", datetime(2026, 1, 1, tzinfo=UTC), "", tuple(messages), response)


def run(exchanges: int, rounds: int, memory: int, folder: Path | None, *, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Return `streams` (a `Stream` each) and `memory` (MiB by number of exchanges that the first stage read; empty if `memory` is 0)."""
    draw = random.Random(seed)
    traffic = list(bundled())
    draw.shuffle(traffic)
    streams = {"bundled": traffic[:exchanges]}
    harmless = [one for one in traffic if one[1] is False]
    harmful = [one for one in traffic if one[1]]
    if folder:
        talks = list(dialogues(folder))
        draw.shuffle(talks)
        streams["hh"] = talks[:exchanges]
    few = max(1, round(HARM * exchanges))
    streams["2% harm"] = [*harmless[: exchanges - few], *harmful[:few]]
    draw.shuffle(streams["2% harm"])
    found = [_measured(name, rows, rounds)._asdict() for name, rows in streams.items()]
    return {"streams": found, "memory": [_memory(number) for number in (memory // 10, memory)] if memory else []}


def _measured(name: str, rows: Sequence[tuple[Interaction, bool | None]], rounds: int) -> Stream:
    import numpy as np
    from sklearn.metrics import roc_auc_score

    from alignment.evals.statistics import wilson
    from alignment.models.embedder import Embedder
    from alignment.moderation import moderate
    from alignment.moderation.triage import risks, threshold

    embedder, items = Embedder(), [one for one, _ in rows]
    moderate(items[:4], embedder=embedder, thresholds={})
    risks(items[:4], embedder=embedder)
    scores: dict[str, dict[str, Any]] = {one.id: {} for one in items}
    cheap: dict[str, float] = {}
    full_seconds, first_seconds = [], []
    for number in range(rounds):
        part = items[number::rounds]
        started = time.perf_counter()
        cheap |= dict(zip((one.id for one in part), risks(part, embedder=embedder).tolist(), strict=True))
        first_seconds.append((time.perf_counter() - started) / len(part))
        started = time.perf_counter()
        for one in moderate(part, embedder=embedder, thresholds={}):
            scores[one.interaction_id][one.detector] = one
        full_seconds.append((time.perf_counter() - started) / len(part))
    flagged = np.array([any(one.flagged for one in scores[item.id].values() if one.detector != "pii") for item in items])
    passed = np.array([cheap[item.id] >= threshold() for item in items])
    share = float(passed.mean())
    looked_at = share + AUDIT * (1 - share)
    times = median(full / (first + looked_at * full) for full, first in zip(full_seconds, first_seconds, strict=True))
    full, first = median(full_seconds), median(first_seconds)
    labels = np.array([label for _, label in rows if label is not None], dtype=bool)
    lost = None
    if labels.any() and not labels.all():
        exact = np.array([scores[one.id]["harmful_request"].score for one, label in rows if label is not None])
        # A cleared exchange has no score: it ranks below all that were scored.
        kept = np.array([passed[at] for at, (_, label) in enumerate(rows) if label is not None])
        lost = round(float(roc_auc_score(labels, exact) - roc_auc_score(labels, np.where(kept, exact, -1.0))), 4)
    found = int((flagged & passed).sum())
    return Stream(
        name, len(items), round(float(flagged.mean()), 4), round(share, 4), round(1 / full, 1), round(1 / first), round(times / full, 1),
        round(times, 2), round(1 / (float(flagged.mean()) + AUDIT * (1 - float(flagged.mean()))), 2),
        round(found / max(int(flagged.sum()), 1), 4), round(wilson(found, int(flagged.sum()), 1.96)[0], 4), lost,
    )  # fmt: skip


def _memory(exchanges: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.moderate", str(exchanges)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def _child(exchanges: int) -> None:
    """Run the first stage over so many exchanges, in blocks as the ingest does, and print the peak memory."""
    from alignment.models.embedder import Embedder
    from alignment.moderation.triage import risks

    embedder, known = Embedder(), [one for one, _ in bundled()]
    stream = (replace(known[number % len(known)], id=f"i{number}") for number in range(exchanges))
    found: dict[str, float] = {}
    started = time.perf_counter()
    while block := list(islice(stream, _BLOCK)):
        found |= dict(zip((one.id for one in block), risks(block, embedder=embedder).tolist(), strict=True))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps({"exchanges": len(found), "peak_mib": round(peak), "per_second": round(len(found) / seconds)}))


if __name__ == "__main__":
    _child(int(sys.argv[1]))
