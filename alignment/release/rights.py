"""Decide whether a release may be served: one pure function on records, called by promotion, canary, rollback, pointer and hooks.

The base model always may. A release may if its files are as registered, it is not quarantined, and the gate's last decision on it, or a
person's last verdict on that decision, releases it. A release that the gate or a person holds back, or that nobody decided on, needs an
override with a name and a reason. A person's word is bound to the release, to the decision's number, and to the weights: it does not
apply to a newer decision. The last word is the one with the highest number; no clock is consulted.

A decision of a weakened gate does not bar a release; the reasons list what was weakened.

Effects: `records_of` reads the registry and the store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import duckdb

from alignment.errors import ReleaseError
from alignment.release.contents import Verified
from alignment.release.disk import BASE, is_quarantined, read_quarantine
from alignment.store import migrate, session, sql, store_path
from alignment.store.session import refuse_a_gap

By = Literal["base", "gate", "approval", "override", "nothing"]


@dataclass(frozen=True, slots=True)
class Word:
    """A person's word on a release: the decision it is about (None: none), its number, and the weights (None: unknown).

    `share` is the largest share of the traffic that an override covers; None if it covers production.
    """

    verdict: str
    decision_id: str | None
    decision_seq: int | None
    weights: str | None
    actor: str
    reason: str
    seq: int
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """The gate's last decision on a release. `waits`: a person must approve it; `model_id` is the model that answered (None: unknown)."""

    id: str
    seq: int
    night_id: str
    decision: str
    waits: bool
    model_id: str | None
    weakened: str = ""


@dataclass(frozen=True, slots=True)
class Records:
    """The records that determine a right; `words` in the order they were recorded."""

    weights: str
    model_id: str | None
    quarantined: str | None
    decision: Decided | None
    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Right:
    """Whether a release may be served, on what basis, and why (or why not), in words for people."""

    release_id: str
    allowed: bool
    by: By
    reasons: tuple[str, ...]

    @property
    def why(self) -> str:
        """The reasons, joined to one text."""
        return "; ".join(self.reasons)


def may_serve(release_id: str, records: Records | None, *, approval: bool = False, share: float | None = None) -> Right:
    """Return the right of a release; `records` is None for the base model only.

    `approval`: a person must approve what the gate promotes, even if the gate did not ask for that when it decided.
    `share`: of the traffic, for a canary; None asks for production.
    """
    if release_id == BASE:
        return Right(release_id, True, "base", ("the base model",))
    if records is None:
        return _no(release_id, "nothing is known of it")
    if records.quarantined is not None:
        return _no(release_id, f"it is quarantined: {records.quarantined}")
    decision = records.decision
    if decision and decision.model_id and decision.model_id != records.model_id:
        return _no(release_id, f"the gate decided on night {decision.night_id} on other weights than those registered")
    word = _last_word(records, share)
    if word and word.verdict == "refused":
        return _no(release_id, f"{release_id} was refused on night {decision.night_id if decision else '-'} by {word.actor}")
    if word and word.verdict == "overridden":
        return Right(release_id, True, "override", (f"overridden by {word.actor}: {word.reason}",))
    if decision is None:
        return _no(release_id, f"the gate has not decided on {release_id}")
    if decision.decision != "promote":
        return _no(release_id, f"the gate said {decision.decision!r} on night {decision.night_id}")
    weakened = (f"the gate was weakened: {decision.weakened}",) if decision.weakened else ()
    if word:
        return Right(release_id, True, "approval", (f"approved by {word.actor}: {word.reason}", *weakened))
    if decision.waits or approval:
        return _no(release_id, f"{release_id} waits for 'align gate --approve {decision.night_id} --reason TEXT'")
    return Right(release_id, True, "gate", (f"the gate said 'promote' on night {decision.night_id}", *weakened))


def _no(release_id: str, why: str) -> Right:
    return Right(release_id, False, "nothing", (why,))


def _last_word(records: Records, share: float | None) -> Word | None:
    """Return the last valid word on the last decision, these weights and this share; a word without a name or reason is not valid."""
    decision = records.decision
    wanted = (decision.id, decision.seq) if decision else (None, 0)
    # A refusal only has to match the decision; a word that releases must match everything.
    fitting = [
        word
        for word in records.words
        if word.decision_id == wanted[0]
        and (word.verdict == "refused" or (word.decision_seq in (None, wanted[1]) and word.weights in (None, records.weights)))
        and (word.share is None or (share is not None and share <= word.share))
        and word.actor.strip()
        and word.reason.strip()
    ]
    return max(fitting, key=lambda word: word.seq, default=None)


def records_of(home: Path, release_id: str, verified: Verified) -> Records:
    """Return the records in registry and store on a release whose files were `verified`.

    Raises:
        StoreError: the store cannot be read.
    """
    mark = read_quarantine(home, release_id)["reason"] if is_quarantined(home, release_id) else None
    if not store_path(home).exists():
        refuse_a_gap(home)  # a lost store must not read as "nobody decided"
        return Records(verified.weights, verified.model_id, mark, None, ())
    try:
        decisions, words = _asked(home, release_id)
    except (duckdb.BinderException, duckdb.CatalogException):  # a store of earlier code
        migrate(home)
        decisions, words = _asked(home, release_id)
    decision = _decided(decisions[0]) if decisions else None
    return Records(verified.weights, verified.model_id, mark, decision, tuple(Word(**row) for row in words))


def _asked(home: Path, release_id: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    with session(home) as connection:
        found = []
        for name in ("decision", "words"):
            cursor = connection.execute(sql("alignment.release", name), {"release": release_id})
            columns = [column[0] for column in cursor.description or ()]
            found.append([dict(zip(columns, row, strict=True)) for row in cursor.fetchall()])
    return found[0], found[1]


def _decided(row: Mapping[str, Any]) -> Decided:
    return Decided(
        row["id"],
        int(row["seq"] or 0),
        str(row["night_id"]),
        str(row["decision"]),
        bool(row["waits"]),
        row["model_id"],
        _weakened(row.get("weakened")),
    )


def _weakened(told: Any) -> str:
    """Return the row's note on settings below the gate's floor; empty if there were none."""
    if not told:
        return ""
    try:
        found = json.loads(told) if isinstance(told, str) else told
        return str(found["reason"])
    except (ValueError, KeyError, TypeError):
        return "no reason is on record"


def refuse(right: Right) -> None:
    """Raise ReleaseError if there is no right, and say what a person can do."""
    if not right.allowed:
        raise ReleaseError(
            f"{right.release_id} may not be served: {right.why}; "
            f"'align release promote {right.release_id} --actor NAME --reason TEXT' is for people"
        )
