"""The audit log: who did what, when and why, one line per act, each sealed over the previous one (`alignment.store.audit_chain`).

A row is on disk before its effect: a kill in between leaves an act in the log that did not happen, never the reverse. Seals are keyed, so
that somebody who can write the log but not read its key, for instance by editing and restoring a backup, cannot forge a row. The account
that owns the state folder can read both: only a head kept elsewhere protects against it (`align audit verify --head`).

Effects: writes `<home>/audit`, readable by its owner only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hmac
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alignment.acting import account, identity_of
from alignment.errors import NoSpace, StoreError
from alignment.store import audit_chain as chain
from alignment.store.audit_chain import START, WITHHELD, Head, Row, VerifiedChain
from alignment.store.manifest import sync_path
from alignment.store.session import is_disk_full

FOLDER, LOG, HEAD, KEY, RESERVE = "audit", "log.jsonl", "head.json", "key", "reserve"
_LOCK = ".audit.lock"
_MAX_CHARS = 2000
_TAIL_BYTES = 1 << 18
_RESERVE_BYTES = 1 << 16


def append(
    home: Path,
    action: str,
    subject: str,
    *,
    actor: str,
    reason: str = "",
    details: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> int:
    """Write one act to the log on disk; return its number. `subject` is the id of the act's object, never a person of the logs.

    `alignment.acting` says how `actor` was identified.

    Raises:
        NoSpace: the disk is full, the log's reserve included.
        StoreError: the log cannot be written, or its key is gone.
    """
    who = identity_of(actor)
    words: dict[str, Any] = {"reason": _capped(reason), "details": json.loads(json.dumps(dict(details or {}), default=str))}
    if len(json.dumps(words)) > _TAIL_BYTES // 4:
        words["details"] = {"left out": "too long"}
    moment = (now or datetime.now(UTC)).replace(tzinfo=None)
    fields = {"recorded_at": moment.isoformat(timespec="microseconds"), "actor": _capped(who.name), "how": who.how, "role": who.role}
    fields |= {"account": account(), "action": action, "subject": _capped(subject)}
    with _locked(home) as lock:
        folder = _begun(home, lock)
        key = _key(folder)
        said = _read_head(folder, key)
        after, note, gap = _stand(folder, said)
        if said is not None and after.number > said.number:
            # A kill left the head behind, by at most one row.
            _write_head(folder, key, after)
        row = chain.sealed(key, fields, words, after=after, note=note, salt=os.urandom(16).hex())
        _append_line(folder, gap + chain.dumped(row))
        _write_head(folder, key, chain.head_of(row))
    return int(row["number"])


def _stand(folder: Path, said: Head | None) -> tuple[Head, str, bytes]:
    """Return the row to continue from, the note about what lies before the next row, and the bytes that end the previous line.

    Missing rows stay missing: the next row continues from the head, so that the gap remains visible for ever.
    """
    tail = _tail(folder / LOG)
    lines = tail.split(b"\n")
    rows = [chain.parsed(line) for line in lines]
    last = max((position for position, row in enumerate(rows) if row), default=-1)
    found = chain.head_of(row) if last >= 0 and (row := rows[last]) else START
    gap = b"" if not tail or tail.endswith(b"\n") else b"\n"
    # A kill leaves a line without an end; a complete line that cannot be read was put there.
    note = chain.torn_note(lines[last + 1 :]) if gap and last < len(lines) - 1 else ""
    if said is None or (said.number and not tail):
        return max(said or START, found, key=lambda head: head.number), chain.GONE, gap
    return (found if found.number > said.number else said), note, gap


def read(home: Path, *, limit: int | None = None) -> list[Row]:
    """Return the last `limit` acts, oldest first; `reason` and `details` are None where an erasure removed them."""
    shown = ("number", "recorded_at", "actor", "how", "role", "account", "action", "subject")
    found = [{name: row[name] for name in shown} | (row["words"] or {"reason": None, "details": None}) for row in _rows(home)]
    return found if limit is None else found[-limit:]


def verify(home: Path, *, expected: Head | None = None) -> VerifiedChain:
    """Check every row, the chain, and that the log ends where its head says; with `expected`, that it holds that row, noted elsewhere.

    Without `expected` it cannot detect that the whole folder was restored to an earlier state, or rewritten by somebody with the key.

    Raises:
        StoreError: the key is gone.
    """
    if not (home / FOLDER).is_dir():
        lock_file = home / _LOCK
        was = expected is not None or (lock_file.exists() and lock_file.stat().st_size > 0)
        return VerifiedChain(0, START, 0, 0, "row 1: the log is gone; there was one" if was else None)
    with _locked(home, shared=True):
        key = _key(home / FOLDER)
        lines, exists = _lines(home / FOLDER / LOG), (home / FOLDER / LOG).exists()
        found = chain.check(key, lines, _read_head(home / FOLDER, key))
    if not exists:
        return found._replace(problem=found.problem or "row 1: the log is gone")
    heads = {chain.head_of(row) for line in lines if (row := chain.parsed(line))}
    if found.problem is None and expected is not None and expected not in heads:
        problem = f"row {expected.number}: it is not the row that was noted elsewhere; the log was cut or written anew"
        return found._replace(problem=problem)
    return found


def copy(home: Path, target: Path) -> None:
    """Copy the log as of one instant into the state folder `target`, which has none yet."""
    if not (home / FOLDER).is_dir():
        return
    with _locked(home, shared=True):
        (target / FOLDER).mkdir(mode=0o700)
        for name in (KEY, LOG, HEAD):
            if (home / FOLDER / name).exists():
                shutil.copyfile(home / FOLDER / name, target / FOLDER / name)
        shutil.copyfile(home / _LOCK, target / _LOCK)


def withhold(home: Path, *, names_a_person: Callable[[str], bool], actor: str) -> int:
    """Remove reason and details from the rows in which they name an erased person; return how many. The chain stays valid.

    The act that announces it is logged first: after a kill in between, the same call finishes the work.

    Raises:
        NoSpace, StoreError: the log cannot be written.
    """
    doomed = {row["number"] for row in _rows(home) if row["words"] and names_a_person(_said(row["words"]))}
    numbers = sorted(doomed)
    for start in range(0, len(numbers), 200):
        append(home, WITHHELD, ",".join(map(str, numbers[start : start + 200])), actor=actor)
    if doomed:
        with _locked(home):
            path = home / FOLDER / LOG
            text = [_withheld(line, doomed) for line in path.read_bytes().splitlines(keepends=True)]
            _replace(path, b"".join(text))
    return len(doomed)


def _said(words: Mapping[str, Any]) -> str:
    """Return the values that people or files put into the words, without the field names."""
    details = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in words["details"].values()]
    return "\n".join([str(words["reason"]), *details])


def _withheld(line: bytes, doomed: set[int]) -> bytes:
    row = chain.parsed(line)
    return chain.dumped(chain.without_words(row)) if row and row["number"] in doomed else line


def _rows(home: Path) -> list[Row]:
    if not (home / FOLDER / LOG).exists():
        return []
    with _locked(home, shared=True):
        return [row for line in _lines(home / FOLDER / LOG) if (row := chain.parsed(line))]


def _lines(path: Path) -> list[bytes]:
    text = path.read_bytes() if path.exists() else b""
    return text.split(b"\n") if text else []


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - _TAIL_BYTES))
            return handle.read()
    except FileNotFoundError:
        return b""


def _capped(text: str) -> str:
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= _MAX_CHARS else clean[: _MAX_CHARS - 1] + "…"


@contextmanager
def _locked(home: Path, *, shared: bool = False) -> Iterator[int]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        handle = os.open(home / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(f"cannot open the audit log's lock {str(home / _LOCK)!r}: {error.strerror}; correct its permissions") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _begun(home: Path, lock: int) -> Path:
    """Return the log's folder, made by one rename, so that a part missing later must have been removed by somebody."""
    folder, scratch = home / FOLDER, home / f".{FOLDER}.part"
    if folder.is_dir():
        return folder
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        key = os.urandom(32)
        for name, data in ((KEY, key), (LOG, b""), (RESERVE, os.urandom(_RESERVE_BYTES))):
            _replace(scratch / name, data)
        # A lock file with content shows that there was a log before: the new log has no head, and its first row notes that.
        if not os.fstat(lock).st_size:
            _replace(scratch / HEAD, _head(key, START))
        os.replace(scratch, folder)
        sync_path(home)
        os.pwrite(lock, b"begun\n", 0)
    except OSError as error:
        if is_disk_full(error):
            raise NoSpace(f"the disk of {str(home)!r} is full: no audit log can be begun, so nothing was done. Free some space") from error
        raise StoreError(f"cannot begin an audit log in {str(home)!r}: {error.strerror}; correct its permissions") from error
    return folder


