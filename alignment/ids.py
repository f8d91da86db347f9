"""Content addresses: the same content has the same id, on every machine and in every night."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_SHORT = 16


def canonical(value: Any) -> str:
    """Return `value` as JSON with sorted keys and no spaces, so that equal values give equal text.

    >>> canonical({"b": 1, "a": [1, 2]})
    '{"a":[1,2],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def content_id(*parts: Any) -> str:
    """Return the 64-hex-digit SHA-256 of `parts`; their order matters and their boundaries cannot be confused.

    >>> content_id("a", "bc") == content_id("ab", "c")
    False
    """
    return hashlib.sha256(canonical(parts).encode("utf-8", "surrogatepass")).hexdigest()


def short(full_id: str) -> str:
    """Return the first 16 hex digits, for folder names and for people."""
    return full_id[:_SHORT]


def subject_key(key: bytes, user_id: str) -> str:
    """Return the hash that replaces an erased person; only the holder of the state folder's secret can compute it.

    In SQL: `sha256(concat_ws(chr(31), $key, user_id, $key))`, where `$key` is `key.hex()`. The key encloses the id, so that nobody can
    extend one person's hash to another's.

    >>> subject_key(b"k", "ann") == subject_key(b"l", "ann")
    False
    """
    secret = key.hex()
    return hashlib.sha256(f"{secret}\x1f{user_id}\x1f{secret}".encode("utf-8", "surrogatepass")).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes. Never call it on the open store (it would drop DuckDB's lock)."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def unit_interval(*parts: Any) -> float:
    """Return a number in [0, 1) determined by `parts`, so that every rerun draws the same number.

    >>> 0.0 <= unit_interval("split", "x") < 1.0
    True
    """
    return int(content_id(*parts)[:13], 16) / 16**13
