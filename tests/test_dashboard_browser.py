"""The dashboard in a real browser: what only a browser can tell."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from alignment.acting import account
from alignment.store import query
from tests.dashboard_pages import PAGES
from tests.dashboard_server import Served, served
from tests.dashboard_store import SHOWN


@contextmanager
def looked_at(running: Served, **context: Any) -> Iterator[Any]:
    """Open a browser that is signed in, may ask nobody but the dashboard, and must not stumble over a script."""
    sync_api = pytest.importorskip("playwright.sync_api")
    outside: list[str] = []
    broken: list[str] = []
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_context(**context).new_page()
        # A busy machine takes longer than Playwright's 30 s.
        page.set_default_timeout(120_000)
        page.on("request", lambda seen: None if seen.url.startswith((running.address, "data:", "blob:")) else outside.append(seen.url))
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(running.link())
        yield page
        browser.close()
    assert (outside, broken) == ([], [])


@pytest.mark.browser
@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium ('apt-get install chromium')")
def test_in_a_browser_hostile_text_is_inert_and_keys_decide(own: Path) -> None:
    with served(own) as running, looked_at(running, viewport={"width": 1440, "height": 900}) as page:
        address = running.address
        for name, charts in (("overview", 6), ("nights", 1), ("checks", 2), ("releases", 1), ("drift", 9)):
            page.goto(f"{address}/{name}")
            drawn = page.locator("[data-testid=stVegaLiteChart] svg.marks")
            drawn.nth(charts - 1).wait_for()
            assert drawn.count() == charts
        for name in ("gate", "review"):
            page.goto(f"{address}/{name}")
            page.get_by_text(SHOWN, exact=True).first.wait_for()
            assert page.evaluate("window.planted") is None
            planted = "a[href*=evil], img[src*=evil], img[src=x], .katex, [data-testid=stMain] strong:text('bold')"
            assert page.locator(planted).count() == 0
        page.get_by_role("button", name="Both bad").and_(page.locator(":enabled")).wait_for()
        page.get_by_placeholder("Note (optional)").fill("")
        page.keyboard.type("a fan of s 123")
        assert query(own, "SELECT * FROM verdicts") == []  # letters in a field are text, not verdicts
        page.keyboard.press("Tab")
        page.wait_for_timeout(500)
        # A key that is held down: the browser marks what follows the first as repeats.
        for _ in range(30):
            page.keyboard.down("3")
            page.wait_for_timeout(40)
        page.keyboard.up("3")
        page.get_by_text("1 of 12 decided").wait_for()
        page.get_by_role("button", name="Undo").and_(page.locator(":enabled")).wait_for()
        page.keyboard.press("u")
        page.get_by_text("0 of 12 decided").wait_for()
    events = query(own, "SELECT reviewer, verdict, note FROM verdicts ORDER BY seq")
    assert [(event["reviewer"], event["verdict"], event["note"]) for event in events] == [
        (account(), "both_bad", "a fan of s 123"),
        (account(), "skip", "undo"),
    ]


@pytest.mark.browser
@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium ('apt-get install chromium')")
@pytest.mark.parametrize(("scheme", "teal", "ground"), [("light", "rgb(31, 111, 120)", "251"), ("dark", "rgb(99, 188, 196)", "18")])
def test_pages_follow_the_readers_theme_and_fit_a_small_window(own: Path, scheme: str, teal: str, ground: str) -> None:
    looks = {"viewport": {"width": 800, "height": 900}, "color_scheme": scheme}
    with served(own) as running, looked_at(running, **looks) as page:
        address, titles = running.address, set()
        for name in PAGES:
            page.goto(f"{address}/{name}")
            page.locator("h1").first.wait_for()
            page.locator("[data-testid=stStatusWidget]").wait_for(state="detached")
            wide = page.evaluate(
                "(() => { const m = document.querySelector('[data-testid=stMain]'); return m.scrollWidth - m.clientWidth })()"
            )
            assert wide <= 0, name
            assert page.get_by_text("Page not found").count() == 0
            titles.add(page.title())
            if name == "overview":
                assert page.url.rstrip("/") == address
                bars = page.locator("[data-testid=stVegaLiteChart] svg.marks .mark-rect path")
                bars.first.wait_for(state="attached")
                assert bars.first.evaluate("bar => getComputedStyle(bar).fill") == teal
                ground_now = page.locator("[data-testid=stApp]").evaluate("app => getComputedStyle(app).backgroundColor")
                assert ground_now.startswith(f"rgb({ground},")
        assert len(titles) == len(PAGES) and all(title.endswith(" · Continuous alignment") for title in titles)