def _key(folder: Path) -> bytes:
    path = folder / KEY
    found = path.read_bytes() if path.is_file() else b""
    if len(found) != 32:
        raise StoreError(
            f"the audit log's key {str(path)!r} is gone or was changed: put it back from a backup, or keep the folder under another name "
            "as evidence; a new log then begins, and says that there was one before"
        )
    return found


def _append_line(folder: Path, line: bytes) -> None:
    """Append to the log; on a full disk release the reserve for it."""
    try:
        _write(folder / LOG, line)
    except OSError as error:
        if not is_disk_full(error):
            raise StoreError(f"cannot write {str(folder / LOG)!r}: {error.strerror}; correct its permissions and try again") from error
        (folder / RESERVE).unlink(missing_ok=True)
        try:
            _write(folder / LOG, line)
        except OSError as again:
            raise NoSpace(
                f"the disk of {str(folder)!r} is full: the act could not be recorded and was not done. Free some space"
            ) from again


def _write(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(handle).st_size
        try:
            if os.write(handle, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)


def _head(key: bytes, head: Head) -> bytes:
    return json.dumps({**head._asdict(), "proof": chain.proof(key, head)}).encode()


def _read_head(folder: Path, key: bytes) -> Head | None:
    """Return the end of the log as the head file has it; None if there is none, or it was not written with the key."""
    try:
        said = json.loads((folder / HEAD).read_bytes())
        head = Head(int(said["number"]), str(said["seal"]))
        return head if hmac.compare_digest(str(said["proof"]), chain.proof(key, head)) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_head(folder: Path, key: bytes, head: Head) -> None:
    # The row is on disk: a head that cannot follow (a full disk) is one row behind and must not undo the act. The reserve is restored
    # when there is room.
    with contextlib.suppress(OSError):
        try:
            _replace(folder / HEAD, _head(key, head))
        except OSError:
            # In place, which needs no space.
            _overwrite(folder / HEAD, _head(key, head))
        if not (folder / RESERVE).exists():
            _replace(folder / RESERVE, os.urandom(_RESERVE_BYTES))


def _overwrite(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(handle, data, 0)
        os.ftruncate(handle, len(data))
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(path: Path, data: bytes) -> None:
    scratch = path.with_name(f".{path.name}.part")
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(scratch, path)
    sync_path(path.parent)
