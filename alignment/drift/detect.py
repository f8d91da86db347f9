"""Detect a change of any signal with one average run length to a false alarm for all of them, however often one looks. Pure functions.

What is compared. A user counts on the first day of each of their own weeks, which begin on different weekdays for different users, with
the mean of that day's exchanges: one person counts once a week, whatever they write. Half of a day's users, drawn by a hash, are
*current*: they are compared on that day. The other half is kept unseen as *baseline* of the same weekday one, two, three or four weeks
later. So each value is used once, in one comparison, and the unknown baseline needs no estimate: a block is the mean of some current users
minus that of some baseline users, D in [-1, 1], and its mean given everything seen before is the change. A change of at most `tolerance`
is no drift.

What is assumed. Users of a day are like those of the same weekday of the last four weeks, up to `tolerance`; a user's weeks are
independent given the user. Weekdays may differ, traffic may grow, and users may differ from one another and write as much as they like.

When it is an alarm. Each signal and direction has an e-detector (`alignment.statistics.betting.restarted`) over several bets. Their mean
over all signals, directions and bets exceeds `run_length` once in `run_length` days at most, on average, if nothing changes. Then all
start again from 1, and for the signals that are named, the days before the change are no longer baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alignment.drift import topics
from alignment.drift.signals import LENGTHS, RATES, SIGNALS, TOPICS, VOLUME
from alignment.statistics.betting import Array, Point, interval, log_gains, log_mean, restarted

WEEK, LAGS = 7, (7, 14, 21, 28)
BETS = np.geomspace(0.05, 0.9, 8)
MOST_BLOCKS, LEAST_RANKED = 1000, 30
VOLUME_TOLERANCE = 0.1
"""Of (new - old) / (new + old): 22% more or 18% fewer users than the week before are no drift."""
CONFIDENCE = 0.95
UP = 0
_MOST = 700.0


class Measured(NamedTuple):
    """One signal on one day: its mean over current users and over baseline users, in 0..1, how many there were, and the differences.

    For `volume`, the means are numbers of users.
    """

    signal: str
    rate: float
    baseline: float
    users: int
    baseline_users: int
    differences: Array


class Raised(NamedTuple):
    """One signal named in an alarm, with its e-detector's value and the first day of the change."""

    signal: str
    direction: str
    since: date
    value: float


def blocks(current: Array, baseline: Array) -> Array:
    """Return the differences D of as many blocks as both sides allow, at most 1000; NaN is no value. Each user is in one block.

    >>> blocks(np.array([1.0, 0.0, 1.0]), np.array([0.0]))
    array([0.66666667])
    """
    current, baseline = current[~np.isnan(current)], baseline[~np.isnan(baseline)]
    number = min(len(current), len(baseline), MOST_BLOCKS)
    return np.clip(_means(current, number) - _means(baseline, number), -1, 1) if number else np.empty(0)


def _means(values: Array, number: int) -> Array:
    at = np.arange(len(values)) * number // len(values)
    return np.asarray(np.bincount(at, values, number) / np.bincount(at, minlength=number))


def ranks(values: Array, reference: Array) -> Array:
    """Return the share of `reference` below each value, ties by half.

    >>> ranks(np.array([1.0, 2.0, 9.0]), np.array([1.0, 2.0, 3.0, 4.0])).tolist()
    [0.125, 0.375, 1.0]
    """
    ordered = np.sort(reference[~np.isnan(reference)])
    if not len(ordered):
        return np.full(len(values), np.nan)
    found = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(ordered))
    return np.where(np.isnan(values), np.nan, found)


