"""Work one step ahead of the consumer, in a thread: a block is parsed while the previous one is checked and merged."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_END = object()


def ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """Yield the same items while a thread makes the next; an error is raised where its item would have come."""
    with ThreadPoolExecutor(1) as pool:
        waiting: Future[object] = pool.submit(next, items, _END)
        while (item := waiting.result()) is not _END:
            waiting = pool.submit(next, items, _END)
            yield item  # type: ignore[misc]
