"""The stages of a night as flows, and what is kept of each: the nightly loop, the commands by hand and the deployments go by these.

Effects: those of the stages; stores how long a stage took and what it counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import Flow

from flows.curate import curate
from flows.gate import gate
from flows.ingest import ingest
from flows.monitor import monitor
from flows.night import stage
from flows.show import headline
from flows.train import train

FLOWS: dict[str, Flow[..., dict[str, Any]]] = {each.name: each for each in (ingest, curate, train, gate, monitor)}
_COUNTED = {"gate": ("decision",)}
"""Keys of a stage's result that its row keeps, all if it is not listed: decisions and metrics have tables of their own."""


def run_stage(home: Path, night_id: str, name: str) -> dict[str, Any]:
    """Run a stage of a night after the first one, which has no night yet; store what it counted, and return all it found."""
    headline(name)
    with stage(home, night_id, name) as counts:
        found = FLOWS[name](night_id)
        counts |= {key: found[key] for key in _COUNTED.get(name, found)}
    return found
