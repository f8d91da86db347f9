"""Notify others of what is served: a vLLM server that loads adapters, and a webhook.

The registry never waits for them and does not depend on them. Both can be repeated: vLLM is brought to a target state, and a webhook
names its change.

Effects: HTTP requests to the configured addresses, no others (see `alignment.http`); proxies and redirects are not followed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from alignment.errors import ReleaseError
from alignment.models.server_requests import ServerRequests, words_of_reply

if TYPE_CHECKING:
    from alignment.config import Settings

_RELEASE = re.compile(r"^[0-9a-f]{16}$")


def configured(settings: Settings) -> list[str]:
    """Return the names of the enabled hooks."""
    wanted = {"vllm": settings.release.vllm_url, "merged": settings.release.merged_weights, "webhook": settings.release.webhook_url}
    return [name for name, value in wanted.items() if value]


class Told(NamedTuple):
    """The outcome of one hook. `changed` says whether the other side had anything to do; `detail` is safe to print in a terminal."""

    ok: bool
    tries: int
    detail: str
    changed: bool = True


def signature(secret: str, body: bytes) -> str:
    """Return the X-Align-Signature header of a webhook: the HMAC-SHA256 of the body.

    >>> signature("key", b"{}")[:14]
    'sha256=a777724'
    """
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def post_webhook(url: str, change: Mapping[str, Any], *, secret: str, line: ServerRequests) -> Told:
    """Send one change of what is served; X-Align-Delivery stays the same on a repeated delivery.

    Raises:
        EndpointError: see `ServerRequests.ask`.
        ReleaseError: the receiver refused it.
    """
    body = json.dumps(change, sort_keys=True).encode()
    headers = {"Content-Type": "application/json", "X-Align-Delivery": str(change["id"])}
    if secret:
        headers["X-Align-Signature"] = signature(secret, body)
    answer = line.ask("POST", url, content=body, headers=headers)
    if not answer.ok:
        from alignment.http import address

        raise ReleaseError(f"the webhook {address(url)!r} refused: {words_of_reply(answer)}; correct it and run 'align release push'")
    return Told(True, line.tries, f"status {answer.status}")


def sync_vllm(url: str, wanted: Mapping[str, str], *, line: ServerRequests) -> Told:
    """Make vLLM hold exactly the adapters `wanted` (release id to folder as vLLM sees it), loading new ones first.

    Raises:
        EndpointError: see `ServerRequests.ask`.
        ReleaseError: vLLM refused.
    """
    from alignment.http import address, loads

    answer = line.ask("GET", f"{url}/v1/models")
    try:
        loaded = {str(row["id"]) for row in loads(answer.body)["data"] if _RELEASE.match(str(row["id"]))}
    except (ValueError, KeyError, TypeError):
        raise ReleaseError(f"{address(url)!r} lists no models: {words_of_reply(answer)}; correct [release] vllm_url") from None
    done: list[str] = []
    tries = line.tries
    for name in sorted(wanted.keys() - loaded):
        _order(line, f"{url}/v1/load_lora_adapter", {"lora_name": name, "lora_path": wanted[name]}, fine="already been loaded")
        tries, done = max(tries, line.tries), [*done, f"loaded {name}"]
    for name in sorted(loaded - wanted.keys()):
        _order(line, f"{url}/v1/unload_lora_adapter", {"lora_name": name}, fine="cannot be found")
        tries, done = max(tries, line.tries), [*done, f"unloaded {name}"]
    return Told(True, tries, ", ".join(done) or "nothing to load or unload", bool(done))


def _order(line: ServerRequests, url: str, what: Mapping[str, str], *, fine: str) -> None:
    answer = line.ask("POST", url, content=json.dumps(what).encode(), headers={"Content-Type": "application/json"})
    # A try whose response was lost may have been carried out.
    if not answer.ok and fine not in answer.text:
        from alignment.http import address

        raise ReleaseError(
            f"{address(url)!r} refused {what['lora_name']}: {words_of_reply(answer)}; vLLM needs --enable-lora and "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and [release] vllm_folder has to be the releases' folder as it sees it"
        )
