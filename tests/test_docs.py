"""The pages hold what the code says, lead somewhere, and the front page stays short."""

from __future__ import annotations

import re

import pytest
from typer.main import get_command

from alignment.config import setting_names
from flows import write_docs as reference
from flows.cli import app
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


@pytest.mark.parametrize("name", reference.pages())
def test_the_reference_is_what_the_code_says(name: str) -> None:
    """`python -m flows.write_docs` writes it."""
    assert (reference.DOCS / name).read_text(encoding="utf-8") == reference.pages()[name]


def test_the_reference_names_every_setting_and_command() -> None:
    settings, commands = reference.settings_page(), reference.commands_page()
    assert [name for name in setting_names()[1:] if f"| `{name}` |" not in settings] == []
    assert [name for name in get_command(app).commands if f"## `align {name}`" not in commands] == []
    assert "..." not in commands.replace("[ARGS]...", "")


def test_help_begins_with_what_a_newcomer_runs() -> None:
    commands = reference.commands_page()
    places = [
        commands.index(f"\n* `{name}`:")
        for name in ("init", "nightly", "dashboard", "ingest", "curate", "train", "gate", "monitor", "bench")
    ]
    assert places == sorted(places)


def test_the_front_page_is_short_and_leads_to_every_page() -> None:
    assert len(README.splitlines()) <= 150
    assert [page.name for page in PAGES if page.parent != ROOT and f"(docs/{page.name})" not in README] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page) -> None:  # type: ignore[no-untyped-def]
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []
