"""What all sections of the settings have in common."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

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
