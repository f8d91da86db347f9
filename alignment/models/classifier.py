"""Text classifiers on this machine: a transformers folder with safetensors, or a checkpoint of the detoxify package.

Nothing is unpickled but tensors and plain values, no code comes with a model, and nothing is downloaded.

Effects: loads weights.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from alignment.errors import ModelError
from alignment.ids import content_id, file_sha256
from alignment.models.folder import model_problems
from alignment.models.identity import folder_id

_LONGEST, _BATCH = 512, 16
_ROBERTA = frozenset({"roberta", "xlm-roberta", "camembert", "xlm-roberta-xl"})
_STANDARD = {"toxic": "toxicity", "severe_toxic": "severe_toxicity", "identity_hate": "identity_attack"}
"""Labels of detoxify's first model, under the names that the package gives them since."""


class _Parts(NamedTuple):
    model: Any
    tokenizer: Any
    labels: tuple[str, ...]
    exclusive: bool


class Classifier:
    """A sequence classifier, loaded when it is first used. `path` is a folder, or a checkpoint file and `tokenizer` its base's folder.

    Labels exclude one another if the model was trained so (softmax); detoxify's do not (sigmoid).
    """

    def __init__(self, path: Path, tokenizer: Path | None = None) -> None:
        self.path, self._tokenizer = path.expanduser(), tokenizer.expanduser() if tokenizer else None

    @cached_property
    def version(self) -> str:
        """Content address of the files that determine the scores.

        Raises:
            ModelError: the files are missing or damaged.
        """
        self.check()
        if self._tokenizer is None:
            return folder_id(self.path)
        files = sorted(one for one in self._tokenizer.iterdir() if one.suffix in (".json", ".txt", ".model"))
        return content_id("detoxify", file_sha256(self.path), [(one.name, file_sha256(one)) for one in files])

    def check(self) -> None:
        """Look for the files.

        Raises:
            ModelError: they are missing or damaged.
        """
        if self._tokenizer is None:
            problems = model_problems(self.path)
        else:
            problems = [] if self.path.is_file() else [f"there is no file {str(self.path)!r}"]
            problems += [] if (self._tokenizer / "config.json").is_file() else [f"there is no config.json in {str(self._tokenizer)!r}"]
        if problems:
            raise ModelError(f"the classifier {str(self.path)!r} is not whole: {'; '.join(problems)}; copy it again, or correct its path")

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the scores."""
        return self._parts.labels

    @property
    def exclusive(self) -> bool:
        """Whether a text has exactly one of the labels."""
        return self._parts.exclusive

    @cached_property
    def _parts(self) -> _Parts:
        self.check()
        try:
            parts = _from_folder(self.path) if self._tokenizer is None else _from_checkpoint(self.path, self._tokenizer)
            if not parts.tokenizer.is_fast:
                raise ValueError("its tokenizer is a slow one, which reads no long text in parts; add its tokenizer.json")
            return parts
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            # Messages of loaders may be pages long.
            why = str(error).split("\n")[0][:200]
            raise ModelError(f"the classifier {str(self.path)!r} cannot be loaded: {type(error).__name__}: {why}") from error

    def scores(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        """Return the score of each label per text, in 0..1; a long text has the largest over its parts."""
        import torch

        model, tokenizer, labels, exclusive = self._parts
        if not texts:
            return []
        encoded = tokenizer(list(texts), truncation=True, max_length=_window(model, tokenizer), return_overflowing_tokens=True)
        owners, best = encoded.pop("overflow_to_sample_mapping"), torch.zeros(len(texts), len(labels))
        rows = sorted(range(len(owners)), key=lambda row: len(encoded["input_ids"][row]))
        for start in range(0, len(rows), _BATCH):
            chunk = rows[start : start + _BATCH]
            batch = tokenizer.pad({name: [values[row] for row in chunk] for name, values in encoded.items()}, return_tensors="pt")
            with torch.inference_mode():
                logits = model(**batch).logits.float()[:, : len(labels)]
            found = logits.softmax(dim=1) if exclusive else logits.sigmoid()
            if not bool(torch.isfinite(found).all()):
                raise ModelError(f"the classifier {str(self.path)!r} gives scores that are no numbers; its weights are damaged")
            for row, values in zip(chunk, found, strict=True):
                best[owners[row]] = torch.maximum(best[owners[row]], values)
        return [tuple(row) for row in best.tolist()]


def _window(model: Any, tokenizer: Any) -> int:
    positions = getattr(model.config, "max_position_embeddings", None) or _LONGEST
    if model.config.model_type in _ROBERTA:
        # Their positions are counted from behind the padding token's.
        positions -= (model.config.pad_token_id or 0) + 1
    return int(min(_LONGEST, tokenizer.model_max_length, positions))


def _from_folder(folder: Path) -> _Parts:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype="float32"
    ).eval()
    labels = tuple(str(model.config.id2label[index]) for index in range(model.config.num_labels))
    exclusive = model.config.problem_type != "multi_label_classification" and len(labels) > 1
    return _Parts(model, tokenizer, labels, exclusive)


def _from_checkpoint(file: Path, tokenizer_folder: Path) -> _Parts:
    """Load a checkpoint as the detoxify package writes it: `state_dict`, and `config` with the architecture and the classes."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoTokenizer

    loaded = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict) or not {"config", "state_dict"} <= loaded.keys():
        raise ValueError("it has no 'config' and 'state_dict', so it is no checkpoint of detoxify")
    arch = loaded["config"]["arch"]["args"]
    classes = loaded["config"]["dataset"]["args"].get("classes") or arch["classes"]
    name = str(arch["model_name"])
    kind = getattr(transformers, name, None) if name.endswith("ForSequenceClassification") else None
    if kind is None:
        raise ValueError(f"its model_name {name[:60]!r} is no sequence classifier of transformers")
    config = AutoConfig.from_pretrained(tokenizer_folder, local_files_only=True, trust_remote_code=False)
    config.num_labels = int(arch["num_classes"])
    model = kind(config)
    missing, unknown = model.load_state_dict(loaded["state_dict"], strict=False)
    # Old checkpoints hold the positions, which are no weights.
    if missing or [one for one in unknown if not one.endswith("position_ids")]:
        raise ValueError(f"its weights do not fit the model in {str(tokenizer_folder)!r}")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True, trust_remote_code=False)
    # The classes may be fewer than the outputs: the rest are identities that detoxify was trained on and does not report.
    return _Parts(model.float().eval(), tokenizer, tuple(_STANDARD.get(one, one) for one in map(str, classes)), False)
