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

from alignment.errors import EndpointError, ModelError
from alignment.ids import content_id, short
from alignment.models import replies
from alignment.models.acquaintance import Acquaintance, Prompt, total
from alignment.models.asked import Asked, Calls, Use
from alignment.models.call_batch import CallBatch
from alignment.models.chat import Choice
from alignment.models.dialect import Dialect
from alignment.models.folder import is_whole
from alignment.models.identity import SERVED, model_id
from alignment.models.interface import Interface
from alignment.models.local import render, text_ids
from alignment.models.logprobs import LogProb, TurnIds
from alignment.models.server import log_probs, question
from alignment.models.thinking import OPEN, can_think, closed, finished
from alignment.records import Message

if TYPE_CHECKING:
    from alignment.sections import ModelServer

SECTION, PURPOSE = "[model_server]", "policy"
_NOBODY, _NUMBERS = "gate", "log-probs"
"""Stored in place of an exchange: with answers to suites, and with numbers, which hold no text."""
_ENDS = ("stop", "length", "eos")
_CHAT, _COMPLETIONS = (Interface(SECTION, quotes=False, path=path) for path in ("/chat/completions", "/completions"))


NO_LOG_PROBS = (
    "gives no log-probabilities of a prompt, which [self_reward] labelers and suites of good answers need; take vLLM, or set "
    "[model_server] log_probs = 'local' to compute them here, from the same weights"
)


