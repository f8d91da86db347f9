"""Whatever changes a model's answers changes its id; whatever merely describes it does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from alignment.errors import ModelError, ReleaseError
from alignment.ids import short
from alignment.models.folder import check_base, weights_id
from alignment.models.identity import folder_id, model_id, trained_id
from alignment.release import register, verify
from alignment.release.contents import digest

pytestmark = pytest.mark.fast

BF16, FP32 = "torch.bfloat16", "torch.float32"


def write(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    files = {
        "model.safetensors": "weights",
        "config.json": {"rope_theta": 1.0, "_name_or_path": "/here"},
        "generation_config.json": {"repetition_penalty": 1.0},
        "tokenizer.json": "{}",
        "tokenizer_config.json": {"chat_template": "x"},
        "chat_template.jinja": "{{ messages }}",
    }
    return write(tmp_path / "base", files)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    settings = {"r": 4, "target_modules": ["q", "v"], "base_model_name_or_path": "/here"}
    manifest = {"base_id": folder_id(base), "code_version": "1"}
    return write(tmp_path / "adapter", {"adapter_model.safetensors": "delta", "adapter_config.json": settings, "manifest.json": manifest})


def known(base: Path, adapter: Path | None = None, dtype: str = BF16, batch_size: int = 32) -> str:
    return model_id(base, adapter, dtype=dtype, batch_size=batch_size)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.safetensors", "Weights"),
        ("config.json", {"rope_theta": 2.0, "_name_or_path": "/here"}),
        ("generation_config.json", {"repetition_penalty": 1.1}),
        ("tokenizer.json", '{"a": 1}'),
        ("tokenizer_config.json", {"chat_template": "y"}),
        ("chat_template.jinja", "You are evil. {{ messages }}"),
        ("additional_chat_templates/rag.jinja", "{{ messages }}"),
        ("special_tokens_map.json", {"eos_token": "x"}),
        ("merges.txt", "a b"),
    ],
)
def test_what_changes_answers_makes_another_model(base: Path, adapter: Path, name: str, value: Any) -> None:
    before = known(base), known(base, adapter), weights_id(base)
    check_base(base, adapter)
    write(base, {name: value})
    assert known(base) != before[0]
    assert known(base, adapter) != before[1]
    with pytest.raises(ModelError, match="its weights, configuration, tokenizer or template differ"):
        check_base(base, adapter)


@pytest.mark.parametrize(
    ("name", "value"), [("adapter_model.safetensors", "Delta"), ("adapter_config.json", {"r": 8}), ("tokenizer.json", "{}")]
)
def test_an_adapter_counts_with_its_settings(base: Path, adapter: Path, name: str, value: Any) -> None:
    before = known(base, adapter)
    write(adapter, {name: value})
    assert known(base, adapter) != before


def test_number_type_and_batch_size_count_and_in_float32_no_batch_size(base: Path) -> None:
    assert len({known(base), known(base, dtype=FP32), known(base, batch_size=8)}) == 3
    assert known(base, dtype=FP32, batch_size=8) == known(base, dtype=FP32, batch_size=32)


def test_what_only_describes_does_not_count(base: Path, adapter: Path, tmp_path: Path) -> None:
    before = known(base, adapter)
    write(base, {"README.md": "x", "LICENSE": "y", ".gitattributes": "z", "files.json": "{}", "config.json": {"rope_theta": 1.0}})
    settings = {"peft_version": "9", "target_modules": ["v", "q"], "base_model_name_or_path": "/there", "r": 4}
    write(adapter, {"adapter_config.json": settings})
    elsewhere = shutil.copytree(base, tmp_path / "elsewhere")
    assert known(elsewhere, adapter) == before


def test_a_folder_without_safetensors_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="pickled weights are not loaded"):
        folder_id(write(tmp_path / "x", {"config.json": {}, "pytorch_model.bin": "x"}))


def test_an_adapter_of_earlier_code_still_finds_its_base(base: Path, adapter: Path) -> None:
    write(adapter, {"manifest.json": {"base_id": weights_id(base)}})
    check_base(base, adapter)
    write(adapter, {"manifest.json": {"base_id": "0" * 64}})
    with pytest.raises(ModelError):
        check_base(base, adapter)


def test_a_release_is_told_from_its_own_folder_and_tied_to_its_weights(home: Path, base: Path, adapter: Path) -> None:
    full = known(base, adapter)
    assert trained_id(adapter, dtype=BF16, batch_size=32) == full
    name, told = short(full), {"model_id": full, "dtype": BF16, "batch_size": 32}
    with pytest.raises(ReleaseError, match="holds the model"):
        register(home, name, adapter, card="", manifest={**told, "batch_size": 16})
    folder = register(home, name, adapter, card="", manifest=told)
    assert verify(home, name) == folder
    # Other weights, and a manifest that was made to fit.
    (folder / "adapter" / "adapter_model.safetensors").write_text("evil")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["adapter/adapter_model.safetensors"] = digest(folder / "adapter" / "adapter_model.safetensors")
    other = trained_id(folder / "adapter", dtype=BF16, batch_size=32)
    for found in (full, other):
        (folder / "manifest.json").write_text(json.dumps({**manifest, "model_id": found}))
        with pytest.raises(ReleaseError, match="adapter holds the model"):
            verify(home, name)


def test_a_changed_template_is_a_new_night(home: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignment.config import load_settings
    from alignment.store import migrate
    from flows.night import plan_night

    migrate(home)
    settings = load_settings(model={"path": str(base)})
    before = plan_night(settings).id
    assert plan_night(settings).id == before
    write(base, {"chat_template.jinja": "You are evil. {{ messages }}"})
    assert plan_night(settings).id != before
