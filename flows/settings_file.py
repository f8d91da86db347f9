"""The text of the settings file that `align init` writes: the settings a team sets, one comment each; defaults are commented out.

Pure.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignment.config import TEAM_SETTINGS, section_kind, setting_field
from alignment.errors import InputError
from alignment.text import UNSEEN

_HEAD = """\
# Settings of continuous alignment, written by `align init`. A line such as `#cron = …` shows a default: take its # away to set it.
# `align doctor` says what is wrong; docs/settings.md lists every setting. Passwords and keys never stand here, but in the environment.
"""
_SKELETON = """
# No preset reads these lines. Take the # away from what follows, and put keys of your lines in the place of KEY: each field is an SQL
# expression over `body`, the line as JSON (docs/ingest.md). `align ingest --explain FILE` then says what each field became.
# {keys}
#[{table}.fields]
#messages = "to_json([{{'role': 'user', 'content': body ->> '$.KEY'}}])"
#response = "body ->> '$.KEY'"
#created_at = "epoch_text(body -> '$.KEY')"
#user_id = "body ->> '$.KEY'"
"""


class SourceEntry(NamedTuple):
    """Logs of one kind: a name, absolute patterns or URLs, and the preset that reads them.

    Without a preset, `keys` are paths in the lines that a mapping could use. They are written verbatim, so they must be safe.
    """

    name: str
    logs: tuple[str, ...]
    preset: str
    keys: tuple[str, ...] = ()


def toml_value(value: Any) -> str:
    r"""Return a text, number, boolean, or a list of these as TOML; invisible characters are escaped.

    >>> print(toml_value(['C:\\logs\\"a".jsonl', "ü", True, 0.5]))
    ["C:\\logs\\\"a\".jsonl", "ü", true, 0.5]
    >>> print(toml_value("a\x1b\x7f\u202e\n"))
    "a\u001b\u007f\u202e\n"

    Raises:
        InputError: TOML cannot hold the text, such as a file name that is not UTF-8.
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if not isinstance(value, str):
        raise TypeError(f"no value of a settings file: {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{value!r} is no UTF-8, as a settings file has to be; rename it, or name a glob or a folder above it") from error
    return "".join(_escaped(character) if unicodedata.category(character) in UNSEEN else character for character in _quoted(value))


def _quoted(value: str) -> str:
    # TOML shares JSON's escapes, but JSON would write characters beyond 16 bits as surrogate pairs.
    return json.dumps(value, ensure_ascii=False)


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"


def settings_text(values: Mapping[str, Any], sources: Sequence[SourceEntry]) -> str:
    """Return the file: `values` by name and a single source are written out; the rest of the short list shows its defaults.

    Several sources become one table each. Without sources, the default stays.
    """
    names = [*TEAM_SETTINGS, *(name for name in values if name not in TEAM_SETTINGS)]
    if len(sources) > 1:
        # Each table has its own; next to the tables, these settings would add the sample traffic.
        names = [name for name in names if name not in ("ingest.logs", "ingest.preset")]
    set_here = dict(values)
    if len(sources) == 1:
        set_here["ingest.logs"] = sources[0].logs
        if sources[0].preset:
            set_here["ingest.preset"] = sources[0].preset
    parts = [_HEAD]
    for section in dict.fromkeys(name.split(".")[0] for name in names):
        parts.append(f"\n# {_first_line(section_kind(section).__doc__)}\n[{section}]\n")
        parts += [_setting(name, set_here) for name in names if name.startswith(f"{section}.")]
        if section == "ingest":
            parts += [_skeleton("ingest", one) for one in sources[:1] if len(sources) == 1]
            parts += [_table(one) for one in sources if len(sources) > 1]
    return "".join(parts)


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


def _setting(name: str, values: Mapping[str, Any]) -> str:
    field, key = setting_field(name), name.split(".")[1]
    line = f"{key} = {toml_value(values[name])}" if name in values else f"#{key} = {toml_value(field.default)}"
    return f"# {field.description}\n{line}\n"


def _table(source: SourceEntry) -> str:
    table = f"ingest.sources.{source.name}"
    preset = f"preset = {toml_value(source.preset)}\n" if source.preset else ""
    return f"\n[{table}]\nlogs = {toml_value(source.logs)}\n{preset}" + _skeleton(table, source)


def _skeleton(table: str, source: SourceEntry) -> str:
    if source.preset:
        return ""
    keys = (
        f"Keys in the first lines: {', '.join(source.keys)}"
        if source.keys
        else "The first lines show no keys: each has to be a JSON object"
    )
    return _SKELETON.format(table=table, keys=keys)
