"""The whole loop: read logs, build pairs, train a model, gate the release, report drift."""

from __future__ import annotations

import json
import time
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from alignment.config import Settings, load_settings
from alignment.labels import load_constitution
from alignment.models.remote import key_of
from alignment.records import STAGES
from alignment.release import champion, current, current_canary
from alignment.store import export, migrate, query, sql
from alignment.text import amount
from flows.approve import ask_for_approval
from flows.canary import check
from flows.evaluate import adapter_of, suites
from flows.hooks import deliver
from flows.ingest import ingest
from flows.night import only_night, plan_night, record_night, record_stage
from flows.notifications import tell_end, tells_failure
from flows.policy import verify_server
from flows.seeds import sync_bundled
from flows.show import headline, say
from flows.stages import run_stage


@flow(name="nightly")
def nightly(logs: list[str] | None = None, force: bool = False) -> dict[str, Any]:
    """Run a night, or resume a killed one; return its summary.

    `logs` replaces the configured log files; `force` runs a night even if there is nothing new.
    """
    settings = load_settings()
    with tells_failure(settings) as at:
        summary = _run(settings, logs, force=force, at=at)
    tell_end(settings, summary)
    return summary


def _run(settings: Settings, logs: list[str] | None, *, force: bool, at: dict[str, str]) -> dict[str, Any]:
    """Do the night's work; note in `at` which night and stage it has come to."""
    # Raises if the teacher's key is not set. Labelling would notice only after everything was generated.
    key_of(settings.teacher)
    with only_night(settings):
        verify_server(settings)
        # Read the night's settings first, and only once.
        load_constitution(settings.labels.constitution)
        migrate(settings.home)
        started = time.perf_counter()
        headline("ingest")
        at["stage"] = "ingest"
        read = ingest(logs)
        seconds = time.perf_counter() - started
        if current_canary(settings.home):
            headline("canary")
            check()
        deliver(settings)
        # A release that cannot be compared against stops the night before it costs an hour.
        adapter_of(settings, champion(settings.home))
        sync_bundled(settings)
        night = plan_night(settings, force=force)
        if night.finished:
            say("nothing new since the last night: trained nothing, called no model")
            export(settings.home)
            return {**night.finished, "nothing_new": True, "release_id": current(settings.home)}
        # A suite that cannot be read stops the night before it costs an hour.
        suites(settings)
        at["night"] = night.id
        record_night(settings.home, night.id, "started", {})
        record_stage(settings.home, night.id, "ingest", seconds, read)
        found = {}
        for name in STAGES[1:]:
            at["stage"] = name
            found[name] = run_stage(settings.home, night.id, name)
            if name == "gate":
                deliver(settings)
        summary = summarise(settings, night.id, found["gate"])
        record_night(settings.home, night.id, "finished", summary)
        export(settings.home)
    ask_for_approval(night.id, summary["state"], summary["decision_id"])
    create_markdown_artifact(_markdown(summary), key="night", description="What the night did")
    return summary


def summarise(settings: Settings, night_id: str, gated: dict[str, Any]) -> dict[str, Any]:
    """Return what a night did, for people and for the store; all attempts of the night are counted together."""
    # Counted from the store, not from this run: a resumed night also counts the logs that it read before it was killed.
    [read] = query(settings.home, sql("flows", "night_read"), {"night_id": night_id})
    [counted] = query(settings.home, sql("flows", "night_counts"))
    stages = query(
        settings.home,
        "SELECT stage, sum(seconds) AS seconds, max_by(counts, finished_at) AS counts, min(finished_at) AS first FROM night_stages "
        "WHERE night_id = ? GROUP BY stage ORDER BY first",
        [night_id],
    )
    told = {row["stage"]: json.loads(row["counts"] or "{}") for row in stages}
    return {
        "night_id": night_id,
        "counts": {**read, **counted, **told.get("curate", {})},
        "train": told.get("train", {}),
        **gated,
        # None where nobody measured it.
        "alarms": told.get("monitor", {}).get("alarms"),
        "stages": {row["stage"]: row["seconds"] for row in stages},
        "seconds": sum(row["seconds"] for row in stages),
    }


def _said(metric: dict[str, Any], key: str, sign: str = "") -> str:
    return amount(metric[key], metric.get("unit", "rate"), sign)


def _markdown(summary: dict[str, Any]) -> str:
    rows = [
        f"| {metric['name']} | {_said(metric, 'champion')} | {_said(metric, 'challenger')} | {_said(metric, 'diff', '+')} "
        f"[{_said(metric, 'low', '+')}, {_said(metric, 'high', '+')}] | {metric['status']} |"
        for metric in summary["metrics"]
    ]
    return "\n".join(
        [
            f"# Night {summary['night_id']}: {summary['decision']}",
            "",
            f"In production: `{summary['release_id']}`",
            "",
            "| metric | champion | challenger | change, interval | status |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )
