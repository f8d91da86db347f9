"""The page for visitors who are not signed in: it has no scripts and explains how to get in."""

from __future__ import annotations

from html import escape
from string import Template
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse

from alignment.text import cap, printable

if TYPE_CHECKING:
    from dashboard.oidc import SignIn

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title · Continuous alignment</title><style>
:root { color-scheme: light dark; --ink: #22303a; --soft: #54616b; --ground: #fbfbf9; --card: #fff; --line: #dfe2dc; --teal: #1f6f78; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e8ea; --soft: #aab5bc; --ground: #12171a; --card: #1a2126; --line: #323c42; --teal: #55b0b9; } }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
main { box-sizing: border-box; width: min(34rem, calc(100vw - 2rem)); padding: 2rem; background: var(--card);
  border: 1px solid var(--line); border-radius: .75rem; }
p.of { margin: 0; color: var(--soft); font-size: .9rem; } h1 { margin: .2rem 0 1rem; font-size: 1.4rem; line-height: 1.3; }
pre { margin: 1rem 0; padding: .75rem 1rem; border: 1px solid var(--line); border-radius: .5rem; overflow-x: auto; }
p.why { color: var(--soft); font-size: .9rem; margin-bottom: 0; }
a.button { display: inline-block; margin: .5rem .5rem .5rem 0; padding: .6rem 1.1rem; border-radius: .5rem; background: var(--teal);
  color: var(--card); text-decoration: none; font-weight: 600; }
</style></head><body><main><p class="of">Continuous alignment</p><h1>$title</h1>$body</main></body></html>
""")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_LINK = "<p>On the machine where the dashboard runs, ask for a link and open it:</p><pre>align dashboard --link</pre>"
_ONCE = '<p class="why">Each link works once, within the hour. Your browser then stays signed in for 12 hours.</p>'


def _answer(status: int, title: str, body: str) -> HTMLResponse:
    text = _PAGE.substitute(title=escape(title), body=body)
    return HTMLResponse(text, status, headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"})


def page(*, oidc: SignIn | None, spent: bool = False, left: bool = False) -> HTMLResponse:
    """Return the sign-in page, status 401. `spent`: the token is not valid; `left`: the visitor signed out."""
    title = "This link does not work any more" if spent else "You are signed out" if left else "Sign in"
    if oidc is None:
        return _answer(401, title, _LINK + _ONCE)
    buttons = "".join(
        f'<a class="button" href="/sign-in?with={escape(name)}">Sign in{"" if name == "default" else f" with {escape(name)}"}</a>'
        for name in oidc.providers
    )
    return _answer(401, "Sign in" if spent else title, f"<p>Use your organisation's account.</p><p>{buttons}</p>")


def stranger(name: str) -> HTMLResponse:
    """Return the page for a visitor whose name is known but on no list, status 403."""
    shown = escape(cap(printable(name), 200))
    body = f"<p>You are <b>{shown}</b>, but this name is on no list. Whoever runs the dashboard can add it to <code>align.toml</code>:</p>"
    return _answer(403, "You have no access", body + f'<pre>[dashboard]\nviewers = ["{shown}"]</pre>')


def refusal(why: str, *, status: int = 403) -> HTMLResponse:
    """Return the page for a request that is refused whoever makes it; status 403 by default."""
    return _answer(status, "Refused", f"<p>{escape(why.capitalize() if why.islower() else why)}.</p>")
