"""Requests to one server that are repeated where that can help: a release's hooks, a model server's adapters.

Effects: HTTP requests to the given addresses (see `alignment.http`); proxies and redirects are not followed.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from alignment.errors import EndpointError
from alignment.text import cap, printable

if TYPE_CHECKING:
    from alignment.http import Reply

TRIES = 3
_PAUSE = 0.5
_BUSY = frozenset((408, 425, 429))


class ServerRequests:
    """Requests to one server, each tried up to three times where that can help; counts the tries of the last request.

    `timeout` limits one whole try, in seconds. `secrets` are removed from the server's messages. `next_step` ends the error.
    """

    def __init__(
        self,
        *,
        timeout: float,
        pause: float | None = None,
        headers: Mapping[str, str] | None = None,
        secrets: Collection[str] = (),
        next_step: str = "'align release push' repeats it",
    ) -> None:
        self.timeout, self.pause, self.headers, self.tries = timeout, _PAUSE if pause is None else pause, dict(headers or {}), 0
        self.next_step = next_step
        self.secrets = tuple(filter(None, secrets))

    def ask(self, method: str, url: str, *, content: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Return the response, whatever its status, except for a status that calls for a retry.

        Raises:
            EndpointError: on every try the server was unreachable, too slow or unable to answer.
        """
        import httpx2

        from alignment.http import address, ask, without_secrets

        self.tries, problem, sent = 0, "", {**self.headers, **(headers or {})}
        while self.tries < TRIES:
            if self.tries:
                time.sleep(self.pause * 2 ** (self.tries - 1))
            self.tries += 1
            try:
                answer = ask(method, url, seconds=self.timeout, content=content, headers=sent, secrets=self.secrets)
            except TimeoutError:
                problem = f"TimeoutError: no whole answer within {self.timeout:g} s"
                continue
            except (httpx2.TransportError, httpx2.InvalidURL, OverflowError, UnicodeError) as error:
                problem = without_secrets(f"{type(error).__name__}: {error}", [*self.secrets, url])
                continue
            if answer.status < 500 and answer.status not in _BUSY:
                return answer
            problem = words_of_reply(answer)
        raise EndpointError(
            f"{address(url)!r} did not answer as it should in {TRIES} tries: {cap(printable(problem), 200)}; {self.next_step}"
        )


def words_of_reply(answer: Reply) -> str:
    """Return the status of an answer and the beginning of its text, safe to print."""
    moved = ", and redirects are not followed" if 300 <= answer.status < 400 else ""
    return f"status {answer.status}{moved}: {cap(printable(answer.text[:1000]), 160)}"
