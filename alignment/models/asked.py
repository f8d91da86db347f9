"""One call to an endpoint: what it asks, how it fails, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from alignment.sections import Teacher


class Calls(Protocol):
    """Where paid answers are kept; see `alignment.store.TeacherCalls`."""

    def keep(self, row: Mapping[str, Any]) -> None: ...
    def settle(self) -> int: ...
    def find(self, ids: Sequence[str]) -> dict[str, Any]: ...
    def spent(self, since: datetime) -> Any: ...
    def requests(self, since: datetime, purpose: str) -> int: ...
    def made(self, since: datetime) -> list[datetime]: ...


class Asked(NamedTuple):
    """One call: its content address, what it asks, the exchange that it is about, and the most it can take."""

    id: str
    body: dict[str, Any]
    subject: str
    most: tuple[int, float]


class Failed(Exception):
    """An attempt that failed. `again`: the next may not; `billed`: it may have been charged, for the tokens `used` if they are known;
    `stop`: no call can succeed; `otherwise`: it was refused for how it was written, and can be written otherwise.
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
    """What calls are made for, the most of them that one night may make (0: no limit), and the setting that says so."""

    purpose: str = ""
    most: int = 0
    setting: str = ""


def price(endpoint: Teacher, tokens_in: int, tokens_out: int) -> float:
    return (tokens_in * endpoint.price_in + tokens_out * endpoint.price_out) / 1e6
