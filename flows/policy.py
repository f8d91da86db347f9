"""The model that is aligned, wherever it runs: in this process, or behind a server. The only place that knows which.

Effects: reads model folders; asks the configured server who it is, and loads adapters there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignment.config import Settings
from alignment.ids import content_id
from alignment.models.embedded import chat_model_path
from alignment.models.identity import model_id
from alignment.sections import EMBEDDED


def base_path(settings: Settings) -> Path:
    """Return the folder of the base model."""
    return chat_model_path(settings.home) if settings.model.path == EMBEDDED else Path(settings.model.path).expanduser()


def load_model(settings: Settings, adapter: str | None) -> Any:
    """Return the base model, with an adapter if there is one, or the whole model stored there; nothing is loaded until it is asked."""
    folder, trained = base_path(settings), Path(adapter) if adapter else None
    how: dict[str, Any] = {"batch_size": settings.model.batch_size, "thinking_tokens": settings.model.thinking_tokens}
    if settings.model.backend == "local":
        from alignment.models.local import LocalModel

        return LocalModel(folder, adapter=trained, **how)
    from alignment.models.remote import key_of
    from alignment.models.served import PURPOSE, SECTION, ServedModel
    from alignment.store import TeacherCalls

    def mask(text: str) -> str:
        from flows.redact import masking

        return str(masking(settings)(text)[0])

    server, key = settings.model_server, key_of(settings.model_server, SECTION)
    return ServedModel(
        folder, server, TeacherCalls(settings.home, payer=PURPOSE), key=key, home=settings.home, adapter=trained, mask=mask, **how
    )


def base_id(settings: Settings) -> str:
    """Return the id of the base model as it answers on this machine or its server: another template, dtype or server is another model."""
    if settings.model.backend == "openai":
        return str(load_model(settings, None).model_id)
    from alignment.models.precision import best_dtype

    return model_id(base_path(settings), dtype=str(best_dtype()), batch_size=settings.model.batch_size)


def writer_id(settings: Settings) -> str:
    """Return the id under which the base model's own texts are stored: its thinking limit changes them."""
    thinking = settings.model.thinking_tokens
    return content_id(base_id(settings), "thinking", thinking) if thinking else base_id(settings)


def verify_server(settings: Settings) -> None:
    """Ask the model's server, if one is configured, who it is, before anything rests on its answers, and unload earlier nights' adapters.

    Only the night may call this, under its lock: other processes load adapters and leave them.

    Raises:
        EndpointError: it cannot be asked, or does not serve the model in `[model] path`.
        ConfigError: its key is not set.
    """
    if settings.model.backend == "openai":
        model = load_model(settings, None)
        model.verify(anew=True)
        model.unload_all()
