"""What all sections of the settings share."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    # NaN and infinity compare with no limit as a number does.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def port_is_one(url: str) -> bool:
    """Say whether a URL names a port that can be, or none."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False
