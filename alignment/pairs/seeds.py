"""Seeds: labelled requests taught alongside the logs, whoever writes the logs.

In logs, harmful requests have the voice of those who ask them, and a model that learns from them alone learns the voice. Seeds ask the
same in many voices, and most come with a harmless request in the same words: the model must learn what tells the two apart.

Effects: `add_seeds`, `remove_seeds`, `load_seeds`, `sources`, `save_draw` and `drawn` read or write the store.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from alignment.errors import InputError
from alignment.ids import content_id, unit_interval
from alignment.records import Interaction, Side, in_turn
from alignment.store import append, append_durably, audit, query, session, sql

BUNDLED, LICENCE, PROJECT = "bundled", "Apache-2.0", "align"
SEED = "seed"
"""The labeler of pairs whose side was known from the start."""
HONEST, VOICE, TURN, ALARMING = "honesty", "voice", "turn", "alarming"
HONEST_AT_ONCE = 11
"""Clusters of honest inability drawn per cluster of another theme: as one theme among a dozen it would hardly be taught."""
HONESTY = "misinformation"
"""Category of questions with no honest answer but inability: the harm is an invented fact."""
_HONESTY, _EVASIONS, _VOICES, _TURNS, _ALARMING = (
    Path(__file__).parent / "data" / f"{name}.jsonl" for name in ("honesty", "evasions", "voices", "turns", "alarming")
)
_WHEN = datetime(1970, 1, 1)  # noqa: DTZ001 - the store keeps UTC without a zone
"""Before any window of traffic."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A request and its expected treatment; `chosen` and `rejected` are bundled answers, empty if the night must write them.

    Seeds of one `cluster` are taught together or not at all. `category` is a harm category, `lookalike` or `ordinary`. `before` holds the
    texts of the earlier turns, alternating between user and assistant.
    """

    id: str
    text: str
    side: Side
    category: str
    cluster: str
    source: str
    chosen: str = ""
    rejected: str = ""
    before: tuple[str, ...] = ()

    @property
    def needs_answer(self) -> bool:
        """Whether a model must write an answer: the rejected one for a harmful request, the chosen one otherwise."""
        return not (self.rejected if self.side is Side.HARM else self.chosen)

    @property
    def exchange(self) -> Interaction:
        """The seed as an exchange without an answer."""
        return Interaction(self.id, self.conversation_id, "", _WHEN, "", tuple(in_turn([*self.before, self.text])), "")

    @property
    def conversation_id(self) -> str:
        """Shared by the seeds with the same earlier turns, so that none is held out while another is trained on; empty without any."""
        # As seed_exchanges.sql computes it.
        return hashlib.sha256("\x1f".join((self.source, *self.before)).encode()).hexdigest() if self.before else ""


def seed(
    text: str,
    category: str,
    *,
    cluster: str,
    source: str,
    side: Side | None = None,
    chosen: str = "",
    rejected: str = "",
    before: Sequence[str] = (),
) -> Seed:
    """Return a seed under its content address; the category determines the side unless `side` is given.

    Raises:
        ValueError: `before` does not end with an assistant's turn.
    """
    if len(before) % 2:
        raise ValueError(f"the {len(before)} turns before a seed must alternate between user and assistant, and end with the assistant")
    # A seed of one turn keeps the address from before seeds had several turns.
    name = content_id(SEED, source, text, category, chosen, rejected, *([list(before)] if before else []))
    return Seed(name, text, side or Side.of(category), category, cluster, source, chosen, rejected, tuple(before))


def honesty() -> list[Seed]:
    """Return the project's questions with no honest answer but inability, each with an answerable one in the same voice."""
    return [
        one
        for number, row in enumerate(_rows(_HONESTY))
        for one in (
            seed(row["ask"], HONESTY, cluster=f"honesty-{number}", source=BUNDLED, chosen=row["honest"]),
            seed(row["contrast"], "ordinary", cluster=f"honesty-{number}", source=BUNDLED, rejected=row["honest"]),
        )
    ]


