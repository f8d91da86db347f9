"""Run two reviewers on one queue in real browsers, by keyboard and mouse, with repeated and held keys; then count the store.

Each act is recorded before it is made: who, on which item, which button. Afterwards, every act that the page accepted must be one verdict
in the store, with the act's first choice, and no item may have verdicts of both people.

Effects: serves the dashboard on a free port and drives two browsers; needs Playwright and chromium.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlparse

from alignment.errors import InputError

PEOPLE = ("Ada", "Ben")
KEYS = {"Left": "1", "Right": "2", "Both bad": "3", "Not harmful": "n", "Skip": "s"}
WAYS = ("key", "click", "two presses", "two clicks", "held key", "two keys")
READING = 0.6
"""Seconds before a reviewer acts on an item, longer than the page's own guard against a press meant for the previous item."""
_STUCK = 90.0
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


class Act(NamedTuple):
    """One act of a reviewer; `taken` says that the page moved on, so that the reviewer may believe it was stored.

    `other` is another button whose key was pressed at the same moment; the browser decides which of the two arrives first.
    """

    reviewer: str
    item: str
    button: str
    way: str
    taken: bool
    seconds: float
    other: str = ""


def queue(home: Path, items: int) -> None:
    """Create a store with `items` items in its queue."""
    from alignment.ids import content_id
    from alignment.store import append, migrate, session

    migrate(home)
    moment = datetime.now(UTC).replace(tzinfo=None)
    rows, exchanges = [], []
    for number in range(items):
        name, prompt = content_id("exchange", number), f"Question {number}: which of the two answers is better?"
        turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": prompt}]
        exchanges.append({"id": name, "messages": turns, "prompt": prompt, "response": "r", "created_at": moment, "consent": True})
        row = {"id": content_id("item", number), "kind": "low_margin", "reason": "a small margin", "interaction_id": name, "prompt": prompt}
        row |= {"answer_a": f"The first answer to {number}.", "answer_b": f"The second answer to {number}.", "proposal": "A is better"}
        rows.append(row | {"detail": {"side": "harm", "category": "privacy"}, "priority": 1.0 + number / items, "created_at": moment})
    with session(home, write=True) as connection:
        append(connection, "interactions", exchanges)
        append(connection, "review_items", rows)


