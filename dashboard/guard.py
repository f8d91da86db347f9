"""Guards every path of the dashboard, HTTP and websocket: who asks, from where, and under which name.

The checks, in order, each answered at once: a Host that is not ours (a page that rebound its name to this machine) gets 403; a request
made by another page (foreign Origin, fetch metadata, a frame) gets 403; a request without a session gets 401 with the sign-in page. Only
then does Streamlit see the request. Anything not understood is refused.

Effects: begins and ends sessions, uses up one-time tokens, appends sign-ins to the audit log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alignment.acting import How, Identity, acting
from alignment.config import Settings, load_settings
from alignment.errors import AlignError
from alignment.store import audit
from alignment.store.sign_in import redeem_token
from dashboard import sessions, sign_in_page
from dashboard.identity import role_of
from dashboard.oidc import SignIn

_LOG = logging.getLogger(__name__)
_SAFE = ("GET", "HEAD")
_FAILURES_PER_MINUTE = 10
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """ASGI middleware. `hosts` are the names that browsers may use; `oidc` is None if visitors sign in with a one-time token."""

    def __init__(self, app: ASGIApp, *, home: Path, hosts: frozenset[str], port: Callable[[], int], oidc: SignIn | None) -> None:
        self.app, self.home, self.hosts, self.port, self.oidc = app, home, hosts, port, oidc
        self._failures: list[float] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] not in ("http", "websocket"):
            return
        answer = await self._answer(scope)
        if answer is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "http":
            await answer(scope, receive, _with_headers(send))
        elif "websocket.http.response" in scope.get("extensions", {}):
            await _deny_websocket(answer, scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope) -> Response | None:
        """Return the response that replaces the dashboard; None lets the request through."""
        headers = Headers(scope=scope)
        if (why := refused(scope, headers, self.hosts)) is not None:
            return sign_in_page.refusal(why)
        cookie = _cookies(headers).get(sessions.cookie_name(self.port()))
        held = sessions.find(cookie)
        if scope["type"] == "http":
            try:
                special = await self._special(scope, headers, cookie, held)
            except AlignError as error:
                return sign_in_page.refusal(f"who may sign in cannot be told: {error}", status=503)
            if special is not None:
                return special
            if self.oidc is not None and self.oidc.owns(scope["path"]):
                return None
        if held is not None:
            return None
        return sign_in_page.page(oidc=self.oidc)

    async def _special(self, scope: Scope, headers: Headers, cookie: str | None, held: sessions.Session | None) -> Response | None:
        path, query = scope["path"], parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if path == "/sign-out" and scope["method"] in _SAFE:
            return await self._sign_out(cookie)
        tokens = [value for name, value in query if name == "token"]
        if tokens:
            return await self._by_token(scope, query, tokens, held)
        # Nobody can be signed in on the provider's own paths: sign-out leads over one of them.
        if self.oidc is None or held is not None or self.oidc.owns(path):
            return None
        if path == "/sign-in" and scope["method"] == "GET":
            return RedirectResponse(self.oidc.address(dict(query).get("with", "default")), 303)
        name = self.oidc.name_of(_cookies(headers))
        if name is None:
            return None
        return await self._enter(scope, load_settings(), name, "oidc", _address(path, query))

    async def _by_token(
        self, scope: Scope, query: list[tuple[str, str]], tokens: list[str], held: sessions.Session | None
    ) -> Response | None:
        """Exchange a token for a session. The token is always removed from the address."""
        clean = _address(scope["path"], [(name, value) for name, value in query if name != "token"])
        if held is not None:
            return RedirectResponse(clean, 303)
        # A HEAD request, or a browser that prefetches, must not use up the token.
        if scope["method"] != "GET" or "prefetch" in Headers(scope=scope).get("sec-purpose", ""):
            return sign_in_page.page(oidc=self.oidc)
        # Load the settings first, so that wrong settings do not use up the link.
        settings, name = load_settings(), None
        if self.oidc is None and len(tokens) == 1:
            name = await run_in_threadpool(redeem_token, self.home, tokens[0], now=_now())
        if name is None:
            await self._failed("a token that was used, is too old, or was never given out")
            return sign_in_page.page(oidc=self.oidc, spent=True)
        return await self._enter(scope, settings, name, "token", clean)

    async def _enter(self, scope: Scope, settings: Settings, name: str, how: How, clean: str) -> Response:
        role = role_of(settings, name, by_token=how == "token")
        if role is None:
            await self._failed("on no list of [dashboard]", name=name, how=how)
            return sign_in_page.stranger(name)
        try:
            await run_in_threadpool(self._record, "sign_in", Identity(name, how, role))
        except AlignError as error:
            return sign_in_page.refusal(f"the sign-in could not be recorded: {error}", status=503)
        answer = RedirectResponse(clean, 303, headers={"Cache-Control": "no-store"})
        secure = scope.get("scheme") in ("https", "wss")
        # Lax, not Strict: the link may be opened from a mail. Requests of other pages are refused before the cookie counts.
        answer.set_cookie(
            sessions.cookie_name(self.port()), sessions.begin(name, how), max_age=sessions.LIFE_SECONDS, httponly=True, secure=secure
        )
        return answer

    async def _sign_out(self, cookie: str | None) -> Response:
        held = sessions.end(cookie)
        if held is not None:
            try:
                await run_in_threadpool(self._record, "sign_out", Identity(held.name, held.how, "viewer"))
            except AlignError as error:
                _LOG.warning("a sign-out could not be recorded: %s", error)
        answer: Response = RedirectResponse("/auth/logout", 303) if self.oidc else sign_in_page.page(oidc=None, left=True)
        answer.delete_cookie(sessions.cookie_name(self.port()))
        return answer

    async def _failed(self, why: str, *, name: str = "unknown", how: How = "token") -> None:
        """Record a failed sign-in; only a few per minute, so that nobody can fill the log."""
        now = time.monotonic()
        self._failures = [moment for moment in self._failures if now - moment < 60]
        if len(self._failures) >= _FAILURES_PER_MINUTE:
            return
        self._failures.append(now)
        try:
            await run_in_threadpool(self._record, "sign_in_refused", Identity(name, how, "viewer"), why)
        except AlignError as error:
            _LOG.warning("a refused sign-in could not be recorded: %s", error)

    def _record(self, action: str, who: Identity, why: str = "") -> None:
        with acting(who):
            audit.append(self.home, action, "dashboard", actor=who.name, reason=why)


def refused(scope: Scope, headers: Headers, hosts: frozenset[str]) -> str | None:
    """Return why a request is refused whoever makes it: its host is not ours, or another page made it."""
    named = headers.getlist("host")
    host = _host(named[0]) if len(named) == 1 else None
    if host is None or host not in hosts:
        return "the dashboard does not answer under this name; names are added with [dashboard] hosts in align.toml"
    origins = headers.getlist("origin")
    if len(origins) > 1 or (origins and not _same(origins[0], named[0])):
        return "another page made this request"
    if not origins and (scope["type"] == "websocket" or scope["method"] not in _SAFE):
        return "a request like this one says which page makes it (Origin)"
    # A link on another page may be followed; the other page's images, frames and scripts get nothing.
    site, followed = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "navigate") == "navigate"
    framed = headers.get("sec-fetch-dest", "document") in ("iframe", "frame", "embed", "object", "fencedframe")
    if framed or (site not in ("none", "same-origin") and not (followed and scope.get("method") in _SAFE)):
        return "another page made this request, or frames it"
    return None


def _host(text: str) -> str | None:
    """Return the name in a Host header, without its port."""
    try:
        parts = urlsplit(f"//{text}")
        if parts.netloc != text or parts.username or parts.path or not parts.hostname:
            return None
        _ = parts.port
    except ValueError:
        return None
    return f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname.rstrip(".")


def _same(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
        default = {"http": 80, "https": 443}[parts.scheme]
        ours = urlsplit(f"//{host}")
        theirs = (parts.hostname, parts.port or default)
        return bool(parts.hostname) and not parts.path and not parts.username and theirs == (ours.hostname, ours.port or default)
    except (ValueError, KeyError):
        return False


def _cookies(headers: Headers) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie("; ".join(headers.getlist("cookie"))).items()}
    except CookieError:
        return {}


def _address(path: str, query: list[tuple[str, str]]) -> str:
    # Only one slash: `//evil.example` would be an address elsewhere.
    return quote("/" + path.lstrip("/\\")) + (f"?{urlencode(query)}" if query else "")


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                # Our pages may set stricter headers, never laxer ones.
                if name != "Content-Security-Policy" or "frame-ancestors 'none'" not in headers.get(name, ""):
                    headers[name] = value
        await send(message)

    return sending


async def _deny_websocket(answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
    async def denying(message: Message) -> None:
        await send({**message, "type": message["type"].replace("http.response", "websocket.http.response")})

    await answer({**scope, "type": "http", "method": "GET"}, receive, _with_headers(denying))
