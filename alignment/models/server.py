"""A model server's own interface, as vLLM documents it: what it serves, adapters by name, how it tokenises, what it says to probes.

Of `/v1/models` and chat completions everything is needed; `/tokenize`, log-probabilities of a prompt and adapters only where they are used.

Effects: HTTP requests to the configured server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from alignment.errors import ModelError
from alignment.ids import content_id
from alignment.models.replies import text_of
from alignment.models.server_requests import ServerRequests, words_of_reply
from alignment.records import Message
from alignment.text import cap, printable

if TYPE_CHECKING:
    from alignment.http import Reply
    from alignment.sections import ModelServer

PROMPT, ECHO = "prompt_logprobs", "echo"
"""Ways to ask for the log-probabilities of a prompt: vLLM's own field, and the older one of completions."""
PROBES = (
    "Count from one to ten, in words.",
    "Say the alphabet, letter by letter.",
    "What is the capital of France?",
)
PROBE_TOKENS = 12
_LONGEST = 300
_NEXT = "start the server of [model_server], see 'align doctor', and run the same command again"
_NOBODY = "align-nobody"


class Card(NamedTuple):
    """What a server tells of a model that it serves; `context` is in tokens, None if it does not tell."""

    name: str
    root: str
    parent: str
    context: int | None


class Said(NamedTuple):
    """A probe's answer, the model that the server names for it, and the tokens of its prompt (None: not told)."""

    text: str
    model: str
    prompt_tokens: int | None


class ServedIdentity(NamedTuple):
    """What tells one served model from another: its card, what it says to the probes, and how it gives log-probabilities ('': not)."""

    card: Card
    said: tuple[Said, ...]
    way: str

    @property
    def id(self) -> str:
        """Content address, without the server's address and context."""
        return content_id("served", self.card.name, self.card.root, self.card.parent, self.said, self.way)


class Server:
    """One server. All its methods raise EndpointError while it cannot be reached, and ModelError where it refuses."""

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

    def cards(self) -> dict[str, Card]:
        """Return what is served, by name."""
        from alignment.http import loads

        answer = self.line.ask("GET", f"{self.url}/models")
        try:
            found = [_card(row) for row in loads(answer.body)["data"]] if answer.ok else None
        except (ValueError, KeyError, TypeError):
            found = None
        if found is None:
            raise ModelError(
                f"the server {self._shown!r} lists no models: {words_of_reply(answer)}; correct [model_server] base_url or the key"
            )
        return {card.name: card for card in found}

    def card(self, name: str) -> Card:
        """Return what the server tells of one model."""
        known = self.cards()
        if name not in known:
            listed = ", ".join(map(repr, sorted(known)[:8])) or "nothing"
            raise ModelError(f"the server {self._shown!r} does not serve {name!r}, it serves {listed}; correct [model_server] model")
        return known[name]

    def load(self, name: str, path: str) -> None:
        """Load an adapter under a name; one that is there already stays."""
        answer = self._post("/load_lora_adapter", {"lora_name": name, "lora_path": path})
        # A try whose answer was lost may have loaded it.
        if not answer.ok and "already been loaded" not in answer.text:
            raise ModelError(
                f"the server {self._shown!r} does not load the adapter in {path!r}: {words_of_reply(answer)}; vLLM needs --enable-lora, a "
                "--max-lora-rank of at least [train] lora_rank and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and [model_server] home_as has "
                "to be the state folder as the server sees it"
            )

    def unload(self, name: str) -> None:
        """Unload an adapter; one that is not there is none."""
        self._post("/unload_lora_adapter", {"lora_name": name})

    def loads_adapters(self) -> bool:
        """Return whether the server takes adapters by name, which it shows by what it says of one that it does not have."""
        answer = self._post("/unload_lora_adapter", {"lora_name": _NOBODY})
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

    def say(self, name: str, messages: Sequence[Message], more: Mapping[str, Any]) -> Said:
        """Return the greedy answer to a probe."""
        body = {"model": name, "messages": list(messages), "max_tokens": PROBE_TOKENS, "temperature": 0.0, **more}
        raw = self._answered(self._post("/chat/completions", body))
        try:
            message, used = raw["choices"][0]["message"], raw.get("usage") or {}
            count = used.get("prompt_tokens")
            text, thought = (text_of(message.get(field)) for field in ("content", "reasoning_content"))
        except (KeyError, TypeError, IndexError, AttributeError):
            raise ModelError(
                f"the server {self._shown!r} answers a probe with no chat completion; correct [model_server] base_url"
            ) from None
        return Said(f"{thought}{text}"[:_LONGEST], _told(raw.get("model")), count if isinstance(count, int) else None)

    def way(self, name: str, ids: Sequence[int]) -> str:
        """Return how the server gives the log-probabilities of a prompt, '' if it does not."""
        for way in (PROMPT, ECHO):
            answer = self._post("/completions", question(name, ids, way))
            try:
                if answer.ok and log_probs(self._answered(answer), ids, way):
                    return way
            except (ValueError, KeyError, TypeError, IndexError, AttributeError, ModelError):
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
        raise ModelError(f"the server {self._shown!r} does not answer a probe: {words_of_reply(answer)}; see 'align doctor'")

    def _post(self, path: str, body: Mapping[str, Any], *, below: str | None = None) -> Reply:
        # /tokenize lies beside /v1, not in it.
        root = self.url if below is None else self.url.removesuffix("/v1") + below
        return self.line.ask("POST", f"{root}{path}", content=json.dumps(body).encode("utf-8", "surrogatepass"))


def _card(row: Any) -> Card:
    context = row.get("max_model_len")
    return Card(str(row["id"]), _told(row.get("root")), _told(row.get("parent")), context if isinstance(context, int) else None)


def _told(value: Any) -> str:
    return cap(printable(value), _LONGEST) if isinstance(value, str) else ""


def question(name: str, ids: Sequence[int], way: str) -> dict[str, Any]:
    """Return the body of a completion that returns the log-probability of each token of a prompt."""
    asked = {"prompt_logprobs": 0} if way == PROMPT else {"echo": True, "logprobs": 1}
    return {"model": name, "prompt": list(ids), "max_tokens": 1, "temperature": 0.0, **asked}


def log_probs(raw: Any, ids: Sequence[int], way: str) -> list[float]:
    """Return the log-probability of each token of a prompt after the first.

    Raises:
        ValueError, KeyError, TypeError, IndexError, AttributeError: the answer has none, or those of other tokens.
    """
    choice = raw["choices"][0]
    if way == PROMPT:
        rows = choice["prompt_logprobs"]
        if len(rows) != len(ids):
            raise ValueError("other tokens")
        found = [row[str(token)]["logprob"] for row, token in zip(rows[1:], ids[1:], strict=True)]
    else:
        found = choice["logprobs"]["token_logprobs"][1 : len(ids)]
    if len(found) != len(ids) - 1 or any(isinstance(one, bool) or not isinstance(one, int | float) or not one <= 0 for one in found):
        raise ValueError("no log-probabilities")
    return [float(one) for one in found]
