"""Notify the configured receivers when what is served changes: vLLM, a folder of merged weights, a webhook.

The registry's own log of changes is the queue: a hook that failed, or that a kill left uncalled, stays due until it succeeds. Notifying
twice does no harm.

Effects: HTTP requests to the configured addresses; writes merged weights and the table `hook_runs`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.config import Settings
from alignment.errors import AlignError, ReleaseError
from alignment.ids import content_id
from alignment.models.folder import is_whole
from alignment.models.server_requests import ServerRequests
from alignment.release import BASE, changes, list_releases, settle
from alignment.release.disk import root
from alignment.release.hooks import Told, configured, post_webhook, sync_vllm
from alignment.store import append, migrate, query, session
from alignment.text import cap, printable
from flows.night import now
from flows.policy import base_path
from flows.show import say

SECRET, VLLM_KEY = "ALIGN_WEBHOOK_SECRET", "ALIGN_VLLM_KEY"
_NOTHING: Mapping[str, Any] = {"id": "none", "event": "none", "release_id": BASE}


def deliver(settings: Settings, *, pause: float = 0.5) -> list[dict[str, Any]]:
    """Notify each configured hook of changes it does not know yet; return one row per hook and change. Never raises for a hook.

    `pause` is the seconds before the second try; the third waits twice as long.
    """
    settle_quietly(settings)
    if not (names := configured(settings)):
        return []
    migrate(settings.home)
    known = query(settings.home, "SELECT hook, change_id, bool_or(ok) AS ok FROM hook_runs GROUP BY ALL ORDER BY min(seq)")
    happened = changes(settings.home)
    last = happened[-1] if happened else _NOTHING
    runs = []
    for name in names:
        if name == "webhook":
            runs += _webhooks(settings, due(happened, [row for row in known if row["hook"] == name]), pause)
            continue
        hook = _vllm if name == "vllm" else _merged
        run = _tried(name, last, lambda: hook(settings, pause))  # noqa: B023 - called at once
        told = any(row["hook"] == name and row["change_id"] == last["id"] and row["ok"] for row in known)
        if run.pop("changed") or not run["ok"] or not told:
            runs.append(run)
    with session(settings.home, write=True) as connection:
        append(connection, "hook_runs", runs)
    for run in runs:
        if not run["ok"]:
            say(f"hook {run['hook']} failed ({run['event']} {run['release_id']}), the release stays as it is: {run['detail']}")
    return runs


def settle_quietly(settings: Settings) -> None:
    """Repair `serving.json` if a kill left it outdated; doctor reports damaged releases."""
    if not root(settings.home).exists():
        return
    try:
        settle(settings.home)
    except AlignError as error:
        say(str(error))


def due(happened: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the changes due for a webhook: none from before its first try, and at first only the last one.

    >>> due([{"id": "a"}, {"id": "b"}], []), due([{"id": "a"}, {"id": "b"}], [{"change_id": "a", "ok": False}])
    ([{'id': 'b'}], [{'id': 'a'}, {'id': 'b'}])
    """
    tried = {row["change_id"]: row["ok"] for row in known}
    first = next((place for place, change in enumerate(happened) if change["id"] in tried), len(happened) - 1)
    return [change for change in happened[max(first, 0) :] if not tried.get(change["id"])]


def _webhooks(settings: Settings, waiting: Sequence[Mapping[str, Any]], pause: float) -> list[dict[str, Any]]:
    from alignment.http import secrets_in

    secret, url = os.environ.get(SECRET, ""), settings.release.webhook_url
    # A webhook's URL is often a secret itself.
    line = ServerRequests(timeout=settings.release.hook_timeout, pause=pause, secrets=[secret, url, *secrets_in(url)])
    runs: list[dict[str, Any]] = []
    for change in waiting:
        run = _tried("webhook", change, lambda: post_webhook(url, change, secret=secret, line=line))  # noqa: B023 - called at once
        run.pop("changed")
        runs.append(run)
        if not run["ok"]:
            break  # the receiver must learn of changes in order
    return runs


