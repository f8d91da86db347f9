"""Lineage both ways: from a release back to the log lines it learnt from, and from a line to everything that learnt from it.

Effects: reads the store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from alignment.errors import InputError
from alignment.store import session, sql

MIN_DIGITS = 8
_PREFIX, _LINE = re.compile(rf"^[0-9a-f]{{{MIN_DIGITS},64}}$"), re.compile(r"^(?P<path>.+):(?P<line>\d+)$", re.S)
_KINDS = "a release, night, pair, judgement, candidate, review item, exchange, or line of a log file"


class Thing(NamedTuple):
    """The kind and id of something that can be traced."""

    kind: str
    id: str


@dataclass(frozen=True)
class Node:
    """One thing in a lineage: its facts and its parts. `more` counts parts not shown."""

    kind: str
    id: str
    facts: dict[str, Any] = field(default_factory=dict)
    parts: tuple[Node, ...] = ()
    more: int = 0


class Trace(NamedTuple):
    """A thing, what it was made of, and what was made of it."""

    thing: Node
    origin: tuple[Node, ...]
    became: tuple[Node, ...]


class _Store(NamedTuple):
    connection: duckdb.DuckDBPyConnection
    limit: int

    def rows(self, statement: str, *values: Any, **named: Any) -> list[dict[str, Any]]:
        cursor = self.connection.execute(statement, named or list(values))
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _node(kind: str, id_: str, facts: Mapping[str, Any], parts: Sequence[Node] = (), *, more: int = 0) -> Node:
    return Node(kind, id_, {name: value for name, value in facts.items() if value is not None}, tuple(parts), more)


def find(home: Path, name: str) -> Thing:
    """Return what `name` names: an id, a unique prefix of at least eight digits, or PATH:LINE of a log file.

    Raises:
        InputError: it names nothing, or several things; the message lists these.
    """
    with session(home) as connection:
        if _PREFIX.match(name):
            found = connection.execute(sql("alignment.lineage", "trace_find"), {"id": name}).fetchall()
        elif line := _LINE.match(name):
            found = connection.execute(sql("alignment.lineage", "trace_line"), {"path": line["path"], "line": int(line["line"])}).fetchall()
        else:
            raise InputError(
                f"{name!r} is neither an id, nor the first {MIN_DIGITS} or more hex digits of one, nor PATH:LINE; 'align release list' and "
                "'align status' show ids"
            )
    whole = [Thing(*row) for row in found if row[1] == name] or [Thing(*row) for row in found]
    if not whole:
        raise InputError(
            f"nothing is known of {name!r}: it names no {_KINDS.removeprefix('a ')}; 'align release list' and 'align status' show ids"
        )
    if len(whole) > 1:
        listed = ", ".join(f"{kind} {id_}" for kind, id_ in whole[:5])
        raise InputError(f"{name!r} names {len(whole)} things ({listed}{', …' * (len(whole) > 5)}); give more of the id")
    return whole[0]


def trace(home: Path, name: str, *, limit: int = 10) -> Trace:
    """Follow what `name` names both ways; at most `limit` of a night's pairs are shown, the others counted.

    Raises:
        InputError: see `find`.
    """
    thing = find(home, name)
    with session(home) as connection:
        return _TRACERS[thing.kind](_Store(connection, limit), thing.id)


def _line(store: _Store, table: str, id_: str) -> tuple[Node, ...]:
    rows = store.rows(sql("alignment.lineage", "trace_places").format(table=table), id=id_)
    return tuple(_node("log line", f"{row['path']}:{row['line_number']}", {}) for row in rows)


def _exchange(store: _Store, id_: str | None) -> tuple[Node, ...]:
    rows = store.rows("SELECT user_id, created_at, model, prompt, response, consent FROM interactions WHERE id = ?", id_)
    return tuple(_node("exchange", str(id_), row, _line(store, "interactions", str(id_))) for row in rows)


_CANDIDATE_FACTS = (
    "id, kind, model, principle_id, text, detail ->> '$.author' AS author, detail ->> '$.critique_1' AS critique, "
    "detail ->> '$.verification' AS verification, nullif(detail ->> '$.outcome', 'revised') AS unfit"
)


def _candidates(store: _Store, condition: str, *values: Any) -> tuple[Node, ...]:
    rows = store.rows(f"SELECT {_CANDIDATE_FACTS} FROM candidates WHERE {condition} ORDER BY id", *values)  # noqa: S608
    return tuple(_node("candidate", row.pop("id"), row) for row in rows)


def _judgements(store: _Store, condition: str, *values: Any) -> tuple[Node, ...]:
    rows = store.rows(
        f"SELECT id, labeler, verdict, judge_margin, chosen_id, rejected_id FROM judgements WHERE {condition} ORDER BY created_at, id",  # noqa: S608
        *values,
    )
    return tuple(
        _node(
            "judgement",
            row["id"],
            {name: row[name] for name in ("labeler", "verdict", "judge_margin")},
            _candidates(store, "list_contains(?, id)", [row["chosen_id"], row["rejected_id"]]),
        )
        for row in rows
    )


def _reviews(store: _Store, interaction_id: str) -> tuple[Node, ...]:
    rows = store.rows(
        "SELECT id, kind, reason, proposal FROM review_items WHERE interaction_id = ? ORDER BY created_at, id",
        interaction_id,
    )
    return tuple(_node("review item", row_id, row, _verdicts(store, row_id)) for row in rows for row_id in [row.pop("id")])


def _verdicts(store: _Store, item_id: str) -> tuple[Node, ...]:
    rows = store.rows(
        "SELECT id, reviewer, verdict, edited_answer, note, decided_at FROM verdicts WHERE item_id = ? ORDER BY decided_at", item_id
    )
    return tuple(_node("verdict", row.pop("id"), row) for row in rows)


def _rulings(store: _Store, interaction_id: str) -> tuple[Node, ...]:
    rows = store.rows(
        "SELECT id, action, actor, reason, pair_id, recorded_at FROM pair_events WHERE interaction_id = ? ORDER BY seq", interaction_id
    )
    return tuple(_node("ruling on a pair", row.pop("id"), row) for row in rows)


def _releases(store: _Store, night: str) -> tuple[Node, ...]:
    rows = store.rows(sql("alignment.lineage", "trace_releases"), night=night)
    return tuple(_node("release", row["id"], {"events": row["events"]}) for row in rows)


def _nights(store: _Store, pair_id: str) -> tuple[Node, ...]:
    rows = store.rows("SELECT night_id, split FROM pair_sets WHERE pair_id = ? ORDER BY night_id", pair_id)
    return tuple(_node("night", row["night_id"], {"split": row["split"]}, _releases(store, row["night_id"])) for row in rows)


_PAIR_FACTS = "side, category, labelers::VARCHAR AS labelers, judge_margin, chosen_kind, chosen, rejected_kind, rejected"


def _pairs_into(store: _Store, condition: str, *values: Any) -> tuple[Node, ...]:
    rows = store.rows(f"SELECT id, {_PAIR_FACTS} FROM pairs WHERE {condition} ORDER BY built_at, id", *values)  # noqa: S608
    return tuple(_node("pair", row_id, row, _nights(store, row_id)) for row in rows for row_id in [row.pop("id")])


def _pair_origin(store: _Store, pair_id: str) -> tuple[Node, ...]:
    [row] = store.rows("SELECT interaction_id, chosen, rejected FROM pairs WHERE id = ?", pair_id)
    one = row["interaction_id"]
    chosen = "(SELECT id FROM candidates WHERE interaction_id = $1 AND text IN ($2, $3))"
    judged = _judgements(
        store, f"interaction_id = $1 AND chosen_id IN {chosen} AND rejected_id IN {chosen}", one, row["chosen"], row["rejected"]
    )
    # An answer written by a person is no candidate; show the judgement that the person saw instead.
    judged = judged or _judgements(store, "interaction_id = ?", one)
    reviewed = tuple(item for item in _reviews(store, one) if item.parts)
    return (*judged, *reviewed, *_rulings(store, one), *_exchange(store, one))


def _set_of(store: _Store, night: str) -> Node:
    sides = store.rows(sql("alignment.lineage", "trace_sides"), night=night)
    shown = store.rows(
        f"SELECT pairs.id, {_PAIR_FACTS} FROM pair_sets JOIN pairs ON pairs.id = pair_id WHERE night_id = ? ORDER BY pairs.id LIMIT ?",  # noqa: S608
        night,
        store.limit,
    )
    pairs = [_node("pair", row_id, row, _pair_origin(store, row_id)) for row in shown for row_id in [row.pop("id")]]
    facts = {f"{row['split']} pairs, {row['side']} side": row["n"] for row in sides}
    return _node("night", night, facts, pairs, more=sum(row["n"] for row in sides) - len(pairs))


def _trace_release(store: _Store, id_: str) -> Trace:
    nights = store.rows(sql("alignment.lineage", "trace_nights"), release=id_)
    events = store.rows("SELECT id, event, actor, reason, recorded_at FROM release_events WHERE release_id = ? ORDER BY seq", id_)
    happened = tuple(_node("event", row.pop("id"), row) for row in events)
    return Trace(_node("release", id_, {}), tuple(_set_of(store, row["night_id"]) for row in nights), happened)


def _trace_night(store: _Store, id_: str) -> Trace:
    made = _set_of(store, id_)
    return Trace(Node("night", id_, made.facts, (), made.more), made.parts, _releases(store, id_))


def _trace_pair(store: _Store, id_: str) -> Trace:
    [whole] = _pairs_into(store, "id = ?", id_)
    return Trace(_node("pair", id_, whole.facts), _pair_origin(store, id_), whole.parts)


def _trace_judgement(store: _Store, id_: str) -> Trace:
    [whole] = _judgements(store, "id = ?", id_)
    [row] = store.rows("SELECT interaction_id FROM judgements WHERE id = ?", id_)
    one = row["interaction_id"]
    reviewed = [item for item in _reviews(store, one) if _judged_by(store, item.id) == id_]
    return Trace(
        _node("judgement", id_, whole.facts),
        (*whole.parts, *_exchange(store, one)),
        (*reviewed, *_pairs_into(store, "interaction_id = ?", one)),
    )


def _judged_by(store: _Store, item_id: str) -> str | None:
    [row] = store.rows("SELECT detail ->> 'judgement_id' AS judgement FROM review_items WHERE id = ?", item_id)
    return str(row["judgement"]) if row["judgement"] else None


def _trace_candidate(store: _Store, id_: str) -> Trace:
    [whole] = _candidates(store, "id = ?", id_)
    [row] = store.rows("SELECT interaction_id, text FROM candidates WHERE id = ?", id_)
    judged = _judgements(store, "chosen_id = $1 OR rejected_id = $1", id_)
    pairs = _pairs_into(store, "interaction_id = $1 AND (chosen = $2 OR rejected = $2)", row["interaction_id"], row["text"])
    return Trace(whole, _exchange(store, row["interaction_id"]), (*judged, *pairs))


def _trace_review(store: _Store, id_: str) -> Trace:
    [row] = store.rows("SELECT interaction_id, kind, reason, proposal, prompt, answer_a, answer_b FROM review_items WHERE id = ?", id_)
    one = row.pop("interaction_id")
    judged = _judgements(store, "id = ?", _judged_by(store, id_))
    pairs = _pairs_into(store, "interaction_id = ?", one)
    return Trace(_node("review item", id_, row), (*judged, *_exchange(store, one)), (*_verdicts(store, id_), *pairs))


def _trace_exchange(store: _Store, id_: str) -> Trace:
    [whole] = _exchange(store, id_)
    kept_out = store.rows("SELECT id, night_id, reason FROM pair_exclusions WHERE interaction_id = ? ORDER BY night_id, reason", id_)
    became = (
        *_candidates(store, "interaction_id = ?", id_),
        *_judgements(store, "interaction_id = ?", id_),
        *_reviews(store, id_),
        *_pairs_into(store, "interaction_id = ?", id_),
        *(_node("kept out", row.pop("id"), row) for row in kept_out),
    )
    return Trace(_node("exchange", id_, whole.facts), whole.parts, became)


def _trace_quarantined(store: _Store, id_: str) -> Trace:
    [row] = store.rows("SELECT reason, detail, raw, quarantined_at FROM quarantine WHERE id = ?", id_)
    return Trace(_node("quarantined line", id_, row), _line(store, "quarantine", id_), ())


_TRACERS: dict[str, Callable[[_Store, str], Trace]] = {
    "release": _trace_release,
    "night": _trace_night,
    "pair": _trace_pair,
    "judgement": _trace_judgement,
    "candidate": _trace_candidate,
    "review item": _trace_review,
    "exchange": _trace_exchange,
    "quarantined line": _trace_quarantined,
}
