"""Drift: measure each closed day of traffic, and name the signals that have changed.

A day is closed once an exchange of a later day is stored and that day has begun. What was known of it then is frozen, as its users and as
baseline of later days: lines that arrive afterwards count nowhere. The first run measures all days there are.

Effects: reads the store; appends the days' measurements, alarms and their examples; emits a Prefect event per alarm until a night that
finished has reported it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from prefect import flow, task
from prefect.events import emit_event

from alignment.config import Settings, load_settings
from alignment.drift import DailyUsers, EDetectors, Measured, Raised, action, effect, gains_of
from alignment.drift.detect import LAGS, WEEK
from alignment.drift.explain import examples, slices, values_of
from alignment.ids import content_id
from alignment.store import append, query, session, sql
from flows.night import now, only_night

CHUNK, MOST_USERS, MOST_EXCHANGES, LEAST_USERS = 28, 4000, 20_000, 5
"""Days that are measured per query, users that count per day, exchanges that are searched for examples, per side, and users of the day with
which drift begins."""
ALL = "all"


class DriftRows(NamedTuple):
    """Rows to store."""

    days: list[dict[str, Any]]
    alarms: list[dict[str, Any]]
    examples: list[dict[str, Any]]


@task
def report(night_id: str) -> list[dict[str, Any]]:
    """Measure the days that closed since the last report, and store them.

    Return the alarms of the last week that no finished night has reported, whoever measured them.
    """
    settings, moment = load_settings(), now()
    [span] = query(settings.home, sql("flows", "drift_span"), {"moment": moment})
    if span["newest"] is None:
        return []
    first, days = _open_days(settings, span)
    detectors = replayed(settings, span["alarmed"])
    while days:
        chunk = [day for day in days if day < days[0] + timedelta(days=CHUNK)]
        days = days[len(chunk) :]
        found = _measure(settings, detectors, first, chunk, (night_id, moment))
        with session(settings.home, write=True) as connection:
            for table, rows in zip(("drift_days", "drift_alarms", "drift_examples"), found, strict=True):
                append(connection, table, rows)
    # The first report of a long history finds old changes too; the pages show them, but they are no news.
    return query(settings.home, sql("flows", "drift_untold"), {"since": span["newest"] - timedelta(days=WEEK)})


def _open_days(settings: Settings, span: dict[str, Any]) -> tuple[date, list[date]]:
    """Return the first day that can be measured, and the closed days to measure: those that have users or a baseline with users.

    The others may be many: one line can be of 1970.
    """
    since = span["measured"] - timedelta(days=max(LAGS)) if span["measured"] else span["oldest"]
    users = {
        row["day"]: row["users"] for row in query(settings.home, sql("flows", "drift_days"), {"since": since, "until": span["newest"]})
    }
    # On earlier days, users whose own week began before the traffic cannot be told from others.
    begins = min((day for day, number in users.items() if number >= LEAST_USERS), default=span["newest"])
    first = span["first"] or begins + timedelta(days=WEEK - 1)
    start = span["measured"] + timedelta(days=1) if span["measured"] else first
    days = {day + timedelta(days=back) for day in users for back in range(max(LAGS) + 1)}
    return first, sorted(day for day in days if start <= day < span["newest"])


def _every(start: date, end: date) -> Iterator[date]:
    while start < end:
        yield start
        start += timedelta(days=1)


def replayed(settings: Settings, alarmed: date | None) -> EDetectors:
    """Return the e-detectors as the stored days left them; they began anew after the last alarm."""
    detectors = EDetectors(settings.drift.run_length)
    for row in query(settings.home, "SELECT signal, max(since) AS since FROM drift_alarms GROUP BY signal"):
        detectors.floors[row["signal"]] = row["since"]
    rows = query(
        settings.home,
        "SELECT day, signal, gains FROM drift_days WHERE signal <> ? AND (?::DATE IS NULL OR day > ?) ORDER BY day, signal",
        [ALL, alarmed, alarmed],
    )
    for day, of_day in groupby(rows, key=itemgetter("day")):
        detectors.take(day, {row["signal"]: np.array(json.loads(row["gains"])) for row in of_day})
    return detectors


def _traffic(settings: Settings, first: date, start: date, last: date) -> DailyUsers:
    """Return what is needed to measure the days from `start` to `last`."""
    since = max(start - timedelta(days=max(LAGS) + WEEK - 1), first - timedelta(days=WEEK - 1))
    window = {"since": since, "until": last + timedelta(days=1)}
    with session(settings.home) as connection:
        frame = connection.execute(sql("flows", "drift_users"), window | {"most": MOST_USERS}).to_arrow_table().to_pandas()
        volume = dict(connection.execute(sql("flows", "drift_days"), window).fetchall())
    frame["day"] = [one.date() if isinstance(one, datetime) else one for one in frame["day"]]
    return DailyUsers(frame, max(first, since + timedelta(days=WEEK - 1)), volume)


def _measure(settings: Settings, detectors: EDetectors, first: date, days: list[date], stamp: tuple[str, datetime]) -> DriftRows:
    """Measure some days in order, and explain each alarm."""
    traffic, found = _traffic(settings, first, days[0], days[-1]), DriftRows([], [], [])
    for day in days:
        floors = dict(detectors.floors)
        measured = traffic.measure(day, floors)
        gains = {one.signal: gains_of(one, settings.drift.tolerance) for one in measured}
        detectors.take(day, gains)
        found.days.extend(_day_rows(day, measured, gains, detectors, stamp))
        for raised in detectors.check():
            # Read again from the change on, which may be before these days.
            alarm = _alarm_row(_traffic(settings, first, raised.since, day), raised, day, floors, stamp)
            rows, shown = _explained(settings, raised, day)
            found.alarms.append({**alarm, "slices": rows})
            found.examples.extend(
                {"id": content_id(alarm["id"], name), "alarm_id": alarm["id"], "interaction_id": name, "position": place}
                for place, name in enumerate(shown)
            )
    return found


def _day_rows(
    day: date, measured: list[Measured], gains: dict[str, Any], detectors: EDetectors, stamp: tuple[str, datetime]
) -> Iterator[dict[str, Any]]:
    night_id, moment = stamp
    common = {"night_id": night_id, "day": day, "recorded_at": moment}
    for one in measured:
        yield {
            **common,
            "id": content_id("drift", day, one.signal),
            "signal": one.signal,
            "rate": one.rate,
            "baseline": one.baseline,
            "users": one.users,
            "baseline_users": one.baseline_users,
            "gains": gains[one.signal].tolist(),
            "value": detectors.value_of(one.signal),
        }
    nothing = {"rate": None, "baseline": None, "users": None, "baseline_users": None, "gains": None}
    yield {**common, **nothing, "id": content_id("drift", day, ALL), "signal": ALL, "value": detectors.value}


def _alarm_row(traffic: DailyUsers, raised: Raised, day: date, floors: dict[str, date], stamp: tuple[str, datetime]) -> dict[str, Any]:
    past = _every(raised.since, day + timedelta(days=1))
    days = [one for each in past for one in traffic.measure(each, floors, signals=(raised.signal,))]
    point = effect(days)
    users = sum(one.users for one in days)
    return {
        "id": content_id("drift alarm", day, raised.signal),
        "night_id": stamp[0],
        "day": day,
        "signal": raised.signal,
        "direction": raised.direction,
        "since": raised.since,
        "rate": _weighted(days, "rate", "users"),
        "baseline": _weighted(days, "baseline", "baseline_users"),
        "effect": point.diff,
        "low": point.low,
        "high": point.high,
        "users": users,
        "value": raised.value,
        "recorded_at": stamp[1],
    }


def _weighted(days: list[Measured], value: str, weight: str) -> float | None:
    total = sum(getattr(one, weight) for one in days)
    return sum(getattr(one, value) * getattr(one, weight) for one in days) / total if total else None


def _explained(settings: Settings, raised: Raised, day: date) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the slices that moved most and the ids of the exchanges to read."""
    window = {
        "since": raised.since,
        "before": raised.since - timedelta(days=max(LAGS)),
        "until": day + timedelta(days=1),
        "most": MOST_EXCHANGES,
    }
    with session(settings.home) as connection:
        frame = connection.execute(sql("flows", "drift_exchanges"), window).to_arrow_table().to_pandas()
    frame["new"] = frame["new"].astype(bool)
    values = values_of(frame, raised.signal)
    return [one._asdict() for one in slices(frame, values)], examples(frame, values, raised.signal, raised.direction)


@flow(name="monitor")
def monitor(night_id: str | None = None) -> dict[str, list[str]]:
    """Measure drift, for a night or by hand, and emit a Prefect event `alignment.drift.alarm` per alarm. Return `{"alarms": signals}`.

    Raises:
        NightRunning: another process holds the night's lock.
    """
    night_id = night_id or f"by-hand-{now().isoformat(timespec='seconds')}"
    with only_night(load_settings()):
        alarms = report(night_id)
    for row in alarms:
        emit_event(
            "alignment.drift.alarm",
            resource={"prefect.resource.id": f"alignment.metric.{row['signal']}"},
            payload={
                "night_id": night_id,
                "direction": row["direction"],
                "since": str(row["since"]),
                "effect": row["effect"],
                "do": action(row["signal"]),
            },
        )
    return {"alarms": sorted({row["signal"] for row in alarms})}
