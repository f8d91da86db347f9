"""The README names every command and every setting, with the default that holds."""

from __future__ import annotations

import json
from pathlib import Path

from typer.main import get_command

from alignment.config import Settings, setting_names
from flows.cli import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def settings_table() -> str:
    """Return the README's table as the code has it."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name in setting_names()[1:]:
        section, key = name.split(".")
        field = type(getattr(Settings.model_construct(), section)).model_fields[key]
        rows.append(f"| `{name}` | `{json.dumps(field.default)}` | {field.description or ''} |")
    return "\n".join(rows)


def test_every_setting_is_documented() -> None:
    assert settings_table() in README


def test_every_command_is_documented() -> None:
    for name in get_command(app).commands:
        assert f"align {name}" in README or f"`{name}`" in README, name