class PolicyCalls(Calls, Protocol):
    """The store of answers, which can also drop those that it turns out another model gave; see `alignment.store.TeacherCalls`."""

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
        self._who = Acquaintance(folder, adapter, settings, key=key, home=home, thinking_tokens=thinking_tokens)

    @property
    def model_id(self) -> str:
        """See `ChatModel.model_id`: the files here, and the server's identity."""
        return model_id(self.folder, self.adapter, dtype=self.precision, batch_size=self.batch_size)

    @property
    def precision(self) -> str:
        """The identity of the server that answers for the base, in place of a dtype: what serves otherwise gives other answers."""
        how = content_id(self._who.base.meet().id, self.settings.extra, self.settings.log_probs)
        return f"{SERVED}{short(how)}"

    def meet(self, *, anew: bool = False) -> None:
        """See `Acquaintance.meet`."""
        self._who.meet(anew=anew)

    def examine(self, tokens: int, *, weighs: bool) -> str:
        """Return what was found of the server; `tokens` is the longest conversation, `weighs` whether log-probabilities are needed.

        Raises:
            ModelError: a night would fail on it.
        """
        found, who = self._who.meet(anew=True), f"{self._who.name!r} at {self.settings.base_url}"
        if not self._who.server.loads_adapters():
            raise ModelError(f"{who} takes no adapters by name; start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True")
        if (context := found.card.context) is not None and context < tokens:
            raise ModelError(f"{who} reads {context} tokens, and [train] max_tokens is {tokens}; start it with --max-model-len {tokens}")
        local = self.settings.log_probs == "local"
        if weighs and not found.way and not local:
            raise ModelError(f"{who} {NO_LOG_PROBS}")
        compared = "as likely as here" if self.settings.max_difference else "not compared (max_difference = 0)"
        reads = f"{context} tokens" if context else "an unknown number of tokens"
        numbers = "computed here" if local else f"by {found.way}" if found.way else "none, and none are needed"
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
            ModelError: a conversation is too long; or the server refuses, or is no longer the same.
            EndpointError: the server gave no answers.
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
                subjects[at] if subjects else _NOBODY,
                (one.tokens + most, 0.0),
                self._reader(one, most),
            )
            for at, one in enumerate(prompts)
        ]
        found = self._ask(asked, _CHAT, self._mask if subjects else None)
        return [self._answer(prompt, each, max_new_tokens) for prompt, each in zip(prompts, found, strict=True)]

    def _reader(self, prompt: Prompt, most: int) -> Callable[[Any], dict[str, Any]]:
        def read(raw: Any) -> dict[str, Any]:
            kept = replies.reply(raw, most)
            tokens_in, tokens_out = kept["usage"] or (None, None)
            self._who.check_count(prompt, tokens_in)
            if tokens_out is not None and tokens_out > most:
                raise ModelError(
                    f"the server wrote {tokens_out} tokens for {self._who.name!r}, where {most} were asked for; it cannot be used"
                )
            told, meant = str(raw.get("model")), self._who.meet().said[0].model
            if told != meant:
                raise ModelError(f"the server answers with {told[:100]!r} for {meant!r}; nothing of it is kept. See 'align doctor'")
            if "filtered" in kept:
                raise ModelError(
                    f"the server filters the answers of {self._who.name!r}, so that they are not the model's; switch its filter off"
                )
            finish, message = raw["choices"][0].get("finish_reason"), raw["choices"][0]["message"]
            if finish not in _ENDS:
                raise ModelError(
                    f"the server ends an answer of {self._who.name!r} with finish_reason {str(finish)[:40]!r}, where only "
                    f"{', '.join(_ENDS)} tell that it is whole or was cut at its limit; nothing of it is kept"
                )
            thought = next((text for field in ("reasoning_content", "reasoning") if (text := replies.text_of(message.get(field)))), "")
            text = replies.text_of(message.get("content"))
            if thought and not text.strip():
                text = f"{OPEN}\n{thought}"
            if len(text) > (limit := replies.longest(most)):
                raise ModelError(
                    f"the server wrote {len(text):,} characters for {self._who.name!r}, where {most} tokens have at most {limit:,}; it "
                    "cannot be used"
                )
            return {"content": text, "parted": bool(thought), "top": [], "usage": kept["usage"]}

        return read

    def _answer(self, prompt: Prompt, found: dict[str, Any], most: int) -> str:
        text = str(found["content"])
        answer = finished((f"{OPEN}\n{text}" if prompt.opened and not found["parted"] else text).strip())
        if not self.thinking_tokens or answer.startswith(OPEN):
            return answer
        # The server only limits thinking and answer together.
        ids = text_ids(self._who.tokenizer, answer)
        return answer if len(ids) <= most else str(self._who.tokenizer.decode(ids[:most], skip_special_tokens=True)).strip()

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
        way = self._who.meet().way
        if not way:
            raise ModelError(f"the server of {self._who.name!r} {NO_LOG_PROBS}")
        longest = max((len(turn.prompt) + len(turn.answer) for turn in turns), default=0)
        if longest >= self._who.context:
            raise ModelError(
                f"a conversation of {longest} tokens does not fit the server's {self._who.context}; lower [candidates] max_prompt_chars"
            )
        model = self.model_id
        asked = [self._weighing(model, turn, way) for turn in turns]
        return [LogProb(float(each["sum"]), len(turn.answer)) for turn, each in zip(turns, self._ask(asked, _COMPLETIONS), strict=True)]

    def _weighing(self, model: str, turn: TurnIds, way: str) -> Asked:
        ids = [*turn.prompt, *turn.answer]

        def read(raw: Any) -> dict[str, Any]:
            return {"content": "", "top": [], "usage": [len(ids), 1], "sum": total(turn, log_probs(raw, ids, way)).sum}

        return Asked(content_id("weigh", model, way, turn), question(self._who.name, ids, way), _NUMBERS, (len(ids) + 1, 0.0), read)

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
        unpaid = list({one.id: one for one in asked if one.id not in known}.values())
        if unpaid:
            self._ready()
            batch = CallBatch(self._endpoint(interface), self._calls, self._key, Dialect(optional=()), Use(PURPOSE), mask, interface)
            try:
                known |= asyncio.run(batch.all(unpaid))
                self._who.check_unchanged()
            except EndpointError:
                raise  # what arrived is kept: the next run asks only for the rest
            except ModelError:
                self._calls.forget([one.id for one in unpaid])
                raise
            self._calls.settle()
        if missing := next((each for each in known.values() if isinstance(each, str)), ""):
            where = f"the server at {self.settings.base_url!r} gave {self._who.name!r} no answer"
            if missing.startswith("unavailable"):
                raise EndpointError(f"{where}: {missing}; run the same command again, which asks only for what is missing")
            raise ModelError(f"{where}: {missing}; see the server's log, 'align doctor' and [model_server]")
        return [known[one.id] for one in asked]

    def _ready(self) -> None:
        """Load the adapter if the server has lost it, after a restart or because it ran out of room."""
        self._who.meet()
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
