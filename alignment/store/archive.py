"""One file that holds a state folder: a gzipped tar whose first member lists every other one with its size and SHA-256.

What the list does not name is not read, and nothing counts before all of it was found as listed. An archive may have been made by
anybody: only plain files under known names are accepted, no more bytes than listed are unpacked, and no more than the disk holds.

Effects: `write_archive` writes the file, `read_archive` reads it and may write a folder.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from alignment import __version__
from alignment.errors import InputError, NoSpace, StoreError
from alignment.ids import content_id
from alignment.store.manifest import sync_path
from alignment.store.migrate import refuse_newer
from alignment.text import cap, printable

FORMAT = 1
LIST = "backup.json"
KNOWN = re.compile(
    r"(?:store\.duckdb|redaction\.key|judge\.key|(?:teacher|policy)_calls\.jsonl|\.audit\.lock"
    r"|(?:evidence|releases|training|audit|gateway)/[^\x00-\x1f\x7f\\]+)\Z"
)
"""Names, relative to the state folder, that an archive may have."""
_CHUNK, _LONGEST_LIST, _MOST_FILES, _LONGEST_NAME, _LONGEST_PART = 1 << 20, 64 << 20, 1_000_000, 1000, 255
_SPARE = 64 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class Archived(NamedTuple):
    """The first `size` bytes of a file."""

    path: Path
    size: int


class Stored(NamedTuple):
    """Size in bytes and SHA-256 of an archived file."""

    size: int
    sha256: str


class BackupList(NamedTuple):
    """What an archive holds: the store's schema version, the version of this project that wrote it, and each file by name."""

    schema: int
    version: str
    created_at: str
    files: Mapping[str, Stored]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(one.size for one in self.files.values())


def write_archive(file: Path, sources: Mapping[str, Archived], *, schema: int, created_at: str) -> BackupList:
    """Write `sources` (by name) to `file`, readable by its owner only; read it back, and only then give it its name.

    Raises:
        StoreError: a source changed or went away meanwhile; there is no `file` then.
    """
    scratch = file.with_name(f".{file.name}.part")
    listed = BackupList(schema, __version__, created_at, {name: _hashed(name, source) for name, source in sorted(sources.items())})
    scratch.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as raw:
            _write(raw, sources, listed)
            raw.flush()
            os.fsync(raw.fileno())
        if read_archive(scratch) != listed:
            raise StoreError(f"the backup {str(file)!r} does not read back as it was written; check the disk, and run 'align backup' again")
        _publish(scratch, file)
    except FileExistsError:
        raise InputError(f"{str(file)!r} was made meanwhile, and no backup is overwritten; give another name") from None
    finally:
        scratch.unlink(missing_ok=True)
    sync_path(file.parent)
    return listed


def _publish(scratch: Path, file: Path) -> None:
    """Give an archive its name, unless that is taken.

    Raises:
        FileExistsError: it is.
    """
    try:
        os.link(scratch, file)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, such as a share
        if os.path.lexists(file):
            raise FileExistsError from None
        os.replace(scratch, file)


def _hashed(name: str, source: Archived) -> Stored:
    if not KNOWN.match(name) or ".." in name.split("/"):
        raise StoreError(f"{name!r} is no name that a backup may hold; rename the file or take it away")
    with _reading(name, source) as reader:
        while reader.read(_CHUNK):
            pass
    return Stored(source.size, reader.digest.hexdigest())


class _Reader(io.RawIOBase):
    """The first `left` bytes of a file, not more and not fewer, hashed as they are read."""

    def __init__(self, name: str, handle: IO[bytes], left: int) -> None:
        self._name, self._handle, self._left, self.digest = name, handle, left, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        chunk = self._handle.read(min(size, self._left))
        if not chunk and self._left:
            raise _changed(self._name)
        self.digest.update(chunk)
        self._left -= len(chunk)
        return chunk


