"""Export a release as one model, for servers that load no adapters.

Effects: loads weights; writes a folder.
"""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import torch

from alignment.errors import ModelError
from alignment.models.folder import check_base, is_whole
from alignment.models.local import load_tokenizer


def export_merged(base: Path, adapter: Path, target: Path) -> None:
    """Write the merged (or whole) model's weights as safetensors, with the tokenizer, to `target`, which appears by one rename.

    Raises:
        ModelError: the base cannot be loaded or is not the adapter's base.
    """
    scratch = target.with_name(f".{target.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    if is_whole(adapter):
        shutil.copytree(adapter, scratch)
        os.replace(scratch, target)
        return
    check_base(base, adapter)
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    scratch.mkdir(parents=True)
    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the base model {str(base)!r}: {error}; run 'align doctor'") from error
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore", FutureWarning)  # peft still asks transformers for a renamed attribute
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        merged.save_pretrained(scratch, safe_serialization=True)
    load_tokenizer(base).save_pretrained(scratch)
    os.replace(scratch, target)
