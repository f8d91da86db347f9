"""The registry of releases: complete folders, and one pointer that names the release in production."""

from alignment.release.registry import (
    BASE,
    current,
    folder_of,
    list_releases,
    promote,
    quarantine,
    register,
    rollback,
    verify,
)

__all__ = ["BASE", "current", "folder_of", "list_releases", "promote", "quarantine", "register", "rollback", "verify"]