@contextmanager
def _reading(name: str, source: Archived) -> Iterator[_Reader]:
    try:
        handle = os.open(source.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise StoreError(f"{name!r} cannot be read for the backup: {error.strerror}; run 'align backup' again") from error
    with os.fdopen(handle, "rb") as plain:
        yield _Reader(name, plain, source.size)


def _changed(name: str) -> StoreError:
    return StoreError(f"{name!r} changed during the backup, which was given up; run 'align backup' again")


def _write(raw: IO[bytes], sources: Mapping[str, Archived], listed: BackupList) -> None:
    with (
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        body = {"format": FORMAT, **listed._asdict(), "files": {name: list(one) for name, one in listed.files.items()}}
        text = json.dumps({"sum": content_id(body), **body}, indent=0).encode()
        tar.addfile(_member(LIST, len(text)), io.BytesIO(text))
        for name, stored in listed.files.items():
            with _reading(name, sources[name]) as reader:
                tar.addfile(_member(name, stored.size), reader)
            if reader.digest.hexdigest() != stored.sha256:
                raise _changed(name)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def read_archive(file: Path, into: Path | None = None) -> BackupList:
    """Check every byte of an archive and return its list; with `into`, an empty folder, also unpack it there.

    Raises:
        InputError: it is damaged, cut short, or no archive of ours; `into` may hold some files then.
        StoreError: newer code wrote it.
        NoSpace: the disk has no room for it.
    """
    with _told(file), file.open("rb") as raw:
        _refuse_special(file, raw)
        with gzip.GzipFile(fileobj=raw) as packed:
            bounded = _Bounded(packed)
            with tarfile.open(fileobj=bounded, mode="r:") as tar:  # type: ignore[call-overload]
                listed = _read_list(tar, file)
                if into is not None and (free := shutil.disk_usage(into).free) < listed.size + _SPARE:
                    raise NoSpace(f"{file.name!r} holds {listed.size:,} bytes, and {free:,} are free for {str(into)!r}; free some space")
                _read_files(tar, listed, into)
            bounded.drain()
    return listed


class _Damaged(Exception):
    """What is wrong with an archive."""


@contextmanager
def _told(file: Path) -> Iterator[None]:
    try:
        yield
    except (_Damaged, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        why = str(error) or type(error).__name__
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        # What a hostile header does to the parser.
        why = f"it cannot be parsed ({type(error).__name__})"
    else:
        return
    raise InputError(f"{str(file)!r} is no whole backup: {cap(printable(why), 200)}; nothing was restored from it, take another backup")


def _refuse_special(file: Path, raw: IO[bytes]) -> None:
    if not os.path.isfile(raw.fileno()):  # noqa: PTH113 - of the open file, not of the name
        raise InputError(f"{str(file)!r} is no plain file; give the file that 'align backup' wrote")


class _Bounded:
    """The unpacked bytes for `tarfile`, which reads a header's extension in one piece, whatever size it claims."""

    def __init__(self, packed: gzip.GzipFile) -> None:
        self._packed = packed

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _CHUNK:
            raise _Damaged(f"a header claims {size:,} bytes")
        return self._packed.read(size)

    def seek(self, place: int) -> int:
        return self._packed.seek(place)

    def tell(self) -> int:
        return self._packed.tell()

    def drain(self) -> None:
        """Read to the end, where gzip's checksum is; after the last file there is only a little padding."""
        if self._packed.read(_CHUNK).strip(b"\0") or self._packed.read(1):
            raise _Damaged("there is more behind its last file")


def _read_list(tar: tarfile.TarFile, file: Path) -> BackupList:
    member = tar.next()
    if member is None or member.name != LIST or not _plain(member) or member.size > _LONGEST_LIST:
        raise _Damaged(f"it does not begin with {LIST}")
    body: dict[str, Any] = json.loads(b"".join(_unpacked(tar, member)))
    if body.pop("sum") != content_id(body):
        raise _Damaged(f"{LIST} was changed")
    if body["format"] != FORMAT:
        raise StoreError(
            f"{file.name!r} is a backup of format {cap(repr(body['format']), 20)}, this code reads {FORMAT}; "
            "install the newer version of this project"
        )
    schema = body["schema"]
    if not isinstance(schema, int) or schema < 1:
        raise _Damaged(f"schema {cap(repr(schema), 20)} is none")
    refuse_newer(schema, f"the backup {file.name!r}")
    files = {name: Stored(*stored) for name, stored in body["files"].items()}
    _check_names(files)
    return BackupList(schema, str(body["version"]), str(body["created_at"]), files)


def _check_names(files: Mapping[str, Stored]) -> None:
    if len(files) > _MOST_FILES:
        raise _Damaged(f"it lists {len(files):,} files")
    folders = {"/".join(name.split("/")[:depth]) for name in files for depth in range(1, name.count("/") + 1)}
    for name, one in files.items():
        parts = name.split("/")
        if not KNOWN.match(name) or {"", ".", ".."} & set(parts) or name in folders or len(name) > _LONGEST_NAME or _too_long(parts):
            raise _Damaged(f"it lists {cap(name, 100)!r}, which has no place in a state folder")
        if not isinstance(one.size, int) or one.size < 0 or not _SHA256.match(one.sha256):
            raise _Damaged(f"it lists {cap(name, 100)!r} without size or hash")


def _too_long(parts: list[str]) -> bool:
    return any(len(part.encode("utf-8", "surrogatepass")) > _LONGEST_PART for part in parts)


def _plain(member: tarfile.TarInfo) -> bool:
    return member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and member.sparse is None


def _read_files(tar: tarfile.TarFile, listed: BackupList, into: Path | None) -> None:
    left = dict(listed.files)
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # it keeps every member
        stored = left.pop(member.name, None)
        if stored is None:
            raise _Damaged(f"{cap(member.name, 100)!r} is not in its list, or is there twice")
        if not _plain(member) or member.size != stored.size:
            raise _Damaged(f"{cap(member.name, 100)!r} is no plain file of {stored.size:,} bytes")
        digest = hashlib.sha256()
        with _opened(into, member.name) as out:
            for chunk in _unpacked(tar, member):
                digest.update(chunk)
                if out:
                    out.write(chunk)
            if out:
                out.flush()
                os.fsync(out.fileno())
        if digest.hexdigest() != stored.sha256:
            raise _Damaged(f"{cap(member.name, 100)!r} is not as it was written")
    if left:
        raise _Damaged(f"{len(left)} files are missing, such as {cap(min(left), 100)!r}")


@contextmanager
def _opened(into: Path | None, name: str) -> Iterator[IO[bytes] | None]:
    if into is None:
        yield None
        return
    path = into / name
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as out:
        yield out


def _unpacked(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    reader = tar.extractfile(member)
    left = member.size
    while left:
        chunk = reader.read(min(_CHUNK, left)) if reader else b""
        if not chunk:
            raise _Damaged("it ends too early")
        left -= len(chunk)
        yield chunk
