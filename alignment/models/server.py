"""A model server's own interface, as vLLM documents it: what it serves, adapters by name, how it tokenises, what it says to probes.

Of `/v1/models` and chat completions everything is needed; `/tokenize`, log-probabilities of a prompt and adapters only where they are used.

Effects: HTTP requests to the configured server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from alignment.errors import EndpointError
from alignment.ids import content_id
from alignment.models.replies import longest, text_of, usage_of
from alignment.models.server_requests import ServerRequests, words_of_reply
from alignment.records import Message
from alignment.text import cap, printable

if TYPE_CHECKING:
    from alignment.http import Reply
    from alignment.sections import ModelServer

PROMPT, ECHO = "prompt_logprobs", "echo"
"""Modes of asking for the log-probabilities of a prompt: vLLM's own field, and the older one of completions."""
PROBES = (
    "Count from one to ten, in words.",
    "Say the alphabet, letter by letter.",
    "What is the capital of France?",
)
PROBE_TOKENS = 12
_LONGEST = 300
_NEXT = "start the server of [model_server], see 'align doctor', and run the same command again"
_UNKNOWN = "align-nobody"


class ModelCard(NamedTuple):
    """What a server tells of a model that it serves; `context` is in tokens, None if it does not tell."""

    name: str
    root: str
    parent: str
    context: int | None


class Words(NamedTuple):
    """What a message says, and the thinking that the server parted from it ('': none)."""

    text: str
    thought: str


class ProbeReply(NamedTuple):
    """A probe's answer, the model that the server names for it, and the tokens of its prompt (None: not told)."""

    words: Words
    model: str
    prompt_tokens: int | None


class ServedIdentity(NamedTuple):
    """What tells one served model from another: its card, what it says to the probes, and how it gives log-probabilities ('': not)."""

    card: ModelCard
    probes: tuple[ProbeReply, ...]
    logprob_mode: str

    @property
    def id(self) -> str:
        """Content address, without the server's address and context."""
        return content_id("served", self.card.name, self.card.root, self.card.parent, self.probes, self.logprob_mode)


class Server:
    """One server. All its methods raise EndpointError while it cannot be reached, and where it refuses."""

    def __init__(self, settings: ModelServer, key: str) -> None:
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        self.url, self.line = (
            settings.base_url,
            ServerRequests(timeout=settings.timeout_seconds, headers=headers, secrets=[key], next_step=_NEXT),
        )

    @property
    def _shown(self) -> str:
        from alignment.http import address

        return address(self.url)

    def cards(self) -> dict[str, ModelCard]:
        """Return what is served, by name."""
        from alignment.http import loads

        answer = self.line.ask("GET", f"{self.url}/models")
        try:
            found = [_card(row) for row in loads(answer.body)["data"]] if answer.ok else None
        except (ValueError, KeyError, TypeError):
            found = None
        if found is None:
            raise EndpointError(
                f"the server {self._shown!r} lists no models: {words_of_reply(answer)}; correct [model_server] base_url or the key"
            )
        return {card.name: card for card in found}

    def card(self, name: str) -> ModelCard:
        """Return what the server tells of one model."""
        known = self.cards()
        if name not in known:
            listed = ", ".join(map(repr, sorted(known)[:8])) or "nothing"
            raise EndpointError(f"the server {self._shown!r} does not serve {name!r}, it serves {listed}; correct [model_server] model")
        return known[name]

    def load(self, name: str, path: str) -> None:
        """Load an adapter under a name; one that is there already stays."""
        answer = self._post("/load_lora_adapter", {"lora_name": name, "lora_path": path})
        # A try whose answer was lost may have loaded it.
        if not answer.ok and "already been loaded" not in answer.text:
            raise EndpointError(
                f"the server {self._shown!r} does not load the adapter in {path!r}: {words_of_reply(answer)}; vLLM needs --enable-lora, a "
                "--max-lora-rank of at least [train] lora_rank and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and [model_server] home_as has "
                "to be the state folder as the server sees it"
            )

    def unload(self, name: str) -> None:
        """Unload an adapter; one that is not there is none."""
        self._post("/unload_lora_adapter", {"lora_name": name})

    def loads_adapters(self) -> bool:
        """Return whether the server takes adapters by name, which it shows by what it says of one that it does not have."""
        answer = self._post("/unload_lora_adapter", {"lora_name": _UNKNOWN})
        return answer.ok or "cannot be found" in answer.text

    def tokens(self, name: str, messages: Sequence[Message], more: Mapping[str, Any]) -> list[int] | None:
        """Return the tokens of a conversation as the server's template renders it for an answer; None if it does not tell."""
        from alignment.http import loads

        answer = self._post("/tokenize", {"model": name, "messages": list(messages), "add_generation_prompt": True, **more}, below="")
        try:
            found = loads(answer.body)["tokens"] if answer.ok else None
        except (ValueError, KeyError, TypeError):
            return None
        return [one for one in found if isinstance(one, int)] if isinstance(found, list) else None

    def say(self, name: str, messages: Sequence[Message], tokens: int, more: Mapping[str, Any]) -> ProbeReply:
        """Return the greedy answer to a probe, thinking and answer of at most `tokens` together."""
        body = {"model": name, "messages": list(messages), "max_tokens": tokens, "temperature": 0.0, **more}
        raw = self._answered(self._post("/chat/completions", body))
        try:
            words, count = words_of(raw["choices"][0]["message"]), prompt_tokens(raw)
        except (KeyError, TypeError, IndexError, AttributeError):
            raise EndpointError(
                f"the server {self._shown!r} answers a probe with no chat completion; correct [model_server] base_url"
            ) from None
        most = longest(tokens)
        return ProbeReply(Words(words.text[:most], words.thought[:most]), _told(raw.get("model")), count)

    def logprob_mode(self, name: str, ids: Sequence[int]) -> str:
        """Return how the server gives the log-probabilities of a prompt, '' if it does not."""
        for mode in (PROMPT, ECHO):
            answer = self._post("/completions", logprob_request(name, ids, mode))
            try:
                if answer.ok and log_probs(self._answered(answer), ids, mode):
                    return mode
            except (ValueError, KeyError, TypeError, IndexError, AttributeError, EndpointError):
                continue
        return ""

    def complete(self, body: Mapping[str, Any]) -> Any:
        """Return the answer to a completion."""
        return self._answered(self._post("/completions", body))

    def _answered(self, answer: Reply) -> Any:
        from alignment.http import loads

        try:
            if answer.ok:
                return loads(answer.body)
        except ValueError:
            pass
        raise EndpointError(f"the server {self._shown!r} does not answer a probe: {words_of_reply(answer)}; see 'align doctor'")

    def _post(self, path: str, body: Mapping[str, Any], *, below: str | None = None) -> Reply:
        # /tokenize lies beside /v1, not in it.
        root = self.url if below is None else self.url.removesuffix("/v1") + below
        return self.line.ask("POST", f"{root}{path}", content=json.dumps(body).encode("utf-8", "surrogatepass"))


