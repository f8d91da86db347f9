"""People's rulings on existing pairs: leave one out, swap its answers, or ask the reviewers first.

The last event on an exchange applies to all its pairs, whoever labelled them, until it is taken back; the next training set
follows it. Events are appended with a name and a reason, ordered by a sequence number.

Effects: `load_rulings` reads the store, `rule` appends to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb

from alignment.errors import InputError
from alignment.ids import content_id
from alignment.pairs.build import HUMAN
from alignment.records import Pair
from alignment.store import append_durably, audit, query, sql

Action = Literal["exclude", "flip", "review", "restore"]
ACTIONS: tuple[Action, ...] = ("exclude", "flip", "review", "restore")
REVIEW_KIND = "pair_review"
DONE = {"exclude": "excluded", "flip": "flipped", "review": "sent to review"}


class Ruling(NamedTuple):
    """The valid ruling on an exchange; `verdict` is the reviewers' on the pair, None while it waits, `disputed` if they differ."""

    interaction_id: str
    pair_id: str
    action: str
    verdict: str | None = None
    edited_answer: str | None = None


def load_rulings(home: Path) -> list[Ruling]:
    """Return the rulings on pairs that were not taken back, at most one per exchange."""
    return [Ruling(*(row[name] for name in Ruling._fields)) for row in query(home, sql("alignment.pairs", "rulings"))]


def apply_rulings(current: Iterable[Pair], known: Sequence[Pair], rulings: Sequence[Ruling]) -> list[Pair]:
    """Apply rulings to the `current` pairs; a pair with swapped or edited answers is labelled by a human.

    `known` are all pairs: a ruling may bring back a pair that labelers see otherwise today. If a ruling's pair is not known, for instance
    after a withdrawn consent, its exchange gets no pair.
    """
    ruled = {ruling.interaction_id for ruling in rulings}
    by_id = {pair.id: pair for pair in known}
    kept = [pair for pair in current if pair.interaction_id not in ruled]
    for ruling in rulings:
        pair = by_id.get(ruling.pair_id)
        made = _as_ruled(pair, ruling, by_id) if pair else None
        if made is not None:
            kept.append(made)
    return kept


def _as_ruled(pair: Pair, ruling: Ruling, known: Mapping[str, Pair]) -> Pair | None:
    verdict = "flip" if ruling.action == "flip" else ruling.verdict if ruling.action == "review" else None
    if verdict == "agree":
        return pair
    if verdict == "flip":
        return _by_hand(pair, known, chosen=pair.rejected, rejected=pair.chosen, kinds=(pair.rejected_kind, pair.chosen_kind))
    edited = (ruling.edited_answer or "").strip()
    if verdict == "edit" and edited and edited != pair.rejected.strip():
        return _by_hand(pair, known, chosen=str(ruling.edited_answer), rejected=pair.rejected, kinds=("edited", pair.rejected_kind))
    return None


def _by_hand(pair: Pair, known: Mapping[str, Pair], *, chosen: str, rejected: str, kinds: tuple[str, str]) -> Pair:
    name = content_id([dict(message) for message in pair.messages], chosen, rejected)
    before = known.get(name)
    if before is not None and HUMAN not in before.labelers:
        # A labeler once built the same pair: a person's pair needs its own id.
        name = content_id(name, HUMAN)
        before = known.get(name)
    if before is not None:
        return before
    changes: dict[str, Any] = {"chosen": chosen, "rejected": rejected, "chosen_kind": kinds[0], "rejected_kind": kinds[1]}
    return replace(pair, id=name, labelers=(HUMAN,), judge_margin=1.0, **changes)


def rule(home: Path, pair_id: str, action: Action, *, actor: str, reason: str, now: datetime, wait: float = 120.0) -> bool:
    """Record `actor`'s ruling on a pair; return False if it already stands. The caller redacts the reason.

    A pair sent to review is trained on again once a reviewer agrees with it.

    Raises:
        InputError: name or reason is missing, there is no such pair, or there is nothing to take back.
        StoreBusy, NoSpace: nothing was written; the call can be repeated.
    """
    if not actor.strip() or not reason.strip():
        raise InputError(f"a ruling on a pair needs a name and a reason, not {actor!r} and {reason!r}; give --actor NAME and --reason TEXT")
    name = content_id("pair event", pair_id, action, actor, reason, now.isoformat())
    if action == "review":
        # Write the question before the event: nobody is asked a question without an event.
        append_durably(home, "review_items", lambda store: _question(store, pair_id, name, actor=actor, reason=reason, now=now), wait=wait)

    def make(connection: duckdb.DuckDBPyConnection) -> list[Mapping[str, Any]]:
        pair = _pair(connection, pair_id)
        standing = _standing(connection, pair)
        if standing == (pair_id, action, actor, reason):
            return []
        if action == "restore" and (standing is None or standing[1] == "restore"):
            raise InputError(f"nobody excluded, flipped or sent the pair {pair_id!r} to review; there is nothing to take back")
        seq = connection.execute("SELECT coalesce(max(seq), 0) + 1 FROM pair_events").fetchone()
        audit.append(home, f"pair_{action}", pair_id, actor=actor, reason=reason)
        event = {"id": name, "pair_id": pair_id, "interaction_id": pair["interaction_id"], "action": action, "actor": actor}
        return [event | {"reason": reason, "seq": seq[0] if seq else 1, "recorded_at": now}]

    return append_durably(home, "pair_events", make, wait=wait) > 0


def _pair(connection: duckdb.DuckDBPyConnection, pair_id: str) -> dict[str, Any]:
    cursor = connection.execute("SELECT * FROM pairs WHERE id = ? LIMIT 1", [pair_id])
    names = [column[0] for column in cursor.description or ()]
    row = cursor.fetchone()
    if row is None:
        raise InputError(f"there is no pair {pair_id!r}; the dashboard's page Pairs and 'align pairs export' show ids")
    return dict(zip(names, row, strict=True))


def _standing(connection: duckdb.DuckDBPyConnection, pair: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return pair, action, actor and reason of the ruling on a pair's exchange."""
    statement = "SELECT pair_id, action, actor, reason FROM standing_pair_events WHERE interaction_id = ?"
    row = connection.execute(statement, [pair["interaction_id"]]).fetchone()
    return tuple(map(str, row)) if row else None


def _question(
    connection: duckdb.DuckDBPyConnection, pair_id: str, name: str, *, actor: str, reason: str, now: datetime
) -> list[Mapping[str, Any]]:
    pair = _pair(connection, pair_id)
    if _standing(connection, pair) == (pair_id, "review", actor, reason):
        return []
    messages = _turns(pair["messages"])
    detail = {"pair_id": pair_id, "side": pair["side"], "category": pair["category"], "principle_ids": _turns(pair["principle_ids"])}
    return [
        {
            "id": name, "kind": REVIEW_KIND, "reason": f"a person asks whether this pair may be taught: {reason}",
            "interaction_id": pair["interaction_id"], "prompt": messages[-1]["content"] if messages else "", "answer_a": pair["chosen"],
            "answer_b": pair["rejected"], "proposal": "A is better", "detail": detail, "priority": 3.0, "created_at": now,
        }
    ]  # fmt: skip


def _turns(text: str | None) -> list[Any]:
    return list(json.loads(text)) if text else []
