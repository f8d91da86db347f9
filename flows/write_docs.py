"""Documentation pages generated from the code: every setting and every command. `python -m flows.write_docs` writes them.

Effects: `write` writes `settings.md` and `cli.md`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import typer
from typer.cli import get_docs_for_click
from typer.core import TyperGroup
from typer.main import get_command

from alignment.config import TEAM_SETTINGS, section_kind, setting_field, setting_names
from flows import cli  # noqa: F401 - it registers the commands
from flows.cli.base import app

DOCS = Path(__file__).parents[1] / "docs"
_SETTINGS = """# Settings

Every setting has a default. They stand in `align.toml` in the folder where `align` runs; `ALIGN_CONFIG` names another file. In the
environment a setting is written `ALIGN_TRAIN__EPOCHS=3`. `ALIGN_HOME` moves the state folder (`./var`). An unknown key is refused, with the
nearest known name. Secrets stand in the environment or in `secrets.toml` of the state folder, never here.

## What a team sets

`align init` writes these, fitted to your logs and your model.

"""
_EXPERT = """
## Expert settings

All others, in the order of the loop.
"""
_HEAD = "| setting | default | meaning |\n|---|---|---|\n"
_SENTENCE = re.compile(r"(?<=\.)\s")


def settings_page() -> str:
    """Return every setting once, with default and meaning: the short list, then one table per section in the order of the loop."""
    parts, before = [_SETTINGS, _HEAD, *map(_row, TEAM_SETTINGS), _EXPERT], ""
    for name in setting_names()[1:]:
        section = name.split(".")[0]
        if name in TEAM_SETTINGS:
            continue
        if section != before:
            parts.append(f"\n### `[{section}]`\n\n{(section_kind(section).__doc__ or '').strip()}\n\n{_HEAD}")
            before = section
        parts.append(_row(name))
    return "".join(parts)


def _row(name: str) -> str:
    field = setting_field(name)
    return f"| `{name}` | `{json.dumps(field.default)}` | {field.description or ''} |\n"


def commands_page() -> str:
    """Return every command with its options, as `--help` shows them."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    _whole_sentences(group)
    page = get_docs_for_click(obj=group, ctx=typer.Context(group, info_name="align"), name="align", title="Commands")
    return "\n".join(line.rstrip() for line in page.splitlines()) + "\n"


def _whole_sentences(group: TyperGroup) -> None:
    """Make command lists show each command's first sentence, which Typer cuts after 45 characters."""
    for command in group.commands.values():
        command.short_help = _SENTENCE.split(" ".join((command.help or "").split()), maxsplit=1)[0]
        if isinstance(command, TyperGroup):
            _whole_sentences(command)


def pages() -> dict[str, str]:
    """Return each page by its file name."""
    return {"settings.md": settings_page(), "cli.md": commands_page()}


def write(folder: Path = DOCS) -> None:
    """Write the pages into `folder`."""
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
