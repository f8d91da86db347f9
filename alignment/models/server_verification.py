"""Whether a server is the model that is meant: it has to render, tokenise and weigh as the files here do, and stay as it is.

Effects: asks the server; loads adapters there; loads weights once per model to compare them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alignment.errors import ModelError, WrongServer
from alignment.ids import content_id, short
from alignment.models.folder import check_base
from alignment.models.identity import folder_id
from alignment.models.local import NO_TOKENS, LocalModel, load_tokenizer, render, rendered, text_ids, turn_ids
from alignment.models.logprobs import LogProb, TurnIds
from alignment.models.server import (
    PROBE_TOKENS,
    PROBES,
    ModelCard,
    ServedIdentity,
    Server,
    Words,
    log_probs,
    logprob_request,
    prompt_tokens,
)
from alignment.models.thinking import OPEN, can_think, finished, opens
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
_DRIFT = 0.03
"""Nats per token by which a server may differ from itself: rounding that depends on what else it computes."""
_verified: dict[tuple[str, ...], Fingerprint] = {}
_here: dict[tuple[str, ...], Any] = {}
"""What the weights here give, so that each model is loaded once and none stays in memory."""


class Fingerprint(NamedTuple):
    """Who the server is for a model, and the log-probabilities that it gives the known answers (none without a mode)."""

    identity: ServedIdentity
    known: tuple[LogProb, ...]


class Prompt(NamedTuple):
    """What the server is sent, the tokens that this makes, and whether the template opens a thinking block."""

    messages: list[Message]
    tokens: int
    opened: bool


class VerifiedServer:
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
    def base(self) -> VerifiedServer:
        if self.adapter is None:
            return self
        return VerifiedServer(self.folder, None, self.settings, key=self._key, home=self.home, thinking_tokens=self.thinking_tokens)

    @cached_property
    def local(self) -> LocalModel:
        """The same model from the files here."""
        return LocalModel(self.folder, adapter=self.adapter, batch_size=len(_KNOWN))

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.folder)

    def verify(self, *, anew: bool = False) -> ServedIdentity:
        """Return the server's identity for this model; the first time in a process, or `anew`, ask and compare with the files here.

        Raises:
            EndpointError: the server cannot be asked, or does not serve this model.
            WrongServer: it serves something else under its name.
        """
        if anew:
            _verified.clear()
        if self._slot not in _verified:
            if self.adapter is not None:
                self.load()
            found = self.fingerprint()
            self._same_name(found.identity)
            self._same_tokens(found.identity)
            self._same_weights(found)
            _verified[self._slot] = found
        return _verified[self._slot].identity

    @property
    def _slot(self) -> tuple[str, ...]:
        return (
            self.settings.base_url,
            self.name,
            folder_id(self.folder, self.adapter),
            str(self.settings.max_difference),
            str(self.thinking_tokens),
        )

    def is_served(self) -> bool:
        """Return whether the server has the model now."""
        return self.name in self.server.cards()

    def load(self) -> None:
        """Load the adapter unless it is there."""
        assert self.adapter is not None
        check_base(self.folder, self.adapter)
        if not self.is_served():
            self.server.load(self.name, self._as_seen(self.adapter))

    def unload_all(self) -> None:
        """Unload every adapter of this state folder; only one process of it may do so, lest two unload each other's."""
        for name in self.server.cards():
            if name.startswith(self._prefix):
                self.server.unload(name)

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

    def fingerprint(self) -> Fingerprint:
        """Return who the server is for this model, now."""
        card, tokens = self.server.card(self.name), PROBE_TOKENS + self.thinking_tokens
        replies = tuple(self.server.say(self.name, prompt.messages, tokens, self.more) for prompt in self._probes)
        if not any("".join(one.words).strip() for one in replies):
            raise WrongServer(
                f"the server at {self.settings.base_url!r} says nothing for {self.name!r} to any of {len(replies)} probes, so that it "
                "cannot be told from another one; see its log and its reasoning parser"
            )
        mode = self.server.logprob_mode(self.name, self._first)
        return Fingerprint(ServedIdentity(card, replies, mode), tuple(self._sum(turn, mode) for turn in self._known) if mode else ())

    @cached_property
    def _first(self) -> list[int]:
        """The tokens of the first probe."""
        text = render(self.tokenizer, self._probes[0].messages, add_generation_prompt=True, thinking=self.wanted)
        return text_ids(self.tokenizer, text)

    @cached_property
    def _probes(self) -> list[Prompt]:
        return [self.prompt([{"role": "user", "content": text}]) for text in PROBES]

    @cached_property
    def _known(self) -> list[TurnIds]:
        return self.turns([[{"role": "user", "content": asked}] for asked, _ in _KNOWN], [answer for _, answer in _KNOWN])

    def _same_name(self, found: ServedIdentity) -> None:
        """Refuse a server that names another model in an adapter's answers, or has it from another folder."""
        if self.adapter is None:
            return
        if told := next((one.model for one in found.probes if one.model != self.name), None):
            raise WrongServer(self._other_weights(f"its answers are {told[:100]!r}'s"))
        if found.card.root and found.card.root != self._as_seen(self.adapter):
            raise WrongServer(self._other_weights(f"it has that from {found.card.root!r}"))

    def _same_tokens(self, found: ServedIdentity) -> None:
        """Refuse a server whose template or tokenizer gives other tokens than the model here."""
        for prompt, said in zip(self._probes, found.probes, strict=True):
            self.check_count(prompt.tokens, said.prompt_tokens)
        theirs = self.server.tokens(self.name, self._probes[0].messages, self.more)
        if theirs is not None and theirs != self._first:
            raise WrongServer(self._other_tokens(f"other tokens ({theirs[:6]} … where the template here gives {self._first[:6]} …)"))

    def check_count(self, meant: int, tokens: int | None) -> None:
        """Refuse an answer whose prompt had another number of tokens than the template here gives."""
        if tokens != meant:
            told = "an unknown number of tokens" if tokens is None else f"{tokens} tokens"
            raise WrongServer(self._other_tokens(f"{told}, where the template here gives {meant}"))

    def _other_tokens(self, what: str) -> str:
        return (
            f"the server's prompt for {self.name!r} has {what}: its chat template or tokenizer is not that of {str(self.folder)!r}; start "
            "the server on the same folder, or with --chat-template of it"
        )

    def _same_weights(self, found: Fingerprint) -> None:
        """Refuse a server that finds a few known answers otherwise likely than the weights here do, or says other things to the probes.

        Where these cannot tell an adapter from its base, the server has to tell which folder it has the adapter from.
        """
        if not self.settings.max_difference:
            return
        differs = self._compare_numbers(found.known) if found.known else self._compare_texts(found.identity)
        if self.adapter is not None and not differs and not found.identity.card.root:
            raise WrongServer(
                self._other_weights("the known answers do not tell it from the base, and the server does not tell its root in /v1/models")
            )

    def _compare_numbers(self, theirs: Sequence[LogProb]) -> bool:
        """Return whether base and adapter give the known answers different log-probabilities."""
        most, here, base = self.settings.max_difference, self._numbers_here, self.base._numbers_here
        own = _distance(theirs, here)
        if own > most:
            raise WrongServer(self._other_weights(f"known answers are {own:.3f} nats per token apart, at most {most:g} is allowed"))
        differs = _distance(base, here) > _APART
        if differs and _distance(theirs, base) < own:
            raise WrongServer(self._other_weights("its answers are as likely as the base's, not as the adapter's"))
        return differs

    def _compare_texts(self, found: ServedIdentity) -> bool:
        """Return whether base and adapter answer the probes differently."""
        theirs = [
            self.answer(prompt, whole(said.words), PROBE_TOKENS, parted=bool(said.words.thought))
            for prompt, said in zip(self._probes, found.probes, strict=True)
        ]
        here, base = self._texts_here, self.base._texts_here
        own, other = (sum(one == two for one, two in zip(theirs, texts, strict=True)) for texts in (here, base))
        if own < _AGREE:
            raise WrongServer(self._other_weights(f"it says the same to {own} of {len(PROBES)} probes"))
        if here != base and other > own:
            raise WrongServer(self._other_weights("it answers the probes as the base does, not as the adapter"))
        return other < own

    @property
    def _numbers_here(self) -> list[LogProb]:
        key = ("numbers", folder_id(self.folder, self.adapter))
        if key not in _here:
            _here[key] = LocalModel(self.folder, adapter=self.adapter, batch_size=len(_KNOWN)).score(self._known)
        found: list[LogProb] = _here[key]
        return found

    @property
    def _texts_here(self) -> list[str]:
        key = ("texts", folder_id(self.folder, self.adapter), str(self.thinking_tokens))
        if key not in _here:
            local = LocalModel(self.folder, adapter=self.adapter, batch_size=len(_KNOWN), thinking_tokens=self.thinking_tokens)
            _here[key] = local.generate([one.messages for one in self._probes], max_new_tokens=PROBE_TOKENS)
        found: list[str] = _here[key]
        return found

    def _other_weights(self, what: str) -> str:
        return (
            f"what the server answers for {self.name!r} does not come from {str(self.adapter or self.folder)!r}: {what}; start it on these "
            "weights, and see that [model_server] home_as is the state folder as it sees it (max_difference = 0 does not compare)"
        )

    def _sum(self, turn: TurnIds, mode: str) -> LogProb:
        ids = [*turn.prompt, *turn.answer]
        return self.read_sum(turn, self.server.complete(logprob_request(self.name, ids, mode)), mode)

    def read_sum(self, turn: TurnIds, raw: Any, mode: str) -> LogProb:
        """Return the log-probability of a turn's answer from the server's reply, which has to be about the same tokens.

        Raises:
            WrongServer: it is about other tokens, or has no numbers.
        """
        ids = [*turn.prompt, *turn.answer]
        try:
            self.check_count(len(ids), prompt_tokens(raw))
            return total(turn, log_probs(raw, ids, mode))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise WrongServer(
                f"the server of {self.name!r} does not give the log-probabilities of the tokens it was asked for by {mode} "
                f"({type(error).__name__}); nothing of it is kept. See 'align doctor'"
            ) from None

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

    def answer(self, prompt: Prompt, text: str, most: int, *, parted: bool) -> str:
        """Return an answer without its thinking, of at most `most` tokens, as the model here would give it.

        `parted` tells that the server took the thinking away, and with it the beginning that the template had opened.
        """
        answer = finished((f"{OPEN}\n{text}" if prompt.opened and not parted else text).strip())
        if not self.thinking_tokens or answer.startswith(OPEN):
            return answer
        # The server only limits thinking and answer together.
        ids = text_ids(self.tokenizer, answer)
        return answer if len(ids) <= most else str(self.tokenizer.decode(ids[:most], skip_special_tokens=True)).strip()

    @property
    def context(self) -> int:
        """How many tokens a conversation and its answer may have; without bound if the server does not tell."""
        return self.verify().card.context or self.base.verify().card.context or 1 << 30

    def turns(self, conversations: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[TurnIds]:
        """See `LocalModel.turns`."""
        return [turn_ids(self.tokenizer, messages, answer) for messages, answer in zip(conversations, answers, strict=True)]

    def check_unchanged(self) -> None:
        """Refuse a server that is no longer the one that was verified; an adapter that it lost in between is loaded again first.

        Raises:
            WrongServer: it is another one.
            EndpointError: it cannot be asked.
        """
        self.verify()
        if self.adapter is not None:
            self.load()
        before, now = _verified[self._slot], self.fingerprint()
        changed = _change(before, now)
        if changed:
            raise WrongServer(
                f"the server at {self.settings.base_url!r} changed while it answered for {self.name!r} ({changed}); these answers are not "
                "kept. See 'align doctor', and run the same command again"
            )


def whole(words: Words) -> str:
    """Return what a message says; its thinking, marked as such, where it says nothing else."""
    return f"{OPEN}\n{words.thought}" if words.thought and not words.text.strip() else words.text


def total(turn: TurnIds, each: Sequence[float]) -> LogProb:
    """Return the sum over an answer, from the log-probability of each token of prompt and answer after the first."""
    return LogProb(math.fsum(each[len(turn.prompt) - 1 :]) if turn.answer else 0.0, len(turn.answer))


def _distance(one: Sequence[LogProb], other: Sequence[LogProb]) -> float:
    """Return the mean difference of answers' log-probabilities, in nats per token."""
    return sum(abs(a.sum - b.sum) / max(a.tokens, 1) for a, b in zip(one, other, strict=True)) / len(one)


def _change(before: Fingerprint, now: Fingerprint) -> str:
    """Return what differs, '' if nothing does."""
    if before.identity.card != now.identity.card:
        return f"it says it serves {_shown(now.identity.card)}, and said {_shown(before.identity.card)}"
    if before.identity != now.identity:
        return "it answers the same probes otherwise"
    apart = _distance(before.known, now.known) if now.known else 0.0
    return f"it finds known answers {apart:.3f} nats per token otherwise likely" if apart > _DRIFT else ""


def _shown(card: ModelCard) -> str:
    return f"{card.name} from {card.root or 'somewhere'}"
