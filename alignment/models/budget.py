"""Limits of a paid endpoint, checked before each call."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable


class LimitReached(Exception):
    """The next call could exceed a limit of the night; the message names the setting."""


class Requests:
    """At most `most` requests per night for one purpose, retries included; 0 is no limit. `made` counts those of earlier runs."""

    def __init__(self, most: int, made: int = 0, setting: str = "") -> None:
        self.most, self.made, self.setting = most, made, setting

    def make(self) -> None:
        """Count the next request.

        Raises:
            LimitReached: it would exceed the limit.
        """
        if self.most and self.made >= self.most:
            raise LimitReached(f"{self.setting} = {self.most}: as many are made")
        self.made += 1


class Pace:
    """At most `per_minute` calls in any 60 seconds; 0 is no limit. `ages` are the seconds since each earlier call."""

    def __init__(self, per_minute: int, ages: Iterable[float] = ()) -> None:
        self.per_minute = per_minute
        now = time.monotonic()
        self._starts = deque(sorted(now - age for age in ages), maxlen=per_minute or None)
        self._turn = asyncio.Lock()

    async def wait(self) -> None:
        """Wait until the next call may start."""
        if not self.per_minute:
            return
        async with self._turn:
            if len(self._starts) == self.per_minute and (left := self._starts[0] + 60.0 - time.monotonic()) > 0:
                await asyncio.sleep(left)
            self._starts.append(time.monotonic())


class Purse:
    """Tokens and money of one night: reserve a call's maximum before it, settle the actual use after it."""

    def __init__(self, max_tokens: int, max_cost: float, *, tokens: int = 0, cost: float = 0.0) -> None:
        self.max_tokens, self.max_cost = max_tokens, max_cost
        self.tokens, self.cost = tokens, cost

    def reserve(self, tokens: int, cost: float) -> None:
        """Reserve the maximum that a call can use.

        Raises:
            LimitReached: there is not enough left.
        """
        if self.max_tokens and self.tokens + tokens > self.max_tokens:
            raise LimitReached(f"[teacher] max_tokens_per_night = {self.max_tokens}: {self.tokens} are spent or set aside")
        if self.max_cost and self.cost + cost > self.max_cost + 1e-12:
            raise LimitReached(f"[teacher] max_cost_per_night = {self.max_cost}: {self.cost:.4f} are spent or set aside")
        self.tokens += tokens
        self.cost += cost

    def settle(self, reserved: tuple[int, float], used: tuple[int, float]) -> None:
        """Replace a reservation by the actual use."""
        self.tokens += used[0] - reserved[0]
        self.cost += used[1] - reserved[1]
