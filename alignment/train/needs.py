"""What [train] needs besides pairs, checked before any compute; imports no model library."""

from __future__ import annotations

from importlib.util import find_spec

from alignment.errors import InputError
from alignment.sections import Train


def check_needs(settings: Train, context: int | None) -> None:
    """Refuse settings that this installation, or a model with a context of `context` tokens (None: unknown), cannot train with.

    Raises:
        InputError: [train] max_tokens exceeds the model's context, or a package is missing.
    """
    if context and settings.max_tokens > context:
        raise InputError(f"[train] max_tokens = {settings.max_tokens} is more than the model's context of {context}; lower it")
    if settings.method == "qlora" and find_spec("bitsandbytes") is None:
        raise InputError(
            "[train] method = 'qlora' needs bitsandbytes, which is not installed; run: pip install -c constraints.txt -e '.[qlora]', "
            "or set method = 'lora'"
        )
    for name in settings.report_to:
        if find_spec(name) is None:
            raise InputError(f"[train] report_to names {name!r}, which is not installed; run: pip install {name}")
