"""Parameters that an endpoint does not accept, learned from its refusals, so that one refusal is enough.

Newer OpenAI models want `max_completion_tokens` and no temperature; Text Generation Inference gives at most 5 alternatives per token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_FEW = 5
_BAD_REQUEST = (400, 422)
_OPTIONAL = ("temperature", "seed")
_UNSUPPORTED = re.compile(
    r"support|unknown|unrecogni[sz]ed|not (?:permitted|allowed)|deprecat|unexpected|extra|must be|invalid|range", re.I
)
_ALTERNATIVES = re.compile(r"logprob|top_n|alternatives", re.I)


class Dialect:
    """The form of requests to one endpoint. `optional` names the parameters that may be left out where a server refuses them."""

    def __init__(self, *, optional: Sequence[str] = _OPTIONAL) -> None:
        self._renamed, self._few, self._optional = False, False, optional
        self._without: set[str] = set()

    def write(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request in the form that the endpoint accepts, as far as that is known."""
        sent = {name: value for name, value in body.items() if name not in self._without}
        if self._renamed and "max_tokens" in sent:
            sent["max_completion_tokens"] = sent.pop("max_tokens")
        if self._few and "top_logprobs" in sent:
            sent["top_logprobs"] = min(sent["top_logprobs"], _FEW)
        return sent

    def learn(self, status: int, said: str, sent: Mapping[str, Any]) -> bool:
        """Learn from a refusal; return whether the request can take another form. `said` is the server's message."""
        if status not in _BAD_REQUEST:
            return False
        if "max_tokens" in sent and "max_completion_tokens" in said:
            self._renamed = True
            return True
        for name in self._optional:
            if name in sent and name in said and _UNSUPPORTED.search(said):
                self._without.add(name)
                return True
        # Some servers do not name the number that is too large.
        if sent.get("top_logprobs", 0) > _FEW and (_ALTERNATIVES.search(said) or status == 422):
            self._few = True
            return True
        return False
