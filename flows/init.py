"""What `align init` learns about logs and a model before it writes a settings file for them.

Log content is never printed or written verbatim, except keys that look like schema keys. Effects: reads log files and a model's
folder; `write_settings` writes one file.
"""

from __future__ import annotations

import glob
import json
import os
import re
import secrets
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from alignment.config import DEFAULT_FILE, Settings
from alignment.errors import InputError, ModelError
from alignment.ingest import Context, LogFile, Part, find_files
from alignment.ingest.reasons import REASONS
from alignment.ingest.redact import personal_id, redact
from alignment.models.folder import model_problems
from alignment.sections import EMBEDDED, SAMPLE_LOGS, Ingest, Model, Train
from flows.doctor import context_length, try_model
from flows.explain import LINES, explain_lines, first_lines
from flows.night import now
from flows.read_files import ENOUGH_UNUSABLE
from flows.settings_file import SourceEntry

_FILES, _PATTERNS, _KEYS, _DEPTH = 3, 10, 30, 3
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")
_THINKING = 1024
"""Default thinking budget, in tokens, for a model whose thinking cannot be turned off; a person may raise it."""
_BESIDE = 256
"""Tokens of an ordinary prompt, which must fit beside thinking and answer."""


class Findings(NamedTuple):
    """The findings: lines to print, problems to print as such, and values for the settings file."""

    told: list[str]
    problems: list[str]
    values: Mapping[str, Any]
    sources: Sequence[SourceEntry] = ()


class _Kind(NamedTuple):
    """What the newest files of one pattern contain."""

    pattern: str
    preset: str
    keys: tuple[str, ...]
    told: list[str]
    problems: list[str]


def look_at_logs(given: Sequence[str]) -> Findings:
    """Return the presets that read the first lines of the logs, as one source per kind of log.

    Raises:
        InputError: a log cannot be found or read, or its name cannot or must not be written to a settings file.
    """
    if not given or list(given) == [SAMPLE_LOGS]:
        return Findings(["no logs given: nights run on the bundled sample traffic until [ingest] logs names yours"], [], {})
    patterns = list(dict.fromkeys(_pattern(one) for one in given))
    if len(patterns) > _PATTERNS:
        raise InputError(
            f"{len(patterns)} logs are named one by one, and tomorrow's would not be read; put a glob in quotes, which finds these too: "
            f"--logs {shlex.quote(os.path.join(glob.escape(os.path.dirname(given[0])), '*'))}"  # noqa: PTH118, PTH120
        )
    kinds = [_kind(pattern) for pattern in patterns]
    told = [line for one in kinds for line in one.told]
    if len(patterns) > 1 and not any("://" in one or glob.has_magic(one) for one in patterns):
        told.append("these files are named one by one; a glob in quotes or a folder would read tomorrow's too")
    return Findings(told, [line for one in kinds for line in one.problems], {}, _sources(kinds))


def _pattern(given: str) -> str:
    """Return a log as the settings name it: an absolute path, or for a folder a glob of its files."""
    given = given.removeprefix("file://")
    if "://" in given:
        parts = urlsplit(given)
        if parts.username or parts.password or parts.query:
            raise InputError("a log's URL holds what may be a key; keys stand in the environment of the store's client, never in settings")
        return given
    path = Path(given).expanduser()
    if path.is_dir():
        folder = glob.escape(str(path.absolute()))
        return folder + ("/*" if any(one.is_file() for one in path.iterdir()) else "/**/*")
    if os.path.lexists(path) or path.is_absolute():
        return str(path.absolute())
    # Glob characters in the working folder's name are literal.
    return os.path.join(glob.escape(os.getcwd()), path)  # noqa: PTH109, PTH118


def _kind(pattern: str) -> _Kind:
    """Look at the newest files of a pattern.

    Raises:
        InputError: no file matches, or none can be read.
    """
    files = _newest(pattern)
    moment = now()
    context = Context(Ingest(), secrets.token_bytes(32), moment, moment)
    read: list[tuple[Part, dict[str, Any]]] = []
    unread: list[InputError] = []
    for one in files:
        try:
            part = first_lines(one, context)
            read.append((part, explain_lines(part, context, {})))
        except InputError as error:
            unread.append(error)
    if not read:
        raise unread[0]
    fits: Counter[str] = Counter()
    for name, found in ((found["fits"], found) for _, found in read):
        # If no line is an exchange, the preset that can say why wins.
        fits[name] += 1 + LINES * _row(found, name)["exchanges"] if name else 0
    preset = fits.most_common(1)[0][0]
    told, problems = _verdict(pattern, preset, [found for _, found in read])
    keys = () if preset else _keys([part for part, _ in read])
    return _Kind(pattern, preset, keys, told, [*map(str, unread), *problems])


