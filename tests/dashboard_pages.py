"""The dashboard's pages in a test: opening one, reading it, pressing its buttons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

from dashboard import components, identity

assert identity.current  # imported, so that the fixture signs the visitor in
APP = Path(components.__file__).with_name("app.py")
PAGES = ("overview", "nights", "gate", "checks", "releases", "labels", "pairs", "training", "review", "drift", "gateway")
STORE_PAGES = PAGES[:-1]
"""Those that read the store: the gateway's page reads its log."""


def opened(page: str = "overview", **state: Any) -> AppTest:
    """Return the app on one of its pages."""
    app = AppTest.from_file(APP, default_timeout=30)
    for name, value in state.items():
        app.session_state[name] = value
    return app.switch_page(f"views/{page}.py").run()


def addressed(page: str, **address: str) -> AppTest:
    """Return the app on a page whose address says more, as a link or a bookmark has it."""
    app = AppTest.from_file(APP, default_timeout=30)
    for name, value in address.items():
        app.query_params[name] = value
    return app.switch_page(f"views/{page}.py").run()


def texts(app: AppTest) -> list[str]:
    """Return everything the page shows as plain text."""
    return [element.value for element in app.text]


def marked_up(app: AppTest) -> Iterator[str]:
    """Yield everything on the page that a browser gets as markdown or HTML: bodies, labels, options and hints."""
    for kind in ("markdown", "caption", "title", "header", "subheader", "info", "warning", "error"):
        yield from (str(element.value) for element in app.get(kind))
    for kind in ("button", "metric", "selectbox", "button_group", "progress", "expander", "toast", "badge"):
        for element in app.get(kind):
            yield repr(getattr(element, "proto", element))
    # The value of a text input is what somebody types; its label and hint are markdown.
    yield from (f"{element.label} {element.help}" for element in [*app.text_input, *app.text_area])


def press(app: AppTest, label: str) -> AppTest:
    """Click the button with this label."""
    return next(button for button in app.button if button.label == label).click().run()
