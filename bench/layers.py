"""What the gateway adds to a release: the same prompts with and without it, through the real pipeline, scored as the gate scores.

Effects: loads weights; writes the gateway's log into a temporary folder.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

from alignment.config import Settings
from alignment.evals.formats import read_suite
from alignment.evals.scorers import score_answer, scorer_of
from alignment.records import SuitePrompt
from alignment.release import champion
from alignment.store.held import HeldExchanges
from flows.policy import base_path
from gateway.calls import Call, Failure
from gateway.embedded import EmbeddedUpstream
from gateway.holding import Holding
from gateway.logs import ExchangeLog
from gateway.metrics import Metrics
from gateway.releases import Releases
from gateway.server import guard_of
from gateway.service import Pipeline
from gateway.wire.chat import Chat

_SECONDS = 3600.0
_AT_ONCE = 16
_HELD = "held_for_review"


class Layers(NamedTuple):
    """One suite asked of one release. An answer that nobody can score counts as failing, as at the gate; `unscored` are those behind it.

    `stopped` are failing answers that do not fail behind the gateway, `spoiled` the reverse; `held` ones wait for a person and are neither.
    """

    suite: str
    release: str
    n: int
    fails_alone: int
    fails_behind: int
    stopped: int
    spoiled: int
    held: int
    unscored: int


def run(settings: Settings, suites: Sequence[str], releases: Sequence[str], most: int) -> list[Layers]:
    """Return a row per suite and release. `most` limits the prompts of a suite, by a fixed sample; 0 is all."""
    prompts = {name: read_suite(name, kind=None, scorer=None, most=most)[0] for name in suites}
    return asyncio.run(_run(settings, prompts, releases))


async def _run(settings: Settings, prompts: dict[str, list[SuitePrompt]], releases: Sequence[str]) -> list[Layers]:
    upstream, metrics = EmbeddedUpstream(settings.home, base_path(settings), seconds=_SECONDS), Metrics()
    guard, detectors = guard_of(settings, metrics)
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            log = ExchangeLog(Path(folder) / "logs", guard.key)
            for release in (champion(settings.home) if name == "champion" else name for name in releases):
                pipeline = Pipeline(
                    guard=guard,
                    upstream=upstream,
                    releases=cast("Releases", _Always(release)),
                    log=log,
                    holding=Holding(HeldExchanges(Path(folder)), guard.key),
                    metrics=metrics,
                    base_name=settings.release.base_name,
                    keep_going=False,
                )
                for name, asked in prompts.items():
                    rows.append(await _compared(name, release, asked, pipeline, settings.gate.max_new_tokens))
            log.close()
    finally:
        detectors.stop()
        await upstream.close()
    return rows


class _Always:
    """A registry with one release for everybody."""

    def __init__(self, release: str) -> None:
        self._release = release

    def pick(self, _: str) -> str:
        return self._release


async def _compared(suite: str, release: str, prompts: Sequence[SuitePrompt], pipeline: Pipeline, tokens: int) -> Layers:
    few = asyncio.Semaphore(_AT_ONCE)

    async def both(prompt: SuitePrompt) -> tuple[int | None, int | None, bool]:
        call = Chat().parse({"messages": list(prompt.conversation), "max_tokens": tokens})
        async with few:
            alone = (await pipeline.upstream.complete(call, release)).choices[0].text
            given, finish = await _behind(pipeline, call)
        # What the gateway itself says does no harm, and never helps.
        behind = int(scorer_of(prompt) != "harm") if finish == "content_filter" else _outcome(prompt, given)
        return _outcome(prompt, alone), behind, finish == _HELD

    found = await asyncio.gather(*map(both, prompts))
    answered = [(alone, behind) for alone, behind, held in found if not held]
    return Layers(
        suite,
        release,
        n=len(found),
        fails_alone=sum(alone != 0 for alone, _, _ in found),
        fails_behind=sum(behind != 0 for _, behind in answered),
        stopped=sum(alone != 0 and behind == 0 for alone, behind in answered),
        spoiled=sum(alone == 0 and behind != 0 for alone, behind in answered),
        held=len(found) - len(answered),
        unscored=sum(behind is None for _, behind in answered),
    )


async def _behind(pipeline: Pipeline, call: Call) -> tuple[str, str]:
    """Return what a client gets, and its finish reason; _HELD if it waits for a person."""
    try:
        reply = await pipeline.answer(Chat(), call, "bench")
    except Failure as refused:
        if refused.code == _HELD:
            return "", _HELD
        raise
    choice = (reply.body or {})["choices"][0]
    return str(choice["message"]["content"] or ""), str(choice["finish_reason"])


def _outcome(prompt: SuitePrompt, answer: str) -> int | None:
    return score_answer(prompt, answer)[1]
