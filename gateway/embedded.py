"""The release in production, answered by this process: for trying the gateway, and for small models.

Answers are generated several at a time. Tools and response formats are not supported. Of the sampling parameters `temperature`,
`max_tokens`, `seed` and `stop` count; without a temperature answers are greedy.

Effects: loads weights, uses the CPU or GPU.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from alignment.errors import AlignError, ModelError
from alignment.models.cores import keep_cores
from alignment.models.folder import check_base, trained
from alignment.records import Message
from alignment.release import BASE, verify
from gateway.calls import Call, Choice, Completion, End, Event, Text, TokenCounts
from gateway.detectors import Batched
from gateway.upstream import UpstreamError, new_id

_TOGETHER = 16
_TOKENS, _MOST_TOKENS = 256, 1024
_UNSUPPORTED = ("tools", "response_format", "logit_bias")


class _Job(NamedTuple):
    release: str
    messages: tuple[Message, ...]
    tokens: int
    temperature: float
    seed: int
    tell: Callable[[str], None] | None


class EmbeddedUpstream:
    """Answers with the base model in `base`, or with a release trained from it. At most two releases stay loaded: champion and canary."""

    def __init__(self, home: Path, base: Path, *, seconds: float) -> None:
        self._home, self._base, self._seconds = home, base, seconds
        self._thread = ThreadPoolExecutor(1, "model", initializer=keep_cores)
        self._models: dict[str, Any] = {}
        self._answers: Batched[_Job, tuple[str, int, int]] = Batched(self._run, self._thread, together=_TOGETHER)

    async def complete(self, call: Call, release: str) -> Completion:
        """See `Upstream.complete`."""
        self._supported(call)
        return await self._complete(call, _jobs(call, release))

    async def _complete(self, call: Call, jobs: list[_Job]) -> Completion:
        try:
            async with asyncio.timeout(self._seconds):
                found = await asyncio.gather(*map(self._answers, jobs))
        except TimeoutError as error:
            raise UpstreamError(504, f"the model did not answer within {self._seconds:g} s", code="upstream_timeout") from error
        except ModelError as error:
            raise UpstreamError(400, "the conversation does not fit the model", code="context_length_exceeded") from error
        except (AlignError, RuntimeError, OSError) as error:
            raise UpstreamError(503, "the release in production cannot be loaded; see 'align doctor'", code="model_unavailable") from error
        choices = []
        for index, (text, _, written) in enumerate(found):
            kept = _before(text, call.payload.get("stop"))
            choices.append(Choice(index, kept, (), "length" if written >= jobs[index].tokens and kept == text else "stop"))
        usage = TokenCounts(found[0][1], sum(written for _, _, written in found))
        return Completion(new_id(), int(time.time()), "", tuple(choices), usage)

    async def stream(self, call: Call, release: str) -> AsyncIterator[Event]:
        """See `Upstream.stream`."""
        self._supported(call)
        loop, told = asyncio.get_running_loop(), asyncio.Queue[tuple[int, str] | None]()

        def tell(index: int, text: str) -> None:
            # After the loop nobody listens, and others' answers go on.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(told.put_nowait, (index, text))

        jobs = [job._replace(tell=partial(tell, index)) for index, job in enumerate(_jobs(call, release))]
        made = asyncio.create_task(self._complete(call, jobs))
        made.add_done_callback(lambda _: told.put_nowait(None))
        left = ["" for _ in jobs]
        try:
            while (news := await told.get()) is not None:
                index, text = news
                known = _certain(text, call.payload.get("stop"))
                if known != left[index] and known.startswith(left[index]):
                    yield Text(index, known[len(left[index]) :])
                    left[index] = known
            completion = await made
        finally:
            made.cancel()
        for choice in completion.choices:
            if not choice.text.startswith(left[choice.index]):
                raise UpstreamError(502, "the model's answer does not go on as it began")
            if rest := choice.text[len(left[choice.index]) :]:
                yield Text(choice.index, rest)
            yield End(choice.index, choice.finish)
        yield completion.usage

    async def ready(self) -> str:
        """See `Upstream.ready`."""
        return ""

    async def close(self) -> None:
        """See `Upstream.close`."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _supported(call: Call) -> None:
        if unsupported := [key for key in _UNSUPPORTED if call.payload.get(key)]:
            raise UpstreamError(400, f"{unsupported[0]!r} is not supported by the embedded model", code="unsupported_parameter")

    def _run(self, jobs: list[_Job]) -> list[tuple[str, int, int]]:
        """Return text, prompt tokens and answer tokens of each job; jobs of the same kind are generated together."""
        found: dict[int, tuple[str, int, int]] = {}
        kinds = dict.fromkeys((job.release, job.tokens, job.temperature, job.seed) for job in jobs)
        for kind in kinds:
            here = [number for number, job in enumerate(jobs) if (job.release, job.tokens, job.temperature, job.seed) == kind]
            release, tokens, temperature, seed = kind
            model, tokenizer = self._model(release)
            talks = [jobs[number].messages for number in here]
            tells = [jobs[number].tell for number in here]
            tell = partial(_tell, tells) if any(tells) else None
            answers = model.generate(talks, max_new_tokens=tokens, temperature=temperature, seed=seed, tell=tell)
            for number, talk, answer in zip(here, talks, answers, strict=True):
                asked = sum(len(tokenizer(turn["content"])["input_ids"]) for turn in talk)
                found[number] = (answer, asked, len(tokenizer(answer, add_special_tokens=False)["input_ids"]))
        return [found[number] for number in range(len(jobs))]

    def _model(self, release: str) -> Any:
        from alignment.models.local import LocalModel, load_tokenizer

        if release not in self._models:
            adapter = None
            if release != BASE:
                adapter = trained(verify(self._home, release))
                check_base(self._base, adapter)
            self._models[release] = (LocalModel(self._base, adapter=adapter, batch_size=_TOGETHER), load_tokenizer(self._base))
            for old in list(self._models)[:-2]:
                del self._models[old]
        return self._models[release]


def _jobs(call: Call, release: str) -> list[_Job]:
    messages = tuple(
        Message(role="system" if turn["role"] == "developer" else turn["role"], content=turn["content"]) for turn in call.messages
    )
    asked = call.payload.get("max_completion_tokens") or call.payload.get("max_tokens") or _TOKENS
    tokens = min(max(int(asked), 1), _MOST_TOKENS)
    temperature = float(call.payload.get("temperature") or 0.0)
    seed = int(call.payload.get("seed") or 0)
    return [_Job(release, messages, tokens, temperature, seed + number, None) for number in range(call.n)]


def _tell(tells: Sequence[Callable[[str], None] | None], place: int, text: str) -> None:
    if tell := tells[place]:
        tell(text)


def _before(text: str, stops: Any) -> str:
    """Return `text` up to the first of the stops."""
    for stop in [stops] if isinstance(stops, str) else stops or ():
        text = text.split(stop, 1)[0] if isinstance(stop, str) and stop else text
    return text


def _certain(text: str, stops: Any) -> str:
    """Return what is certain of a text that goes on: up to a stop, or without an end that may become one.

    >>> _certain("one EN", ["END"]), _certain("one END two", "END"), _certain("one", None)
    ('one ', 'one ', 'one')
    """
    stops = [stop for stop in ([stops] if isinstance(stops, str) else stops or ()) if isinstance(stop, str)]
    kept = _before(text, stops)
    return kept if kept != text else text[: len(text) - max((len(stop) - 1 for stop in stops if stop), default=0)]