def _card(row: Any) -> ModelCard:
    context = row.get("max_model_len")
    return ModelCard(str(row["id"]), _told(row.get("root")), _told(row.get("parent")), context if isinstance(context, int) else None)


def _told(value: Any) -> str:
    return cap(printable(value), _LONGEST) if isinstance(value, str) else ""


def words_of(message: Mapping[str, Any]) -> Words:
    """Return what a message says, under any of the names that servers have for thinking."""
    thought = next((text for field in ("reasoning_content", "reasoning") if (text := text_of(message.get(field)))), "")
    return Words(text_of(message.get("content")), thought)


def prompt_tokens(raw: Mapping[str, Any]) -> int | None:
    """Return the tokens that the prompt had, None if the server does not tell."""
    return usage_of(raw.get("usage")).tokens_in


def logprob_request(name: str, ids: Sequence[int], mode: str) -> dict[str, Any]:
    """Return the body of a completion that returns the log-probability of each token of a prompt."""
    asked = {"prompt_logprobs": 0} if mode == PROMPT else {"echo": True, "logprobs": 1}
    return {"model": name, "prompt": list(ids), "max_tokens": 1, "temperature": 0.0, **asked}


def log_probs(raw: Any, ids: Sequence[int], mode: str) -> list[float]:
    """Return the log-probability of each token of a prompt after the first.

    Raises:
        ValueError, KeyError, TypeError, IndexError, AttributeError: the answer has none, or those of other tokens.
    """
    choice = raw["choices"][0]
    if mode == PROMPT:
        rows = choice["prompt_logprobs"]
        if len(rows) != len(ids):
            raise ValueError("other tokens")
        found = [row[str(token)]["logprob"] for row, token in zip(rows[1:], ids[1:], strict=True)]
    else:
        found = choice["logprobs"]["token_logprobs"]
        # The prompt's, and that of the one token that was written, unless the server ended at once.
        if len(found) not in (len(ids), len(ids) + 1):
            raise ValueError("other tokens")
        found = found[1 : len(ids)]
    if any(isinstance(one, bool) or not isinstance(one, int | float) or not one <= 0 for one in found):
        raise ValueError("no log-probabilities")
    return [float(one) for one in found]
