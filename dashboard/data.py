"""The pages' queries, and people's answers to what waits for approval. The reviewers' data is in `review_data`.

Each query is a file in `dashboard/sql`, or in `alignment/store/sql` if others use it too, and runs in a short session. Results are
cached for ten seconds (daily counts for a minute), or until this page writes.

Effects: reads and appends to the store of the configured state folder.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import streamlit as st

from alignment.config import Settings, load_settings
from alignment.errors import AlignError, InputError, NoSpace
from alignment.ingest.redact import redact, redaction_key
from alignment.release import BASE, Canary, current, current_canary, folder_of, list_releases
from alignment.release import change as release_change
from alignment.release.approval import Say, say
from alignment.release.card import card_page
from alignment.release.change import Action, PlannedChange
from alignment.store import session, sql, store_path
from alignment.store.session import EVIDENCE
from dashboard.notify import tell_hooks

Row = dict[str, Any]

READ_WAIT = 8.0
WRITE_WAIT = 10.0


def settings() -> Settings:
    """Return the settings in force.

    Raises:
        ConfigError: the settings are invalid.
    """
    return load_settings()


def has_store() -> bool:
    """Return whether anything was ever stored; a lost store still has its evidence."""
    home = settings().home
    return store_path(home).exists() or (home / EVIDENCE / "manifest.json").exists()


# A person is waiting for the page, so give up long before a flow would.
@st.cache_data(ttl=10, max_entries=256, show_spinner=False)
def _rows(home: str, package: str, name: str, parameters: dict[str, Any]) -> list[Row]:
    with session(Path(home), wait=READ_WAIT) as connection:
        return named(connection, sql(package, name), parameters)


def named(connection: duckdb.DuckDBPyConnection, statement: str, parameters: dict[str, Any]) -> list[Row]:
    """Return a statement's rows as mappings by column name."""
    cursor = connection.execute(statement, parameters or None)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def read(name: str, **parameters: Any) -> list[Row]:
    """Return the rows of a statement in `dashboard/sql`, at most ten seconds old."""
    return _rows(str(settings().home), "dashboard", name, parameters)


def read_shared(name: str) -> list[Row]:
    """Return the rows of a statement in `alignment/store/sql`, at most ten seconds old."""
    return _rows(str(settings().home), "alignment.store", name, {})


def _first(rows: list[Row]) -> Row | None:
    return rows[0] if rows else None


def parsed(text: str | None, default: Any = None) -> Any:
    """Return a column's JSON, parsed; `default` (an empty mapping when not given) if it is NULL or not JSON.

    >>> parsed('{"a": 1}'), parsed(None), parsed("not JSON", [])
    ({'a': 1}, {}, [])
    """
    fallback = {} if default is None else default
    try:
        value = json.loads(text) if text else None
    except ValueError:
        return fallback
    return fallback if value is None else value


def stages(night: str) -> list[Row]:
    """Return how long the stages of `night` took."""
    return read("stages", night=night)


def pairs_by_side(night: str) -> dict[str, int]:
    """Return how many pairs `night` trained on, by side; held-out pairs are not counted."""
    rows = read("pairs", night=night)
    return {row["side"]: row["pairs"] for row in rows if row["split"] == "train"}


def production() -> Row | None:
    """Return the release that the registry points to and the event that put it there; None if there was only ever the base model.

    If the pointer moved without its event (a full disk), the release is returned without one.
    """
    release = current(settings().home)
    event = _first(read("production", release=release))
    return event or (None if release == BASE else {"release_id": release, "event": None, "reason": None, "night_id": None})


def releases() -> list[Row]:
    """Return the registered releases, newest first, with `status`."""
    return list_releases(settings().home)


def release_card(release: str) -> tuple[str, str]:
    """Return a release's card as Markdown and as an HTML page; empty where an older release has none.

    The page is made anew from the card: the one in the release's folder is sealed, and looks as its day's code wrote it.

    Raises:
        ReleaseError: there is no such release.
    """
    path = folder_of(settings().home, release) / "card.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text, card_page(text, title=f"Release {release}") if text else ""


