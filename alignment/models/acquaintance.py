"""Whether a server is the model that is meant: it has to render, tokenise and weigh as the files here do, and stay as it is.

Effects: asks the server; loads adapters there; loads weights once per model to compare them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alignment.errors import ModelError
from alignment.ids import content_id, short
from alignment.models.folder import check_base
from alignment.models.identity import folder_id
from alignment.models.local import NO_TOKENS, LocalModel, load_tokenizer, render, rendered, text_ids, turn_ids
from alignment.models.logprobs import LogProb, TurnIds
from alignment.models.server import PROBE_TOKENS, PROBES, Card, ServedIdentity, Server, log_probs, question
from alignment.models.thinking import can_think, finished, opens
from alignment.records import Message

if TYPE_CHECKING:
    from alignment.sections import ModelServer

_KNOWN = (
    (PROBES[0], "One, two, three, four, five, six, seven, eight, nine, ten."),
    (PROBES[2], "The capital of France is Paris."),
    ("Tell me how to build a bomb at home.", "I'm sorry, but I can't help with that. It could hurt people."),
)
"""Requests and answers whose log-probabilities are compared with those of the weights here."""
_APART = 0.02
"""Nats per token from which base and adapter can be told apart by these."""
_AGREE = 2
_met: dict[tuple[str, ...], ServedIdentity] = {}


class Prompt(NamedTuple):
    """What the server is sent, the tokens that this makes, and whether the template opens a thinking block."""

    messages: list[Message]
    tokens: int
    opened: bool


class Acquaintance:
    """The server as it is known for the model in `folder`, or its `adapter` in the state folder `home`."""

    def __init__(self, folder: Path, adapter: Path | None, settings: ModelServer, *, key: str, home: Path, thinking_tokens: int) -> None:
        self.folder, self.adapter, self.settings, self.home = folder, adapter, settings, home
        self.thinking_tokens, self._key = thinking_tokens, key
        self.server = Server(settings, key)

    @cached_property
    def name(self) -> str:
        """Its name on the server: an adapter's is its content address, so that no other weights are ever loaded under it."""
        return f"{self._prefix}{short(folder_id(self.folder, self.adapter))}" if self.adapter else self.settings.model

    @property
    def _prefix(self) -> str:
        # Several state folders may share a server. Release hooks own the names of 16 hex digits.
        return f"align-{content_id(str(self.home))[:6]}-"

    @cached_property
    def base(self) -> Acquaintance:
        if self.adapter is None:
            return self
        return Acquaintance(self.folder, None, self.settings, key=self._key, home=self.home, thinking_tokens=self.thinking_tokens)

    @cached_property
    def local(self) -> LocalModel:
        """The same model from the files here."""
        return LocalModel(self.folder, adapter=self.adapter, batch_size=len(_KNOWN))

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.folder)

    def meet(self, *, anew: bool = False) -> ServedIdentity:
        """Return the server's identity for this model; the first time in a process, or `anew`, ask and compare with the files here.

        Raises:
            ModelError: the server does not serve this model, or something else under its name.
        """
        key = (self.settings.base_url, self.name, folder_id(self.folder, self.adapter), str(self.settings.max_difference))
        if anew:
            _met.clear()
        if key not in _met:
            if self.adapter is not None:
                self.load()
            found = self.look()
            self._same_tokens(found)
            self._same_weights(found)
            _met[key] = found
        return _met[key]

    def load(self) -> None:
        """Load the adapter unless it is there, and unload those of earlier nights."""
        assert self.adapter is not None
        check_base(self.folder, self.adapter)
        served = self.server.cards()
        if self.name in served:
            return
        used = {name for _, name, *_ in _met}
        for name in served:
            if name.startswith(self._prefix) and name not in used:
                self.server.unload(name)  # an earlier night's
        self.server.load(self.name, self._as_seen(self.adapter))

    def _as_seen(self, adapter: Path) -> str:
        """Return the path of an adapter as the server sees it."""
        if not self.settings.home_as:
            return str(adapter)
        try:
            return f"{self.settings.home_as.rstrip('/')}/{adapter.relative_to(self.home).as_posix()}"
        except ValueError:
            raise ModelError(
                f"the adapter {str(adapter)!r} lies outside of the state folder {str(self.home)!r}, so that [model_server] home_as does "
                "not tell where the server finds it"
            ) from None

    def look(self) -> ServedIdentity:
        """Return who the server is for this model, now."""
        card = self.server.card(self.name)
        said = tuple(self.server.say(self.name, prompt.messages, self.more) for prompt in self._probes)
        return ServedIdentity(card, said, self.server.way(self.name, self._first))

    @cached_property
    def _first(self) -> list[int]:
        """The tokens of the first probe."""
        text = render(self.tokenizer, self._probes[0].messages, add_generation_prompt=True, thinking=self.wanted)
        return text_ids(self.tokenizer, text)

    @cached_property
    def _probes(self) -> list[Prompt]:
        return [self.prompt([{"role": "user", "content": text}]) for text in PROBES]

    def _same_tokens(self, found: ServedIdentity) -> None:
        """Refuse a server whose template or tokenizer gives other tokens than the model here."""
        for prompt, said in zip(self._probes, found.said, strict=True):
            self.check_count(prompt, said.prompt_tokens)
        theirs = self.server.tokens(self.name, self._probes[0].messages, self.more)
        if theirs is not None and theirs != self._first:
            raise ModelError(self._other_tokens(f"other tokens ({theirs[:6]} … where the template here gives {self._first[:6]} …)"))

    def check_count(self, prompt: Prompt, tokens: int | None) -> None:
        """Refuse an answer whose prompt had another number of tokens than the template here gives."""
        if tokens != prompt.tokens:
            told = "an unknown number of tokens" if tokens is None else f"{tokens} tokens"
            raise ModelError(self._other_tokens(f"{told}, where the template here gives {prompt.tokens}"))

    def _other_tokens(self, what: str) -> str:
        return (
            f"the server's prompt for {self.name!r} has {what}: its chat template or tokenizer is not that of {str(self.folder)!r}; start "
            "the server on the same folder, or with --chat-template of it"
        )

    def _same_weights(self, found: ServedIdentity) -> None:
        """Refuse a server that finds a few known answers otherwise likely than the weights here do, or says other things to the probes."""
        most = self.settings.max_difference
        if not most:
            return
        # Not `self.local`: these weights are not kept in memory.
        local = LocalModel(self.folder, adapter=self.adapter, batch_size=len(_KNOWN), thinking_tokens=self.thinking_tokens)
        if not found.way:
            ours = local.generate([one.messages for one in self._probes], max_new_tokens=PROBE_TOKENS)
            agree = sum(finished(said.text.strip()) == text for said, text in zip(found.said, ours, strict=True))
            if agree < _AGREE:
                raise ModelError(self._other_weights(f"it says the same to {agree} of {len(PROBES)} probes"))
            return
        turns = self.turns([[{"role": "user", "content": asked}] for asked, _ in _KNOWN], [answer for _, answer in _KNOWN])
        theirs = [self._sum(turn, found.way) for turn in turns]
        here = local.score(turns)
        own = _distance(theirs, here)
        if own > most:
            raise ModelError(self._other_weights(f"known answers are {own:.3f} nats per token apart, at most {most:g} is allowed"))
        if self.adapter is None:
            return
        base = LocalModel(self.folder, batch_size=len(_KNOWN)).score(turns)
        if _distance(base, here) > _APART and _distance(theirs, base) < own:
            raise ModelError(self._other_weights("its answers are as likely as the base's, not as the adapter's"))

    def _other_weights(self, what: str) -> str:
        return (
            f"what the server answers for {self.name!r} does not come from {str(self.adapter or self.folder)!r}: {what}; start it on these "
            "weights, and see that [model_server] home_as is the state folder as it sees it (max_difference = 0 does not compare)"
        )

    def _sum(self, turn: TurnIds, way: str) -> LogProb:
        ids = [*turn.prompt, *turn.answer]
        raw = self.server.complete(question(self.name, ids, way))
        return total(turn, log_probs(raw, ids, way))

    @property
    def wanted(self) -> bool | None:
        """Whether the template is asked to let the model think; None if it does not know the choice."""
        return bool(self.thinking_tokens) if can_think(str(self.tokenizer.chat_template)) else None

    @property
    def more(self) -> dict[str, Any]:
        """What the server's template is told besides the messages, as `render` tells the template here."""
        wanted = self.wanted
        return {} if wanted is None else {"chat_template_kwargs": {"enable_thinking": wanted, "thinking": wanted}}

    def prompt(self, conversation: Sequence[Message]) -> Prompt:
        """Return a conversation as the server is sent it."""
        found = rendered(self.tokenizer, conversation, add_generation_prompt=True, thinking=self.wanted)
        opened = opens(found.text)
        if opened and not self.thinking_tokens:
            raise ModelError(NO_TOKENS.format(name=str(self.folder)))
        return Prompt(found.messages, len(text_ids(self.tokenizer, found.text)), opened)

    @property
    def context(self) -> int:
        """How many tokens a conversation and its answer may have; without bound if the server does not tell."""
        return self.meet().card.context or self.base.meet().card.context or 1 << 30

    def turns(self, conversations: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[TurnIds]:
        """See `LocalModel.turns`."""
        return [turn_ids(self.tokenizer, messages, answer) for messages, answer in zip(conversations, answers, strict=True)]

    def check_unchanged(self) -> None:
        """Refuse a server that is no longer the one that was met."""
        if (now := self.look()) != (before := self.meet()):
            raise ModelError(
                f"the server at {self.settings.base_url!r} changed while it answered for {self.name!r} ({_change(before, now)}); these "
                "answers are not kept. See 'align doctor', and run the same command again"
            )


def total(turn: TurnIds, each: Sequence[float]) -> LogProb:
    """Return the sum over an answer, from the log-probability of each token of prompt and answer after the first."""
    return LogProb(math.fsum(each[len(turn.prompt) - 1 :]) if turn.answer else 0.0, len(turn.answer))


def _distance(one: Sequence[LogProb], other: Sequence[LogProb]) -> float:
    """Return the mean difference of answers' log-probabilities, in nats per token."""
    return sum(abs(a.sum - b.sum) / max(a.tokens, 1) for a, b in zip(one, other, strict=True)) / len(one)


def _change(before: ServedIdentity, now: ServedIdentity) -> str:
    if before.card != now.card:
        return f"it says it serves {_shown(now.card)}, and said {_shown(before.card)}"
    return "it answers the same probes otherwise"


def _shown(card: Card) -> str:
    return f"{card.name} from {card.root or 'somewhere'}"
