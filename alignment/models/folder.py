"""The files of a model's folder: identity of the weights, and whether they are undamaged; loads no model library.

Effects: reads model folders; `record_files` writes one file into them.
"""

from __future__ import annotations

import json
import os
import struct
from functools import cache
from pathlib import Path

from alignment.errors import ModelError
from alignment.ids import content_id, file_sha256, short
from alignment.models.identity import RECORD, base_of, folder_id

ADAPTER, MODEL = "adapter", "model"
"""Subfolders of a training run and of a release with the trained weights: an adapter to the base, or a whole model."""
_LONGEST_HEADER = 100_000_000


def is_whole(folder: Path) -> bool:
    """Return whether `folder` holds a whole model, not an adapter."""
    return (folder / "config.json").is_file()


def trained(folder: Path) -> Path:
    """Return the folder with the trained weights in a training run or release."""
    return folder / MODEL if (folder / MODEL).is_dir() else folder / ADAPTER


def weights_id(folder: Path) -> str:
    """Return the content address of the weights alone; adapters trained by 0.1 name their base by it in their manifests."""
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise ModelError(f"no *.safetensors in the model folder {str(folder)!r}; pickled weights are not loaded")
    return content_id(*[_sha256(shard, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards])


@cache
def _sha256(shard: Path, size: int, changed: int) -> str:
    """Hash a weight file, once per process and file state: every adapter that is loaded asks for its base's hash."""
    return file_sha256(shard)


def check_base(base: Path, folder: Path) -> None:
    """Refuse an adapter or whole model trained on a base other than `base`: the adapter would load, and answer nonsense.

    Raises:
        ModelError: the bases differ, or no manifest names the base.
    """
    trained_on, here = base_of(folder), folder_id(base)
    if trained_on != here and trained_on != weights_id(base):
        raise ModelError(
            f"{str(folder)!r} was trained on base {short(trained_on)!r}, but {str(base)!r} is {short(here)!r}: its weights, configuration, "
            "tokenizer or template differ; set [model] path to its base, or run 'align release rollback --reason TEXT' until the base "
            "model is in production"
        )


def record_files(folder: Path) -> None:
    """Write the checksums of all files in `folder` into it, to detect damage later."""
    sums = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != RECORD}
    scratch = folder / f".{RECORD}.part"
    scratch.write_text(json.dumps(sums, indent=1), encoding="utf-8")
    os.replace(scratch, folder / RECORD)


def model_problems(folder: Path) -> list[str]:
    """Return the problems of a model's files: from their checksums if recorded, else from the sizes that safetensors headers state."""
    if not folder.is_dir():
        return [f"there is no folder {str(folder)!r}"]
    problems = [problem for path in sorted(folder.glob("*.safetensors")) if (problem := _weights_problem(path))]
    if not any(folder.glob("*.safetensors")):
        problems.append("there is no .safetensors file")
    problems += [f"{name} is missing" for name in ("config.json", *_shards(folder)) if not (folder / name).is_file()]
    try:
        sums: dict[str, str] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return problems
    except ValueError:
        return [*problems, f"{RECORD} is damaged"]
    for name, digest in sums.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif file_sha256(path) != digest:
            problems.append(f"{name} was changed")
    return list(dict.fromkeys(problems))


def _shards(folder: Path) -> list[str]:
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return sorted(set(index["weight_map"].values()))
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, AttributeError, TypeError):
        return ["model.safetensors.index.json (it is there, but damaged)"]


def _weights_problem(path: Path) -> str | None:
    """Return a problem if a file does not end where its header says. Source: safetensors format (8-byte length, JSON header, data)."""
    size = path.stat().st_size
    try:
        with path.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if length > min(size, _LONGEST_HEADER):
                return f"{path.name} is cut or damaged (its header is longer than the file)"
            header = json.loads(handle.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return f"{path.name} is damaged (its header cannot be read)"
    expected = 8 + length + end
    return None if size == expected else f"{path.name} has {size} bytes instead of {expected}"
