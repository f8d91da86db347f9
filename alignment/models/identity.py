"""The identity of a model: one content address of everything that changes its answers.

It covers weights, configuration, generation settings, tokenizer, chat template and adapter configuration, the dtype of the
computation and, below float32, the batch size, because another batch size rounds otherwise and can flip a token. If a server answers, the
server's own identity (`SERVED`) stands in place of dtype and batch size, which are its own affair. It ignores what merely
describes a folder (a read-me, a licence, who saved it, where its base lay) and weights in formats that are never loaded. Any other file
in the folder counts: a needless new night is cheaper than an answer that belongs to another model.

Stored answers, reference log-probabilities, nights and releases carry these ids, so that a changed template finds none of the old ones.
Which prompts share a batch is fixed by the suite and not part of the id (see `alignment.evals.answer.batches`).

Effects: reads model folders. A large file is hashed once per process while its size and time stay the same.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from alignment.errors import ModelError
from alignment.ids import content_id, file_sha256

RECORD, MANIFEST = "files.json", "manifest.json"
FULL_PRECISION = "torch.float32"
SERVED = "served "
"""Begins the `dtype` of a model that a server answers for: the rest is the server's identity."""
_INERT = frozenset({RECORD, MANIFEST, "readme", "license", "licence", "notice", "use_policy"})
_NEVER_LOADED = frozenset({".md", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".log"})
_TEMPLATES = "additional_chat_templates"
_SETTINGS = frozenset({"config.json", "generation_config.json", "adapter_config.json", "tokenizer_config.json"})
_DESCRIBES = frozenset(
    {
        "_name_or_path", "name_or_path", "base_model_name_or_path", "transformers_version", "peft_version", "inference_mode",
        "auto_mapping", "revision",
    }
)  # fmt: skip
_UNORDERED = ("target_modules", "modules_to_save")

Digest = Callable[[Path], str]


def folder_id(folder: Path, adapter: Path | None = None) -> str:
    """Return the content address of the files of the model in `folder`, and of the adapter's if given.

    Raises:
        ModelError: either has no safetensors, or a part of it is not a plain file.
    """
    base = content_id("files", _parts(folder, _known_sha256))
    return base if adapter is None else _adapted(base, adapter, _known_sha256)


def model_id(folder: Path, adapter: Path | None = None, *, dtype: str, batch_size: int) -> str:
    """Return the id of the model that answers: its files, its dtype (as `str(torch.dtype)`, or `SERVED`), its batch size where that counts.

    Raises:
        ModelError: see `folder_id`.
    """
    return _answering(folder_id(folder, adapter), dtype, batch_size)


def trained_id(folder: Path, *, dtype: str, batch_size: int, digest: Digest = file_sha256) -> str:
    """Return the `model_id` of a trained folder: a whole model, or an adapter whose manifest names its base.

    `digest` returns the SHA-256 of a file; pass one that knows it already to avoid hashing.

    Raises:
        ModelError: see `folder_id`; or the adapter does not say which base it belongs to.
    """
    if (folder / "config.json").is_file():
        return _answering(content_id("files", _parts(folder, digest)), dtype, batch_size)
    return _answering(_adapted(base_of(folder), folder, digest), dtype, batch_size)


def base_of(folder: Path) -> str:
    """Return the `folder_id` of the base that the model in `folder` was trained from, as its manifest says.

    Raises:
        ModelError: the manifest does not say.
    """
    try:
        return str(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["base_id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{str(folder)!r} does not say which base it belongs to: its {MANIFEST}, which 'align train' writes beside it, "
            f"cannot be read ({error})"
        ) from None


def _answering(files: str, dtype: str, batch_size: int) -> str:
    return content_id("model", files, dtype, None if dtype == FULL_PRECISION or dtype.startswith(SERVED) else batch_size)


def _adapted(base: str, adapter: Path, digest: Digest) -> str:
    return content_id(base, "adapter", _parts(adapter, digest))


def _parts(folder: Path, digest: Digest) -> list[tuple[str, str]]:
    """Return the name and digest of each file in a folder that changes answers."""
    found = [(str(path.relative_to(folder)), _digest(path, digest)) for path in sorted(_counted(folder))]
    if not any(name.endswith(".safetensors") for name, _ in found):
        raise ModelError(f"no *.safetensors in the model folder {str(folder)!r}; pickled weights are not loaded")
    return found


def _counted(folder: Path) -> Iterator[Path]:
    for path in [*folder.glob("*"), *folder.glob(f"{_TEMPLATES}/*")]:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind) or path.name.startswith("."):
            continue
        if not stat.S_ISREG(kind):
            raise ModelError(f"{str(path)!r} in a model's folder is not a plain file; remove it")
        if path.name.lower() not in _INERT and path.stem.lower() not in _INERT and path.suffix.lower() not in _NEVER_LOADED:
            yield path


def _digest(path: Path, digest: Digest) -> str:
    """Return a file's digest: of its bytes, or of a settings file's meaning, independent of who saved it and of the order of keys."""
    if path.name in _SETTINGS:
        try:
            settings: Any = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            settings = None
        if isinstance(settings, dict):
            return content_id({name: _ordered(name, value) for name, value in settings.items() if name not in _DESCRIBES})
    return digest(path)


def _ordered(name: str, value: Any) -> Any:
    return sorted(value, key=str) if name in _UNORDERED and isinstance(value, list) else value


def _known_sha256(path: Path) -> str:
    found = path.stat()
    return _sha256(path, found.st_size, found.st_mtime_ns, found.st_ino)


@cache
def _sha256(path: Path, size: int, changed: int, inode: int) -> str:
    """Hash a file, once per process and file state: every adapter that is loaded asks for its base's hash."""
    return file_sha256(path)
