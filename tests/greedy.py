"""`python -m tests.greedy …`: the `align` command with nothing drawn and nothing rounded: greedy samples, float32."""

from __future__ import annotations

import torch

from alignment.candidates import answers
from alignment.models import local, precision, server_requests
from tests.remembering import main

if __name__ == "__main__":
    answers._TEMPERATURE = 0.0
    local.best_dtype = precision.best_dtype = lambda: torch.float32
    server_requests._PAUSE = 0.01
    main()
