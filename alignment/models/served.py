"""The aligned model behind an OpenAI-compatible server: a `ChatModel` that answers there, with adapters loaded by name.

The server renders the prompt with its own template. What it gets has no turn marks in it, as for the local model, and each answer says
how many tokens its prompt had: where that is not what the template here gives, nothing is kept. Answers are stored under the server's
identity as they arrive, and a batch counts only if the server is still the same after it.

Effects: calls the server; writes the store's paid calls; loads weights once per model to compare them with the server's.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from alignment.errors import EndpointError, ModelError, WrongServer
from alignment.ids import content_id, short
from alignment.models import replies
from alignment.models.asked import Asked, Calls, Use
from alignment.models.call_batch import CallBatch
from alignment.models.chat import Choice
from alignment.models.dialect import Dialect
from alignment.models.folder import is_whole
from alignment.models.identity import SERVED, model_id
from alignment.models.interface import Interface
from alignment.models.local import render, text_ids
from alignment.models.logprobs import LogProb, TurnIds
from alignment.models.server import logprob_request, prompt_tokens, words_of
from alignment.models.server_verification import Prompt, VerifiedServer, whole
from alignment.models.thinking import can_think, closed
from alignment.records import Message

if TYPE_CHECKING:
    from alignment.sections import ModelServer

SECTION, PURPOSE = "[model_server]", "policy"
_NO_EXCHANGE, _NUMBERS = "gate", "log-probs"
"""Stored in place of an exchange: with answers to suites, and with numbers, which hold no text."""
_ENDS = ("stop", "length", "eos")
_CHAT, _COMPLETIONS = (Interface(SECTION, quotes=False, path=path) for path in ("/chat/completions", "/completions"))


NO_LOG_PROBS = (
    "gives no log-probabilities of a prompt, which [self_reward] labelers and suites of good answers need; take vLLM, or set "
    "[model_server] log_probs = 'local' to compute them here, from the same weights"
)


class PolicyCalls(Calls, Protocol):
    """The store of answers, which holds them back until it is known who gave them; see `alignment.store.TeacherCalls`."""

    def waiting(self, ids: Collection[str]) -> set[str]: ...
    def settle_checked(self, ids: Collection[str]) -> int: ...
    def forget(self, ids: Collection[str]) -> None: ...


class ServedModel:
    """The model in `folder`, or its `adapter`, as the configured server answers for it."""

    def __init__(
        self,
        folder: Path,
        settings: ModelServer,
        calls: PolicyCalls,
        *,
        home: Path,
        key: str = "",
        adapter: Path | None = None,
        batch_size: int = 32,
        thinking_tokens: int = 0,
        mask: Callable[[str], str] | None = None,
    ) -> None:
        """`home` is the state folder, in which adapters lie; `mask` removes personal data from answers about exchanges that are kept.

        Raises:
            ModelError: `adapter` is a whole model.
        """
        if adapter is not None and is_whole(adapter):
            raise ModelError(
                f"{str(adapter)!r} is a whole model ([train] method = 'full'), which no running server can load as an adapter; set [model] "
                "backend = 'local', or roll back to a release that is an adapter"
            )
        self.folder, self.adapter, self.settings, self.home = folder, adapter, settings, home
        self.batch_size, self.thinking_tokens = batch_size, thinking_tokens
        self._calls, self._key, self._mask = calls, key, mask
        self._who = VerifiedServer(folder, adapter, settings, key=key, home=home, thinking_tokens=thinking_tokens)

    @property
    def model_id(self) -> str:
        """See `ChatModel.model_id`: the files here, and the server's identity."""
        return model_id(self.folder, self.adapter, dtype=self.precision, batch_size=self.batch_size)

    @property
    def precision(self) -> str:
        """The identity of the server that answers for the base, in place of a dtype: what serves otherwise gives other answers."""
        how = content_id(self._who.base.verify().id, self.settings.extra, self.settings.log_probs)
        return f"{SERVED}{short(how)}"

    def verify(self, *, anew: bool = False) -> None:
        """See `VerifiedServer.verify`."""
        self._who.verify(anew=anew)

    def unload_all(self) -> None:
        """See `VerifiedServer.unload_all`."""
        self._who.unload_all()

    def check(self, tokens: int, *, weighs: bool) -> str:
        """Return what was found of the server; `tokens` is the longest conversation, `weighs` whether log-probabilities are needed.

        Raises:
            ModelError: a night would fail on it.
        """
        found, who = self._who.verify(anew=True), f"{self._who.name!r} at {self.settings.base_url}"
        if not self._who.server.loads_adapters():
            raise ModelError(f"{who} takes no adapters by name; start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True")
        if (context := found.card.context) is not None and context < tokens:
            raise ModelError(f"{who} reads {context} tokens, and [train] max_tokens is {tokens}; start it with --max-model-len {tokens}")
        local = self.settings.log_probs == "local"
        if weighs and not found.logprob_mode and not local:
            raise ModelError(f"{who} {NO_LOG_PROBS}")
        compared = "as likely as here" if self.settings.max_difference else "not compared"
        reads = f"{context} tokens" if context else "an unknown number of tokens"
        numbers = "computed here" if local else f"by {found.logprob_mode}" if found.logprob_mode else "none, and none are needed"
        return f"{who}, from {found.card.root or 'somewhere'}; reads {reads}; log-probabilities: {numbers}; known answers: {compared}"

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        subjects: Sequence[str] = (),
    ) -> list[str]:
        """See `ChatModel.generate`. Answers about exchanges (`subjects`) are masked before they are kept.

        Raises:
            ModelError: a conversation is too long.
            EndpointError: the server gave no answers, or refuses.
            WrongServer: it is another model, or no longer the same.
        """
        prompts = [self._who.prompt(one) for one in conversations]
        most = max_new_tokens + self.thinking_tokens
        if (longest := max((one.tokens for one in prompts), default=0)) > (limit := self._who.context - most):
            raise ModelError(f"a conversation of {longest} tokens does not fit the server's {limit}; lower [candidates] max_prompt_chars")
        how: dict[str, Any] = {"max_tokens": most, "temperature": temperature, **self._who.more}
        if temperature:
            how |= {"seed": seed, "top_p": 1.0}
        model = self.model_id
        asked = [
            Asked(
                content_id("policy", model, one.messages, how, max_new_tokens),
                {"model": self._who.name, "messages": one.messages, **how},
                subjects[at] if subjects else _NO_EXCHANGE,
                (one.tokens + most, 0.0),
                self._reader(one, most),
            )
            for at, one in enumerate(prompts)
        ]
        found = self._ask(asked, _CHAT, self._mask if subjects else None)
        return [
            self._who.answer(prompt, each["content"], max_new_tokens, parted=each["parted"])
            for prompt, each in zip(prompts, found, strict=True)
        ]

    def _reader(self, prompt: Prompt, most: int) -> Callable[[Any], dict[str, Any]]:
        def read(raw: Any) -> dict[str, Any]:
            kept = replies.reply(raw, most)
            self._check_sender(raw, prompt.tokens)
            name, tokens_out = self._who.name, (kept["usage"] or (None, None))[1]
            if tokens_out is not None and tokens_out > most:
                raise WrongServer(f"the server wrote {tokens_out} tokens for {name!r}, where {most} were asked for; it cannot be used")
            if "filtered" in kept:
                raise WrongServer(f"the server filters the answers of {name!r}, so that they are not the model's; switch its filter off")
            finish, words = raw["choices"][0].get("finish_reason"), words_of(raw["choices"][0]["message"])
            if finish not in _ENDS:
                raise WrongServer(
                    f"the server ends an answer of {name!r} with finish_reason {str(finish)[:40]!r}, where only {', '.join(_ENDS)} tell "
                    "that it is whole or was cut at its limit; nothing of it is kept"
                )
            if (long := sum(map(len, words))) > (limit := replies.longest(most)):
                raise WrongServer(
                    f"the server wrote {long:,} characters for {name!r}, where {most} tokens have at most {limit:,}; it cannot be used"
                )
            return {"content": whole(words), "parted": bool(words.thought), "top": [], "usage": kept["usage"]}

        return read

    def _check_sender(self, raw: Any, tokens: int) -> None:
        """Refuse an answer of another model, or to a prompt of another number of tokens."""
        self._who.check_count(tokens, prompt_tokens(raw))
        told, meant = str(raw.get("model")), self._who.verify().probes[0].model
        if told != meant:
            raise WrongServer(f"the server answers with {told[:100]!r} for {meant!r}; nothing of it is kept. See 'align doctor'")

    def turns(self, conversations: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[TurnIds]:
        """See `LocalModel.turns`."""
        return self._who.turns(conversations, answers)

    def score(self, turns: Sequence[TurnIds]) -> list[LogProb]:
        """Return the log-probability of each turn's answer, from the server or, with `log_probs = "local"`, from the weights here.

        Raises:
            ModelError: the server gives none.
        """
        if self.settings.log_probs == "local":
            return self._who.local.score(turns)
        mode = self._who.verify().logprob_mode
        if not mode:
            raise ModelError(f"the server of {self._who.name!r} {NO_LOG_PROBS}")
        longest = max((len(turn.prompt) + len(turn.answer) for turn in turns), default=0)
        if longest >= self._who.context:
            raise ModelError(
                f"a conversation of {longest} tokens does not fit the server's {self._who.context}; lower [candidates] max_prompt_chars"
            )
        model = self.model_id
        asked = [self._logprob_call(model, turn, mode) for turn in turns]
        return [LogProb(float(each["sum"]), len(turn.answer)) for turn, each in zip(turns, self._ask(asked, _COMPLETIONS), strict=True)]

    def _logprob_call(self, model: str, turn: TurnIds, mode: str) -> Asked:
        ids = [*turn.prompt, *turn.answer]

        def read(raw: Any) -> dict[str, Any]:
            number = self._who.read_sum(turn, raw, mode).sum
            self._check_sender(raw, len(ids))
            return {"content": "", "top": [], "usage": [len(ids), 1], "sum": number}

        return Asked(
            content_id("weigh", model, mode, turn), logprob_request(self._who.name, ids, mode), _NUMBERS, (len(ids) + 1, 0.0), read
        )

    def log_probs(self, conversations: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[LogProb]:
        """See `LocalModel.log_probs`."""
        return self.score(self.turns(conversations, answers))

    def choose(self, conversations: Sequence[Sequence[Message]], options: Sequence[str], *, subjects: Sequence[str] = ()) -> list[Choice]:
        """See `LocalModel.choose`: the same probabilities, of the options' first tokens among themselves."""
        if self.settings.log_probs == "local":
            return self._who.local.choose(conversations, options, subjects=subjects)
        letters = [text_ids(self._who.tokenizer, option)[0] for option in options]
        if len(set(letters)) < len(letters):
            raise ModelError(f"the model {str(self.folder)!r} cannot tell the options {list(options)!r} apart by their first token")
        off = False if can_think(str(self._who.tokenizer.chat_template)) else None
        prompts = [closed(render(self._who.tokenizer, one, add_generation_prompt=True, thinking=off)) for one in conversations]
        rows = [text_ids(self._who.tokenizer, prompt) for prompt in prompts]
        fits = [row for row in rows if len(row) + 1 < self._who.context]
        found = iter(self.score([TurnIds(tuple(row), (letter,)) for row in fits for letter in letters]))
        return [
            _choice([next(found).sum for _ in letters]) if len(row) + 1 < self._who.context else Choice(None, "too long") for row in rows
        ]

    def _ask(self, asked: Sequence[Asked], interface: Interface, mask: Callable[[str], str] | None = None) -> list[dict[str, Any]]:
        """Return the answer to each call, from the store if it was made before; none is kept if the server is another one afterwards."""
        known: dict[str, Any] = self._calls.find([one.id for one in asked])
        if held := self._calls.waiting([one.id for one in asked]):
            # An earlier run asked for these and ended before it could check the server.
            self._keep_if_unchanged(held)
            known = self._calls.find([one.id for one in asked])
        if unpaid := list({one.id: one for one in asked if one.id not in known}.values()):
            known |= self._make(unpaid, interface, mask)
            self._keep_if_unchanged([one.id for one in unpaid])
        if missing := next((each for each in known.values() if isinstance(each, str)), ""):
            raise EndpointError(
                f"the server at {self.settings.base_url!r} gave {self._who.name!r} no answer: {missing}; see the server's log and 'align "
                "doctor', and run the same command again, which asks only for what is missing"
            )
        return [known[one.id] for one in asked]

    def _keep_if_unchanged(self, ids: Collection[str]) -> None:
        """Move answers into the store, or drop them if the server is another one now. While it cannot be asked they wait."""
        try:
            self._who.check_unchanged()
        except WrongServer:
            self._calls.forget(ids)
            raise
        self._calls.settle_checked(ids)

    def _make(self, unpaid: Sequence[Asked], interface: Interface, mask: Callable[[str], str] | None) -> dict[str, Any]:
        """Make the calls. If the server lost the adapter on the way, by a restart, load it again and make those that are left, once."""
        found: dict[str, Any] = {}
        self._ready()
        for again in (False, True):
            left = [one for one in unpaid if one.id not in found]
            batch = CallBatch(self._endpoint(interface), self._calls, self._key, Dialect(optional=()), Use(PURPOSE), mask, interface)
            try:
                return found | asyncio.run(batch.all(left))
            except WrongServer:
                self._calls.forget([one.id for one in unpaid])
                raise
            except EndpointError:
                raise  # what arrived waits for the next run, which asks only for the rest
            except ModelError as error:
                if again or self.adapter is None or self._who.is_served():
                    raise EndpointError(str(error)) from None
                self._who.load()
                found |= {key: each for key, each in batch.found.items() if isinstance(each, dict)}
        raise AssertionError("unreachable")

    def _ready(self) -> None:
        """Load the adapter if the server has lost it, after a restart or because it ran out of room."""
        self._who.verify()
        if self.adapter is not None:
            self._who.load()

    def _endpoint(self, interface: Interface) -> Any:
        from alignment.sections import Teacher

        one = self.settings
        return Teacher(
            base_url=one.base_url, model=self._who.name, max_tokens_per_night=0, timeout_seconds=one.timeout_seconds, retries=one.retries
        ).model_copy(update={"concurrency": one.concurrency, "extra": one.extra if interface is _CHAT else {}})  # fmt: skip


def _choice(sums: Sequence[float]) -> Choice:
    odds = [math.exp(one - max(sums)) for one in sums]
    return Choice(tuple(one / sum(odds) for one in odds))
