"""What drove an alarm: the slices that moved most, and the exchanges to read. Pure functions on pandas frames."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from alignment.drift import topics
from alignment.drift.signals import RATES, TOPICS, VOLUME, faded

SLICED, MOST_SLICES, LEAST_USERS, EXAMPLES = ("model", "source"), 5, 5, 10


class Slice(NamedTuple):
    """One value of a column of SLICED: the mean over its users before the change and after it, and how many there were after it."""

    column: str
    name: str
    before: float
    after: float
    users: int


def values_of(frame: pd.DataFrame, signal: str) -> pd.Series:
    """Return a signal's value per exchange; NaN is no data, as for all of `volume`. For `topics`, how new the prompt looks."""
    if signal == TOPICS:
        prompts = [topics.words(str(prompt or "")) for prompt in frame["prompt"]]
        new = frame["new"].to_numpy(dtype=bool)
        sides = [topics.gather([one for one, hit in zip(prompts, new, strict=True) if hit == side]) for side in (True, False)]
        odds = topics.learn(sides[0].counts, sides[1].counts, number=(sides[0].number, sides[1].number))
        scores = topics.score(odds, topics.gather(prompts)) if odds is not None else np.full(len(frame), np.nan)
        return pd.Series(scores, index=frame.index)
    if signal == VOLUME:
        return pd.Series(np.nan, index=frame.index)
    if signal.startswith("harm_") and signal in RATES:
        return (frame["category"] == signal.removeprefix("harm_")).astype(float).where(frame["harmful_request"].notna())
    return frame[signal].astype(float)


def slices(frame: pd.DataFrame, values: pd.Series) -> list[Slice]:
    """Return the slices that moved most, at most five; slices with under five users on either side are left out."""
    found = []
    for column in SLICED:
        # Users first, so that nobody's many lines move a slice.
        users = values.groupby([frame[column].fillna("").astype(str), frame["new"], frame["asker"], frame["day"]]).mean().dropna()
        means, counts = users.groupby(level=[0, 1]).mean(), users.groupby(level=[0, 1]).count()
        for name in users.index.get_level_values(0).unique():
            sides = [(name, False), (name, True)]
            if all(side in counts.index and counts[side] >= LEAST_USERS for side in sides):
                found.append(Slice(column, name, float(means[sides[0]]), float(means[sides[1]]), int(counts[sides[1]])))
    return sorted(found, key=lambda one: (-abs(one.after - one.before), one.column, one.name))[:MOST_SLICES]


def examples(frame: pd.DataFrame, values: pd.Series, signal: str, direction: str) -> list[str]:
    """Return the ids of at most ten exchanges after the change, the most extreme in its direction first, one per user.

    For a rate that rose or fell, only flagged exchanges; if it fell, those from before the change (`faded`).
    """
    before = faded(signal, direction)
    shown = frame.assign(value=values)[(frame["new"] != before) & values.notna()]
    down = direction == "down" and not before
    if signal in RATES and not down:
        shown = shown[shown["value"] > 0]
    ordered = shown.sort_values("value", ascending=down, kind="stable")
    return [str(one) for one in ordered.drop_duplicates("asker")["id"].head(EXAMPLES)]
