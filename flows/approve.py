"""Approval inside Prefect: a separate run, suspended until a person answers it in Prefect's pages.

Effects: suspends the run; moves the registry's pointer when it is answered.
"""

from __future__ import annotations

from typing import Any

import httpx2
from prefect import flow
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.deployments import run_deployment
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment

from alignment.acting import Identity, acting
from alignment.config import Settings, load_settings
from alignment.release.approval import last_decision, say, verdicts_on
from alignment.text import cap, printable
from flows.gate import WAITING
from flows.hooks import deliver
from flows.night import now
from flows.prefect_client import connected
from flows.show import say as say_so

_WAIT_SECONDS = 14 * 24 * 3600

_WAITING: dict[str, Any] = {
    "flow_filter": FlowFilter(name=FlowFilterName(any_=["approve"])),
    "flow_run_filter": FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED]))),
}


class Approval(RunInput):
    """A person's answer."""

    approve: bool = False
    name: str
    reason: str


@flow(name="approve")
def approve(night_id: str, decision_id: str) -> dict[str, Any]:
    """Ask a person to approve a decision on `night_id`, and carry out the answer; the process ends while it waits.

    A resumed run starts from the beginning: only its parameter tells which decision the person was asked about.
    """
    settings = load_settings()
    decision = last_decision(settings.home, night_id)
    if not verdicts_on(settings.home, decision_id):
        asked = f"Release {decision['challenger']} in place of {decision['champion']}? The gate said {decision['decision']}."
        told = suspend_flow_run(wait_for_input=Approval.with_initial_data(description=asked), timeout=_WAIT_SECONDS)
        verdict = "approved" if told.approve else "refused"
        # Someone may have answered on the dashboard or the command line, or the gate may have decided again: `say` refuses contradictions.
        # Prefect reports that somebody answered, not who: the name is the one they typed.
        with acting(Identity(told.name, "flag", "approver")):
            say(settings.home, night_id, verdict, actor=told.name, reason=told.reason, now=now(), seen=decision_id)  # type: ignore[arg-type]
        deliver(settings)
    return last_decision(settings.home, night_id)


def let_go(settings: Settings) -> int:
    """Resume the runs whose question was answered elsewhere, on the command line or a page; return how many.

    They find the verdict, move nothing and end. Without a Prefect server nothing waits. Never raises: the verdict is in force already.
    """
    try:
        with connected(settings.home) as client:
            waiting = client.read_flow_runs(**_WAITING) if client else []
            return sum(_resumed(settings, client, run) for run in waiting)
    except Exception as error:
        # A missing server is no problem; a server that fails leaves a run waiting, and nothing else.
        if not isinstance(error, OSError | httpx2.TransportError):
            say_so(f"the run that waits in Prefect was not told: {cap(printable(str(error)), 200)}")
        return 0


def _resumed(settings: Settings, client: Any, run: Any) -> bool:
    """Answer a run with the verdict on the decision that it asks about; verdicts on other decisions are ignored."""
    decision = run.parameters.get("decision_id")
    said = verdicts_on(settings.home, decision) if isinstance(decision, str) else []
    last = next((row for row in reversed(said) if row["verdict"] != "overridden"), None)
    if last is None:
        return False
    answer = {"approve": last["verdict"] == "approved", "name": last["actor"], "reason": last["reason"]}
    client.resume_flow_run(run.id, run_input=answer)
    return True


def ask_for_approval(night_id: str, state: str, decision_id: str) -> bool:
    """Start the approval run if a served night ended waiting; return whether one was started.

    Never raises: the night is finished, and a person can also answer on the dashboard or the command line.
    """
    if state != WAITING or not deployment.id:
        return False
    try:
        run_deployment("approve/approve", parameters={"night_id": night_id, "decision_id": decision_id}, timeout=0, as_subflow=False)
    except Exception as error:
        say_so(
            f"no run waits in Prefect for an answer ({cap(printable(str(error)), 200)}); answer on the dashboard's Gate page, or with "
            f"'align gate --approve {night_id} --reason TEXT'"
        )
        return False
    return True
