"""A chat model behind an OpenAI-compatible endpoint: vLLM, TGI, llama.cpp, `transformers serve`, or a hosted one.

An answer that was paid for is kept (see `Calls`) before it is used, under the hash of what was asked, which is also sent as
`Idempotency-Key`: what a kill interrupts and a server that honours the key answered is not billed again.

Effects: calls the endpoint.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from alignment.errors import ConfigError, ModelError, TeacherUnavailable
from alignment.ids import content_id
from alignment.models.chat import Choice
from alignment.models.limits import LimitReached, Pace, Purse
from alignment.records import Message
from alignment.text import cap, printable, without_control

if TYPE_CHECKING:
    from alignment.sections import Teacher

NIGHT = timedelta(hours=20)
"""Limits count what was spent within this time: less than a day, so that a night does not pay for the one before."""
_TOP, _RUBRIC_TOKENS, _GIVE_UP, _LONGEST_PAUSE = 20, 16, 3, 60.0
_TRANSIENT = frozenset((408, 409, 429))
_CHARACTERS_A_TOKEN, _MOST_TOKENS = 64, 10**8
_OVERHEAD = 16  # tokens that a chat template adds to a message, at most


class Calls(Protocol):
    """Where paid answers are kept; see `alignment.store.TeacherCalls`."""

    def keep(self, row: Mapping[str, Any]) -> None: ...
    def settle(self) -> int: ...
    def find(self, ids: Sequence[str]) -> dict[str, Any]: ...
    def spent(self, since: datetime) -> Any: ...
    def made(self, since: datetime) -> list[datetime]: ...


class _Asked(NamedTuple):
    """One call: its content address, what it asks, the exchange that it is about, and the most it can take."""

    id: str
    body: dict[str, Any]
    subject: str
    most: tuple[int, float]


class _Failed(Exception):
    """An attempt that failed. `again`: the next may not; `billed`: it may have been charged; `stop`: no call can succeed."""

    def __init__(self, why: str, *, again: bool = True, billed: bool = False, stop: bool = False, after: float = 0.0) -> None:
        super().__init__(why)
        self.again, self.billed, self.stop, self.after = again, billed, stop, after


Answer = dict[str, Any] | str
"""What came back, or why nothing did."""


def key_of(endpoint: Teacher) -> str:
    """Return the endpoint's key from the environment; empty if it needs none, or there is no endpoint.

    Raises:
        ConfigError: the environment variable that should hold it is not set.
    """
    name = endpoint.api_key_env if endpoint.base_url else ""
    key = os.environ.get(name, "") if name else ""
    if name and not key:
        raise ConfigError(f"[teacher] api_key_env names {name!r}, which is not set; export it, or leave api_key_env empty")
    return key


class RemoteModel:
    """A `ChatModel` and `Chooser` behind an endpoint.

    `edition` tells weights apart that are served under one name, as far as the caller can: another edition is asked everything anew.
    """

    def __init__(self, endpoint: Teacher, calls: Calls, *, key: str = "", edition: str = "") -> None:
        self.endpoint, self.calls, self.edition = endpoint, calls, edition
        self._key = key
        self._rubric = False

    @property
    def model_id(self) -> str:
        """Content address of the endpoint, the model's name there and the edition; what weights it serves cannot be seen from here."""
        return content_id("remote", self.endpoint.base_url, self.endpoint.model, *filter(None, [self.edition]))

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
            TeacherUnavailable: an answer is missing: the server did not give it, or a limit stopped it.
            ModelError: the endpoint refuses.
        """
        parameters = {"max_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        found = self._ask(conversations, parameters, subjects)
        if lost := next((each for each in found if isinstance(each, str)), ""):
            raise TeacherUnavailable(f"the model {self.endpoint.model!r} at {self.endpoint.base_url!r} did not answer: {lost}")
        return [_content(each).strip() for each in found]

    def choose(self, conversations: Sequence[Sequence[Message]], options: Sequence[str], *, subjects: Sequence[str] = ()) -> list[Choice]:
        """See `Chooser.choose`: by the log-probabilities of one token, or by marks from 0 to 10 where the server gives none."""
        if not conversations:
            return []
        parameters = {"max_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": _TOP}
        found: list[Choice] = []
        if not self._rubric:
            # The first question tells what the server gives.
            first = self._ask(conversations[:1], parameters, subjects[:1])[0]
            self._rubric = _gives_none(first)
        if not self._rubric:
            rest = self._ask(conversations[1:], parameters, subjects[1:])
            found = [_by_odds(each, options) for each in (first, *rest)]
            # A server may balance over others that give none.
            missing = [index for index, each in enumerate(found) if each.reason == "no logprobs"]
        else:
            found, missing = [Choice(None)] * len(conversations), list(range(len(conversations)))
        if missing:
            marked = [_with_rubric(conversations[index], options) for index in missing]
            given = [subjects[index] for index in missing] if subjects else ()
            parameters = {"max_tokens": _RUBRIC_TOKENS, "temperature": 0.0}
            for index, each in zip(missing, self._ask(marked, parameters, given), strict=True):
                found[index] = _by_marks(each, options)
        return found

    def _ask(self, conversations: Sequence[Sequence[Message]], parameters: Mapping[str, Any], subjects: Sequence[str]) -> list[Answer]:
        """Return the answer to each conversation, from what was paid for before where it is there."""
        asked = [self._call(list(one), parameters, subjects[index] if subjects else "") for index, one in enumerate(conversations)]
        known: dict[str, Answer] = {**self.calls.find([one.id for one in asked])}
        unpaid = list({one.id: one for one in asked if one.id not in known}.values())
        if unpaid:
            known |= asyncio.run(_Run(self.endpoint, self.calls, self._key).all(unpaid))
            self.calls.settle()
        return [known[one.id] for one in asked]

    def _call(self, messages: list[Message], parameters: Mapping[str, Any], subject: str) -> _Asked:
        # Servers write the conversation into a template of theirs, of which we know what the usual ones do.
        messages = [{**each, "content": without_control(each["content"])} for each in messages]
        body = {"model": self.endpoint.model, "messages": messages, **parameters}
        # A token is at least one byte of text.
        tokens_in = sum(len(each["content"].encode("utf-8", "surrogatepass")) + _OVERHEAD for each in messages)
        most = tokens_in + parameters["max_tokens"], _price(self.endpoint, tokens_in, parameters["max_tokens"])
        return _Asked(content_id(self.model_id, messages, dict(parameters)), body, subject, most)


def _price(endpoint: Teacher, tokens_in: int, tokens_out: int) -> float:
    return (tokens_in * endpoint.price_in + tokens_out * endpoint.price_out) / 1e6


class _Run:
    """The calls of one request, in one event loop."""

    def __init__(self, endpoint: Teacher, calls: Calls, key: str) -> None:
        import httpx2
        import openai

        from alignment.http import BoundedTransport

        now = datetime.now(UTC).replace(tzinfo=None)
        spent = calls.spent(now - NIGHT)
        self.endpoint, self.calls, self.key = endpoint, calls, key
        self.pace = Pace(endpoint.requests_per_minute, [(now - one).total_seconds() for one in calls.made(now - timedelta(minutes=1))])
        self.purse = Purse(endpoint.max_tokens_per_night, endpoint.max_cost_per_night, tokens=spent.tokens, cost=spent.cost)
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

    async def all(self, asked: Sequence[_Asked]) -> dict[str, Answer]:
        """Answer every call; those that got none say why.

        Raises:
            TeacherUnavailable: call after call got no answer; the rest was not tried.
            ModelError: the endpoint refuses every call.
        """
        found: dict[str, Answer] = {}
        waiting = iter(asked)

        async def work() -> None:
            for one in waiting:
                found[one.id] = await self._one(one)

        try:
            async with self.client, asyncio.TaskGroup() as workers:
                for _ in range(min(self.endpoint.concurrency, len(asked))):
                    workers.create_task(work())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return found

    async def _one(self, asked: _Asked) -> Answer:
        why, pause = self.stopped, 0.0
        for attempt in range(self.endpoint.retries + 1 if not why else 0):
            if attempt:
                await asyncio.sleep(max(pause, random.uniform(0.5, 1.0) * min(2.0 ** (attempt - 2), _LONGEST_PAUSE)))
            try:
                found = await self._attempt(asked)
                self.lost_in_a_row = 0
                return found
            except LimitReached as error:
                self.stopped = f"limit: {error}"
                return self.stopped
            except _Failed as error:
                why, pause = str(error), error.after
                if error.stop:
                    raise ModelError(f"{self._where()} refuses: {why}; correct [teacher] in align.toml") from None
                if not error.again:
                    return f"refused: {why}"
        if self.stopped:
            return self.stopped
        self.lost_in_a_row += 1
        if self.lost_in_a_row >= _GIVE_UP:
            raise TeacherUnavailable(f"{self._where()} gave no answer in {self.endpoint.retries + 1} attempts each: {why}")
        return f"unavailable: {why}"

    def _where(self) -> str:
        return f"the model {self.endpoint.model!r} at {self.endpoint.base_url!r}"

    async def _attempt(self, asked: _Asked) -> dict[str, Any]:
        # The pace first: what waits for its turn sets nothing aside.
        await self.pace.wait()
        self.purse.reserve(*asked.most)
        started = time.monotonic()
        try:
            answer = await self._send(asked)
        except BaseException as error:
            billed = not isinstance(error, _Failed) or error.billed
            if billed:
                self._keep(asked, None, asked.most[0], 0, asked.most[1], time.monotonic() - started)
            else:
                self.purse.settle(asked.most, (0, 0.0))
            raise
        tokens_in, tokens_out = _used(answer, asked)
        cost = _price(self.endpoint, tokens_in, tokens_out)
        self.purse.settle(asked.most, (tokens_in + tokens_out, cost))
        self._keep(asked, answer, tokens_in, tokens_out, cost, time.monotonic() - started)
        return answer

    def _keep(self, asked: _Asked, answer: dict[str, Any] | None, tokens_in: int, tokens_out: int, cost: float, seconds: float) -> None:
        # Without an exchange that it belongs to, an answer could not be erased with it: only its cost is kept.
        kept = answer is not None and bool(asked.subject)
        self.calls.keep(
            {
                "id": asked.id if kept else content_id(asked.id, time.time_ns(), random.random()),
                "interaction_id": asked.subject,
                "response": answer if kept else None,
                "tokens_in": tokens_in,
                "tokens_out": tokens_out,
                "cost": cost,
                "seconds": seconds,
                "created_at": datetime.now(UTC).replace(tzinfo=None),
            }
        )

    async def _send(self, asked: _Asked) -> dict[str, Any]:
        import openai

        from alignment.http import TooMuch, loads, without_secrets

        try:
            async with asyncio.timeout(self.endpoint.timeout_seconds):
                raw = await self.client.chat.completions.with_raw_response.create(**asked.body, extra_headers={"Idempotency-Key": asked.id})
                return _reply(loads(without_secrets(raw.content.decode(), [self.key])), asked)
        except (TimeoutError, openai.APITimeoutError):
            raise _Failed(f"no answer within {self.endpoint.timeout_seconds} s", billed=True) from None
        except openai.APIStatusError as error:
            raise self._refusal(error.status_code, error.response.headers, str(error.message)) from None
        except openai.APIConnectionError as error:
            refused = "ConnectError" in type(error.__cause__).__name__
            if isinstance(error.__cause__, TooMuch):
                raise _Failed(str(error.__cause__), again=False, billed=True) from None
            raise _Failed(f"the connection failed ({type(error.__cause__).__name__})", billed=not refused) from None
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, openai.OpenAIError) as error:
            raise _Failed(f"the answer is no whole chat completion ({type(error).__name__})", billed=True) from None

    def _refusal(self, status: int, headers: Mapping[str, str], message: str) -> _Failed:
        from alignment.http import without_secrets

        said = without_secrets(message, [self.key])
        why = f"status {status} ({cap(printable(said), 200)})"
        if status in _TRANSIENT or status >= 500:
            return _Failed(why, after=_retry_after(headers))
        return _Failed(why, again=False, stop=status in (401, 403, 404))


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        seconds = float(headers.get("retry-after", 0))
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_PAUSE) if math.isfinite(seconds) else 0.0


def _reply(raw: Any, asked: _Asked) -> dict[str, Any]:
    """Return what is kept of a reply: the text, the first token's alternatives and the usage."""
    choice = raw["choices"][0]
    content = choice["message"]["content"]
    tokens = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs") or []
    # A server that ignores how many tokens were asked for is not believed at length.
    longest = _CHARACTERS_A_TOKEN * (asked.body["max_tokens"] + _OVERHEAD)
    return {
        "content": content[:longest] if isinstance(content, str) else "",
        # More likely than certain is nothing.
        "top": [[str(one["token"])[:100], min(float(one["logprob"]), 0.0)] for one in tokens[:_TOP]],
        "usage": _usage(raw.get("usage")),
    }


