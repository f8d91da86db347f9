"""Limits of a paid endpoint, which stop a call before it would exceed them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable


class LimitReached(Exception):
    """The next call could exceed what a night may take; the message names the setting."""


class Requests:
    """At most `most` requests a night for one purpose, retries included; 0 is no limit. `made` are those of earlier runs."""

    def __init__(self, most: int, made: int = 0, setting: str = "") -> None:
        self.most, self.made, self.setting = most, made, setting

    def make(self) -> None:
        """Count the next request.

        Raises:
            LimitReached: it would be one too many.
        """
        if self.most and self.made >= self.most:
            raise LimitReached(f"{self.setting} = {self.most}: as many are made")
        self.made += 1


class Pace:
    """At most `per_minute` calls in any 60 seconds; 0 is no limit. `ages` are how many seconds ago earlier calls were made."""

    def __init__(self, per_minute: int, ages: Iterable[float] = ()) -> None:
        self.per_minute = per_minute
        now = time.monotonic()
        self._starts = deque(sorted(now - age for age in ages), maxlen=per_minute or None)
        self._turn = asyncio.Lock()

    async def wait(self) -> None:
        """Return when the next call may start."""
        if not self.per_minute:
            return
        async with self._turn:
            if len(self._starts) == self.per_minute and (left := self._starts[0] + 60.0 - time.monotonic()) > 0:
                await asyncio.sleep(left)
            self._starts.append(time.monotonic())


class Purse:
    """Tokens and money of one night. What a call could take at most is set aside before it, and settled after it."""

    def __init__(self, max_tokens: int, max_cost: float, *, tokens: int = 0, cost: float = 0.0) -> None:
        self.max_tokens, self.max_cost = max_tokens, max_cost
        self.tokens, self.cost = tokens, cost

    def reserve(self, tokens: int, cost: float) -> None:
        """Set aside what a call takes at most.

        Raises:
            LimitReached: there is not as much left.
        """
        if self.max_tokens and self.tokens + tokens > self.max_tokens:
            raise LimitReached(f"[teacher] max_tokens_per_night = {self.max_tokens}: {self.tokens} are spent or set aside")
        if self.max_cost and self.cost + cost > self.max_cost + 1e-12:
            raise LimitReached(f"[teacher] max_cost_per_night = {self.max_cost}: {self.cost:.4f} are spent or set aside")
        self.tokens += tokens
        self.cost += cost

    def settle(self, reserved: tuple[int, float], used: tuple[int, float]) -> None:
        """Replace what was set aside by what was used."""
        self.tokens += used[0] - reserved[0]
        self.cost += used[1] - reserved[1]
