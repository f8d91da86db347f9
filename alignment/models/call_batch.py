"""The calls of one request to an endpoint: concurrent, paced, within the night's limits, each stored before it is used.

Effects: calls the endpoint.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from alignment.errors import ModelError, TeacherUnavailable
from alignment.ids import content_id
from alignment.models import replies
from alignment.models.asked import Asked, Calls, Failed, Use, price
from alignment.models.budget import LimitReached, Pace, Purse, Requests
from alignment.models.dialect import Dialect
from alignment.models.interface import CHAT, Interface
from alignment.models.replies import Answer
from alignment.text import storable

if TYPE_CHECKING:
    import openai

    from alignment.sections import Teacher

NIGHT = timedelta(hours=20)
"""Limits count what was spent within this time: less than a day, so that a night does not count the night before."""
_GIVE_UP, _LONGEST_PAUSE = 3, 60.0
_WORDS = ("content", "declined")
_TRANSIENT = frozenset((408, 409, 425, 429, 498))


def answered(calls: Calls, batch: Callable[[], CallBatch], asked: Sequence[Asked]) -> list[Answer]:
    """Return the answer to each call, stored or new, or the reason why there is none. `batch` is made only if a call is needed.

    If the server went away in between, what it had not been asked yet, or not to the end, is `untried`.

    Raises:
        ModelError: the endpoint refuses every call.
    """
    known: dict[str, Answer] = {**calls.find([one.id for one in asked])}
    why = ""
    if unpaid := list({one.id: one for one in asked if one.id not in known}.values()):
        run = batch()
        try:
            asyncio.run(run.all(unpaid))
        except TeacherUnavailable as error:
            why = f"untried: {error}"
        finally:
            calls.settle()
        known |= run.found
    return [known.get(one.id, why) for one in asked]


class CallBatch:
    """Makes the calls of one request in one event loop, within the limits of the settings."""

    def __init__(
        self,
        endpoint: Teacher,
        calls: Calls,
        key: str,
        dialect: Dialect,
        use: Use,
        mask: Callable[[str], str] | None = None,
        interface: Interface = CHAT,
    ) -> None:
        import httpx2
        import openai

        from alignment.http import BoundedTransport

        now = datetime.now(UTC).replace(tzinfo=None)
        spent = calls.spent(now - NIGHT)
        self.endpoint, self.calls, self.key, self.dialect, self.use, self.mask = endpoint, calls, key, dialect, use, mask
        self.interface = interface
        self.found: dict[str, Answer] = {}
        self.pace = Pace(endpoint.requests_per_minute, [(now - one).total_seconds() for one in calls.made(now - timedelta(minutes=1))])
        self.purse = Purse(endpoint.max_tokens_per_night, endpoint.max_cost_per_night, tokens=spent.tokens, cost=spent.cost)
        self.requests = Requests(use.most, calls.requests(now - NIGHT, use.purpose) if use.most else 0, use.setting)
        self.client = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=key or "none",
            max_retries=0,
            timeout=endpoint.timeout_seconds,
            http_client=httpx2.AsyncClient(
                transport=BoundedTransport(
                    limits=httpx2.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency)
                ),
                timeout=endpoint.timeout_seconds,
                follow_redirects=False,
                trust_env=False,
            ),
        )
        self.lost_in_a_row = 0
        self.stopped = ""

    async def all(self, asked: Sequence[Asked]) -> dict[str, Answer]:
        """Make every call; return answers by id, or the reason for a missing answer.

        Raises:
            TeacherUnavailable: several calls in a row got no answer; the rest was not tried.
            ModelError: the endpoint refuses every call.
        """
        waiting = iter(asked)

        async def work() -> None:
            for one in waiting:
                self.found[one.id] = await self._one(one)

        try:
            async with self.client, asyncio.TaskGroup() as workers:
                for _ in range(min(self.endpoint.concurrency, len(asked))):
                    workers.create_task(work())
        except ExceptionGroup as group:
            # That a server went away explains nothing if it also said something wrong.
            raise min(group.exceptions, key=lambda one: isinstance(one, TeacherUnavailable)) from None
        return self.found

    async def _one(self, asked: Asked) -> Answer:
        why, pause = self.stopped, 0.0
        for attempt in range(self.endpoint.retries + 1 if not why else 0):
            if attempt:
                await asyncio.sleep(max(pause, random.uniform(0.5, 1.0) * min(2.0 ** (attempt - 2), _LONGEST_PAUSE)))
            try:
                found = await self._written(asked)
                self.lost_in_a_row = 0
                return found
            except LimitReached as error:
                self.stopped = f"limit: {error}"
                return self.stopped
            except Failed as error:
                why, pause = str(error), error.after
                if error.stop:
                    raise ModelError(f"{self._where()} refuses: {why}; correct {self.interface.section} in align.toml") from None
                if not error.again:
                    return f"refused: {why}"
        if self.stopped:
            return self.stopped
        self.lost_in_a_row += 1
        if self.lost_in_a_row >= _GIVE_UP:
            self.found[asked.id] = f"unavailable: {why}"
            raise TeacherUnavailable(f"{self._where()} gave no answer in {self.endpoint.retries + 1} attempts each: {why}")
        return f"unavailable: {why}"

    def _where(self) -> str:
        return f"the model {self.endpoint.model!r} at {self.endpoint.base_url!r}"

    async def _written(self, asked: Asked) -> dict[str, Any]:
        """Make a call, in another form each time the server says that it refuses the form: such a refusal is no failure."""
        while True:
            try:
                return await self._attempt(asked)
            except Failed as error:
                if not error.otherwise:
                    raise

    async def _attempt(self, asked: Asked) -> dict[str, Any]:
        # Wait for the pace first: a waiting call must not hold a reservation.
        await self.pace.wait()
        self.requests.make()
        self.purse.reserve(*asked.most)
        started = time.monotonic()
        try:
            answer = await self._send(asked)
        except BaseException as error:
            billed = not isinstance(error, Failed) or error.billed
            if isinstance(error, Failed) and error.used is not None:
                self._settle(asked, None, *error.used, time.monotonic() - started)
            elif billed:
                self._keep(asked, None, asked.most[0], 0, asked.most[1], time.monotonic() - started)
            else:
                self.purse.settle(asked.most, (0, 0.0))
            raise
        most_out = asked.body.get("max_tokens", 0)
        self._settle(asked, answer, *replies.used(answer, asked.most[0] - most_out, most_out), time.monotonic() - started)
        return answer

    def _settle(self, asked: Asked, answer: dict[str, Any] | None, tokens_in: int, tokens_out: int, seconds: float) -> None:
        cost = price(self.endpoint, tokens_in, tokens_out)
        self.purse.settle(asked.most, (tokens_in + tokens_out, cost))
        self._keep(asked, answer, tokens_in, tokens_out, cost, seconds)

    def _keep(self, asked: Asked, answer: dict[str, Any] | None, tokens_in: int, tokens_out: int, cost: float, seconds: float) -> None:
        # Without its exchange, an answer could not be erased together with it: store only the cost.
        kept = answer is not None and bool(asked.subject)
        self.calls.keep(
            {
                "id": asked.id if kept else content_id(asked.id, time.time_ns(), random.random()),
                "interaction_id": asked.subject,
                "purpose": self.use.purpose,
                "response": answer if kept else None,
                "tokens_in": tokens_in,
                "tokens_out": tokens_out,
                "cost": cost,
                "seconds": seconds,
                "created_at": datetime.now(UTC).replace(tzinfo=None),
            }
        )

    async def _send(self, asked: Asked) -> dict[str, Any]:
        import openai

        from alignment.http import TooMuch, loads, without_secrets

        sent = self.dialect.write(asked.body)
        # A server may cache its reply per key: a call in another form needs another key.
        key = asked.id if sent == asked.body else content_id(asked.id, sorted(sent))
        try:
            async with asyncio.timeout(self.endpoint.timeout_seconds):
                raw = loads(without_secrets((await self._post(sent, key)).decode(), [self.key]))
                read = asked.read or self.interface.read
                kept = read(raw) if read else replies.reply(raw, asked.body["max_tokens"])
                # Half of a surrogate pair, which JSON can escape, is text that neither the store nor a mask takes.
                kept = json.loads(storable(json.dumps(kept, ensure_ascii=False)))
                return kept if self.mask is None else {**kept, **{name: self.mask(kept[name]) for name in _WORDS if kept.get(name)}}
        except replies.Trouble as error:
            why = str(error) if self.interface.quotes else "an error in place of an answer"
            raise Failed(why, again=error.again, billed=error.billed, used=error.used) from None
        except (TimeoutError, openai.APITimeoutError):
            raise Failed(f"no answer within {self.endpoint.timeout_seconds} s", billed=True) from None
        except openai.APIStatusError as error:
            raise self._refusal(error, sent) from None
        except openai.APIConnectionError as error:
            refused = "ConnectError" in type(error.__cause__).__name__
            if isinstance(error.__cause__, TooMuch):
                raise Failed(str(error.__cause__), again=False, billed=True) from None
            raise Failed(f"the connection failed ({type(error.__cause__).__name__})", billed=not refused) from None
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, openai.OpenAIError) as error:
            raise Failed(f"the answer is no whole chat completion ({type(error).__name__})", billed=True) from None

    async def _post(self, sent: Mapping[str, Any], key: str) -> bytes:
        import httpx2
        import openai

        headers: dict[str, Any] = {"Idempotency-Key": key}
        extra = self.endpoint.extra
        if not self.interface.path:
            raw = await self.client.chat.completions.with_raw_response.create(**sent, extra_headers=headers, extra_body=extra or None)
            return bytes(raw.content)
        if self.interface.key_header:
            headers |= {"Authorization": openai.Omit(), **({self.interface.key_header: self.key} if self.key else {})}
        body = {**sent, **extra}
        return (await self.client.post(self.interface.path, cast_to=httpx2.Response, body=body, options={"headers": headers})).content

    def _refusal(self, error: openai.APIStatusError, sent: Mapping[str, Any]) -> Failed:
        from alignment.http import without_secrets

        # Mask before truncating: half a secret would not be recognised.
        status, body = error.status_code, without_secrets(error.response.content.decode("utf-8", "replace"), [self.key])
        told: Any = body
        with suppress(ValueError, RecursionError):
            told = json.loads(body)
        said = replies.words_of(told)
        why = f"status {status} ({said})" if self.interface.quotes else f"status {status}{' logprobs' * ('logprob' in said)}"
        if status in _TRANSIENT or status >= 500:
            return Failed(why, after=_retry_after(error.response.headers))
        stop = status in (401, 404) or (status == 403 and not replies.moderated(told))
        return Failed(why, again=False, stop=stop, otherwise=not stop and self.dialect.learn(status, said, sent))


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds a server asks to wait, from a number, milliseconds or a date; 0 if it does not say."""
    try:
        milliseconds = headers.get("retry-after-ms")
        seconds = float(milliseconds) / 1000 if milliseconds else float(headers.get("retry-after", 0))
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(headers["retry-after"]) - datetime.now(UTC)).total_seconds()
        except (KeyError, TypeError, ValueError):
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_PAUSE) if math.isfinite(seconds) else 0.0