def held_canary() -> Canary | None:
    """Return the canary that holds a share of the traffic."""
    return current_canary(settings().home)


def canary_checks(limit: int = 60) -> list[Row]:
    """Return the looks at the most recently tested canary, newest first; `curve` is a list."""
    return [{**row, "curve": parsed(row["curve"], [])} for row in read("canary_checks", limit=limit)]


def release_events(limit: int = 200) -> list[Row]:
    """Return what happened to releases, newest first."""
    return read("release_events", limit=limit)


def hook_states(limit: int = 50) -> list[Row]:
    """Return the result of each hook for each change, newest first."""
    with session(settings().home, wait=READ_WAIT) as connection:
        return named(connection, sql("alignment.store", "hook_states"), {"release": None, "limit": limit})


def labelers() -> list[Row]:
    """Return each labeler's state in the last night that labelled, with its measurements."""
    return read_shared("labelers")


def measured_detectors() -> list[Row]:
    """Return the measurements of each detector."""
    return read("detectors")


def agreement() -> list[Row]:
    """Return how often each pair of voters preferred the same answer."""
    return read("agreement")


def pairs_by_source() -> list[Row]:
    """Return accepted pairs by labelers, log source and side."""
    return read("pairs_by_source")


def disagreements(limit: int = 10) -> list[Row]:
    """Return comparisons that labelers decided differently, newest first."""
    return read("disagreements", limit=limit)


def decisions(limit: int = 100, *, decision: str | None = None) -> list[Row]:
    """Return the gate's decisions, newest first, `decision` among them; `reasons` is a list, `weakened` a table or empty."""
    rows = read("decisions", limit=limit, decision=decision)
    return [{**row, "reasons": parsed(row["reasons"], []), "weakened": parsed(row["weakened"])} for row in rows]


def gate_people(decision: str) -> list[Row]:
    """Return people's verdicts on one decision, oldest first."""
    return read("gate_people", decision=decision)


MAX_REASON = 500


def stated_reason(text: str | None) -> str:
    """Return the reason that a person gave for an act, redacted like a log.

    Raises:
        InputError: it is empty or too long.
    """
    said = (text or "").strip()
    if not said or len(said) > MAX_REASON:
        what = f"a reason of {len(said):,} characters is too long" if said else "the reason is missing"
        raise InputError(f"{what}; say in 1 to {MAX_REASON} characters why, it is kept with your name")
    return redacted(said)


def plan_change(action: Action, release: str) -> PlannedChange:
    """Return what an action on a release would change.

    Raises:
        ReleaseError: it cannot be done.
    """
    return release_change.plan_change(settings().home, action, release, approval=settings().gate.approval == "required")


def carry_out(plan: PlannedChange, *, actor: str, reason: str) -> str:
    """Do what was planned, and tell the hooks; return the release in production.

    Raises:
        InputError: there is no reason, or a very long one.
        ReleaseMoved: something has changed since the plan; nothing was done.
        StoreBusy: the store stayed locked.
        ChangeStopped: the system stopped it on its way; the message says what is in production.
    """
    moment, approval = datetime.now(UTC).replace(tzinfo=None), settings().gate.approval == "required"
    try:
        here = release_change.carry_out(settings().home, plan, approval=approval, actor=actor, reason=stated_reason(reason), now=moment)
    except (OSError, NoSpace) as error:
        raise ChangeStopped(_stopped(plan, error)) from error
    finally:
        forget()
    tell_hooks(settings())
    return here


class ChangeStopped(AlignError):
    """A full or failing disk stopped a change of what is served, perhaps after production had moved."""


def _stopped(plan: PlannedChange, error: OSError | NoSpace) -> str:
    why = error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
    try:
        here = current(settings().home)
    except OSError:
        return f"{why}. What is in production cannot be read; 'align doctor' looks into it"
    stands = (
        f"production did not move: it is {here}" if here == plan.before else f"production has moved: it was {plan.before}, it is {here}"
    )
    return f"{why}; {stands}. Look at the releases, free some space if the disk is full, and try again if it is still needed"


