"""Tells what a model has written while it still writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import StoppingCriteria

from alignment.models.thinking import OPEN

Tell = Callable[[int, str], None]
"""Called with the row of an answer and all that is known of its text."""
_EVERY = 4


class Telling(StoppingCriteria):  # type: ignore[misc,unused-ignore]
    """Tells every row's text every few tokens, and stops none. `start` is the column of the first answer token."""

    def __init__(self, decode: Callable[[torch.Tensor], list[str]], start: int, tell: Tell) -> None:
        self._decode, self._start, self._tell = decode, start, tell

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """See `StoppingCriteria`."""
        written = input_ids[:, self._start :]
        if written.shape[1] % _EVERY == 0:
            for row, text in enumerate(self._decode(written)):
                # The last sign may be half there, and thinking is no answer.
                known = text.rstrip("\ufffd").rstrip()
                if known and OPEN not in known and not OPEN.startswith(known):
                    self._tell(row, known)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
