"""Low-rank tuning of an encoder: it learns, equal data give equal weights, and what is merged is what was learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from alignment.errors import ModelError
from alignment.models.embedder import Changes, Embedder
from alignment.moderation.cross_validate import out_of_fold
from alignment.moderation.tuning import tune

pytestmark = pytest.mark.fast

WORDS = ["steal", "borrow", "how", "do", "i", "a", "bike", "car", "book", "the", "my", "friend"]
HARM = [f"how do i steal {which} {thing}" for which in ("a", "the", "my") for thing in ("bike", "car", "book", "friend")]
SAFE = [text.replace("steal", "borrow") for text in HARM]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    known = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    words = Tokenizer(WordLevel(known, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(known), max_position_embeddings=32, **shape)).save_pretrained(folder)
    return folder


def learned(encoder: Path, said: list[str]):
    texts, labels = [*HARM[:9], *SAFE[:9]] * 4, np.tile(np.repeat([1, 0], 9), 4)[:, None]
    return tune(texts, labels, np.ones((72, 1)), passes=10, embedder=Embedder(encoder, max_tokens=16), say=said.append)


def test_tuning_learns_the_word_that_decides_and_is_the_same_twice(encoder):
    said: list[str] = []
    first, second = learned(encoder, said), learned(encoder, [])
    assert first.score(HARM[9:]).min() > 0 > first.score(SAFE[9:]).max()
    assert len(said) == 10 and float(said[-1].split()[-1]) < float(said[0].split()[-1])
    assert all((first.changes[name] == second.changes[name]).all() for name in first.changes)
    assert (first.kernel == second.kernel).all()


def test_tasks_share_an_encoder_and_an_unknown_label_teaches_nothing(encoder):
    texts, steals = [*HARM[:9], *SAFE[:9]] * 4, np.tile(np.repeat([1, 0], 9), 4)
    known = np.ones((72, 2))
    known[::2, 1] = 0
    both = [np.column_stack([steals, np.where(known[:, 1] > 0, 1 - steals, unknown)]) for unknown in (0, 1)]
    first, second = (tune(texts, labels, known, passes=10, embedder=Embedder(encoder, max_tokens=16), say=[].append) for labels in both)
    assert (first.kernel == second.kernel).all()
    unseen = first.score([*HARM[9:], *SAFE[9:]])
    assert unseen[:3, 0].min() > 0 > unseen[3:, 0].max()
    assert unseen[:3, 1].max() < 0 < unseen[3:, 1].min()


def test_merged_changes_score_as_the_tuned_model_did_and_leave_the_embedder_alone(encoder, tmp_path):
    tuned, plain = learned(encoder, []), Embedder(encoder, max_tokens=16)
    save_file({f"steal.{name}": tensor for name, tensor in tuned.changes.items()}, tmp_path / "tuned.safetensors")
    before = plain.embed(HARM)
    changed = plain.tuned(Changes(tmp_path / "tuned.safetensors", "steal"), max_tokens=16)
    raw = changed.embed(HARM) @ tuned.kernel + tuned.bias
    assert np.abs(raw - tuned.score(HARM)).max() < 0.05 * np.abs(raw).max()
    assert np.abs(changed.embed(HARM) - before).max() > 0.01
    assert (plain.embed(HARM) == before).all()
    assert changed.version != plain.version and changed.version.startswith(plain.version)
    assert plain.tuned(Changes(tmp_path / "tuned.safetensors", "steal"), max_tokens=16) is changed


def test_a_task_without_changes_is_an_error_that_says_what_to_do(encoder, tmp_path):
    save_file({"other.x": np.zeros(1)}, tmp_path / "tuned.safetensors")
    with pytest.raises(ModelError, match=r"no changes for 'steal'.*alignment\.moderation\.fit"):
        Embedder(encoder).tuned(Changes(tmp_path / "tuned.safetensors", "steal"), max_tokens=16).embed(["a"])


def test_out_of_fold_scores_come_from_rows_of_other_groups():
    groups = [f"g{number // 2}" for number in range(20)]

    def score(seen, unseen):
        assert not {groups[row] for row in seen} & {groups[row] for row in unseen}
        return unseen[:, None].astype(np.float32)

    assert out_of_fold(score, np.arange(20), groups, folds=3)[:, 0].tolist() == list(range(20))
