"""The detectors of `alignment.moderation` for requests that come one by one: whatever waits is scored together, on a thread of its own.

Effects: loads the embedding model on first use; `stop` ends the thread.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from alignment.ids import content_id
from alignment.models.cores import keep_cores
from alignment.records import Message

T = TypeVar("T")
R = TypeVar("R")
MOST_TOGETHER, MOST_WAITING, REMEMBERED = 32, 2_000, 1_000


class Overloaded(RuntimeError):
    """More requests wait for a detector than may."""


class Batched(Generic[T, R]):
    """Runs `run` on lists of what was asked for since the last run ended. If a run raises, its items are tried one by one.

    The `remembered` results used last are kept under hashes of their items, if they are `sound`: every window of a stream asks about the
    same conversation.
    """

    def __init__(
        self,
        run: Callable[[list[T]], list[R]],
        thread: ThreadPoolExecutor,
        *,
        together: int = MOST_TOGETHER,
        remembered: int = 0,
        sound: Callable[[R], bool] = lambda _: True,
    ) -> None:
        self._run, self._thread, self._together, self._most, self._sound = run, thread, together, remembered, sound
        self._remembered: OrderedDict[str, R] = OrderedDict()
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        """Return the result for `item`.

        Raises:
            Overloaded: too many wait already.
        """
        if not self._most:
            return await self._result(item)
        name = content_id(item)
        if name in self._remembered:
            self._remembered.move_to_end(name)
            return self._remembered[name]
        found = await self._result(item)
        if self._sound(found):
            self._remembered[name] = found
            if len(self._remembered) > self._most:
                self._remembered.popitem(last=False)
        return found

    async def _result(self, item: T) -> R:
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


class RequestScore(NamedTuple):
    """The score of a conversation's request, and the category of harm that it is nearest to."""

    score: float
    category: str


class AnswerScores(NamedTuple):
    """The scores of an answer: that it does harm, and that it refuses."""

    harm: float
    refusal: float


def _finite(scores: tuple[object, ...]) -> bool:
    return all(math.isfinite(score) for score in scores if isinstance(score, float))


class Detectors:
    """The bundled heads. Equal texts of a batch are embedded once."""

    def __init__(self) -> None:
        from alignment.models.embedder import Embedder

        self._embedder = Embedder()
        self._thread = ThreadPoolExecutor(1, "detectors", initializer=keep_cores)
        self.asked: Batched[tuple[Message, ...], RequestScore] = Batched(self._asked, self._thread, remembered=REMEMBERED, sound=_finite)
        self.said: Batched[tuple[str, str], AnswerScores] = Batched(self._said, self._thread, remembered=REMEMBERED, sound=_finite)
        self.toxic: Batched[str, float] = Batched(self._toxic, self._thread)

    async def warm(self, checks: Collection[str]) -> None:
        """Load what these checks need, so that the first request does not wait for it."""
        if not {"harmful_request", "harmful_exchange"}.isdisjoint(checks):
            await self.asked(({"role": "user", "content": "hello"},))
        if not {"harmful_answer", "harmful_exchange", "harmful_tool_result"}.isdisjoint(checks):
            await self.said(("hello", "hello"))
        if "toxicity" in checks:
            await self.toxic("hello")

    def stop(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _asked(self, talks: list[tuple[Message, ...]]) -> list[RequestScore]:
        from alignment.moderation.conversations import request_scores

        return [RequestScore(float(one.value), one.category) for one in request_scores(talks, embedder=self._embedder)]

    def _said(self, exchanges: list[tuple[str, str]]) -> list[AnswerScores]:
        from alignment.moderation import heads

        prompts, answers = [prompt for prompt, _ in exchanges], [answer for _, answer in exchanges]
        reading = heads.read(prompts, answers, embedder=self._embedder)
        scores = zip(answers, heads.harmful_answer(reading).tolist(), heads.refusal(reading).tolist(), strict=True)
        # A head says something of nothing, too.
        return [AnswerScores(harm, refusal) if answer.strip() else AnswerScores(0.0, 0.0) for answer, harm, refusal in scores]

    def _toxic(self, texts: list[str]) -> list[float]:
        from alignment.moderation.detectors import toxicity

        return toxicity(texts)
