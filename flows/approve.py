"""Waiting for a person inside Prefect: a run of its own, suspended until somebody answers it in Prefect's pages.

Effects: suspends the run; moves the registry's pointer when it is answered.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.deployments import run_deployment
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment

from alignment.config import load_settings
from alignment.release.approval import last_decision, say
from flows.hooks import deliver
from flows.night import now
from flows.release import WAITING

_WAIT_SECONDS = 14 * 24 * 3600


class Approval(RunInput):
    """What a person answers."""

    approve: bool = False
    name: str
    reason: str


@flow(name="approve")
def approve(night_id: str) -> dict[str, Any]:
    """Ask a person whether the release of `night_id` may go into production, and do as told; the process ends while it waits."""
    settings = load_settings()
    decision = last_decision(settings.home, night_id)
    if not decision["verdict"]:
        asked = f"Release {decision['challenger']} in place of {decision['champion']}? The gate said {decision['decision']}."
        told = suspend_flow_run(wait_for_input=Approval.with_initial_data(description=asked), timeout=_WAIT_SECONDS)
        verdict = "approved" if told.approve else "refused"
        # Answered meanwhile on the dashboard or the command line: `say` refuses what contradicts it.
        say(settings.home, night_id, verdict, actor=told.name, reason=told.reason, now=now())  # type: ignore[arg-type]
        deliver(settings)
    return last_decision(settings.home, night_id)


def ask_for_approval(night_id: str, state: str) -> bool:
    """Start the run that waits, if a night that is served ended waiting; say whether one was started."""
    if state != WAITING or not deployment.id:
        return False
    run_deployment("approve/approve", parameters={"night_id": night_id}, timeout=0, as_subflow=False)
    return True