def _tried(hook: str, change: Mapping[str, Any], call: Callable[[], Told]) -> dict[str, Any]:
    moment, started = now(), time.perf_counter()
    try:
        told = call()
    except Exception as error:
        # Whatever fails in a hook, production has changed and stays so.
        what = str(error) if isinstance(error, AlignError) else f"{type(error).__name__}: {error}"
        told = Told(False, 0, what)
    return {
        "id": content_id("hook", hook, change["id"], moment),
        "change_id": change["id"],
        "event": change["event"],
        "release_id": change["release_id"],
        "hook": hook,
        "ok": told.ok,
        "tries": told.tries,
        "detail": cap(printable(told.detail), 500),
        "seconds": time.perf_counter() - started,
        "recorded_at": moment,
        "changed": told.changed,
    }


def _served(settings: Settings) -> dict[str, Path]:
    """Return the verified adapters, or whole models, in use, by release."""
    from flows.evaluate import adapter_of

    says = settle(settings.home)
    wanted = [release_id for release_id in (says["champion"], says["canary"]) if release_id not in (None, BASE)]
    return {release_id: Path(adapter_of(settings, release_id) or "") for release_id in wanted}


def _vllm(settings: Settings, pause: float) -> Told:
    from alignment.http import secrets_in

    chosen = settings.release
    key = os.environ.get(VLLM_KEY)
    line = ServerRequests(
        timeout=chosen.hook_timeout,
        pause=pause,
        headers={"Authorization": f"Bearer {key}"} if key else None,
        secrets=[key or "", *secrets_in(chosen.vllm_url)],
    )
    there = Path(chosen.vllm_folder) if chosen.vllm_folder else root(settings.home)
    served = _served(settings)
    if whole := [name for name, path in served.items() if is_whole(path)]:
        raise ReleaseError(
            f"release {whole[0]} is a whole model ([train] method = 'full'), which a running vLLM cannot load as an adapter; set [release] "
            "merged_weights, start vLLM on `current` in that folder, and leave vllm_url empty"
        )
    return sync_vllm(chosen.vllm_url, {name: str(there / name / "adapter") for name in served}, line=line)


def _merged(settings: Settings, _: float) -> Told:
    """Export the release in production and point `current` in the folder to it; for the base model, point to its own folder."""
    folder = Path(settings.release.merged_weights).expanduser().absolute()
    if folder.is_relative_to(settings.home):
        raise AlignError(
            f"[release] merged_weights = {str(folder)!r} lies in the state folder; name a folder outside {str(settings.home)!r}"
        )
    served = _served(settings)
    here = settle(settings.home)["champion"]
    target = base_path(settings).absolute() if here == BASE else folder / here
    wrote = not target.exists()
    if wrote:
        from alignment.models.merge import export_merged

        export_merged(base_path(settings), served[here], target)
    link = folder / "current"
    before = link.readlink() if link.is_symlink() else target
    moved = _link(link, target)
    if moved:
        _forget(settings.home, folder, keep=(target, before))
    return Told(True, 1, f"current is {target}", wrote or moved)


def _forget(home: Path, folder: Path, *, keep: Sequence[Path]) -> None:
    """Remove this registry's exports (a whole model each) except `keep`; an export is made again when its release comes back."""
    exports = {folder / row["release_id"] for row in list_releases(home)}
    for path in exports - set(keep):
        if path.is_dir():
            shutil.rmtree(path)


def _link(link: Path, target: Path) -> bool:
    """Point `link` to `target` by one rename; return whether it changed."""
    if link.is_symlink() and link.readlink() == target:
        return False
    link.parent.mkdir(parents=True, exist_ok=True)
    scratch = link.with_name(f".{link.name}.part")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    os.replace(scratch, link)
    return True
