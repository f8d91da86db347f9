"""Commands about people's data: `align erase` and `align trace`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from alignment.text import cap, printable
from flows.cli.base import Actor, Json, answering, app, command, out, print_json, shown, start

if TYPE_CHECKING:
    from alignment.lineage.trace import Node

_FACT = 60
_ALLOCATOR = "DUCKDB_JE_MALLOC_CONF"


def _in_blank_memory() -> None:
    """Restart the command with DuckDB's allocator set to zeroed memory, which must be set before DuckDB is imported.

    DuckDB writes whole blocks: data that a query left in memory would reach the disk in their unused parts.
    """
    if _ALLOCATOR not in os.environ:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, _ALLOCATOR: "zero:true"})  # noqa: S606 - itself


@command(app, "erase")
def erase_command(
    subject: Annotated[str, typer.Option("--subject", help="the user_id as written in the logs")],
    reason: Annotated[str, typer.Option("--reason", help="why, for the record; the person's id is removed from it")],
    actor: Actor = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would be erased")] = False,
    as_json: Json = False,
) -> None:
    """Remove a person's data from the whole state folder. What was erased is not read again."""
    _in_blank_memory()
    settings = start()
    actor = answering(actor, needed=False)
    from flows.erase import erase

    done = erase(settings, subject, reason=reason, actor=actor, dry_run=dry_run)
    if as_json:
        print_json(done)
    else:
        _show_erasure(done)


def _show_erasure(done: dict[str, Any]) -> None:
    verb = "erased" if done["done"] else "to erase"
    if not (done["rows"] or done["mentions"] or done["files"]):
        again = "it was erased before" if done["erased_before"] else "check the id; it is recorded as erased all the same" * done["done"]
        print(f"nothing is stored of this person{'; ' * bool(again)}{again}")
        return
    table = Table()
    for name in ("where", verb, "in what others wrote"):
        table.add_column(name, overflow="fold")
    for name in sorted({*done["rows"], *done["mentions"]}):
        table.add_row(name, str(done["rows"].get(name, 0)), str(done["mentions"].get(name, 0)))
    for change in done["files"]:
        table.add_row(printable(change["path"]).replace("[", r"\["), change["action"], str(change["rows"] or ""))
    out.print(table)
    if done["log_files"]:
        print("Not touched, because they lie outside the state folder (their lines of this person are refused from now on):")
        for path in done["log_files"]:
            print(f"  {printable(path)}")
    if done["exports"]:
        print("Data sets that held pairs of this person; remove them, or export them again:")
        for path in done["exports"]:
            print(f"  {printable(path)}")
    if done["backup"]:
        print("Backups made before now hold this person; delete them, or repeat the erasure after a restore. The last one:")
        print(f"  {printable(done['backup']['file'])} ({done['backup']['created_at']})")
    for release in done["releases"]:
        print(f"Release {release} was trained on pairs of this person{', and is in production' * (release == done['in_production'])}")
    if done["releases"]:
        print("The next 'align nightly' trains without them; to take a release out before: 'align release rollback --reason TEXT'")


@command(app, "trace")
def trace_command(
    name: Annotated[str, typer.Argument(metavar="ID", help="an id, its first 8 or more digits, or PATH:LINE of a log file")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="pairs to show per night; the rest are counted")] = 10,
    as_json: Json = False,
) -> None:
    """Follow an id both ways: back to the lines of log files, and on to the nights and releases that learnt from it."""
    settings = start()
    from alignment.lineage import trace
    from alignment.store import migrate

    migrate(settings.home)
    found = trace(settings.home, name, limit=limit)
    if as_json:
        print_json({side: _plain(value) for side, value in found._asdict().items()})
        return
    tree = Tree(_label(found.thing))
    for title, nodes in (("made of", found.origin), ("became", found.became)):
        branch = tree.add(Text(title, style="bold"))
        _grow(branch, nodes)
        if title == "made of" and found.thing.more:
            branch.add(f"and {found.thing.more} more (--limit)")
        if not nodes:
            branch.add("nothing")
    out.print(tree)


def _plain(value: Any) -> Any:
    return [asdict(node) for node in value] if isinstance(value, tuple) else asdict(value)


def _grow(branch: Tree, nodes: Sequence[Node]) -> None:
    for node in nodes:
        grown = branch.add(_label(node))
        _grow(grown, node.parts)
        if node.more:
            grown.add(f"and {node.more} more (--limit)")


def _label(node: Node) -> Text:
    # Printed as text, not markup: users wrote these facts.
    facts = "  ".join(f"{name}={cap(printable(shown(value)), _FACT)}" for name, value in node.facts.items())
    return Text.assemble((node.kind, "bold"), f" {printable(node.id)}", (f"  {facts}" if facts else "", "dim"))
