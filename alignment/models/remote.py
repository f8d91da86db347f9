"""A chat model behind an OpenAI-compatible endpoint: vLLM, TGI, llama.cpp, `transformers serve`, or a hosted one.

A paid answer is stored (see `Calls`) before it is used, under the hash of its request. The hash is also sent as `Idempotency-Key`: if a
kill interrupts a call that the server has answered, a server that honours the key does not bill it again.

Effects: calls the endpoint.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alignment.errors import ConfigError, TeacherUnavailable
from alignment.ids import content_id
from alignment.models import replies
from alignment.models.asked import Asked, Calls, Use, price
from alignment.models.call_batch import CallBatch, answered
from alignment.models.chat import Choice, Classified, Written
from alignment.models.dialect import Dialect
from alignment.models.interface import CHAT, Interface
from alignment.models.replies import NO_LOGPROBS, OVERHEAD, RUBRIC_TOKENS, THINKS, TOP, Answer
from alignment.records import Message
from alignment.text import without_control

if TYPE_CHECKING:
    from alignment.sections import ModelServer, Teacher

_PROBES = 3


def key_of(endpoint: Teacher | ModelServer, section: str = "[teacher]") -> str:
    """Return the endpoint's key from the environment; empty if it needs none or there is no endpoint.

    Raises:
        ConfigError: the key's environment variable is not set.
    """
    name = endpoint.api_key_env if endpoint.base_url else ""
    key = os.environ.get(name, "") if name else ""
    if name and not key:
        raise ConfigError(f"{section} api_key_env names {name!r}, which is not set; export it, or leave api_key_env empty")
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
        answers = answered(self.calls, self._batch, asked)
        # A server that refuses log-probabilities is asked without them, now and from now on.
        if refused := [place for place, each in enumerate(answers) if odds and isinstance(each, str) and replies.gives_none(each)]:
            self._rubric = True
            again = answered(self.calls, self._batch, [self._call(list(conversations[one]), plain, subjects[one]) for one in refused])
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
            known |= asyncio.run(self._batch().all(unpaid))
            self.calls.settle()
        return [known[one.id] for one in asked]

    def _batch(self) -> CallBatch:
        return CallBatch(self.endpoint, self.calls, self._key, self._dialect, self._use, self._mask, self._interface)

    def _call(self, messages: list[Message], parameters: Mapping[str, Any], subject: str) -> Asked:
        # Servers put the conversation into their own template: remove the control tokens of the usual templates.
        messages = [{**each, "content": without_control(each["content"])} for each in messages]
        body = {"model": self.endpoint.model, "messages": messages, **parameters}
        # Upper bound: a token is at least one byte of text.
        tokens_in = sum(len(each["content"].encode("utf-8", "surrogatepass")) + OVERHEAD for each in messages)
        most = tokens_in + parameters["max_tokens"], price(self.endpoint, tokens_in, parameters["max_tokens"])
        return Asked(content_id(self.model_id, messages, dict(parameters)), body, subject, most)