class DailyUsers:
    """Users by day and the lag at which they are compared.

    `frame` has a row per counted user and day, in an order that is independent of the values. Columns: `day`, `baseline_lag` (0 is current,
    otherwise the days after which the user is baseline), `prompt`, RATES and LENGTHS. Absent columns count as without data. `first`
    is the first day on which all users can have been counted.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        first: date,
        volume: Mapping[date, int],
        *,
        words: Callable[[str], tuple[int, ...]] = topics.words,
    ) -> None:
        self.first, self.volume, self._words_of = first, volume, words
        rows: dict[tuple[date, int], list[int]] = {}
        for place, key in enumerate(zip(frame["day"].tolist(), frame["baseline_lag"].tolist(), strict=True)):
            if key[0] >= first:
                rows.setdefault(key, []).append(place)
        self._at = {key: np.array(places, dtype=np.int64) for key, places in rows.items()}
        self._values = {name: frame[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in (*RATES, *LENGTHS) if name in frame}
        self._texts = frame["prompt"].to_numpy(dtype=object) if "prompt" in frame else None
        self._words: dict[tuple[date, int], topics.Prompts] = {}
        self._counts: dict[date, Array] = {}

    def measure(self, day: date, floors: Mapping[str, date] | None = None, *, signals: Collection[str] = SIGNALS) -> list[Measured]:
        """Return each of `signals` that can be compared on `day`; days before a signal's floor are no baseline for it."""
        floors, found = floors or {}, []
        current = self._at.get((day, 0))
        if current is not None:
            for name, values in self._values.items():
                if name not in signals:
                    continue
                new, old = values[current], values[self._baseline(day, floors.get(name))]
                if name in LENGTHS:
                    reference = self._compared(day, name)
                    new, old = ranks(new, reference), ranks(old, reference)
                found.append(_measured(name, new, old))
            if TOPICS in signals:
                found.append(self._topics(day, floors.get(TOPICS)))
        if VOLUME in signals:
            found.append(self._volume(day, floors.get(VOLUME)))
        return [one for one in found if one is not None]

    def _lagged(self, day: date, floor: date | None) -> list[tuple[date, int]]:
        past = [(day - timedelta(days=lag), lag) for lag in LAGS]
        return [key for key in past if key in self._at and (floor is None or key[0] >= floor)]

    def _baseline(self, day: date, floor: date | None) -> NDArray[np.int64]:
        """Return the rows kept as baseline of a day."""
        kept = [self._at[key] for key in self._lagged(day, floor)]
        if not kept:
            return np.empty(0, dtype=np.int64)
        # Weeks alternate, so that all blocks have the same mean.
        return np.concatenate(kept)[np.argsort(np.concatenate([np.arange(len(one)) / len(one) for one in kept]), kind="stable")]

    def _compared(self, day: date, name: str) -> Array:
        """Return a signal's values of the four weeks before that were compared already."""
        seen = [at for back in range(1, max(LAGS) + 1) if (at := self._at.get((day - timedelta(days=back), 0))) is not None]
        values = self._values[name][np.concatenate(seen)] if seen else np.empty(0)
        return values if np.sum(~np.isnan(values)) >= LEAST_RANKED else np.empty(0)

    def _topics(self, day: date, floor: date | None) -> Measured | None:
        if self._texts is None:
            return None
        (new, few), (old, many) = (self._counted(day, span) for span in (range(1, WEEK + 1), range(WEEK + 1, max(LAGS) + 1)))
        odds = topics.learn(new, old, number=(few, many))
        if odds is None:
            return None
        kept = [topics.score(odds, self._prompts(key)) for key in self._lagged(day, floor)]
        return _measured(TOPICS, topics.score(odds, self._prompts((day, 0))), np.concatenate(kept) if kept else np.empty(0))

    def _counted(self, day: date, span: range) -> tuple[Array, int]:
        """Return in how many prompts of the days before each word occurs, and how many prompts there are."""
        days = [one for back in span if ((one := day - timedelta(days=back)), 0) in self._at]
        for one in days:
            if one not in self._counts:
                self._counts[one] = self._prompts((one, 0)).counts
        total = sum((self._counts[one] for one in days), np.zeros(topics.WIDTH))
        return np.asarray(total), sum(self._prompts((one, 0)).number for one in days)

    def _prompts(self, key: tuple[date, int]) -> topics.Prompts:
        if key not in self._words:
            texts = () if self._texts is None or key not in self._at else self._texts[self._at[key]]
            self._words[key] = topics.gather([self._words_of(str(text or "")) for text in texts])
        return self._words[key]

    def _volume(self, day: date, floor: date | None) -> Measured | None:
        """Compare the number of users with that of a week before; each day is in one comparison, so every other week has none."""
        before = day - timedelta(days=WEEK)
        if before < max(self.first, floor or self.first) or (day.toordinal() // WEEK) % 2 == 0:
            return None
        new, old = self.volume.get(day, 0), self.volume.get(before, 0)
        if not new + old:
            return None
        return Measured(VOLUME, float(new), float(old), new, old, np.array([(new - old) / (new + old)]))


def _measured(name: str, new: Array, old: Array) -> Measured | None:
    new, old = new[~np.isnan(new)], old[~np.isnan(old)]
    if not len(new) or not len(old):
        return None
    return Measured(name, float(new.mean()), float(old.mean()), len(new), len(old), blocks(new, old))


def gains_of(measured: Measured, tolerance: float) -> Array:
    """Return the log gains of a day's bets, (2, bets): up, then down."""
    supposed = VOLUME_TOLERANCE if measured.signal == VOLUME else tolerance
    return np.stack([log_gains(sign * measured.differences, supposed, BETS).sum(axis=0) for sign in (1, -1)])


def effect(days: Sequence[Measured]) -> Point:
    """Return the mean difference over some days of one signal, with its 95% interval."""
    return interval(np.concatenate([one.differences for one in days]) if days else np.empty(0), 1 - CONFIDENCE)


class EDetectors:
    """The e-detectors of all signals. They take days in order; a day that is missing changes nothing.

    `floors`: of each signal that an alarm named, the first day after its change.
    """

    def __init__(self, run_length: float) -> None:
        self.run_length = run_length
        self.floors: dict[str, date] = {}
        self._begin()

    def _begin(self) -> None:
        shape = (len(SIGNALS), 2, len(BETS))
        self._log = np.zeros(shape)
        self._since = np.full(shape, date.max.toordinal())

    def take(self, day: date, gains: Mapping[str, Array]) -> None:
        """Take a day's log gains by signal, (2, bets) each."""
        for name, gained in gains.items():
            at = SIGNALS.index(name)
            self._since[at] = np.where(self._log[at] <= 0, day.toordinal(), self._since[at])
            self._log[at] = restarted(self._log[at], gained)

    def check(self) -> list[Raised]:
        """Return the signals that an alarm names, the strongest first, and start again from 1; nothing if there is no alarm."""
        if self.value < self.run_length:
            return []
        found = [self._raised(name) for name in SIGNALS if self.value_of(name) >= self.run_length]
        self.floors |= {one.signal: one.since for one in found}
        self._begin()
        return sorted(found, key=lambda one: -one.value)

    @property
    def value(self) -> float:
        """The mean over all signals; an alarm at `run_length`."""
        return float(np.exp(np.minimum(log_mean(self._log.ravel()), _MOST)))

    def value_of(self, signal: str) -> float:
        """Return the mean of one signal's e-detectors, over directions and bets."""
        return float(np.exp(np.minimum(log_mean(self._log[SIGNALS.index(signal)].ravel()), _MOST)))

    def _raised(self, signal: str) -> Raised:
        at = SIGNALS.index(signal)
        side, bet = np.unravel_index(int(self._log[at].argmax()), self._log[at].shape)
        return Raised(signal, "up" if side == UP else "down", date.fromordinal(int(self._since[at][side][bet])), self.value_of(signal))
