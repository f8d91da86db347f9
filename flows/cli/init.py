"""`align init`: write a settings file for a user's own logs and model."""

from __future__ import annotations

from typing import Annotated

import typer

from alignment.text import printable
from flows.cli.base import app, command


@command(app, "init")
def init_command(
    more: Annotated[list[str] | None, typer.Argument(metavar="PATH", help="more logs, as a shell expands a glob")] = None,
    logs: Annotated[list[str] | None, typer.Option("--logs", metavar="PATH", help="log file, folder, glob or URL; may be repeated")] = None,
    model: Annotated[str, typer.Option("--model", metavar="PATH", help="folder of the model, instead of the embedded one")] = "",
    force: Annotated[bool, typer.Option("--force", help="overwrite an existing align.toml")] = False,
) -> None:
    """Write an align.toml that fits your logs and your model, and say what does not fit. Exit status 1 if something will not work.

    It reads the first lines of the newest logs, and the model's configuration, tokenizer and chat template; nothing is stored.
    """
    from flows.environment import quiet_models
    from flows.init import look_at_logs, look_at_model, target, write_settings
    from flows.settings_file import settings_text

    path = target(force=force)
    quiet_models()
    looks = {"Logs": look_at_logs([*(logs or ()), *(more or ())]), "Model": look_at_model(model)}
    text = settings_text(looks["Model"].values, looks["Logs"].sources)
    write_settings(path, text, force=force)
    for title, look in looks.items():
        print(title)
        for line in look.told:
            print(f"  {printable(line)}")
        for line in look.problems:
            print(f"  will not work: {printable(line)}")
    from alignment.config import load_settings

    load_settings()
    print(f"\nWritten: {printable(str(path))}")
    if any(look.problems for look in looks.values()):
        print("Next: correct what will not work, there or at its source; then 'align doctor'")
        raise typer.Exit(1)
    print("Next: 'align doctor' says what would stop a night, 'align nightly' runs one")
