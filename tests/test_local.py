"""A local model's answers depend neither on what else is in the batch nor on how an adapter was loaded."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.errors import ModelError
from alignment.models import local
from alignment.models.cores import keep_cores, side_by_side
from alignment.models.identity import folder_id
from alignment.models.local import LocalModel, padded
from alignment.models.merge import export_merged
from alignment.records import Message
from bench.tiny import make_tiny_model

pytestmark = pytest.mark.fast

TEXTS = ["Hi", "How do I boil an egg?", "Hello there, what is the time in Lima just now?", "Hi"]
CONVERSATIONS = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}] for text in TEXTS]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 the shape of a batch can flip a token."""
    monkeypatch.setattr(local, "best_dtype", lambda: torch.float32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def test_a_batch_answers_like_its_conversations_alone(tiny: Path) -> None:
    together = LocalModel(tiny, batch_size=4).generate(CONVERSATIONS, max_new_tokens=12)
    alone = LocalModel(tiny, batch_size=1).generate(CONVERSATIONS, max_new_tokens=12)
    assert together == alone
    assert len(set(together)) > 1


@pytest.mark.parametrize(
    ("rows", "shared", "tokens"),
    [
        ([[1, 2, 3], [1, 2, 4, 5]], 2, [[1, 2, 0, 3], [1, 2, 4, 5]]),
        ([[1], [1, 2]], 0, [[0, 1], [1, 2]]),
        ([[1, 2], [1, 2]], 1, [[1, 2], [1, 2]]),
        ([[7, 8]], 1, [[7, 8]]),
    ],
)
def test_rows_share_all_but_a_last_token(rows: list[list[int]], shared: int, tokens: list[list[int]]) -> None:
    found = padded(rows, 0)
    assert (found[0].tolist(), found[2]) == (tokens, shared)
    assert found[1].sum(1).tolist() == [len(row) for row in rows]


@pytest.mark.filterwarnings("default")  # peft asks transformers for a renamed attribute
def test_an_adapter_answers_as_it_was_trained(tiny: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="does not say which base"):
        _ = LocalModel(tiny, adapter=tmp_path / "adapter")._model
    manifest = tmp_path / "adapter" / "manifest.json"
    manifest.write_text('{"base_id": "another base"}')
    with pytest.raises(ModelError, match="was trained on base 'another base'"):
        _ = LocalModel(tiny, adapter=tmp_path / "adapter")._model
    with pytest.raises(ModelError, match="was trained on base 'another base'"):
        export_merged(tiny, tmp_path / "adapter", tmp_path / "merged")
    manifest.write_text(json.dumps({"base_id": folder_id(tiny)}))
    ids = torch.tensor([[5, 9, 20, 33]])
    loaded = LocalModel(tiny, adapter=tmp_path / "adapter")._model
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), tmp_path / "adapter").eval()(ids).logits
        torch.testing.assert_close(loaded(ids).logits, wanted, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(loaded(ids).logits, LocalModel(tiny)._model(ids).logits, atol=1e-3)


def test_a_whole_model_that_was_trained_takes_the_place_of_the_base(tiny: Path, tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / "model", seed=1)
    served = LocalModel(tiny, adapter=other)
    assert served.model_id == LocalModel(other).model_id != LocalModel(tiny).model_id
    assert served.generate(CONVERSATIONS, max_new_tokens=8) == LocalModel(other).generate(CONVERSATIONS, max_new_tokens=8)
    assert served.generate(CONVERSATIONS, max_new_tokens=8) != LocalModel(tiny).generate(CONVERSATIONS, max_new_tokens=8)


def test_batches_side_by_side_answer_as_one_after_the_other(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Message]] = [[{"role": "user", "content": "word " * (1 + number % 7) + str(number)}] for number in range(20)]
    seen, threads = list[tuple[int, int]](), torch.get_num_threads()
    model = LocalModel(tiny, batch_size=4, progress=lambda done, of: seen.append((done, of)))
    alone = model.generate(asked, max_new_tokens=6)
    lanes = set[int]()
    write = LocalModel._write

    def noted(self: LocalModel, batch: Any, **how: Any) -> Any:
        lanes.add(threading.get_ident())
        time.sleep(0.05)
        assert torch.get_num_threads() == 1
        return write(self, batch, **how)

    monkeypatch.setattr(LocalModel, "_write", noted)
    try:
        torch.set_num_threads(3)
        assert model.generate(asked, max_new_tokens=6) == alone and len(lanes) == 3
        assert torch.get_num_threads() == 3
        # Samples are drawn from one sequence of random numbers.
        monkeypatch.setattr(LocalModel, "_write", write)
        sampled = model.generate(asked, max_new_tokens=6, temperature=0.7, seed=1)
        assert sampled == model.generate(asked, max_new_tokens=6, temperature=0.7, seed=1) != alone
    finally:
        torch.set_num_threads(threads)
    assert seen[:5] == seen[5:10] == [(4, 20), (8, 20), (12, 20), (16, 20), (20, 20)]


def test_a_thread_of_another_pool_keeps_its_cores() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with ThreadPoolExecutor(1, initializer=keep_cores) as other:
            met = threading.Event()

            def run(batch: int) -> int:
                if batch == 0:
                    other.submit(lambda: None).result()
                    met.set()
                met.wait(10)
                return batch

            assert list(side_by_side(run, range(4))) == [0, 1, 2, 3]
            assert other.submit(torch.get_num_threads).result() == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_one_batch_that_fails_fails_the_rest_at_once() -> None:
    threads, begun = torch.get_num_threads(), list[int]()

    def run(batch: int) -> int:
        begun.append(batch)
        time.sleep(0.05)
        if batch == 1:
            raise ModelError("broken")
        return batch

    try:
        torch.set_num_threads(2)
        with pytest.raises(ModelError):
            list(side_by_side(run, range(100)))
        assert len(begun) < 10 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
