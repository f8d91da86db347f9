"""A chat model behind an OpenAI-compatible endpoint: vLLM, TGI, llama.cpp, `transformers serve`, or a hosted one.

A paid answer is stored (see `Calls`) before it is used, under the hash of its request. The hash is also sent as `Idempotency-Key`: if a
kill interrupts a call that the server has answered, a server that honours the key does not bill it again.

Effects: calls the endpoint.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from alignment.errors import ConfigError, ModelError, TeacherUnavailable
from alignment.ids import content_id
from alignment.models import replies
from alignment.models.asked import Asked, Calls, Failed, Use, price
from alignment.models.budget import LimitReached, Pace, Purse, Requests
from alignment.models.chat import Choice, Classified, Written
from alignment.models.dialect import Dialect
from alignment.models.interface import CHAT, Interface
from alignment.models.replies import NO_LOGPROBS, OVERHEAD, RUBRIC_TOKENS, THINKS, TOP, Answer
from alignment.records import Message
from alignment.text import without_control

if TYPE_CHECKING:
    import openai

    from alignment.sections import Teacher

NIGHT = timedelta(hours=20)
"""Limits count what was spent within this time: less than a day, so that a night does not count the night before."""
_GIVE_UP, _LONGEST_PAUSE, _PROBES = 3, 60.0, 3
_WORDS = ("content", "declined")
_TRANSIENT = frozenset((408, 409, 425, 429, 498))


def key_of(endpoint: Teacher) -> str:
    """Return the endpoint's key from the environment; empty if it needs none or there is no endpoint.

    Raises:
        ConfigError: the key's environment variable is not set.
    """
    name = endpoint.api_key_env if endpoint.base_url else ""
    key = os.environ.get(name, "") if name else ""
    if name and not key:
        raise ConfigError(f"[teacher] api_key_env names {name!r}, which is not set; export it, or leave api_key_env empty")
    return key


class RemoteModel:
    """A `ChatModel`, `Chooser` and `Writer` behind an endpoint.

    `edition` distinguishes weights served under one name, as far as the caller can; a new edition repeats all calls. `mask` removes
    personal data from answers before anything is stored. `use` is the purpose of the calls, `interface` how errors speak of them.
    """

    def __init__(
        self,
        endpoint: Teacher,
        calls: Calls,
        *,
        key: str = "",
        edition: str = "",
        mask: Callable[[str], str] | None = None,
        use: Use | None = None,
        interface: Interface = CHAT,
    ) -> None:
        self.endpoint, self.calls, self.edition = endpoint, calls, edition
        self._mask, self._use, self._interface = mask, use or Use(), interface
        self._key = key
        self._dialect = Dialect()
        self._probed = self._rubric = self._thinks = False

    @property
    def model_id(self) -> str:
        """Content address of the endpoint, the model's name there and the edition; the weights behind them cannot be checked."""
        how = [self.edition, self.endpoint.extra, self.endpoint.thinking_tokens]
        return content_id("remote", self.endpoint.base_url, self.endpoint.model, *filter(None, how))

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        subjects: Sequence[str] = (),
    ) -> list[str]:
        """See `ChatModel.generate`; `subjects` as in `Chooser.choose`.

        Raises:
            TeacherUnavailable: an answer is missing, because the server did not return it or a limit stopped the call.
            ModelError: the endpoint refuses.
        """
        parameters = {"max_tokens": max_new_tokens + self.endpoint.thinking_tokens, "temperature": temperature, "seed": seed}
        found = self._ask(conversations, parameters, subjects)
        texts = []
        for each in found:
            text = "" if isinstance(each, str) else str(each["content"]).strip() or str(each.get("declined", ""))
            if isinstance(each, str) or (not text and replies.thinks(each)):
                lost = each if isinstance(each, str) else THINKS
                raise TeacherUnavailable(f"the model {self.endpoint.model!r} at {self.endpoint.base_url!r} did not answer: {lost}")
            texts.append(text)
        return texts

    def write(self, conversations: Sequence[Sequence[Message]], *, max_new_tokens: int, subjects: Sequence[str]) -> list[Written]:
        """See `Writer.write`."""
        parameters = {"max_tokens": max_new_tokens + self.endpoint.thinking_tokens, "temperature": 0.0}
        return [replies.written(each) for each in self._ask(conversations, parameters, subjects)]

    def choose(self, conversations: Sequence[Sequence[Message]], options: Sequence[str], *, subjects: Sequence[str] = ()) -> list[Choice]:
        """See `Chooser.choose`: uses the log-probabilities of one token, or marks from 0 to 10 if the server returns none.

        A thinking model is asked for marks if [teacher] thinking_tokens allows for them; otherwise it is asked nothing more.
        """
        if self.endpoint.thinking_tokens:
            return self._marks(conversations, options, subjects)
        parameters = {"max_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": TOP}
        answers: dict[int, Answer] = {}
        # The first replies show what the server supports, unless they fail or are filtered.
        for place in range(min(_PROBES, len(conversations))):
            if self._probed:
                break
            [answers[place]] = self._ask(conversations[place : place + 1], parameters, subjects[place : place + 1])
            self._probed = replies.tells(answers[place])
            self._thinks = replies.thinks(answers[place])
            self._rubric = self._probed and replies.gives_none(answers[place]) and not self._thinks
        if self._thinks:
            return [Choice(None, THINKS)] * len(conversations)
        if not self._rubric:
            rest = [place for place in range(len(conversations)) if place not in answers]
            given = [subjects[place] for place in rest] if subjects else ()
            answers |= dict(zip(rest, self._ask([conversations[place] for place in rest], parameters, given), strict=True))
        found = [
            replies.by_odds(answers[place], options) if place in answers else Choice(None, NO_LOGPROBS)
            for place in range(len(conversations))
        ]
        # A load balancer may have routed some calls to servers without log-probabilities.
        if missing := [place for place, each in enumerate(found) if each.reason == NO_LOGPROBS]:
            given = [subjects[place] for place in missing] if subjects else ()
            for place, choice in zip(missing, self._marks([conversations[one] for one in missing], options, given), strict=True):
                found[place] = choice
        return found

    def classify(
        self, conversations: Sequence[Sequence[Message]], options: Sequence[str], *, max_new_tokens: int, subjects: Sequence[str]
    ) -> list[Classified]:
        """Return each answer with the odds of `options` as its first token, as far as the server gives them; no options: no odds.

        What did not arrive is a reason, as in `Writer.write`; the answers that did arrive are returned even if the server then went away.

        Raises:
            ModelError: the endpoint refuses every call.
        """
        plain = {"max_tokens": max_new_tokens, "temperature": 0.0}
        odds = {"logprobs": True, "top_logprobs": TOP} if options and not self._rubric else {}
        asked = [self._call(list(one), {**plain, **odds}, subject) for one, subject in zip(conversations, subjects, strict=True)]
        answers = answered(self.calls, self._run(), asked)
        # A server that refuses log-probabilities is asked without them, now and from now on.
        if refused := [place for place, each in enumerate(answers) if odds and isinstance(each, str) and replies.gives_none(each)]:
            self._rubric = True
            again = answered(self.calls, self._run(), [self._call(list(conversations[one]), plain, subjects[one]) for one in refused])
            for place, each in zip(refused, again, strict=True):
                answers[place] = each
        return [replies.classified(each, options) for each in answers]

    def _marks(self, conversations: Sequence[Sequence[Message]], options: Sequence[str], subjects: Sequence[str]) -> list[Choice]:
        thinking = self.endpoint.thinking_tokens
        parameters = {"max_tokens": RUBRIC_TOKENS + thinking, "temperature": 0.0}
        marked = [replies.with_rubric(one, options) for one in conversations]
        return [replies.by_marks(each, options, thinking) for each in self._ask(marked, parameters, subjects)]

    def _ask(self, conversations: Sequence[Sequence[Message]], parameters: Mapping[str, Any], subjects: Sequence[str]) -> list[Answer]:
        """Return the answer to each conversation, from the store if it was paid for before."""
        asked = [self._call(list(one), parameters, subjects[index] if subjects else "") for index, one in enumerate(conversations)]
        known: dict[str, Answer] = {**self.calls.find([one.id for one in asked])}
        unpaid = list({one.id: one for one in asked if one.id not in known}.values())
        if unpaid:
            known |= asyncio.run(self._run().all(unpaid))
            self.calls.settle()
        return [known[one.id] for one in asked]

    def _run(self) -> Run:
        return Run(self.endpoint, self.calls, self._key, self._dialect, self._use, self._mask, self._interface)

    def _call(self, messages: list[Message], parameters: Mapping[str, Any], subject: str) -> Asked:
        # Servers put the conversation into their own template: remove the control tokens of the usual templates.
        messages = [{**each, "content": without_control(each["content"])} for each in messages]
        body = {"model": self.endpoint.model, "messages": messages, **parameters}
        # Upper bound: a token is at least one byte of text.
        tokens_in = sum(len(each["content"].encode("utf-8", "surrogatepass")) + OVERHEAD for each in messages)
        most = tokens_in + parameters["max_tokens"], price(self.endpoint, tokens_in, parameters["max_tokens"])
        return Asked(content_id(self.model_id, messages, dict(parameters)), body, subject, most)


def answered(calls: Calls, run: Run, asked: Sequence[Asked]) -> list[Answer]:
    """Return the answer to each call, stored or new, or the reason why there is none.

    If the server went away in between, what it had not been asked yet, or not to the end, is `untried`.

    Raises:
        ModelError: the endpoint refuses every call.
    """
    known: dict[str, Answer] = {**calls.find([one.id for one in asked])}
    why = ""
    if unpaid := list({one.id: one for one in asked if one.id not in known}.values()):
        try:
            asyncio.run(run.all(unpaid))
        except TeacherUnavailable as error:
            why = f"untried: {error}"
        finally:
            calls.settle()
        known |= run.found
    return [known.get(one.id, why) for one in asked]


class Run:
    """Runs the calls of one request in one event loop."""

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
            raise group.exceptions[0] from None
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
                read = self.interface.read
                kept = read(raw) if read else replies.reply(raw, asked.body["max_tokens"])
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
