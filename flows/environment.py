"""Settings that Prefect and the model libraries must have before they are imported.

Effects: sets environment variables that the user has not set, and the umask; makes or narrows the state folder.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from alignment.store.folder import keep_to_owner, not_permitted
from flows.secret import CLIENT, SERVER, prefect_secret, running_server
from flows.show import say


def prepare(home: Path, *, quiet: bool = True) -> None:
    """Keep Prefect's state under `home`, turn its telemetry off, and stop the model libraries from querying a hub in vain."""
    if changed := keep_to_owner(home):
        say(changed)
    try:
        # Prefect makes its folder only if the parent exists.
        (home / "prefect").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_permitted(error, home) from error
    defaults = {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        # The default of 20 s is too short on a busy machine.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        # The default keeps leases in memory: a crash would lose the holder of the night's only slot, and no later night would ever get it.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "TOKENIZERS_PARALLELISM": "false",
        # Waiting OpenMP threads spin for long, so two model processes on the same cores slow each other down tenfold.
        "GOMP_SPINCOUNT": "20000",
    }
    # A configured server has its own secret, or none; ours is not for it. Once Prefect has been imported, it has read its settings: a
    # server that it starts would ask for the secret without knowing it.
    configured = os.environ.get("PREFECT_API_URL")
    if "prefect" not in sys.modules and (not configured or configured == running_server(home)):
        os.environ |= dict.fromkeys((SERVER, CLIENT), prefect_secret(home))
    if quiet:
        quiet_models()
        # The command itself reports what went wrong; a traceback beside it would only frighten.
        defaults |= {"PREFECT_LOGGING_LEVEL": "CRITICAL"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    _spare_loopback_the_proxy()


def _spare_loopback_the_proxy() -> None:
    """Let Prefect's client, which honours proxies, reach a server on this machine directly."""
    spared = os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))
    names = [name.strip() for name in spared.split(",") if name.strip()]
    if "127.0.0.1" not in names and names != ["*"]:
        os.environ["no_proxy"] = ",".join([*names, "127.0.0.1"])


def quiet_models() -> None:
    """Keep the model libraries' warnings and progress bars off the terminal."""
    for name, value in {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}.items():
        os.environ.setdefault(name, value)
    # Where it is installed, every adapter load imports it, and it warns about missing kernels that it can do without.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
