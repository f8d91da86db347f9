"""Measure the drift e-detectors on replayed streams of real exchanges by whole users.

A stream draws users with replacement from a source and lets each visit on its days with exchanges of their own: the bundled sample
traffic by its users, HH dialogues (a dialogue is a user), and tweets with people's labels, dealt to users whose share of offensive tweets
differs as that of correlated outcomes does (0.3). Flags are people's labels for tweets, and lists of words otherwise: they need to be real
in how they cluster, not right. The new topic is one category of the bundled requests. Users of a day beyond 4,000 are left out, as by a
night. All logs are punctual: no source comes late, and no clock is ahead.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import statistics
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from alignment.drift import DailyUsers, EDetectors, gains_of, topics
from alignment.drift.detect import LAGS, WEEK
from alignment.errors import InputError

START, DAYS, CHANGE, WINDOW = date(2026, 1, 5), 90, 49, 28
"""First day, days per stream, the day on which a change begins, and the days within which it counts as found."""
RUN_LENGTH, TOLERANCE, MOST_USERS = 30.0, 0.01, 4000
FEATURES = ("harmful_request", "toxicity", "refusal", "pii", "complained", "harm_hate", "harm_sexual", "harm_violence")
_WORDS = {
    "harmful_request": r"\b(?:kill|steal|hack|bomb|drugs?|gun|weapon|rob|poison|hurt)\w*",
    "toxicity": r"\b(?:fuck|shit|bitch|stupid|idiot|hate|damn|ass)\w*",
    "pii": r"@\w+|\d{4,}",
    "harm_sexual": r"\b(?:sex|porn|naked|nude)\w*",
    "harm_violence": r"\b(?:kill|hit|shoot|stab|fight|punch)\w*",
}
_REFUSES = re.compile(r"\b(?:sorry|can't|cannot|won't|not able|not comfortable)\b", re.I)
Floats = NDArray[np.float64]


class Exchanges(NamedTuple):
    """Exchanges of a source: prompts, values (N, features and two lengths), and where each user's begin and how many there are."""

    prompts: list[str]
    values: Floats
    start: NDArray[np.int64]
    sizes: NDArray[np.int64]


class Coming(NamedTuple):
    """How users come: how many days a user stays, and the chance that they write on such a day."""

    name: str
    stay: int
    active: float


PASSING, BURSTY, RETURNING, STAYING = (
    Coming("pass", 1, 1.0),
    Coming("3 days in a row", 3, 1.0),
    Coming("return", DAYS, 0.25),
    Coming("3 weeks", 21, 0.5),
)


class Planted(NamedTuple):
    """A planted change, and the signal that has to name it."""

    name: str
    signal: str


SHIFT, CATEGORY, TOPIC = (
    Planted("0.2 SD longer prompts", "prompt_length"),
    Planted("5 points more of a category", "harm_fraud"),
    Planted("10% on a new topic", "topics"),
)


def data_folder() -> Path:
    """Return where the public data is."""
    return Path(os.environ.get("ALIGN_DATA_DIR", "../shared/data"))


def _pool(users: Sequence[Sequence[tuple[str, str, dict[str, float]]]]) -> Exchanges:
    rows, prompts = [], []
    for user in users:
        for prompt, answer, known in user:
            found = {name: float(bool(re.search(pattern, prompt, re.I))) for name, pattern in _WORDS.items()}
            found |= {"refusal": float(bool(_REFUSES.search(answer))), "complained": 0.0, "harm_hate": 0.0} | known
            rows.append([*(found[name] for name in FEATURES), np.log1p(len(prompt)), np.log1p(len(answer)) if answer else np.nan])
            prompts.append(prompt)
    count = np.array([len(user) for user in users])
    return Exchanges(prompts, np.array(rows), np.cumsum(count) - count, count)


def samples() -> Exchanges:
    """Return the bundled traffic by its users."""
    users: dict[str, list[Any]] = {}
    with gzip.open(str(files("alignment.samples") / "traffic.jsonl.gz"), "rt", encoding="utf-8") as lines:
        for line in lines:
            try:
                row = json.loads(line)
                prompt, answer = str(row["messages"][-1]["content"]), str(row["response"])
                who = str(row["user_id"])
            except (ValueError, KeyError, TypeError, IndexError):
                continue
            users.setdefault(who, []).append((prompt, answer, {"complained": float(row.get("thumbs") == "down")}))
    return _pool(list(users.values()))


