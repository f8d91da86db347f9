"""What Prefect and the model libraries must be told before they are imported.

Effects: sets environment variables that the user has not set.
"""

from __future__ import annotations

import os
from pathlib import Path


def prepare(home: Path, *, quiet: bool = True) -> None:
    """Keep Prefect's state under `home`, its telemetry off, and the model libraries from asking a hub in vain."""
    defaults = {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "TOKENIZERS_PARALLELISM": "false",
        # Two model processes that spin for the same cores slow each other down tenfold; waiting threads should sleep.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    if quiet:
        defaults |= {
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "TRANSFORMERS_VERBOSITY": "error",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TQDM_DISABLE": "1",
        }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
