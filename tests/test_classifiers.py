"""Classifiers on this machine, as guards: folders and checkpoints with random weights, made here."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignment.config import Settings
from alignment.errors import ConfigError, ModelError
from alignment.models.classifier import Classifier
from alignment.moderation.guards import GuardAnswer, guard
from alignment.sections import Moderation
from alignment.sections_guards import GuardSettings
from tests.conftest import make_interaction

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "how", "to", "build", "a", "bomb", "boil", "an", "egg"]
CLASSES = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]


def make_bert(folder: Path, labels: list[str], **changes: Any) -> Any:
    """Write a tiny BERT classifier with random weights; return it."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 12}
    config = BertConfig(vocab_size=len(WORDS), initializer_range=0.8, id2label=dict(enumerate(labels)), **(size | changes))
    model = BertForSequenceClassification(config)
    model.save_pretrained(folder)
    return model.eval()


def make_detoxify(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """Write a checkpoint as the detoxify package does, with the folder of its base model; return both."""
    model = make_bert(folder / "trained", CLASSES)
    make_bert(folder / "base", ["x", "y"])
    args = {
        "num_classes": 6,
        "model_type": "bert-base-uncased",
        "model_name": "BertForSequenceClassification",
        "tokenizer_name": "BertTokenizer",
    }
    config = {"arch": {"type": "BERT", "args": args | changes}, "dataset": {"args": {"classes": CLASSES}}}
    weights = model.state_dict() | {"bert.embeddings.position_ids": torch.arange(12)[None]}
    torch.save({"config": config, "state_dict": weights}, folder / "toxic.ckpt")
    return folder / "toxic.ckpt", folder / "base"


def by_hand(model: Any, folder: Path, text: str, act: Any) -> list[float]:
    from transformers import AutoTokenizer

    with torch.inference_mode():
        return act(model(**AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")).logits)[0].tolist()


def judge(home: Path, values: dict[str, Any], *exchanges: Any) -> list[GuardAnswer]:
    return guard("g", Settings(home=home, moderation=Moderation(guards={"g": GuardSettings(**values)}))).judge(exchanges)


def test_a_folder_whose_labels_exclude_one_another_shares_one_probability(home: Path, tmp_path: Path) -> None:
    model = make_bert(tmp_path / "m", ["fine", "weapon talk", "insult"])
    values = {
        "kind": "transformers",
        "path": str(tmp_path / "m"),
        "labels": {"weapon talk": "weapons", "insult": "harm"},
        "reads": ["request"],
    }
    texts = ["how to build a bomb", "how to boil an egg"]
    found = judge(home, values, *(make_interaction(text, text) for text in texts))
    for text, one in zip(texts, found, strict=True):
        fine, weapon, insult = by_hand(model, tmp_path / "m", text, lambda logits: logits.softmax(1))
        assert one.score and one.score.value == pytest.approx(weapon + insult, abs=1e-5) == pytest.approx(1 - fine, abs=1e-5)
        if weapon >= insult / 2:
            assert (one.score.label, one.label, one.hazard) == ("weapons", "weapon talk", "iwp")


def test_a_folder_of_independent_labels_counts_the_highest(home: Path, tmp_path: Path) -> None:
    model = make_bert(tmp_path / "m", ["a", "b", "c"], problem_type="multi_label_classification")
    values = {"kind": "transformers", "path": str(tmp_path / "m"), "labels": {"a": "hate", "b": "hte", "c": ""}, "reads": ["request"]}
    [one] = judge(home, values, make_interaction(1, "how to build a bomb"))
    a, b, _ = by_hand(model, tmp_path / "m", "how to build a bomb", torch.sigmoid)
    assert one.score and one.score.value == pytest.approx(max(a, b), abs=1e-5)
    assert (one.score.label, one.hazard) == ("hate", "hte")


def test_a_detoxify_checkpoint_is_read_under_the_packages_names(home: Path, tmp_path: Path) -> None:
    file, base = make_detoxify(tmp_path)
    classifier = Classifier(file, base)
    assert classifier.labels == ("toxicity", "severe_toxicity", "obscene", "threat", "insult", "identity_attack")
    from transformers import BertForSequenceClassification

    trained = BertForSequenceClassification.from_pretrained(tmp_path / "trained").eval()
    expected = by_hand(trained, base, "how to build a bomb", torch.sigmoid)
    assert classifier.scores(["how to build a bomb"])[0] == pytest.approx(expected, abs=1e-5)
    values = {"kind": "detoxify", "path": str(file), "tokenizer": str(base), "reads": ["answer"]}
    [one] = judge(home, values, make_interaction(1, "?", "how to build a bomb"))
    # Obscene words alone are ignored.
    assert one.score and one.score.value == pytest.approx(max(expected[:2] + expected[3:]), abs=1e-5)


def test_a_long_text_is_read_to_its_end(tmp_path: Path) -> None:
    make_bert(tmp_path / "m", list("abcdef"), problem_type="multi_label_classification")
    classifier = Classifier(tmp_path / "m")
    parts = ["how to boil an egg how to boil an egg", "build a bomb"]
    together = classifier.scores(["how to boil an egg how to boil an egg build a bomb"])[0]
    apart = classifier.scores(parts)
    # Ten words fit beside the two marks; the rest is a window of its own. Each has the highest score of some label.
    assert {first > second for first, second in zip(*apart, strict=True)} == {True, False}
    assert together == pytest.approx([max(values) for values in zip(*apart, strict=True)], abs=1e-5)
    assert classifier.scores([]) == []
    for one, expected in zip(classifier.scores([*parts, *parts]), apart * 2, strict=True):
        assert one == pytest.approx(expected, abs=1e-5)


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {os.environ['HARM_FILE']}",)


@pytest.mark.parametrize("fault", ["pickled code", "no checkpoint", "another class", "other weights", "cut", "not there", "a pickle"])
def test_a_checkpoint_that_is_none_runs_nothing_and_is_one_message(
    fault: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARM_FILE", str(tmp_path / "harmed"))
    changes = {"another class": {"model_name": "os"}, "other weights": {"num_classes": 9}}.get(fault, {})
    file, base = make_detoxify(tmp_path, **changes)
    if fault == "pickled code":
        torch.save({"config": Harm(), "state_dict": {}}, file)
    elif fault == "a pickle":
        file.write_bytes(pickle.dumps(Harm(), protocol=2))
    elif fault == "no checkpoint":
        torch.save({"weights": {}}, file)
    elif fault == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    elif fault == "not there":
        file.unlink()
    with pytest.raises(ModelError, match=r"the classifier .*toxic.ckpt") as caught:
        judge(home, {"kind": "detoxify", "path": str(file), "tokenizer": str(base)}, make_interaction(1))
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)
    assert not (tmp_path / "harmed").exists()


def test_a_folder_with_pickled_weights_only_is_refused(home: Path, tmp_path: Path) -> None:
    model = make_bert(tmp_path / "m", ["a", "b"])
    (tmp_path / "m" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \.safetensors"):
        judge(home, {"kind": "transformers", "path": str(tmp_path / "m"), "labels": {"a": "hate"}}, make_interaction(1))


def test_damaged_weights_give_no_score(home: Path, tmp_path: Path) -> None:
    make_bert(tmp_path / "m", ["a", "b"])
    weights = load_file(tmp_path / "m" / "model.safetensors")
    save_file({name: torch.full_like(one, torch.nan) for name, one in weights.items()}, tmp_path / "m" / "model.safetensors")
    with pytest.raises(ModelError, match="no numbers"):
        judge(home, {"kind": "transformers", "path": str(tmp_path / "m"), "labels": {"a": "hate"}}, make_interaction(1))


def test_a_label_that_the_model_lacks_is_told_not_ignored(home: Path, tmp_path: Path) -> None:
    make_bert(tmp_path / "m", ["a", "b"])
    with pytest.raises(ConfigError, match="no label 'toxic'; its labels are a, b"):
        judge(home, {"kind": "transformers", "path": str(tmp_path / "m"), "labels": {"a": "hate", "toxic": "hate"}}, make_interaction(1))


def test_other_weights_are_another_version(home: Path, tmp_path: Path) -> None:
    make_bert(tmp_path / "m", ["a", "b"])
    before = Classifier(tmp_path / "m").version
    weights = load_file(tmp_path / "m" / "model.safetensors")
    save_file({name: one + 1 for name, one in weights.items()}, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    os.utime(tmp_path / "m" / "model.safetensors", (1, 1))
    assert Classifier(tmp_path / "m").version != before
    file, base = make_detoxify(tmp_path)
    first = Classifier(file, base).version
    (base / "vocab.txt").write_text("\n".join(reversed(WORDS)))
    assert Classifier(file, base).version != first


def test_a_tokenizer_that_cannot_read_long_texts_in_parts_is_told(home: Path, tmp_path: Path) -> None:
    from transformers import BertweetTokenizer

    make_bert(tmp_path / "m", ["fine", "bad"])
    for file in (tmp_path / "m").glob("tokenizer*"):
        file.unlink()
    (tmp_path / "vocab.txt").write_text("a 1\nb 1\n")
    (tmp_path / "bpe.codes").write_text("a b 1\n")
    BertweetTokenizer(str(tmp_path / "vocab.txt"), str(tmp_path / "bpe.codes")).save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match="slow"):
        Classifier(tmp_path / "m").scores(["a bomb"])
