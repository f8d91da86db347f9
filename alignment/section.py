"""What all sections of the settings have in common."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    # NaN and infinity do not compare with limits as numbers do.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def port_is_one(url: str) -> bool:
    """Return whether a URL's port is valid, or absent."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if value and (parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or not port_is_one(value)):
        raise ValueError("give http://HOST/v1 or https://HOST/v1 without user, password or query; keys go into the environment")
    return value.rstrip("/")


def _variable(value: str) -> str:
    if value and not re.fullmatch(r"[A-Z][A-Z0-9_]{2,63}", value):
        raise ValueError("give the NAME of an environment variable, such as TEACHER_API_KEY, and not the key")
    return value


EndpointUrl = Annotated[str, AfterValidator(_endpoint)]
"""The address of an endpoint, or nothing: it holds no secret."""
KeyVariable = Annotated[str, AfterValidator(_variable)]
"""The name of the environment variable with a key, or nothing."""


def more_only(extra: dict[str, Any], asked: set[str]) -> dict[str, Any]:
    """Return further fields of a request, none of which is `asked` already.

    Raises:
        ValueError: one is.
    """
    if mine := sorted(asked & extra.keys()):
        raise ValueError(f"{', '.join(mine)}: these are set by what is asked; leave them out")
    return extra
