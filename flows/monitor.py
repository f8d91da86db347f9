"""Drift: compare the latest days with the days before them."""

from __future__ import annotations

from typing import Any

import pandas as pd
from prefect import flow, task
from prefect.events import emit_event

from alignment.config import load_settings
from alignment.drift import compare, windows
from alignment.ids import content_id
from alignment.store import append, query, session, sql
from flows.night import now


@task
def report(night_id: str) -> list[dict[str, Any]]:
    """Compare the two windows that end with the newest exchange; store and return one row per metric."""
    settings = load_settings()
    [row] = query(settings.home, "SELECT max(created_at) AS newest FROM interactions ANTI JOIN seeds USING (id)")
    if row["newest"] is None:
        return []
    where = windows(row["newest"], settings.drift)
    frame = pd.DataFrame(query(settings.home, sql("flows", "drift_frame"), {"since": where.start}))
    if frame.empty:
        return []
    moment = now()
    rows = [
        {
            "id": content_id(night_id, drift.metric),
            "night_id": night_id,
            **drift._asdict(),
            "baseline_start": where.start,
            "baseline_end": where.middle,
            "current_start": where.middle,
            "current_end": where.end,
            "recorded_at": moment,
        }
        for drift in compare(frame, where, settings.drift)
    ]
    with session(settings.home, write=True) as connection:
        append(connection, "drift_results", rows)
    return rows


@flow(name="monitor")
def monitor(night_id: str | None = None) -> dict[str, list[str]]:
    """Report drift, for a night or by hand, and emit a Prefect event `alignment.drift.alarm` per alarm. Return `{"alarms": metrics}`."""
    night_id = night_id or f"by-hand-{now().isoformat(timespec='seconds')}"
    alarms = [row for row in report(night_id) if row["alarm"]]
    for row in alarms:
        emit_event(
            "alignment.drift.alarm",
            resource={"prefect.resource.id": f"alignment.metric.{row['metric']}"},
            payload={"night_id": night_id, "effect": row["effect"], "adjusted_p": row["adjusted_p"]},
        )
    return {"alarms": [row["metric"] for row in alarms]}