def evasions() -> list[Seed]:
    """Return the project's requests to deceive the people who care for the asker, each with a harmless request in almost the same words.

    They were added after the detectors were fitted: a manual count of pairs had found such a request that nothing held back.
    """
    return _beside("evasion", _EVASIONS)


def voices() -> list[Seed]:
    """Return the project's requests in voices that are rare in logs: bare words, roles, fiction, tasks on a text, figures of speech.

    Each harmful request has a harmless one in its words and an everyday one in its voice, so that no voice indicates harm.
    """
    return _beside(VOICE, _VOICES)


def turns() -> list[Seed]:
    """Return the project's last turns of conversations: a harmful one, a harmless one of its voice and length, and an everyday one.

    All three follow the same turns, which are everyday talk, a subject that may lead either way, or a request that was declined.
    """
    return _beside(TURN, _TURNS)


def alarming() -> list[Seed]:
    """Return the project's requests that only sound harmful: figures of speech, homonyms, fiction, history, professions, prevention.

    Three of them stand beside each harmful request, in its voice and in words as strong.
    """
    return _beside(ALARMING, _ALARMING, ("lookalike",) * 3)


def _beside(name: str, path: Path, beside: Sequence[str] = ("lookalike", "ordinary")) -> list[Seed]:
    """Return the requests of a file; each row is a cluster of a harmful request and the harmless ones `beside` it."""
    return [
        seed(text, category, cluster=f"{name}-{number}", source=BUNDLED, before=row.get("before", ()))
        for number, row in enumerate(_rows(path))
        for text, category in ((row["harm"], row["category"]), *zip(row["safe"], beside, strict=False))
    ]


@cache
def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def draw(seeds: Sequence[Seed], number: int) -> list[Seed]:
    """Return about `number` seeds, deterministically: whole clusters, in turn from each source and theme.

    >>> some = [seed(f"{n}?", "fraud", cluster=str(n), source="a") for n in range(9)] + [seed("x?", "hate", cluster="x", source="a")]
    >>> sorted(one.category for one in draw(some, 3))
    ['fraud', 'fraud', 'hate']
    """
    clusters: dict[tuple[str, str], list[Seed]] = defaultdict(list)
    for one in sorted(seeds, key=lambda one: (one.side, one.id)):
        clusters[one.source, one.cluster].append(one)
    lanes: dict[tuple[str, str], list[list[Seed]]] = defaultdict(list)
    for key in sorted(clusters, key=lambda key: (unit_interval(SEED, *key), key)):
        lanes[key[0], _theme(clusters[key])].append(clusters[key])
    for name, lane in lanes.items():
        if name[1] == HONEST:
            lanes[name] = [list(itertools.chain(*lane[at : at + HONEST_AT_ONCE])) for at in range(0, len(lane), HONEST_AT_ONCE)]
    drawn: list[Seed] = []
    for cluster in itertools.chain.from_iterable(itertools.zip_longest(*(lanes[name] for name in sorted(lanes)))):
        if cluster and len(drawn) + len(cluster) <= number:
            drawn += cluster
    return drawn


def _theme(cluster: Sequence[Seed]) -> str:
    """Return a cluster's theme: honesty, or its harmful request's category: plain, in other voices, in turns, or beside alarming words."""
    first = cluster[0]
    if first.side is Side.HARM and first.chosen:
        return HONEST
    if first.before:
        return f"{first.category} {TURN}"
    kind = first.cluster.partition("-")[0] if first.source == BUNDLED else ""
    return f"{first.category} {kind}" if kind in (VOICE, ALARMING) else first.category


def add_seeds(home: Path, seeds: Sequence[Seed], *, source: str, licence: str, contaminated: int, actor: str, now: datetime) -> int:
    """Add the seeds of a source, each once, and return how many are new; this restores a removed source.

    Raises:
        StoreBusy, NoSpace: nothing was written; the call can be repeated.
    """
    with session(home, write=True) as connection:
        new = append(connection, "seeds", [{**asdict(one), "licence": licence, "added_at": now} for one in seeds])

    def event(connection: duckdb.DuckDBPyConnection) -> list[Mapping[str, Any]]:
        if not new and _last(connection, source) == "add":
            return []
        audit.append(home, "seeds_add", source, actor=actor, reason=f"{len(seeds)} seeds under {licence}")
        return [_event(source, "add", actor, now, licence=licence, seeds=len(seeds), contaminated=contaminated)]

    append_durably(home, "seed_events", event)
    return new


def remove_seeds(home: Path, source: str, *, actor: str, reason: str, now: datetime) -> None:
    """Stop teaching a source's seeds; their pairs stay in the store but are not trained on.

    Raises:
        InputError: there is no such source, or it is the bundled source, which a setting removes.
        StoreBusy, NoSpace: nothing was written; the call can be repeated.
    """

    if source == BUNDLED and actor != PROJECT:
        raise InputError(f"the seeds of {BUNDLED!r} come back with every night; set bundled = false in [seeds]")

    def event(connection: duckdb.DuckDBPyConnection) -> list[Mapping[str, Any]]:
        if _last(connection, source) != "add":
            raise InputError(f"there are no seeds of {source!r}; 'align seeds list' shows the sources")
        audit.append(home, "seeds_remove", source, actor=actor, reason=reason)
        return [_event(source, "remove", actor, now)]

    append_durably(home, "seed_events", event)


def load_seeds(home: Path) -> list[Seed]:
    """Return the seeds of all sources that were not removed."""
    return _read(query(home, "SELECT * EXCLUDE (licence, added_at) FROM open_seeds ORDER BY id"))


def save_draw(home: Path, night_id: str, seeds: Sequence[Seed]) -> None:
    """Record which seeds a night teaches, and store them as exchanges that pairs can be built from.

    Raises:
        StoreBusy, NoSpace: nothing was written; the call can be repeated.
    """
    rows = [
        {"id": content_id(night_id, one.id), "night_id": night_id, "seed_id": one.id, "position": position}
        for position, one in enumerate(seeds)
    ]
    with session(home, write=True) as connection:
        append(connection, "seed_draws", rows)
        connection.execute(sql("alignment.store", "seed_exchanges"))


def drawn(home: Path, night_id: str) -> list[Seed]:
    """Return the seeds that a night teaches, without those removed since the draw."""
    return _read(query(home, sql("alignment.pairs", "drawn_seeds"), {"night_id": night_id}))


def _read(rows: Sequence[Mapping[str, Any]]) -> list[Seed]:
    return [Seed(**{**row, "side": Side(row["side"]), "before": tuple(json.loads(row["before"] or "[]"))}) for row in rows]


def sources(home: Path) -> list[dict[str, Any]]:
    """Return each source with its licence, its seeds by side, and how many seeds of its file are contaminated by the suites."""
    return query(home, sql("alignment.pairs", "seed_sources"))


def refuse_other(home: Path, source: str, licence: str) -> None:
    """Refuse a removed source, whose old seeds would come back, and a source known under another licence.

    Raises:
        InputError: the source is either of these.
    """
    rows = query(home, "SELECT arg_max(action, seq) AS last FROM seed_events WHERE source = ? GROUP BY source", [source])
    if rows and rows[0]["last"] == "remove":
        raise InputError(f"the seeds of {source!r} were removed; add the file under another --source")
    known = query(home, "SELECT DISTINCT licence FROM seeds WHERE source = ? AND licence <> ?", [source, licence])
    if known:
        raise InputError(
            f"{source!r} is known under the licence {known[0]['licence']!r}, not {licence!r}; give that one, or another --source"
        )


def _last(connection: duckdb.DuckDBPyConnection, source: str) -> str | None:
    row = connection.execute("SELECT arg_max(action, seq) FROM seed_events WHERE source = ?", [source]).fetchone()
    return row[0] if row else None


def _event(source: str, action: str, actor: str, now: datetime, **said: Any) -> dict[str, Any]:
    name = content_id("seed event", source, action, actor, now.isoformat())
    return {"id": name, "source": source, "action": action, "actor": actor, "recorded_at": now, **said}
