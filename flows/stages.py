"""The stages of a night as flows that store their results, used by the nightly loop, the manual commands and the deployments.

Effects: those of the stages; stores each stage's duration and counts.
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
"""Keys of a stage's result to keep in its row; unlisted stages keep all. Decisions and metrics have their own tables."""


def run_stage(home: Path, night_id: str, name: str) -> dict[str, Any]:
    """Run one stage of an existing night (not the first stage), store its counts, and return its full result."""
    headline(name)
    with stage(home, night_id, name) as counts:
        found = FLOWS[name](night_id)
        counts |= {key: found[key] for key in _COUNTED.get(name, found)}
    return found
