"""`align doctor`: check what must be right before a night can run, and whether stored data is unchanged.

Effects: reads; converts the embedded model if that was never done.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from alignment.config import Settings, load_settings
from alignment.errors import AlignError, ConfigError
from alignment.gate_floor import weakenings
from alignment.ids import short
from alignment.ingest import log_sources
from alignment.labels import load_constitution
from alignment.models.embedded import embedder_path
from alignment.models.folder import model_problems
from alignment.models.identity import folder_id
from alignment.models.remote import key_of
from alignment.release import BASE, current, list_releases, read_serving, right_of, serving, verify
from alignment.sections import EMBEDDED
from alignment.store import audit, query, store_path
from alignment.store.integrity import evidence_findings, evidence_leftovers, store_findings
from alignment.store.journal import read_journal
from alignment.store.manifest import read_manifest
from alignment.store.session import EVIDENCE, REBUILD, wal_path
from alignment.train.needs import check_needs
from flows.backup import last_backup
from flows.environment import prepare
from flows.guards import try_guards
from flows.night import now
from flows.notifications import check_receivers
from flows.policy import base_path, load_model

_FREE_GIB = 3
_TESTED = {"duckdb": "1.5.5", "prefect": "3.8", "fastapi": "0.150", "sqlalchemy": "2.0", "torch": "2.13", "trl": "1.16"}
_RELEASED = datetime(2026, 11, 1)  # noqa: DTZ001 - times are UTC without a zone here
_CLOCK_SLACK = timedelta(minutes=5)
_LISTED = 5


def _versions(_: Settings) -> str:
    wrong = []
    for name, tested in _TESTED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "not installed"
        if not found.startswith(tested):
            wrong.append(f"{name} is {found}, tested was {tested}")
    if wrong:
        raise AlignError("; ".join(wrong) + "; install with 'pip install -c constraints.txt -e .'")
    return ", ".join(f"{name} {version(name)}" for name in _TESTED)


def _disk(settings: Settings) -> str:
    settings.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.home).free / 2**30
    if free < _FREE_GIB:
        raise AlignError(f"{free:.1f} GiB are free for {str(settings.home)!r}, a night needs {_FREE_GIB}; free some space")
    return f"{free:.0f} GiB free"


def _writable(settings: Settings) -> str:
    folders = [settings.home, Path(os.environ.get("PREFECT_HOME") or settings.home / "prefect")]
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise AlignError(f"cannot write into {str(folder)!r}: {error.strerror}; correct its owner or permissions") from error
    return ", ".join(map(str, folders))


def _clock(settings: Settings) -> str:
    moment = now()
    if moment < _RELEASED:
        raise AlignError(f"the clock says {moment:%Y-%m-%d}, which is before this project was written; set the clock")
    if store_path(settings.home).exists():
        try:
            [row] = query(
                settings.home,
                "SELECT greatest((SELECT max(ingested_at) FROM source_files), (SELECT max(recorded_at) FROM night_events)) AS last",
            )
        except Exception:
            return f"{moment:%Y-%m-%d %H:%M} UTC; not compared with the store, which cannot be read"
        if row["last"] and row["last"] > moment + _CLOCK_SLACK:
            raise AlignError(
                f"the clock says {moment:%Y-%m-%d %H:%M}, but the store was written at {row['last']:%Y-%m-%d %H:%M}; set the clock"
            )
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _logs(settings: Settings) -> str:
    return ", ".join(f"{source.name}: {len(source.find())} log files" for source in log_sources(settings))


def _constitution(settings: Settings) -> str:
    found = load_constitution(settings.labels.constitution)
    return f"{found.name} {found.version}, {len(found.principles)} principles"


def _teacher(settings: Settings) -> str:
    one = settings.teacher
    if not one.base_url:
        return "none is configured"
    key = f"with the key in {one.api_key_env}" if key_of(one) else "without a key"
    waits = f", which may think for {one.thinking_tokens} tokens" if one.thinking_tokens else ""
    return f"{one.model!r} at {one.base_url}, {key}{waits}; not asked"


def _gate(settings: Settings) -> str:
    from flows.evaluate import suites

    one = settings.gate
    asked = sum(map(len, suites(settings).values()))
    if found := weakenings(one):
        listed = "; ".join(map(str, found))
        raise AlignError(f"the gate is weakened, because {one.unsafe!r}: {listed}; set these back and take [gate] unsafe out")
    if one.unsafe:
        return f"no setting lies below the floor; [gate] unsafe = {one.unsafe!r} is not needed, take it out"
    return f"no setting lies below the floor; confidence {one.confidence:g}, target {one.target}, {asked:,} prompts"


def _models(settings: Settings) -> str:
    base = base_path(settings)
    if problems := model_problems(base):
        advice = "remove this folder, the next night makes it again" if settings.model.path == EMBEDDED else "copy the model again"
        raise AlignError(f"the model in {str(base)!r} is not whole: {'; '.join(problems)}; {advice}")
    from alignment.models.local import load_tokenizer

    load_tokenizer(base)
    return f"{base} ({short(folder_id(base))}), {embedder_path().parent.name}"


def _model_server(settings: Settings, *, quick: bool = False) -> str:
    """Ask the model's server what a night asks of it, and, unless `quick`, compare its answers with the weights here."""
    if settings.model.backend == "local":
        return "none is configured: this process answers for the model"
    if quick:
        server = settings.model_server.model_copy(update={"max_difference": 0.0})
        settings = settings.model_copy(update={"model_server": server})
    return str(load_model(settings, None).check(settings.train.max_tokens, weighs=_weighs(settings)))