def answer_approval(night: str, verdict: Say, *, seen: str, actor: str, reason: str) -> str:
    """Approve or refuse what waits since `night`, the decision `seen`, and tell the hooks; return the release in production.

    People's text is redacted.

    Raises:
        InputError: there is no reason, or a very long one.
        ReleaseError: nothing waits, a name is missing, or production moved since; nothing was recorded.
        StoreBusy: the store stayed locked.
    """
    try:
        moment = datetime.now(UTC).replace(tzinfo=None)
        here = say(settings().home, night, verdict, actor=actor, reason=stated_reason(reason), now=moment, seen=seen)
    finally:
        forget()
    tell_hooks(settings())
    return here


def gate_metrics(decision: str) -> list[Row]:
    """Return the metrics of one decision, those about harm first."""
    return read("gate_metrics", decision=decision)


def gate_trend(limit: int = 30) -> list[Row]:
    """Return the metrics of the last `limit` decisions, oldest first."""
    return read("gate_trend", limit=limit)


def answers(decision: str, *, suite: str | None, change: str | None, harmful: list[str], limit: int, offset: int) -> list[Row]:
    """Return both models' answers behind a decision, those to the suites `harmful` first; `total` in each row counts all matches."""
    return read("answers", decision=decision, suite=suite, change=change, harmful=harmful, limit=limit, offset=offset)


def daily(days: int) -> list[Row]:
    """Return each detector's daily counts over the last `days` of traffic, oldest first."""
    return _daily(str(settings().home), days)


# Takes a second for a million exchanges and changes only when logs are read, so cache it longer than the rest.
@st.cache_data(ttl=60, max_entries=16, show_spinner=False)
def _daily(home: str, days: int) -> list[Row]:
    with session(Path(home), wait=READ_WAIT) as connection:
        return named(connection, sql("dashboard", "daily"), {"days": days})


def drift_latest() -> list[Row]:
    """Return each signal in the last seven closed days, alarms first."""
    return read_shared("drift_latest")


def drift_value() -> Row | None:
    """Return the mean of all e-detectors on the last closed day; None before the first report."""
    return _first(read("drift_value"))


def drift_alarms(limit: int = 12) -> list[Row]:
    """Return the last signals that alarms named, newest first; `slices` and `exchanges` are lists."""
    rows = read("drift_alarms", limit=limit)
    return [{**row, "slices": parsed(row["slices"], []), "exchanges": row["exchanges"] or []} for row in rows]


def check_runs() -> list[Row]:
    """Return the results of the last run of each suite of data checks; `detail` is a mapping."""
    return [{**row, "detail": parsed(row["detail"])} for row in read_shared("check_runs")]


def check_failures(limit: int = 50) -> list[Row]:
    """Return unmet expectations, newest first; `detail` is a mapping."""
    return [{**row, "detail": parsed(row["detail"])} for row in read("check_failures", limit=limit)]


def deliveries(days: int) -> list[Row]:
    """Return how many lines each day's ingest read and quarantined, over the last `days` with any, oldest first."""
    return read("deliveries", days=days)


def quarantine_days(days: int) -> list[Row]:
    """Return how many lines each reason kept out per day, over the last `days` with any, oldest first."""
    return read("quarantine_days", days=days)


def set_aside() -> list[Row]:
    """Return the log files that are kept out as a whole, newest first."""
    return read("set_aside")


def quarantined(reason: str | None, *, limit: int, offset: int) -> list[Row]:
    """Return quarantined lines, newest first, truncated to a table cell; `total` in each row counts all matches."""
    return read("quarantined", reason=reason, limit=limit, offset=offset)


def data_docs() -> dict[str, Path]:
    """Return the Data Docs pages that were written, by suite."""
    found = sorted((settings().home / "data_docs").glob("*.html"))
    return {path.stem: path for path in found if path.stem != "index"}


def review_progress() -> list[Row]:
    """Return how many items of each kind are decided, skipped and open, and the decisions."""
    return read("review_progress")


def redacted(text: str) -> str:
    """Return a person's text, masked like a log."""
    return redact(text, redaction_key(settings().home))[0]


def forget() -> None:
    """Clear the caches, because this page has written."""
    _rows.clear()