def _usage(said: Any) -> list[int] | None:
    """Return the tokens that a server says it used, in and out; None if it says nothing that can be."""
    if not said:
        return None
    tokens = [int(said[name]) for name in ("prompt_tokens", "completion_tokens")]
    return tokens if all(0 <= one < _MOST_TOKENS for one in tokens) else None


def _used(answer: dict[str, Any], asked: _Asked) -> tuple[int, int]:
    usage = answer["usage"]
    return (usage[0], usage[1]) if usage else (asked.most[0] - asked.body["max_tokens"], asked.body["max_tokens"])


def _content(answer: Answer) -> str:
    return str(answer["content"]) if isinstance(answer, dict) else ""


def _gives_none(answer: Answer) -> bool:
    """Say whether a server gives no log-probabilities, or refused a request for them."""
    if isinstance(answer, str):
        return answer.startswith("refused") and "logprob" in answer
    return not answer["top"]


def _by_odds(answer: Answer, options: Sequence[str]) -> Choice:
    if isinstance(answer, str):
        return Choice(None, answer)
    if not answer["top"]:
        return Choice(None, "no logprobs")
    odds = [sum(math.exp(logprob) for token, logprob in answer["top"] if token.strip() == option) for option in options]
    total = sum(odds)
    return Choice(tuple(one / total for one in odds)) if total > 0 else Choice(None, "no option among the likely tokens")


def _with_rubric(conversation: Sequence[Message], options: Sequence[str]) -> list[Message]:
    """Ask for marks instead of one letter: the last line that is asked for counts."""
    form = " ".join(f"{option}=<0-10>" for option in options)
    last = conversation[-1]
    asked = (
        f"{last['content']}\nDo not reply with a letter. Give each a mark from 0 (worst) to 10 (best), as one line and nothing else: {form}"
    )
    return [*conversation[:-1], {"role": last["role"], "content": asked}]


def _by_marks(answer: Answer, options: Sequence[str]) -> Choice:
    """Read marks strictly: exactly one line that has the asked form."""
    if isinstance(answer, str):
        return Choice(None, answer)
    form = r"[\s,;]+".join(rf"{re.escape(option)}\s*[=:]\s*(10|[0-9])" for option in options)
    if not (found := re.fullmatch(form, _content(answer).strip())):
        return Choice(None, "not in the form that was asked for")
    marks = [int(each) for each in found.groups()]
    total = sum(marks)
    return Choice(tuple(mark / total if total else 1 / len(marks) for mark in marks))
