"""Quoting of hostile texts for judges: the fence around a text, and the secret behind its marks.

Effects: reads or creates one file in the state folder.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from alignment.ids import content_id
from alignment.text import defused, fence


def marks_secret(home: Path) -> bytes:
    """Return the state folder's secret for marks; create it on the first call. It protects no data: losing it only asks judges again."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / "judge.key"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(handle, "wb") as out:
        secret = os.urandom(32)
        out.write(secret)
    return secret


def marked(text: str, secret: bytes, *where: object) -> str:
    """Return `text` without control tokens, between marks that depend on the secret, the text and its position `where`."""
    nonce = hmac.new(secret, content_id(text, *where).encode(), hashlib.sha256).hexdigest()[:8]
    return fence(defused(text), nonce)
