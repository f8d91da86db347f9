"""The program that sends a notification, started by its path, with the task as JSON on its standard input.

apprise logs addresses, which are secrets, and servers may answer late, without end, or never. All of that ends with this process, whose
words nobody reads but one line per address: its number, and whether it took the message.

Effects: HTTP requests, and whatever else apprise's addresses mean; limits this process's memory.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from typing import Any

_MEMORY = 2 << 30
"""Bytes that this process may allocate; a server's answer is read whole."""


def main() -> None:
    """Parse the addresses of the task and, if it has a body, send it to all at once; report each within the task's seconds."""
    task: dict[str, Any] = json.load(sys.stdin)
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    # Before the seconds begin: apprise loads a hundred modules for the first address.
    services = [_service(url) for url in task["urls"]]
    with ThreadPoolExecutor(max_workers=max(1, len(services))) as pool:
        waiting = {pool.submit(_took, service, task): number for number, service in enumerate(services)}
        with suppress(TimeoutError):
            for one in as_completed(waiting, timeout=task["seconds"]):
                sys.stdout.write(json.dumps([waiting[one], one.result()]) + "\n")
                sys.stdout.flush()
        # Threads that still wait for a server would keep this process.
        os._exit(0)


def _service(url: str) -> Any:
    """Return apprise with one address, None if it knows no such address."""
    try:
        from apprise import Apprise, AppriseAsset

        # Nothing follows a redirect, which could take the message elsewhere.
        found = Apprise(asset=AppriseAsset(app_id="align", app_desc="align", http_redirects=False))
        return found if found.add(url) else None
    except Exception:
        return None


def _took(service: Any, task: dict[str, Any]) -> bool:
    try:
        return service is not None and (
            not task["body"] or bool(service.notify(body=task["body"], title=task["title"], notify_type=task["kind"]))
        )
    except Exception:
        return False


if __name__ == "__main__":
    main()