@contextmanager
def served(home: Path) -> Iterator[str]:
    """Serve the dashboard on a free port, as `align dashboard` does; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [sys.executable, "-m", "dashboard.server", str(port)],
        env={**os.environ, "ALIGN_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(address, timeout=5).close()
                except urllib.error.HTTPError:
                    break  # it asks for a login
                except OSError:
                    time.sleep(0.2)
                    continue
                break
            yield address
        finally:
            server.terminate()


def sign_in(page: Any, address: str, name: str) -> None:
    """Open the review queue as `name`, with a one-time login link."""
    from alignment.store.sign_in import issue_token

    token = issue_token(Path(os.environ["ALIGN_HOME"]), name, now=datetime.now(UTC).replace(tzinfo=None))
    page.goto(f"{address}/review?token={token}")


def shown(page: Any, before: str = "", *, wait: float = _STUCK) -> str:
    """Return the item on screen once it differs from `before` and can be decided; empty if none comes."""
    until = time.monotonic() + wait
    while time.monotonic() < until:
        item = (parse_qs(urlparse(page.url).query).get("item") or [""])[0]
        if item and item != before and page.locator(".st-key-verdicts button:enabled").count() >= len(KEYS):
            return str(item)
        if page.locator(".st-key-card-done").count():
            return ""
        page.wait_for_timeout(40)
    return before if before else ""


def press(page: Any, button: str, way: str, draw: random.Random) -> str:
    """Make one act on the item on screen; return the other button whose key was pressed with it, if any."""
    key = KEYS[button]
    if way in ("click", "two clicks"):
        page.locator(".st-key-verdicts").get_by_role("button", name=button).first.click(click_count=1 + (way == "two clicks"))
        return ""
    page.keyboard.down(key)
    for _ in range(25 if way == "held key" else 0):
        page.wait_for_timeout(30)
        page.keyboard.down(key)  # the browser marks it as a repeat
    page.keyboard.up(key)
    if way == "two presses":
        page.wait_for_timeout(draw.choice((0, 20, 80)))
        page.keyboard.press(key)
    if way != "two keys":
        return ""
    other = draw.choice([one for one in KEYS if one != button])
    page.keyboard.press(KEYS[other])
    return other


def review(address: str, name: str, seconds: float, seed: int, results: Any) -> None:
    """Decide items in a separate browser for `seconds`; report every act."""
    from playwright.sync_api import sync_playwright

    draw, acts, asked = random.Random(seed), [], 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=_FLAGS)
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        sign_in(page, address, name)
        item = shown(page, wait=60)
        page.locator("h1").first.click()  # leave every input field
        until = time.monotonic() + seconds
        while item and time.monotonic() < until:
            page.wait_for_timeout(int(1000 * READING))
            button, way = draw.choice(list(KEYS)), draw.choice(WAYS)
            started = time.monotonic()
            other = press(page, button, way, draw)
            after = shown(page, item)
            acts.append(Act(name, item, button, way, after != item, time.monotonic() - started, other))
            item = after
            if len(acts) % 8 == 0 and item:
                asked += 1
                item = _ask_for_the_others(page, address, name, item)
        browser.close()
    results.put((name, acts, asked))


def _ask_for_the_others(page: Any, address: str, name: str, item: str) -> str:
    """Open the address of an item that is likely open on the other screen, in the same session; return what the page shows instead."""
    from alignment.store import query

    home = Path(os.environ["ALIGN_HOME"])
    rows = query(home, "SELECT item_id FROM review_holders WHERE reviewer <> ? AND event <> 'release' ORDER BY seq DESC LIMIT 1", [name])
    if not rows:
        return item
    page.goto(f"{address}/review?item={rows[0]['item_id']}")
    found = shown(page, str(rows[0]["item_id"]))
    page.locator("h1").first.click()
    return found


def count(home: Path, acts: list[Act]) -> dict[str, int]:
    """Compare the acts with the store: lost, doubled, overwritten, recorded with another button, and verdicts without an act."""
    from alignment.store import query

    rows = query(home, "SELECT item_id, reviewer, verdict, showing, left_answer FROM verdicts ORDER BY seq")
    given: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        given.setdefault((row["reviewer"], row["item_id"]), []).append(row)
    made: dict[tuple[str, str], list[Act]] = {}
    for act in acts:
        made.setdefault((act.reviewer, act.item), []).append(act)
    decided: dict[str, set[str]] = {}
    for row in rows:
        if row["verdict"] != "skip":
            decided.setdefault(row["item_id"], set()).add(row["reviewer"])
    taken = {key: [act for act in some if act.taken] for key, some in made.items()}
    both = [(act, row) for key, some in taken.items() for act, row in zip(some, given.get(key, []), strict=False)]
    wrong = sum(row["verdict"] not in [_verdict(button, row) for button in (act.button, act.other) if button] for act, row in both)
    return {
        "acts": len(acts),
        "taken": sum(map(len, taken.values())),
        "verdicts": len(rows),
        "lost": sum(max(0, len(some) - len(given.get(key, []))) for key, some in taken.items()),
        "double": len(rows) - len({row["showing"] for row in rows}),
        "overwritten": sum(len(people) > 1 for people in decided.values()),
        "another button": wrong,
        "second of two keys": sum(row["verdict"] != _verdict(act.button, row) for act, row in both) - wrong,
        "nobody's": sum(max(0, len(some) - len(made.get(key, []))) for key, some in given.items()),
    }


def _verdict(button: str, row: dict[str, Any]) -> str:
    if button in ("Left", "Right"):
        return "agree" if (button == "Left") == (row["left_answer"] == "a") else "flip"
    return button.lower().replace(" ", "_")


def run(seconds: float, items: int) -> list[dict[str, Any]]:
    """Return one row per reviewer and way of acting, and one with the totals.

    Raises:
        InputError: Playwright or chromium is missing.
    """
    if not shutil.which("chromium"):
        raise InputError("there is no chromium; 'apt-get install chromium' and 'pip install playwright' bring what is needed")
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        home.mkdir()
        os.environ |= {"ALIGN_HOME": str(home), "ALIGN_DASHBOARD__REVIEWERS": json.dumps(PEOPLE)}
        queue(home, items)
        spawn = multiprocessing.get_context("spawn")
        results = spawn.Queue()
        with served(home) as address:
            people = [spawn.Process(target=review, args=(address, name, seconds, seed, results)) for seed, name in enumerate(PEOPLE)]
            for one in people:
                one.start()
            found = [results.get(timeout=seconds + 300) for _ in people]
            for one in people:
                one.join()
        acts = [Act(*act) for _, some, _ in sorted(found) for act in some]
        rows: list[dict[str, Any]] = [
            {
                "reviewer": name,
                "by": way,
                "acts": sum(act.reviewer == name and act.way == way for act in acts),
                "taken": sum(act.reviewer == name and act.way == way and act.taken for act in acts),
            }
            for name in PEOPLE
            for way in WAYS
        ]
        return [*rows, {"asked for what the other had open": sum(asked for _, _, asked in found), **count(home, acts)}]


def main() -> None:
    """Run for a minute, or as many seconds as the first argument says, and print the rows."""
    for row in run(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0, 400):
        print(row)


if __name__ == "__main__":
    main()
