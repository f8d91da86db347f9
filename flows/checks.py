"""Data checks around the stages: run them, store them, publish them as Data Docs, and stop or warn.

Effects: reads and writes the store and `<home>/data_docs`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from alignment.config import Settings
from alignment.ids import content_id
from alignment.records import Pair
from alignment.store import append, query, session, sql
from alignment.train import TrainJob, read_job
from alignment.train.job import JOB, read_pairs
from data_checks import CheckReport, check, training
from data_checks.docs import write_docs
from data_checks.history import judge
from flows.night import now
from flows.show import say

_HISTORY = 200
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
_MAX_KEYS = 500


class Consent(NamedTuple):
    """The number of pairs that a training run was given, and how many of them lack consent by now."""

    pairs: int
    without: int


def conclude(settings: Settings, report: CheckReport, what: str, *, remedy: str = "Repair it and run again") -> CheckReport:
    """Store and publish a report, print its warnings, and stop if it says so; return it.

    Raises:
        CheckFailed: `what` did not meet an expectation that stops.
    """
    with session(settings.home, write=True) as connection:
        append(connection, "check_results", report.results)
    publish(settings, {row["suite"] for row in report.results})
    for warning in report.warnings:
        say(f"warning: {warning}")
    report.raise_on_stop(what, remedy=remedy)
    return report


def publish(settings: Settings, suites: Collection[str]) -> None:
    """Write the Data Docs of the last run of each suite, and their index."""
    rows = query(settings.home, sql("alignment.store", "check_runs"))
    write_docs(settings.home / "data_docs", [{**row, "detail": json.loads(row["detail"])} for row in rows], only=suites)


def check_ingest(
    settings: Settings,
    *,
    since: datetime,
    sources: Collection[str] | None = None,
    keys: Mapping[str, Collection[str]] | None = None,
    accept: bool = False,
) -> CheckReport:
    """Compare each source's delivery with its earlier ones; call this after moderation, whether or not anything is new.

    The comparison covers everything since the source's last comparison that did not stop: a stop holds until all of it passes, or until
    `accept` lets it pass with a warning. `since` is when this run began, `sources` are the sources it looked for (None: all that ever
    delivered), `keys` the top-level keys seen in each, as `name` or `name:type`. A repeated call for the same run compares and stores the
    same profiles.

    Raises:
        CheckFailed: a check whose setting is 'stop' failed; what was read stays stored.
    """
    run = since.isoformat()
    rows = query(
        settings.home, sql("flows", "profile_ingest"), {"since": since, "run": run, "sources": None if sources is None else sorted(sources)}
    )
    for row in rows:
        row["keys"] = None if not keys or row["source"] not in keys else plain_keys(keys[row["source"]])
    report = _compare(settings, "ingest", run, rows, accept=accept)
    remedy = "Repair it and run again; if it is right as it is, 'align ingest --accept' lets it pass"
    return conclude(settings, report, "what was read", remedy=remedy)


def plain_keys(keys: Collection[str]) -> list[str]:
    """Return keys of log lines in a form safe to store and show: a key that looks like text is replaced by its address.

    >>> plain_keys({"user_id", "my name is Ann"})
    ['other-17d0ea4b', 'user_id']
    """
    plain = {key if _PLAIN_KEY.fullmatch(key) else f"other-{content_id(key)[:8]}" for key in keys}
    return sorted(plain)[:_MAX_KEYS]


def _compare(settings: Settings, kind: str, run: str, rows: Sequence[dict[str, Any]], *, accept: bool = False) -> CheckReport:
    """Compare a run's profiles with their sources' earlier profiles that did not stop; store them with the findings."""
    moment = now()
    known = query(settings.home, sql("flows", "profiles_before"), {"kind": kind, "before": moment, "limit": _HISTORY})
    earlier = [{**row, "keys": json.loads(row["keys"] or "null")} for row in known if row["run"] != run]
    empty = dict.fromkeys(("quarantined", "no_user_id", "no_conversation_id", "no_model", "no_signals", "flagged", "smaller_side", "keys"))
    results, profiles = [], []
    for row in rows:
        known = [one for one in earlier if one["source"] == row["source"]]
        before = [one for one in known if not one["stopped"]]
        stopped = known[: known.index(before[0])] if before else known
        keys = {*(row.get("keys") or ()), *(key for one in stopped for key in one["keys"] or ())}
        hours = (moment - before[0]["recorded_at"]).total_seconds() / 3600 if before else None
        profile = {**empty, **row, "keys": sorted(keys) or None, "id": content_id(kind, run, row["source"]), "kind": kind, "run": run}
        profile |= {"hours": hours, "recorded_at": moment}
        profiles.append(profile)
        results += judge(profile, before, settings.checks, now=moment).results
    if accept:
        results = [{**row, "severity": "warn"} for row in results]
    with session(settings.home, write=True) as connection:
        append(connection, "batch_profiles", profiles)
        append(connection, "check_results", results)
    return CheckReport({}, results)


def check_pairs(settings: Settings, night_id: str, pairs: Sequence[Pair]) -> CheckReport:
    """Check the training set that a night has built.

    Raises:
        CheckFailed: it must not be trained on.
    """
    frame = pd.DataFrame(
        {
            "id": [pair.id for pair in pairs],
            "chosen": [pair.chosen for pair in pairs],
            "rejected": [pair.rejected for pair in pairs],
            "side": [pair.side.value for pair in pairs],
            "split": [pair.split for pair in pairs],
            "judge_margin": [pair.judge_margin for pair in pairs],
            "differs": [int(pair.chosen.strip() != pair.rejected.strip()) for pair in pairs],
            "zero": 0,
        }
    )
    return conclude(settings, check("pairs", frame, batch=night_id, now=now()), f"the pairs of night {night_id}")


def check_training(settings: Settings, night_id: str, job: TrainJob) -> CheckReport:
    """Check the exact pairs prepared for a training process, and the night's balance against earlier nights.

    Raises:
        CheckFailed: they must not be trained on.
    """
    handed = read_pairs(job)
    consent = _consent(settings, [pair["id"] for pair in handed])
    frame = pd.DataFrame(_training_rows(handed, consent, job))
    moment = now()
    report = check("training", frame, batch=night_id, now=moment, expectations=training(job.settings))
    [pairs] = query(settings.home, sql("flows", "profile_pairs"), {"night_id": night_id})
    balance = _compare(settings, "pairs", night_id, [{**pairs, "source": "training set"}])
    return conclude(settings, CheckReport({}, [*report.results, *balance.results]), f"the training of night {night_id}")


def _training_rows(handed: Sequence[Mapping[str, Any]], consent: Mapping[str, bool], job: TrainJob) -> list[dict[str, Any]]:
    from alignment.models.local import load_tokenizer
    from alignment.train.tokens import tokenise

    tokenizer = load_tokenizer(job.base)
    rows = []
    for pair in handed:
        ids = tokenise(pair, tokenizer, max_completion_tokens=job.settings.max_completion_tokens)
        answers = sorted(len(ids[name]) for name in ("chosen_ids", "rejected_ids"))
        chosen, rejected = pair["chosen"].strip(), pair["rejected"].strip()
        rows.append(
            {
                "id": pair["id"],
                "side": pair["side"],
                "split": pair["split"],
                "consent": consent.get(pair["id"], False),
                "prompt": str(pair["messages"][-1]["content"]).strip() if pair["messages"] else "",
                "chosen": chosen,
                "rejected": rejected,
                "differs": chosen != rejected,
                "taught_differs": ids["chosen_ids"] != ids["rejected_ids"],
                "prompt_tokens": len(ids["prompt_ids"]),
                "shorter_answer_tokens": answers[0],
                "longer_answer_tokens": answers[1],
                "tokens": len(ids["prompt_ids"]) + answers[1],
            }
        )
    return rows


def _consent(settings: Settings, ids: Sequence[str]) -> dict[str, bool]:
    return {row["id"]: row["consent"] for row in query(settings.home, sql("flows", "pair_consent"), {"ids": list(ids)})}


def consent_of(settings: Settings, folder: Path) -> Consent:
    """Count the consent in the store for the exact pairs that the training run in `folder` was given."""
    found = _consent(settings, [pair["id"] for pair in read_pairs(read_job(folder / JOB))])
    return Consent(len(found), sum(not consent for consent in found.values()))
