"""Sign-in with an identity provider: Streamlit's OpenID Connect routes and cookie, behind the guard.

Streamlit (through Authlib) talks to the provider and sets a signed cookie with the claims of the ID token. The guard trusts it only
for as long as a session lasts, and only for a verified e-mail address.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from streamlit import auth_util
from streamlit.errors import StreamlitAuthError
from streamlit.runtime.secrets import secrets_singleton
from streamlit.web.server.server_util import get_cookie_secret
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME

from alignment.errors import ConfigError
from dashboard.sessions import LIFE_SECONDS

_PATHS = frozenset(("/auth/login", "/auth/logout", "/oauth2callback"))
_NOT_PROVIDERS = frozenset(
    ("redirect_uri", "cookie_secret", "client_id", "client_secret", "server_metadata_url", "client_kwargs", "expose_tokens")
)
_MIN_SECRET = 32


class SignIn:
    """The configured providers; `default` is the one that [auth] itself describes."""

    def __init__(self, providers: tuple[str, ...]) -> None:
        self.providers = providers

    def owns(self, path: str) -> bool:
        """Return whether a path belongs to the sign-in flow and needs no session."""
        return path in _PATHS

    def address(self, provider: str) -> str:
        """Return the sign-in address; it is valid for some minutes."""
        chosen = provider if provider in self.providers else self.providers[0]
        return f"/auth/login?provider={auth_util.encode_provider_token(chosen)}"

    def name_of(self, cookies: Mapping[str, str]) -> str | None:
        """Return the verified address in Streamlit's signed cookie; None if there is none, or the sign-in is too old."""

        def single(name: str) -> bytes | None:
            value = cookies.get(name)
            return decode_signed_value(get_cookie_secret(), name, value.encode("latin-1", "replace")) if value else None

        try:
            claims: dict[str, Any] = json.loads(auth_util.get_cookie_with_chunks(single, USER_COOKIE_NAME) or b"{}")
            fresh = 0 <= time.time() + 60 - float(claims["iat"]) < LIFE_SECONDS
            ours = claims["origin"] == auth_util.get_origin_from_redirect_uri()
            verified = claims.get("email_verified") in (True, "true")
            return str(claims["email"]) if fresh and ours and verified and claims.get("is_logged_in") is True else None
        except (ValueError, KeyError, TypeError):
            return None


def configured() -> SignIn | None:
    """Return the sign-in that `[auth]` in a secrets file describes, None if there is no such section.

    Raises:
        ConfigError: the section is incomplete, or Authlib is missing: there is no fallback to another way in.
    """
    if not secrets_singleton.load_if_toml_exists() or "auth" not in secrets_singleton:
        return None
    section = auth_util.get_secrets_auth_section()
    named = tuple(name for name in section if name not in _NOT_PROVIDERS)
    providers = (("default",) if "client_id" in section else ()) + named
    try:
        for provider in providers or ("default",):
            auth_util.validate_auth_credentials(provider)
        redirect = auth_util.get_validated_redirect_uri()
    except StreamlitAuthError as error:
        raise ConfigError(f"[auth] in secrets.toml is incomplete: {' '.join(str(error).split())}") from error
    if redirect is None:
        raise ConfigError(
            "[auth] redirect_uri in secrets.toml has to end with /oauth2callback, such as https://align.example.com/oauth2callback"
        )
    if len(str(section["cookie_secret"])) < _MIN_SECRET:
        raise ConfigError(
            f"[auth] cookie_secret in secrets.toml is shorter than {_MIN_SECRET} characters; make one with "
            "'python -c \"import secrets; print(secrets.token_urlsafe(32))\"'"
        )
    if not auth_util.is_authlib_installed():
        raise ConfigError("[auth] in secrets.toml needs Authlib; run 'pip install -c constraints.txt -e .[oidc]'")
    return SignIn(providers)
