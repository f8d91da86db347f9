"""The pages hold what the code says, lead somewhere, and the front page stays short."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile
from typing import Any, get_args

import pytest
from typer.main import get_command

from alignment.config import setting_names
from alignment.sections_guards import PRESETS, GuardSettings
from flows import write_docs as reference
from flows.cli import app
from tests.conftest import ROOT

pytestmark = pytest.mark.fast

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
INDEX = ROOT / "docs" / "decisions" / "README.md"
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
ALIGN = get_command(app)
COMMAND = re.compile(r"^align .+|(?<=`)align [^`]+(?=`)", re.MULTILINE)


def unknown(line: str) -> list[str]:
    """Return the words of a command line that `align` does not know: a command, or an option of it."""
    words = shlex.split(line.replace("…", "TEXT"), comments=True)[1:]
    # `check|diff` stands for several commands; the first word that is no name of one is an argument.
    names = list(takewhile(lambda word: re.fullmatch(r"[a-z|]+", word), words))
    found: list[Any] = [ALIGN]
    for name in names:
        groups = [one for one in found if hasattr(one, "commands")]
        if not groups:
            break
        if lost := [each for each in name.split("|") if not all(each in one.commands for one in groups)]:
            return lost
        found = [one.commands[each] for one in groups for each in name.split("|")]
    options = [{option for one in command.params for option in one.opts} | {"--help"} for command in found]
    given = [word.split("=")[0].rstrip(",;") for word in words if word.startswith("-")]
    return [option for option in given if not all(option in known for known in options)]


@pytest.mark.parametrize("name", reference.pages())
def test_the_reference_is_what_the_code_says(name: str) -> None:
    """`python -m flows.write_docs` writes it."""
    assert (reference.DOCS / name).read_text(encoding="utf-8") == reference.pages()[name]


def test_the_reference_names_every_setting_and_command() -> None:
    settings, commands = reference.settings_page(), reference.commands_page()
    assert [name for name in setting_names()[1:] if f"| `{name}` |" not in settings] == []
    assert [name for name in get_command(app).commands if f"## `align {name}`" not in commands] == []
    assert "..." not in commands.replace("]...", "]")


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


def test_the_index_lists_every_decision() -> None:
    listed = LINK.findall(INDEX.read_text(encoding="utf-8"))
    assert [name for name in listed if name[0].isdigit()] == [page.name for page in DECISIONS] != []


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name)
def test_a_decision_has_a_status_its_context_and_what_was_decided(page) -> None:  # type: ignore[no-untyped-def]
    text = page.read_text(encoding="utf-8")
    assert re.match(r"# \d\d · .+\n\n\*\*Status:\*\* .*\d{4}-\d\d-\d\d", text) and text.startswith(f"# {page.name[:2]} ")
    assert text.index("\n## Context\n") < text.index("\n## Decision\n")


@pytest.mark.parametrize("page", [*PAGES, INDEX, *DECISIONS], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page) -> None:  # type: ignore[no-untyped-def]
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_a_command_or_option_that_does_not_exist_is_found() -> None:
    assert unknown("align ingest --replay --agian # again") == ["--agian"]
    assert unknown("align relase list") == ["relase"]
    assert unknown("align constitution check|dif FILE") == ["dif"]
    assert unknown("align gate --approve NIGHT --reason=TEXT") == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_exists_with_its_options(page) -> None:  # type: ignore[no-untyped-def]
    lines = [] if page.name == "cli.md" else COMMAND.findall(page.read_text(encoding="utf-8"))
    assert {line: lost for line in lines if (lost := unknown(line))} == {}


def test_the_page_on_guards_names_each_of_their_settings_kinds_and_presets() -> None:
    page = (ROOT / "docs" / "detectors.md").read_text(encoding="utf-8")
    kinds = get_args(GuardSettings.model_fields["kind"].annotation)
    assert [name for name in (*GuardSettings.model_fields, *kinds, *PRESETS) if f"`{name}`" not in page] == []
