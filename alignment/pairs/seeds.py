"""Seeds: labelled requests that are taught beside the logs, whoever writes these.

In logs, harm has the voice of those who ask for it, and a model that learns from them alone learns the voice. Seeds say the same in many
voices, and most come with a harmless request in the same words: what tells the two apart is what is to be learnt.

Effects: `add_seeds`, `remove_seeds`, `load_seeds`, `sources`, `save_draw` and `drawn` read or write the store.
"""

from __future__ import annotations

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
"""The labeler of a pair whose side was known from the start."""
HONEST, VOICE, TURN = "honesty", "voice", "turn"
IN_TURN = 8
"""Clusters of honest inability that are drawn where one of another theme is: as one theme beside a dozen it is hardly taught."""
HONESTY = "misinformation"
"""Category of a question that only honest inability answers: what goes wrong is an invented fact."""
_HONESTY, _EVASIONS, _VOICES, _TURNS = (
    Path(__file__).parent / "data" / f"{name}.jsonl" for name in ("honesty", "evasions", "voices", "turns")
)
_WHEN = datetime(1970, 1, 1)  # noqa: DTZ001 - the store keeps UTC without a zone
"""No window of traffic reaches back to it."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A request and what is to be learnt of it; `chosen` and `rejected` are answers that came with it, empty ones are written at night.

    Seeds of one `cluster` are taught together or not at all. `category` is a harm category, `lookalike` or `ordinary`. `before` are the
    texts of the earlier turns, by user and assistant in turn.
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
        """Whether a model must answer: a pair of a harmful request rejects its answer, another pair chooses it."""
        return not (self.rejected if self.side is Side.HARM else self.chosen)

    @property
    def exchange(self) -> Interaction:
        """The seed as an exchange that nobody has answered."""
        return Interaction(self.id, "", "", _WHEN, "", tuple(in_turn([*self.before, self.text])), "")


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
    """Return a seed under its content address; the category says its side unless `side` does."""
    # A seed of one turn keeps the address that it had before there were others.
    name = content_id(SEED, source, text, category, chosen, rejected, *([list(before)] if before else []))
    return Seed(name, text, side or Side.of(category), category, cluster, source, chosen, rejected, tuple(before))


def honesty() -> list[Seed]:
    """Return the project's questions that only honest inability answers, each with one in the same voice that has an answer."""
    return [
        one
        for number, row in enumerate(_rows(_HONESTY))
        for one in (
            seed(row["ask"], HONESTY, cluster=f"honesty-{number}", source=BUNDLED, chosen=row["honest"]),
            seed(row["contrast"], "ordinary", cluster=f"honesty-{number}", source=BUNDLED, rejected=row["honest"]),
        )
    ]


def evasions() -> list[Seed]:
    """Return the project's requests to deceive those who care for one, each with a harmless one in almost the same words.

    They came after the detectors were fitted: a hand count of pairs had found one that nothing held back.
    """
    return _beside("evasion", _EVASIONS)


def voices() -> list[Seed]:
    """Return the project's requests in voices that logs hold seldom: bare words, roles, fiction, tasks on a text, figures of speech.

    Each harmful one has a harmless one in its words and an everyday one in its voice, so that no voice tells what is harmful.
    """
    return _beside(VOICE, _VOICES)


def turns() -> list[Seed]:
    """Return the project's last turns of conversations: one that is harmful after what stands before, beside two that are not.

    Some go on with everyday talk, some come after a request that was declined: neither what stands before nor how short a turn is tells
    what is harmful.
    """
    return _beside(TURN, _TURNS)


def _beside(name: str, path: Path) -> list[Seed]:
    """Return the requests of a file; each row is a cluster: a harmful request and the harmless ones beside it."""
    return [
        seed(text, category, cluster=f"{name}-{number}", source=BUNDLED, before=row.get("before", ()))
        for number, row in enumerate(_rows(path))
        for text, category in ((row["harm"], row["category"]), *zip(row["safe"], ("lookalike", "ordinary"), strict=False))
    ]


@cache
def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def draw(seeds: Sequence[Seed], number: int) -> list[Seed]:
    """Return about `number` seeds, always the same ones: whole clusters, in turn from each source and theme.

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
            lanes[name] = [list(itertools.chain(*lane[at : at + IN_TURN])) for at in range(0, len(lane), IN_TURN)]
    drawn: list[Seed] = []
    for cluster in itertools.chain.from_iterable(itertools.zip_longest(*(lanes[name] for name in sorted(lanes)))):
        if cluster and len(drawn) + len(cluster) <= number:
            drawn += cluster
    return drawn


def _theme(cluster: Sequence[Seed]) -> str:
    """Return what a cluster is about: its harmful request's category, in the usual voice, in others, or in several turns; or honesty."""
    first = cluster[0]
    if first.side is Side.HARM and first.chosen:
        return HONEST
    kind = next((f" {name}" for name in (VOICE, TURN) if first.cluster.startswith(f"{name}-")), "")
    return f"{first.category}{kind}"


def add_seeds(home: Path, seeds: Sequence[Seed], *, source: str, licence: str, contaminated: int, actor: str, now: datetime) -> int:
    """Add the seeds of a source, each once, and return how many are new; a source that was removed is there again.

    Raises:
        StoreBusy, NoSpace: nothing was written; the same call may be repeated.
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
    """Teach a source's seeds no more; their pairs stay in the store, and train nothing.

    Raises:
        InputError: there is no such source, or it is the bundled one, which a setting removes.
        StoreBusy, NoSpace: nothing was written; the same call may be repeated.
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
    """Keep which seeds a night teaches, and store them as exchanges that pairs can be made of.

    Raises:
        StoreBusy, NoSpace: nothing was written; the same call may be repeated.
    """
    rows = [
        {"id": content_id(night_id, one.id), "night_id": night_id, "seed_id": one.id, "position": position}
        for position, one in enumerate(seeds)
    ]
    with session(home, write=True) as connection:
        append(connection, "seed_draws", rows)
        connection.execute(sql("alignment.store", "seed_exchanges"))


def drawn(home: Path, night_id: str) -> list[Seed]:
    """Return the seeds that a night teaches, less those that were removed since it drew them."""
    return _read(query(home, sql("alignment.pairs", "drawn_seeds"), {"night_id": night_id}))


def _read(rows: Sequence[Mapping[str, Any]]) -> list[Seed]:
    return [Seed(**{**row, "side": Side(row["side"]), "before": tuple(json.loads(row["before"] or "[]"))}) for row in rows]


def sources(home: Path) -> list[dict[str, Any]]:
    """Return each source with its licence, its seeds by side, and how many of its file the suites ask too."""
    return query(home, sql("alignment.pairs", "seed_sources"))


def refuse_other(home: Path, source: str, licence: str) -> None:
    """Refuse a source that was removed, which would bring its old seeds back, and one that is known under another licence.

    Raises:
        InputError: it is one of these.
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
