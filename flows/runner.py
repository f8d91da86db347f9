"""Run flows exactly as they were deployed, ignoring later changes to a deployment.

Anyone who may write to Prefect's API can give a deployment another entrypoint or pull steps, which Prefect's runner would execute. This
runner only runs the flows of its own process, whatever the server says, and refuses a deployment that differs from what was deployed.

Effects: writes to the Prefect server; starts a process for each run.
"""

from __future__ import annotations

import asyncio
import copyreg
import multiprocessing
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, cast
from uuid import UUID

from anyio import TASK_STATUS_IGNORED
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.runner import Runner
from prefect.states import Crashed

from alignment.errors import ConfigError
from alignment.ids import content_id
from flows.show import say

_COMMANDS = ("pull_steps", "job_variables", "parameters", "work_pool_name", "storage_document_id", "infrastructure_document_id")
"""Fields that are empty in our deployments, and that could make a run load code from elsewhere or start it in another way."""
_SHAPE = ("entrypoint", "path", "parameter_openapi_schema", "enforce_parameter_schema", *_COMMANDS)


def digest(deployment: Any) -> str:
    """Return the content address of everything that decides what a deployment runs; schedules, tags and pauses may change."""
    shape = deployment.model_dump(mode="json")
    return content_id({name: shape.get(name) or None for name in _SHAPE})


class OwnFlowsRunner(Runner):
    """Prefect's runner for flows of this process; it verifies a deployment before each of its runs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.deployed: dict[UUID, str] = {}

    async def deploy(self, flow: Flow[..., Any], options: Mapping[str, Any]) -> None:
        """Deploy a flow under its own name, and remember the deployment's digest.

        Raises:
            ConfigError: the server's deployment holds something that is not ours.
        """
        wanted = await flow.ato_deployment(flow.name, **options)
        identity = await self.aadd_flow(flow, flow.name, **options)
        async with get_client() as client:
            found = await client.read_deployment(identity)
        odd = [name for name in _COMMANDS if getattr(found, name, None)]
        if found.entrypoint != wanted.entrypoint:
            odd.append("entrypoint")
        if odd:
            raise ConfigError(
                f"the deployment {f'{flow.name}/{flow.name}'!r} on the Prefect server has {', '.join(odd)} that align did not deploy; "
                "delete it on Prefect's pages, find out who changed it, and run 'align serve' again"
            )
        self.deployed[identity] = digest(found)

    async def refuse_changed(self, identity: UUID | None) -> None:
        """Verify that a deployment is unchanged since it was deployed.

        Raises:
            ConfigError: it changed, or was not deployed here.
        """
        if identity is None or identity not in self.deployed:
            raise ConfigError("this run is of no deployment of this 'align serve', and was not started")
        found = await self._client.read_deployment(identity)
        if digest(found) != self.deployed[identity]:
            raise ConfigError(
                f"the deployment {found.name!r} was changed after it was deployed, and was not run; find out who has the secret of this "
                "Prefect server, and start 'align serve' again"
            )

    async def __aenter__(self) -> OwnFlowsRunner:
        await super().__aenter__()
        poller = self._scheduled_run_poller
        resolve = poller._resolve_starter
        poller._resolve_starter = lambda flow_run: _Checked(self, resolve(flow_run))
        return self


def _by_name(flow: Flow[..., Any]) -> tuple[Any, ...]:
    """Pickle a flow by name: copied by value, it would lack names that only its annotations use."""
    module, name = flow.fn.__module__, flow.fn.__name__
    if getattr(sys.modules.get(module), name, None) is flow:
        return _named, (module, name)
    return cast(tuple[Any, ...], flow.__reduce_ex__(4))


def _named(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


class _Checked:
    """Starts a run if its deployment is unchanged; otherwise Prefect keeps the reason as the run's state."""

    def __init__(self, runner: OwnFlowsRunner, starter: Any) -> None:
        self.runner, self.starter = runner, starter

    async def start(self, flow_run: Any, task_status: Any = TASK_STATUS_IGNORED) -> None:
        try:
            await self.runner.refuse_changed(flow_run.deployment_id)
        except ConfigError as error:
            say(str(error))
            # Otherwise Prefect would only report an error in a task group.
            await self.runner._client.set_flow_run_state(flow_run.id, Crashed(message=str(error)), force=True)
            raise
        await self.starter.start(flow_run, task_status=task_status)


def run_deployments(deployments: list[tuple[Flow[..., Any], dict[str, Any]]]) -> None:
    """Deploy each flow and run what is due until stopped.

    Raises:
        ConfigError: see `OwnFlowsRunner.deploy`.
    """

    copyreg.pickle(Flow, _by_name)  # type: ignore[arg-type]

    async def run() -> None:
        runner = OwnFlowsRunner(pause_on_shutdown=False)
        for flow, options in deployments:
            await runner.deploy(flow, options)
        await runner.start()

    with suppress(KeyboardInterrupt, TerminationSignal):
        asyncio.run(run())


def stop_runs() -> None:
    """Stop the processes of all runs: each makes its training save a checkpoint, and reports to the server how it ended."""
    for process in multiprocessing.active_children():
        process.terminate()


def runs_left() -> bool:
    """Return whether the process of a run is still ending."""
    return bool(multiprocessing.active_children())


def remove_former() -> None:
    """Delete deployments that an earlier version made under names no longer in use, from this state folder's own server.

    Their runs would wait for ever. On another server, a deployment of that name may belong to somebody else.
    """
    with get_client(sync_client=True) as client, suppress(ObjectNotFound):
        found = client.read_deployment_by_name("release/release")
        if (found.entrypoint or "").endswith("flows/release.py:release"):
            client.delete_deployment(found.id)
            say("the deployment 'release/release' of an earlier version was deleted; the stage is now called gate")


def crash_leftovers() -> None:
    """Mark as crashed what this state folder's own server still lists as running: nothing runs while nobody serves.

    A killed runner could not report its end, and a run that never ends holds the only slot of the next night.
    """
    unended = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    filters = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=unended)), deployment_id=FlowRunFilterDeploymentId(is_null_=False)
    )
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=filters):
            client.set_flow_run_state(run.id, Crashed(message="'align serve' ended before this run did"), force=True)