def dialogues(folder: Path) -> Exchanges:
    """Return HH dialogues, each as one user."""
    users: list[list[tuple[str, str, dict[str, float]]]] = []
    with gzip.open(folder / "hh_harmless_base_test.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            turns = re.split(r"\n\n(?:Human|Assistant): ?", json.loads(line)["chosen"])[1:]
            users.append([(ask, answer, {}) for ask, answer in zip(turns[::2], turns[1::2], strict=False)])
    return _pool([user for user in users if user])


def tweets(folder: Path, users: int = 3000, each: int = 20) -> Exchanges:
    """Return tweets dealt to users, whose share of offensive ones is drawn from a beta distribution with correlation 0.3."""
    with gzip.open(folder / "davidson_tweets.csv.gz", "rt", encoding="utf-8", newline="") as lines:
        rows = [(row["tweet"], int(row["class"]), int(row["hate_speech"])) for row in csv.DictReader(lines)]
    draw = np.random.default_rng(1)
    bad, fine = [row for row in rows if row[1] < 2], [row for row in rows if row[1] == 2]
    base, odds = 0.15, (1 - 0.3) / 0.3
    found = []
    for rate in draw.beta(base * odds, (1 - base) * odds, users):
        mine = [(bad if hit else fine)[draw.integers(len(bad if hit else fine))] for hit in draw.random(each) < rate]
        labels = [{"toxicity": float(kind < 2), "harm_hate": float(kind == 0), "complained": float(votes > 0)} for _, kind, votes in mine]
        found.append([(text, "", label) for (text, _, _), label in zip(mine, labels, strict=True)])
    return _pool(found)


def topic(category: str = "malware") -> list[str]:
    """Return the bundled harmful requests of one category."""
    rows = map(json.loads, (files("alignment.samples") / "prompts.jsonl").read_text(encoding="utf-8").splitlines())
    return [row["text"] for row in rows if row["kind"] == "harm" and row["category"] == category]


class Visits(NamedTuple):
    """Visits of users, in order of days: who (V,), their day (V,), and the exchanges of each visit as rows of the pool (V, each)."""

    user: NDArray[np.int64]
    day: NDArray[np.int64]
    rows: NDArray[np.int64]


def stream(pool: Exchanges, per_day: int, each: int, kind: Coming, draw: np.random.Generator, days: int = DAYS) -> Visits:
    """Return visits with `each` exchanges, about `per_day` exchanges a day in all."""
    users_a_day = max(per_day // each, 1)
    arriving = users_a_day / (kind.stay * kind.active)
    if kind.stay >= days:
        number, begin = round(arriving * kind.stay), None
    else:
        number = round(arriving * (days + kind.stay))
        begin = draw.integers(-kind.stay + 1, days, number) if kind.stay > 1 else np.arange(number) % (days + 1)
    origin = draw.integers(0, len(pool.start), number)
    offsets = np.arange(days if begin is None else kind.stay)
    day = np.broadcast_to(offsets, (number, len(offsets))) + (0 if begin is None else begin[:, None])
    here = (draw.random(day.shape) < kind.active) & (day >= 0) & (day < days)
    who = np.nonzero(here)[0]
    at = (draw.random((len(who), each)) * pool.sizes[origin[who]][:, None]).astype(np.int64) + pool.start[origin[who]][:, None]
    order = np.argsort(day[here], kind="stable")
    return Visits(who[order], day[here][order], at[order])


def counted(found: Visits, draw: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which visits count, as `flows/sql/drift_users.sql` has it, in a random order, and the lag of each."""
    phase = draw.integers(0, WEEK, found.user.max() + 1)[found.user]
    week = (found.day + phase) // WEEK
    _, first = np.unique(found.user * 1000 + week, return_index=True)
    first = draw.permutation(first[week[first] * WEEK - phase[first] >= 0])
    day = found.day[first]
    # At most MOST_USERS a day.
    order = np.argsort(day, kind="stable")
    place = np.empty(len(day), dtype=np.int64)
    place[order] = np.arange(len(day)) - np.searchsorted(day[order], day[order])
    first = first[place < MOST_USERS]
    lag = np.array([0, *LAGS])[np.searchsorted([8, 10, 11, 12], draw.integers(0, 16, len(first)), side="right")]
    return first, lag


def traffic(
    pool: Exchanges, found: Visits, draw: np.random.Generator, change: Planted | None = None, new_topic: Sequence[str] = ()
) -> DailyUsers:
    """Return a stream as the e-detectors see it; a change begins on day CHANGE."""
    at, lag = counted(found, draw)
    day, rows = found.day[at], found.rows[at]
    values = pool.values[rows].mean(axis=1)
    after = day >= CHANGE
    frame = pd.DataFrame({name: values[:, place] for place, name in enumerate(FEATURES)})
    frame["prompt_length"], frame["response_length"] = values[:, -2], values[:, -1]
    frame["exchanges"] = float(rows.shape[1])
    prompts = [pool.prompts[row] for row in rows[:, 0]]
    if change == SHIFT:
        frame.loc[after, "prompt_length"] += 0.2 * float(pool.values[:, -2].std())
    if change == CATEGORY:
        frame["harm_fraud"] = np.where(draw.random(len(frame)) < np.where(after, 0.08, 0.03), 1.0, 0.0)
    if change == TOPIC:
        hit = after & (draw.random(len(frame)) < 0.1)
        prompts = [new_topic[int(draw.integers(len(new_topic)))] if new else old for old, new in zip(prompts, hit, strict=True)]
    frame["prompt"], frame["baseline_lag"] = prompts, lag
    frame["day"] = [START + timedelta(days=int(one)) for one in day]
    per_day = np.bincount(found.day, minlength=DAYS)
    volume = {START + timedelta(days=number): int(n) for number, n in enumerate(per_day)}
    return DailyUsers(frame, START + timedelta(days=WEEK - 1), volume, words=_words)


_KNOWN: dict[str, tuple[int, ...]] = {}


def _words(text: str) -> tuple[int, ...]:
    if text not in _KNOWN:
        _KNOWN[text] = topics.words(text)
    return _KNOWN[text]


def watched(seen: DailyUsers, until: int = DAYS) -> list[tuple[int, list[str]]]:
    """Return each alarm of a stream: the day, and the signals that it names."""
    detectors, alarms = EDetectors(RUN_LENGTH), []
    for number in range(until):
        day = START + timedelta(days=number)
        detectors.take(day, {one.signal: gains_of(one, TOLERANCE) for one in seen.measure(day, detectors.floors)})
        if raised := detectors.check():
            alarms.append((number, [one.signal for one in raised]))
    return alarms


def quiet(name: str, pool: Exchanges, per_day: int, each: int, kind: Coming, replays: int, seed: int) -> dict[str, Any]:
    """Return how often streams without any change raise an alarm in 30 days, with a 95% interval."""
    draw, alarms = np.random.default_rng([seed, per_day, each]), 0
    first = 2 * WEEK - 1
    for _ in range(replays):
        alarms += len(watched(traffic(pool, stream(pool, per_day, each, kind, draw), draw)))
    months = replays * (DAYS - first) / 30
    low, high = (stats.chi2.ppf(q, 2 * n) / 2 / months if n else 0.0 for q, n in ((0.025, alarms), (0.975, alarms + 1)))
    return {
        "case": f"no change: {name}, users {kind.name}",
        "exchanges_a_day": per_day,
        "exchanges_a_user": each,
        "replays": replays,
        "alarms_in_30_days": round(alarms / months, 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
        "held": alarms / months <= 1,
    }


def power(name: str, pool: Exchanges, per_day: int, each: int, change: Planted, replays: int, seed: int) -> dict[str, Any]:
    """Return in how many streams a change is named within 28 days, and the median delay in days of those."""
    draw, delays, new_topic = np.random.default_rng([seed, per_day, each]), [], topic()
    users = min(per_day // each, MOST_USERS)
    for _ in range(replays):
        seen = traffic(pool, stream(pool, users * each, each, PASSING, draw), draw, change, new_topic)
        named = [day for day, signals in watched(seen, CHANGE + WINDOW) if day >= CHANGE and change.signal in signals]
        delays += [named[0] - CHANGE + 1] if named else []
    return {
        "case": f"{change.name}: {name}",
        "exchanges_a_day": per_day,
        "exchanges_a_user": each,
        "replays": replays,
        "found": f"{len(delays)}/{replays}",
        "median_delay_days": statistics.median(delays) if delays else None,
    }


def run(replays: int, *, seed: int = 0, say: Callable[[dict[str, Any]], None] = lambda _: None) -> list[dict[str, Any]]:
    """Return a row per kind of quiet stream, then one per planted change, size and exchanges per user; `say` is told each as it comes.

    Raises:
        InputError: the public data is not there.
    """
    folder = data_folder()
    missing = [name for name in ("hh_harmless_base_test.jsonl.gz", "davidson_tweets.csv.gz") if not (folder / name).exists()]
    if missing:
        raise InputError(f"{str(folder)!r} has no {', '.join(missing)}; set ALIGN_DATA_DIR to the folder with the public data sets")
    pools = {"samples": samples(), "dialogues": dialogues(folder), "tweets": tweets(folder)}
    cases = [(name, 1000, each, PASSING) for name in pools for each in (1, 5, 15)]
    cases += [("tweets", 1000, each, kind) for kind in (BURSTY, RETURNING, STAYING) for each in (5, 15)]
    cases += [("tweets", per_day, 5, kind) for per_day in (100, 10_000) for kind in (PASSING, BURSTY)]
    found = []
    for name, per_day, each, kind in cases:
        found.append(quiet(name, pools[name], per_day, each, kind, replays, seed))
        say(found[-1])
    for change in (SHIFT, CATEGORY, TOPIC):
        for per_day in (100, 1000, 10_000):
            for each in (1, 5):
                found.append(
                    power("dialogues", pools["dialogues"], per_day, each, change, max(replays // (2 if per_day > 1000 else 1), 3), seed)
                )
                say(found[-1])
    return found