def _weighs(settings: Settings) -> bool:
    from alignment.evals.suites import weighed
    from flows.evaluate import suites

    return bool(settings.self_reward.labelers) or any(weighed(prompts) for prompts in suites(settings).values())


def _template(settings: Settings) -> str:
    """Render the configured model's chat template for a conversation and a training turn, as the night will."""
    from alignment.models.local import load_tokenizer
    from alignment.models.trial import try_template

    return try_template(
        load_tokenizer(base_path(settings)),
        thinking_tokens=settings.model.thinking_tokens,
        answer_tokens=settings.gate.max_new_tokens,
        context=context_length(settings),
    )


def context_length(settings: Settings) -> int | None:
    """Return the model's context length in tokens, None if it is unknown: the check of the model says why."""
    try:
        found = json.loads((base_path(settings) / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, int) else None


def _training(settings: Settings) -> str:
    from flows.train import check_launcher

    check_needs(settings.train, context_length(settings))
    if settings.train.accelerate_config:
        check_launcher(settings.train.accelerate_config)
    return f"method {settings.train.method}, loss {settings.train.loss}; what it needs is installed"


def _store(settings: Settings, *, quick: bool) -> str:
    home = settings.home
    if not store_path(home).exists() and not any(path.exists() for path in (home / EVIDENCE, home / REBUILD, wal_path(home))):
        return "none yet; the first night makes it"
    if findings := store_findings(home, quick=quick):
        raise AlignError("; ".join(findings) + "; run 'align doctor --rebuild', which keeps the old file")
    [row] = query(home, "SELECT count(*) AS n FROM interactions ANTI JOIN seeds USING (id)")
    return f"{row['n']:,} exchanges; " + ("not read in full (--quick)" if quick else "every table read in full")


def _evidence(settings: Settings, *, quick: bool) -> str:
    home = settings.home
    if findings := evidence_findings(home, quick=quick):
        shown = "; ".join(findings[:_LISTED]) + (f"; and {len(findings) - _LISTED} more" if len(findings) > _LISTED else "")
        raise AlignError(f"{shown}; run 'align doctor --rebuild'")
    manifest = read_manifest(home)
    waiting = sum(map(len, read_journal(home)[0].values()))
    if manifest is None:
        return f"none yet; the next night writes it ({waiting} rows in the journal)"
    rows = sum(held.rows for held in manifest.tables.values())
    return f"{rows:,} rows of {len(manifest.tables)} tables as of {manifest.exported_at}, {waiting} in the journal"


def _registry(settings: Settings) -> str:
    names = [row["release_id"] for row in list_releases(settings.home)]
    for name in names:
        verify(settings.home, name)
    here = current(settings.home)
    if here != BASE and here not in names:
        raise AlignError(f"release {here!r} is in production but not in the registry; run 'align release rollback'")
    return f"{len(names)} releases, all as registered; in production: {here}"


def _serving(settings: Settings) -> str:
    if not list_releases(settings.home):
        return "nothing is released yet"
    said, holds = read_serving(settings.home), serving(settings.home)
    if said is None and holds["champion"] == BASE and not holds["canary"]:
        return "nothing was promoted yet: the base model serves"
    if said != holds:
        raise AlignError(f"releases/serving.json says {said!r}, but {holds!r} holds; run 'align release push', which writes it again")
    for name, share in ((holds["champion"], None), (holds["canary"], holds["share"])):
        if name and not (right := right_of(settings.home, name, share=share)).allowed:
            raise AlignError(f"{name} is served, but may not be: {right.why}; run 'align release push', which takes it out")
    canary = f"canary: {holds['canary']} with {holds['share']:.0%}" if holds["canary"] else "no canary"
    return f"champion: {holds['champion']}, {canary}"


def _holder(home: Path) -> str | None:
    """Return the process that holds the night's lock, None if there is none."""
    try:
        handle = os.open(home / ".night.lock", os.O_RDWR)
    except OSError:
        return None
    try:
        process = os.read(handle, 100).decode("ascii", "replace").strip()
        # A dead process has released its lock. Touch the lock only if the process lives: that could turn a starting night away.
        if not process.isdigit() or not Path(f"/proc/{process}").exists():
            return None
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return process
    finally:
        os.close(handle)
    return None


def _audit(settings: Settings, *, quick: bool) -> str:
    if quick:
        return "not read (--quick)"
    found = audit.verify(settings.home)
    if found.problem:
        raise AlignError(f"the audit log is broken at {found.problem}; keep {str(settings.home / audit.FOLDER)!r} as evidence")
    return f"{found.rows:,} acts, as they were written; 'align audit verify' prints the head to keep elsewhere"


def _backup(settings: Settings) -> str:
    told = last_backup(settings.home)
    if told is None:
        return "none was made here; 'align backup FILE' makes one"
    hours = (now() - datetime.fromisoformat(told["created_at"]).astimezone(UTC).replace(tzinfo=None)) // timedelta(hours=1)
    return f"the last one is {hours // 24} days and {hours % 24} hours old: {told['file']}"


def _lock(settings: Settings) -> str:
    holder = _holder(settings.home)
    return f"a night is running (process {holder})" if holder else "no night is running"


def _leftovers(settings: Settings) -> str:
    home = settings.home
    if (home / REBUILD).exists() and not _holder(home):
        raise AlignError("a rebuild was interrupted; run 'align doctor --rebuild' again")
    found = sorted({*_left_behind(home), *evidence_leftovers(home)})
    if not found:
        return "none"
    size = sum(path.stat().st_size for one in found for path in (one, *one.rglob("*")) if path.is_file()) >> 20
    names = ", ".join(str(path.relative_to(home)) for path in found[:_LISTED]) + (" …" if len(found) > _LISTED else "")
    used = "in use by the night that runs" if _holder(home) else "may be removed when nobody needs them"
    return f"{len(found)} ({size} MiB): {names}; {used}"


def _left_behind(home: Path) -> Iterator[Path]:
    for pattern in ("*.damaged-*", "models/.convert-*", "releases/.*.part", ".redaction-*", ".rebuild", ".backup"):
        yield from home.glob(pattern)


def _checks(*, quick: bool) -> tuple[tuple[str, Callable[[Settings], str]], ...]:
    return (
        ("versions", _versions),
        ("disk", _disk),
        ("folders", _writable),
        ("clock", _clock),
        ("logs", _logs),
        ("constitution", _constitution),
        ("teacher", _teacher),
        ("guards", try_guards),
        ("gate", _gate),
        ("models", _models),
        ("template", _template),
        ("model server", partial(_model_server, quick=quick)),
        ("training", _training),
        ("store", partial(_store, quick=quick)),
        ("evidence", partial(_evidence, quick=quick)),
        ("releases", _registry),
        ("serving", _serving),
        ("audit", partial(_audit, quick=quick)),
        ("backup", _backup),
        ("notify", check_receivers),
        ("lock", _lock),
        ("leftovers", _leftovers),
    )


def diagnose(*, quick: bool = False) -> list[dict[str, str]]:
    """Return the rows of `examine` for the settings in force; invalid settings are a finding, and limit it to checks that need none."""
    try:
        settings = load_settings()
        prepare(settings.home)
    except ConfigError as error:
        return [{"check": "settings", "result": "wrong", "found": str(error)}, _look("versions", _versions, Settings.model_construct())]
    except OSError as error:
        found = f"cannot make the state folder {str(settings.home)!r}: {error.strerror}; correct its permissions, or set ALIGN_HOME"
        return [{"check": "settings", "result": "wrong", "found": found}]
    return [{"check": "settings", "result": "right", "found": f"state in {settings.home}"}, *examine(settings, quick=quick)]


def try_model(settings: Settings) -> list[dict[str, str]]:
    """Return the rows of `examine` only for how the model's template and context fit the settings."""
    return [_look("template", _template, settings), _look("training", _training, settings)]


def examine(settings: Settings, *, quick: bool = False) -> list[dict[str, str]]:
    """Return one row per check: what, `right` or `wrong`, and the finding or what to do.

    `quick` skips reading every block of the store and the contents of the evidence.
    """
    return [_look(name, look, settings) for name, look in _checks(quick=quick)]


def _look(name: str, look: Callable[[Settings], str], settings: Settings) -> dict[str, str]:
    try:
        return {"check": name, "result": "right", "found": look(settings)}
    except AlignError as error:
        return {"check": name, "result": "wrong", "found": str(error)}
    except Exception as error:
        # A check that crashes must not hide the others.
        return {"check": name, "result": "wrong", "found": f"the check itself failed: {type(error).__name__}: {error}; please report this"}
