"""What an endpoint is asked, other than for chat completions: how a request is sent and how its answer is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Interface(NamedTuple):
    """How to ask an endpoint. The default is chat completions for `[teacher]`.

    `section` is the table of the settings that errors name. Without `quotes`, reasons repeat none of the server's words: some servers
    send back what they were asked. `path`, `key_header` (instead of the bearer token) and `read` are for other interfaces; `read`
    returns what to store of an answer, as `alignment.models.replies.reply` does, and raises what it raises.
    """

    section: str = "[teacher]"
    quotes: bool = True
    path: str = ""
    key_header: str = ""
    read: Callable[[Any], dict[str, Any]] | None = None


CHAT = Interface()
