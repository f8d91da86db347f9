"""Prefect's pages in a real browser: usable with the secret, and shut to a page of another site and to a name that was rebound."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from tests.test_serve import Served, served  # noqa: F401 - a fixture

pytestmark = [pytest.mark.browser, pytest.mark.flow, pytest.mark.timeout(600)]

FETCH = """async address => {
    const shown = [];
    for (const [path, options] of [["/health", {}], ["/admin/settings", {}], ["/deployments/filter", {method: "POST", body: "{}"}]]) {
        try {
            const answer = await fetch(address + path, options);
            shown.push(`${answer.status} ${await answer.text()}`);
        } catch (error) { shown.push(String(error)); }
    }
    shown.push(await new Promise(done => {
        const socket = new WebSocket(address.replace("http", "ws") + "/events/in", ["prefect"]);
        socket.onopen = () => done("open"); socket.onerror = () => done("refused");
    }));
    return shown;
}"""


@contextmanager
def elsewhere() -> Iterator[str]:
    """Serve an empty page of another site."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>evil</title>")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--host-resolver-rules=MAP evil.example 127.0.0.1"]
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        try:
            yield found.new_context().new_page()
        finally:
            found.close()


@pytest.mark.filterwarnings("default")
def test_pages_of_elsewhere_get_nothing_and_the_operator_gets_in(served: Served) -> None:  # noqa: F811
    served.deployments()
    port = served.url.split(":")[2].split("/")[0]
    with browser() as page, elsewhere() as other:
        # A name of theirs that now points to this machine: the browser takes it for their own site.
        assert page.goto(f"http://evil.example:{port}/").status == 403
        assert (
            page.evaluate(FETCH, f"http://evil.example:{port}/api")[:3]
            == ['403 {"detail": "This server answers at its own address and its own pages only."}'] * 3
        )
        page.goto(other)
        assert page.evaluate(FETCH, served.url) == ["TypeError: Failed to fetch"] * 3 + ["refused"]
        page.goto(f"http://127.0.0.1:{port}/")
        field = page.locator("input[type=password]")
        field.wait_for(timeout=60_000)
        assert "nightly" not in page.content()
        field.fill((served.home / "prefect.secret").read_text())
        field.press("Enter")
        page.wait_for_timeout(2_000)
        page.goto(f"http://127.0.0.1:{port}/v2/deployments")
        page.get_by_text("nightly").first.wait_for(timeout=60_000)
