"""The detectors of `alignment.moderation` for requests that come one by one: whatever waits is scored together, on a thread of its own.

Effects: loads the embedding model on first use; `stop` ends the thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from alignment.models.cores import keep_cores
from alignment.records import Message

T = TypeVar("T")
R = TypeVar("R")
MOST_TOGETHER, MOST_WAITING = 32, 2_000


class Overloaded(RuntimeError):
    """More requests wait for a detector than may."""


class Batched(Generic[T, R]):
    """Runs `run` on lists of what was asked for since the last run ended. If a run raises, its items are tried one by one."""

    def __init__(self, run: Callable[[list[T]], list[R]], thread: ThreadPoolExecutor, *, together: int = MOST_TOGETHER) -> None:
        self._run, self._thread, self._together = run, thread, together
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        """Return the result for `item`.

        Raises:
            Overloaded: too many wait already.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise Overloaded(f"{len(self._waiting)} requests wait for this detector")
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._drain())
        return await answer

    async def _drain(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[: self._together], self._waiting[self._together :]
            # Who gave up is not worked for.
            batch = [(item, answer) for item, answer in batch if not answer.done()]
            if not await self._try(batch) and len(batch) > 1:
                for one in batch:
                    await self._try([one])

    async def _try(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> bool:
        """Answer a batch and return whether that worked; a batch of one gets its error as its answer."""
        if not batch:
            return True
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, [item for item, _ in batch])
            if len(found) != len(batch):
                raise RuntimeError(f"a detector gave {len(found)} results for {len(batch)} texts")
        except Exception as error:
            if len(batch) == 1 and not batch[0][1].done():
                batch[0][1].set_exception(error)
            return False
        for (_, answer), value in zip(batch, found, strict=True):
            if not answer.done():
                answer.set_result(value)
        return True


class Asked(NamedTuple):
    """The score of a conversation's request, and the category of harm that it is nearest to."""

    score: float
    category: str


class Detectors:
    """The bundled heads. Equal texts of a batch are embedded once."""

    def __init__(self) -> None:
        from alignment.models.embedder import Embedder

        self._embedder = Embedder()
        self._thread = ThreadPoolExecutor(1, "detectors", initializer=keep_cores)
        self.asked: Batched[tuple[Message, ...], Asked] = Batched(self._asked, self._thread)
        self.said: Batched[tuple[str, str], float] = Batched(self._said, self._thread)
        self.toxic: Batched[str, float] = Batched(self._toxic, self._thread)

    async def warm(self, checks: Collection[str]) -> None:
        """Load what these checks need, so that the first request does not wait for it."""
        if "harmful_request" in checks:
            await self.asked(({"role": "user", "content": "hello"},))
        if "harmful_answer" in checks:
            await self.said(("hello", "hello"))
        if "toxicity" in checks:
            await self.toxic("hello")

    def stop(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _asked(self, talks: list[tuple[Message, ...]]) -> list[Asked]:
        from alignment.moderation.conversations import request_scores

        return [Asked(float(one.value), one.category) for one in request_scores(talks, embedder=self._embedder)]

    def _said(self, exchanges: list[tuple[str, str]]) -> list[float]:
        from alignment.moderation import heads

        prompts, answers = [prompt for prompt, _ in exchanges], [answer for _, answer in exchanges]
        harmful = heads.harmful_answer(heads.read(prompts, answers, embedder=self._embedder)).tolist()
        # A head says something of nothing, too.
        return [value if answer.strip() else 0.0 for value, answer in zip(harmful, answers, strict=True)]

    def _toxic(self, texts: list[str]) -> list[float]:
        from alignment.moderation.detectors import toxicity

        return toxicity(texts)
