"""One call to an endpoint: its request, its failures, and what is stored of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from alignment.sections import Teacher


class Calls(Protocol):
    """The store of paid answers; see `alignment.store.TeacherCalls`."""

    def keep(self, row: Mapping[str, Any]) -> None: ...
    def settle(self) -> int: ...
    def find(self, ids: Sequence[str]) -> dict[str, Any]: ...
    def spent(self, since: datetime) -> Any: ...
    def requests(self, since: datetime, purpose: str) -> int: ...
    def made(self, since: datetime) -> list[datetime]: ...


class Asked(NamedTuple):
    """One call: content address, request body, the id of the exchange it is about, and its maximum (tokens, cost).

    `read` reads the answer in place of the interface's own reader, and raises what that raises, or ModelError to stop all calls.
    """

    id: str
    body: dict[str, Any]
    subject: str
    most: tuple[int, float]
    read: Callable[[Any], dict[str, Any]] | None = None


class Failed(Exception):
    """A failed attempt.

    `again`: a retry may succeed; `billed`: it may have been charged, for `used` tokens if known; `stop`: no call can succeed; `otherwise`:
    the server refused the form of the request, and another form may work.
    """

    def __init__(
        self,
        why: str,
        *,
        again: bool = True,
        billed: bool = False,
        stop: bool = False,
        after: float = 0.0,
        used: tuple[int, int] | None = None,
        otherwise: bool = False,
    ) -> None:
        super().__init__(why)
        self.again, self.billed, self.stop, self.after, self.used, self.otherwise = again, billed, stop, after, used, otherwise


class Use(NamedTuple):
    """The purpose of calls, how many of them one night may make (0: no limit), and the setting with that limit."""

    purpose: str = ""
    most: int = 0
    setting: str = ""


def price(endpoint: Teacher, tokens_in: int, tokens_out: int) -> float:
    return (tokens_in * endpoint.price_in + tokens_out * endpoint.price_out) / 1e6