def _newest(pattern: str) -> list[LogFile]:
    if "://" not in pattern and not os.path.lexists(pattern) and next(glob.iglob(pattern, recursive=True), None) is None:
        raise InputError(f"no log file matches {pattern!r}; give a file, a folder, a glob in quotes, or a URL of s3://, gs:// or az://")
    found = find_files([pattern])
    usable = [one for one in found if one.size and not one.refused] or found
    return sorted(usable, key=lambda one: one.mtime_ns, reverse=True)[:_FILES]


def _row(found: Mapping[str, Any], preset: str) -> dict[str, Any]:
    return next(one for one in found["presets"] if one["preset"] == preset)


def _verdict(pattern: str, preset: str, looks: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Return the report on a pattern's first lines, and the problems in them."""
    lines = sum(found["lines"] for found in looks)
    of = f"the first {lines} lines of {len(looks)} files" if len(looks) > 1 else f"the first {lines} line{'s' * (lines != 1)}"
    not_read = Counter(one["reason"] for found in looks if found["fits"] == preset for one in found["not_read"])
    why = [f"  {number} not read, {reason}: {REASONS.get(reason, 'see docs/ingest.md')}" for reason, number in not_read.most_common()]
    if not preset:
        return [f"{pattern}: no preset finds an exchange in {of}", *why], [f"{pattern}: map its fields, as the settings file shows"]
    rows = [_row(found, preset) for found in looks]
    exchanges, unusable = (sum(row[name] for row in rows) for name in ("exchanges", "unusable"))
    told, problems = [f"{pattern}: preset {preset!r} finds {exchanges} exchange{'s' * (exchanges != 1)} in {of}", *why], []
    if others := sorted({found["fits"] or "no preset" for found in looks} - {preset}):
        problems.append(f"{pattern}: other files of it fit {', '.join(others)}; give each kind of log a --logs of its own")
    elif not exchanges:
        problems.append(f"{pattern}: none of {of} is an exchange, so that a night would learn nothing from them")
    elif unusable > Ingest().max_quarantined * (exchanges + unusable) and (unusable >= ENOUGH_UNUSABLE or lines >= LINES):
        problems.append(f"{pattern}: {unusable} of {exchanges + unusable} records are unusable; a night sets files such as these aside")
    return told, problems


def _sources(kinds: Sequence[_Kind]) -> list[SourceEntry]:
    """Return one source per preset, and one per form that no preset reads."""
    grouped: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for one in kinds:
        grouped.setdefault((one.preset, one.keys), []).append(one.pattern)
    own = [key for key in grouped if not key[0]]
    names = {key: key[0] or ("own" if len(own) == 1 else f"own_{own.index(key) + 1}") for key in grouped}
    return [SourceEntry(names[key], tuple(patterns), *key) for key, patterns in grouped.items()]


def _keys(parts: Sequence[Part]) -> tuple[str, ...]:
    """Return the paths and kinds of values found in at least half of the lines; only plain keys, neither personal nor secret."""
    seen: Counter[str] = Counter()
    lines = 0
    for text in (line for part in parts for line in part.block.lines["line"].to_pylist()):
        try:
            document = json.loads(text or "")
        except (ValueError, RecursionError):
            continue
        lines += 1
        seen.update(set(_places(document)))
    common = [f"${place}" for place, number in seen.items() if number * 2 >= lines]
    return tuple(sorted(common)[:_KEYS])


def _places(value: Any, place: str = "", depth: int = 0) -> Iterator[str]:
    if isinstance(value, dict) and depth < _DEPTH:
        for key, inner in value.items():
            if _is_plain(key):
                yield from _places(inner, f'{place}."{key}"' if "-" in key else f"{place}.{key}", depth + 1)
    elif place and (kind := _kind_of(value)):
        yield f"{place} ({kind})"


def _is_plain(key: str) -> bool:
    return bool(_KEY.fullmatch(key)) and not personal_id(key) and not redact(key, b"")[1]


def _kind_of(value: Any) -> str:
    kinds = ((bool, "true or false"), (str, "text"), (int | float, "number"), (list, "list"), (dict, "object"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "")


def look_at_model(given: str) -> Findings:
    """Return what a model's folder can be used for, as `align doctor` will see it."""
    if given in ("", EMBEDDED):
        return Findings(["no model given: the embedded SmolLM2-135M-Instruct"], [], {})
    path = Path(given).expanduser().absolute()
    values: dict[str, Any] = {"model.path": str(path)}
    if problem := _not_a_model(path):
        return Findings([], [problem], values)
    if problems := model_problems(path):
        return Findings([], [f"{path}: {one}" for one in problems], values)
    settings = Settings.model_construct(model=Model(path=str(path)))
    context = context_length(settings)
    if context is not None and 32 <= context < Train().max_tokens:
        values["train.max_tokens"] = context
        settings = settings.model_copy(update={"train": Train(max_tokens=context)})
    thinks, problem = _thinks(path)
    if problem:
        return Findings([], [problem], values)
    rows = try_model(settings)
    if thinks:
        values["model.thinking_tokens"] = 0
        room = (context or 1 << 20) - _BESIDE - settings.gate.max_new_tokens
        allowed = settings.model_copy(update={"model": Model(path=str(path), thinking_tokens=max(1, min(_THINKING, room)))})
        if rows[0]["result"] == "wrong" and (again := try_model(allowed))[0]["result"] == "right":
            rows, values["model.thinking_tokens"] = again, allowed.model.thinking_tokens
    reads = f"reads {context} tokens" if context else "does not say how many tokens it reads"
    found = {row["check"]: row["found"] for row in rows if row["result"] == "right"}
    told = [f"{path}: {reads}{'; ' if 'template' in found else ''}{found.get('template', '')}"]
    return Findings(told, [row["found"] for row in rows if row["result"] == "wrong"], values)


def _not_a_model(path: Path) -> str:
    """Return why the folder holds no trainable model; empty if it may hold one."""
    if path.is_file():
        return f"{path} is a file; give the folder with config.json, the tokenizer and *.safetensors (a GGUF file cannot be trained)"
    if not path.is_dir():
        return f"there is no folder {path}; give a folder with a transformers model"
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        return f"{path} holds an adapter; give the folder of the model that it was trained on"
    if not any(path.glob("*.safetensors")) and any(path.glob("*.bin")):
        return f"{path} holds pickled weights (*.bin), which are not loaded; save the model as safetensors"
    return ""


def _thinks(path: Path) -> tuple[bool, str]:
    """Return whether the chat template supports thinking, and why it cannot be read."""
    from alignment.models.local import load_tokenizer
    from alignment.models.thinking import can_think

    try:
        return can_think(str(load_tokenizer(path).chat_template)), ""
    except ModelError as error:
        return False, str(error)
    except Exception as error:
        # A damaged tokenizer raises any exception its library likes.
        return False, f"the tokenizer in {path} cannot be read ({type(error).__name__}); copy the model again"


def target(*, force: bool) -> Path:
    """Return the settings file that `align` reads from here: `align.toml`, or the path in ALIGN_CONFIG.

    Raises:
        InputError: the file exists and must not be replaced, or it cannot be written there.
    """
    path = Path(os.environ.get("ALIGN_CONFIG") or DEFAULT_FILE)
    if os.path.lexists(path) and not force:
        raise InputError(f"{str(path)!r} exists and was left as it is; give --force to replace it, or run this in another folder")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{str(path)!r} cannot be written: {'it is a folder' if path.is_dir() else 'its folder does not exist'}")
    return path


def write_settings(path: Path, text: str, *, force: bool) -> None:
    """Write a settings file atomically; a replaced file keeps its permissions.

    Raises:
        InputError: the file was created meanwhile and must not be replaced.
    """
    real = Path(os.path.realpath(path)) if force else path
    scratch = real.with_name(f"{real.name}.part") if force else path
    if force:
        scratch.unlink(missing_ok=True)
    try:
        handle = scratch.open("x", encoding="utf-8")
    except FileExistsError as error:
        raise InputError(f"{str(path)!r} was written by somebody else meanwhile and was left as it is") from error
    try:
        with handle:
            handle.write(text)
        if force:
            if real.exists():
                shutil.copymode(real, scratch)
            os.replace(scratch, real)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
