"""The dashboard's guard against a real browser that is signed in: a page from elsewhere, a rebound name and a frame get nothing."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.dashboard_server import served

ATTACK = """<!doctype html><title>attack</title><body><script>
const target = "http://127.0.0.1:PORT", found = {};
const settled = (name, promise) => promise.then(value => { found[name] = value }, () => { found[name] = "refused" });
const socket = address => new Promise((resolve, reject) => {
  const it = new WebSocket(address, "streamlit"); it.onopen = () => resolve("open"); it.onerror = reject; });
const framed = address => new Promise(resolve => {
  const it = document.createElement("iframe"); it.src = address; document.body.append(it);
  it.onload = () => resolve(it.contentDocument ? "read" : "refused") });
Promise.all([
  settled("fetch", fetch(target + "/_stcore/health", {credentials: "include"}).then(answer => answer.text())),
  settled("opaque", fetch(target + "/_stcore/health", {mode: "no-cors", credentials: "include"}).then(answer => answer.type)),
  settled("rebound", fetch("/_stcore/health").then(answer => answer.status)),
  settled("socket", socket("ws://127.0.0.1:PORT/_stcore/stream")),
  settled("rebound socket", socket("ws://evil.example:PORT/_stcore/stream")),
  settled("frame", framed(target + "/")),
]).then(() => { window.found = found });
</script></body>"""


@contextmanager
def elsewhere(port: int) -> Iterator[int]:
    """Serve the attacking page; yield its port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/attack" else 418)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(ATTACK.replace("PORT", str(port)).encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.browser
@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium ('apt-get install chromium')")
def test_in_a_browser_nobody_but_who_signed_in_gets_anything(own: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--host-resolver-rules=MAP evil.example 127.0.0.1"]
    pictures = os.environ.get("PICTURES")
    with served(own) as running, elsewhere(running.port) as port, sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        context = browser.new_context(viewport={"width": 1000, "height": 700})
        context.set_default_timeout(120_000)
        page = context.new_page()
        # Without a session: the page that says how to get in.
        assert page.goto(running.address).status == 401
        page.get_by_text("align dashboard --link").wait_for()
        if pictures:
            page.screenshot(path=f"{pictures}/sign-in.png")
        # The link signs in, and is gone from the address and the history.
        page.goto(running.link())
        page.locator("h1").first.wait_for()
        page.get_by_text("Sign out").wait_for()
        assert "token" not in page.url and "token" not in page.evaluate("document.referrer + performance.getEntries()[0].name")
        if pictures:
            page.get_by_text("Sign out").scroll_into_view_if_needed()
            page.screenshot(path=f"{pictures}/signed-in.png")
        # The same browser on another's page, and on a name that leads here.
        statuses: dict[str, int] = {}
        attack = context.new_page()
        attack.on("response", lambda answer: statuses.setdefault(f"{answer.request.resource_type} {answer.url}", answer.status))
        assert attack.goto(f"http://evil.example:{port}/attack").status == 200
        attack.wait_for_function("window.found")
        found = attack.evaluate("window.found")
        assert found | {"opaque": ""} == {
            "fetch": "refused", "opaque": "", "rebound": 418, "socket": "refused", "rebound socket": "refused",
            "frame": "refused",
        }  # fmt: skip
        asked = {url: status for url, status in statuses.items() if f":{running.port}" in url}
        assert asked and set(asked.values()) <= {401, 403}, asked
        assert asked[f"document {running.address}/"] == 403  # the frame
        assert attack.goto(f"http://evil.example:{running.port}/").status == 403
        assert attack.goto(f"http://evil.example:{running.port}/_stcore/health").status == 403
        # Signed out, the page that is open gets nothing more.
        page.goto(f"{running.address}/sign-out")
        page.get_by_text("You are signed out").wait_for()
        assert page.goto(running.address).status == 401
        browser.close()
