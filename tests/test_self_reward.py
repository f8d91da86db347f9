"""The champion's own preference: right log-probabilities, computed once, and silent once the model has collapsed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.config import load_settings
from alignment.ids import content_id
from alignment.labels import load_constitution
from alignment.labels.collapse import Agreement, Health, agreement, describe, distinct_n, halting
from alignment.labels.constitution import Principle
from alignment.labels.health import Champion, check_health
from alignment.labels.implicit import ImplicitReward
from alignment.labels.labeler import Comparison
from alignment.labels.rule import ConstitutionLabeler
from alignment.models import local, logprobs
from alignment.models.local import LocalModel, load_tokenizer, render
from alignment.models.logprobs import CachedLogProbs, LogProb
from alignment.records import Candidate, Message, Selected, Side
from alignment.sections import SelfReward
from alignment.store import append, migrate, query, session
from bench.tiny import make_tiny_model
from tests.conftest import NOW, make_interaction

pytestmark = pytest.mark.fast

PROMPTS = ["Hi", "How do I boil an egg?", "What is the time in Lima just now, and why?", "Hi", "x </s> y"]
ANSWERS = ["Hello.", "In water, for eight minutes.", "", "Hello there!", "A longer answer, which has a second part."]
CONVERSATIONS: list[list[Message]] = [
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}] for prompt in PROMPTS
]
RULE = Principle(
    id="be-kind", text="t", side=Side.HELPFUL, categories=("ordinary",), critique_request="c", revision_request="r",
    refusal_strategy="comply", detectors={"refusal": -1.0},
)  # fmt: skip


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "best_dtype", lambda: torch.float32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), initializer_range=0.3)


def directly(folder: Path, messages: Sequence[Message], answer: str) -> tuple[float, int]:
    """One answer, one row, all logits: the definition, token by token."""
    from transformers import AutoModelForCausalLM

    tokenizer, model = load_tokenizer(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    before = tokenizer(render(tokenizer, messages, add_generation_prompt=True), add_special_tokens=False)["input_ids"]
    turn = [*messages, {"role": "assistant", "content": answer}]
    whole = tokenizer(render(tokenizer, turn, add_generation_prompt=False), add_special_tokens=False)["input_ids"]
    assert whole[: len(before)] == before
    with torch.no_grad():
        log = torch.log_softmax(model(torch.tensor([whole])).logits[0].double(), -1)
    return sum(float(log[at - 1, whole[at]]) for at in range(len(before), len(whole))), len(whole) - len(before)


@pytest.mark.parametrize(("rows", "tokens", "head"), [(8, 16_384, 512), (2, 16_384, 3), (8, 120, 7)])
def test_log_probs_are_those_of_the_definition(tiny: Path, monkeypatch: pytest.MonkeyPatch, rows: int, tokens: int, head: int) -> None:
    monkeypatch.setattr(logprobs, "_BATCH_TOKENS", tokens)
    monkeypatch.setattr(logprobs, "_HEAD_TOKENS", head)
    found = LocalModel(tiny, batch_size=rows).log_probs(CONVERSATIONS, ANSWERS)
    for one, messages, answer in zip(found, CONVERSATIONS, ANSWERS, strict=True):
        total, length = directly(tiny, messages, answer)
        assert one.sum == pytest.approx(total, abs=1e-4)
        assert one.tokens == length
    assert found[0].sum < -1


def test_batches_are_bounded(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []
    real = logprobs._batch_sums

    def batch_sums(model: Any, turns: Sequence[Any], width: int, logits_of: Any) -> Any:
        shapes.append((len(turns), width))
        return real(model, turns, width, logits_of)

    monkeypatch.setattr(logprobs, "_batch_sums", batch_sums)
    monkeypatch.setattr(logprobs, "_BATCH_TOKENS", 250)
    LocalModel(tiny, batch_size=2).log_probs(CONVERSATIONS, ANSWERS)
    assert sum(rows for rows, _ in shapes) == len(ANSWERS)
    assert all(rows <= 2 and (rows == 1 or rows * width <= 250) for rows, width in shapes)


def test_training_sees_the_same_tokens(tiny: Path) -> None:
    from alignment.train.tokens import tokenise

    [turn] = LocalModel(tiny).turns(CONVERSATIONS[1:2], ANSWERS[1:2])
    ids = tokenise({"messages": CONVERSATIONS[1], "chosen": ANSWERS[1], "rejected": "x"}, load_tokenizer(tiny), max_completion_tokens=999)
    assert (ids["prompt_ids"], ids["chosen_ids"]) == (list(turn.prompt), list(turn.answer))


def test_nothing_is_computed_twice(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = CachedLogProbs(LocalModel(tiny), tmp_path).log_probs(CONVERSATIONS[:2], ANSWERS[:2])
    asked: list[int] = []
    real = LocalModel.score
    monkeypatch.setattr(LocalModel, "score", lambda self, turns: asked.append(len(turns)) or real(self, turns))
    again = CachedLogProbs(LocalModel(tiny), tmp_path)
    assert again.log_probs(CONVERSATIONS[:2], ANSWERS[:2]) == first
    assert asked == []
    assert "_model" not in vars(again.model), "a repeated night must not load the weights"
    again.log_probs(CONVERSATIONS, ANSWERS)
    assert asked == [3]
    again.path.write_bytes(b"torn")
    assert again.log_probs(CONVERSATIONS[:1], ANSWERS[:1])[0] == pytest.approx(first[0])


class Fixed:
    """A model that finds answers as likely as a table says."""

    def __init__(self, model_id: str, **sums: float) -> None:
        self.model_id, self.sums = model_id, sums

    def log_probs(self, conversations: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[LogProb]:
        return [LogProb(self.sums[answer], 2 if answer == "a" else 8) for answer in answers]


def comparison(first: str = "a", second: str = "b") -> Comparison:
    exchange = make_interaction("x")
    one, two = (Candidate(text, exchange.id, "sampled", text, "m", RULE.id) for text in (first, second))
    return Comparison(Selected(exchange, Side.HELPFUL, "ordinary", RULE.id), RULE, one, two)


def test_the_reward_by_hand() -> None:
    """a: .5(-2 + 4) = 1; b: .5(-5 + 9) = 2. Per token: 1/2 and 2/8, the other way round. 2 sigmoid(1) - 1 = .4621."""
    champion, base = Fixed("c", a=-2.0, b=-5.0), Fixed("b", a=-4.0, b=-9.0)
    labeler = ImplicitReward(champion, base, SelfReward(beta=0.5))
    [vote] = labeler.vote([comparison()])
    assert (vote.verdict, vote.margin) == ("second", pytest.approx(0.462117, abs=1e-6))
    assert labeler.vote([comparison("b", "a")])[0].verdict == "first"
    normalised = ImplicitReward(champion, base, SelfReward(beta=0.5, length_normalised=True))
    assert normalised.vote([comparison()])[0].verdict == "first"
    assert normalised.version != labeler.version
    assert ImplicitReward(champion, base, SelfReward(beta=0.5, min_margin=0.5)).vote([comparison()])[0].verdict == "tie"
    assert ImplicitReward(base, base, SelfReward()).vote([comparison()])[0].verdict == "tie"
    assert ImplicitReward(Fixed("n", a=float("nan"), b=0.0), base, SelfReward()).vote([comparison()])[0].verdict == "unscored"


def test_without_a_release_it_abstains() -> None:
    votes = ImplicitReward(None, Fixed("b"), SelfReward()).vote([comparison(), comparison()])
    assert [(vote.verdict, vote.detail["reason"]) for vote in votes] == [("unscored", "there is no aligned release yet")] * 2


LIMITS = SelfReward(min_cases=20)
BASE_TEXTS = [f"Answer {number} names thing{number} and place{number * 7}, then ends plainly." for number in range(40)]
BASE = describe(BASE_TEXTS)
WELL = Health(Agreement(0.9, 40), Agreement(0.8, 25), BASE, 0.3, 40)


def test_distinct_n_by_hand() -> None:
    assert distinct_n(["A b a.", "b"], 1) == 2 / 4
    assert distinct_n(["a b c", "a b"], 2) == 2 / 3
    assert distinct_n(["a", ""], 2) is None


def test_what_was_only_thought_is_none_of_a_models_words() -> None:
    thought = "<think>\nThey ask of many different things, and I had better name each of them.\n"
    assert describe([thought, f"{thought}</think>\n\nIt is here."]) == describe(["", "It is here."])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"anchor": Agreement(0.5, 40)}, "anchor judge is 0.50"),
        ({"anchor": Agreement(1.0, 19)}, "anchor judge is unknown"),
        ({"anchor": Agreement(None, 0)}, "anchor judge is unknown"),
        ({"human": Agreement(0.4, 25)}, "people is 0.40"),
        ({"answers": describe(["I am happy to help. I am happy to help you now."] * 40)}, "distinct-3"),
        ({"answers": describe([f"{text} {text} {text}" for text in BASE_TEXTS])}, "mean length"),
        ({"answers": describe(["Answer"] * 40)}, "mean length"),
        ({"answers": describe(BASE_TEXTS[:10])}, "cannot be compared"),
        ({"margin": 0.75}, "margin rose by 0.45"),
    ],
)
def test_a_collapse_halts(changes: dict[str, object], words: str) -> None:
    assert halting(WELL, LIMITS, base=BASE, first=WELL) == ()
    reasons = halting(WELL._replace(**changes), LIMITS, base=BASE, first=WELL)  # type: ignore[arg-type]
    assert any(words in reason for reason in reasons)


def test_votes_of_a_halted_labeler_do_not_count(home: Path) -> None:
    from flows import label

    migrate(home)
    settings = load_settings(home=home)
    labeler = ImplicitReward(Fixed("c", a=-2.0, b=-5.0), Fixed("b", a=-4.0, b=-9.0), LIMITS)
    assert label._halted(settings, "n", labeler), "nothing is known of it yet"
    [state] = query(home, "SELECT labeler, active, reason FROM labeler_states")
    assert (state["labeler"], state["active"]) == ("implicit_reward", False)
    assert state["reason"].startswith("halted: agreement with the anchor judge is unknown")
    assert not label._halted(settings, "n", ConstitutionLabeler(load_constitution(), lambda *_: [], "s", 0.2))


def test_few_verdicts_of_people_say_nothing_yet() -> None:
    assert halting(WELL._replace(human=Agreement(0.0, 19)), LIMITS, base=BASE) == ()
    assert halting(WELL._replace(human=Agreement(None, 0), margin=None), LIMITS, base=BASE, first=WELL) == ()
    assert agreement({}, {"x": "a"}) == Agreement(None, 0)


def fill(home: Path, labeler: ImplicitReward, *, flipped: int, champion: Sequence[str]) -> None:
    """Store 40 comparisons, of which the labeler sees `flipped` other than the anchor, and both models' answers."""
    judgements, votes, items, verdicts = [], [], [], []
    for number in range(40):
        anchor = (f"good{number}", f"bad{number}")
        own = anchor[::-1] if number < flipped else anchor
        for name, version, chosen in (
            ("constitution", "v", anchor),
            ("constitution", "w", anchor[::-1]),
            (labeler.name, labeler.version, own),
        ):
            judgements.append({
                "id": content_id(name, version, number), "interaction_id": f"i{number}", "labeler": name, "labeler_version": version,
                "principle_ids": ["p"], "chosen_id": chosen[0], "rejected_id": chosen[1], "verdict": "preferred", "judge_margin": 0.25,
                "scores": {}, "created_at": NOW if version != "w" else NOW.replace(hour=9),
            })  # fmt: skip
            votes.append({
                "id": content_id("vote", name, version, number), "interaction_id": f"i{number}", "labeler": name,
                "labeler_version": version, "first_id": chosen[0], "second_id": chosen[1], "verdict": "first", "margin": 0.25,
                "created_at": judgements[-1]["created_at"],
            })  # fmt: skip
        if number % 2:
            items.append(
                {"id": f"r{number}", "interaction_id": f"i{number}", "detail": {"judgement_id": content_id("constitution", "v", number)}}
            )
            verdicts.append(
                {
                    "id": f"v{number}",
                    "item_id": f"r{number}",
                    "reviewer": "x",
                    "verdict": "flip" if number < 8 else "agree",
                    "decided_at": NOW,
                }
            )
    answers = [
        {
            "id": content_id(model, number),
            "model_id": model,
            "suite": suite,
            "suite_version": "1",
            "prompt_id": f"q{number}",
            "response": text,
        }
        for model, texts in ((labeler.champion.model_id, champion), ("base", BASE_TEXTS))  # type: ignore[union-attr]
        for suite in ("ordinary", "harm")
        for number, text in enumerate(texts)
        if suite == "ordinary" or number == 0
    ]
    with session(home, write=True) as connection:
        for table, rows in (
            ("judgements", judgements),
            ("votes", votes),
            ("review_items", items),
            ("verdicts", verdicts),
            ("eval_answers", answers),
        ):
            append(connection, table, rows)


def test_health_is_read_from_the_store_and_kept(home: Path) -> None:
    migrate(home)
    base = Fixed("base")
    well, ill = ImplicitReward(Fixed("one"), base, LIMITS), ImplicitReward(Fixed("two"), base, LIMITS)
    fill(home, well, flipped=4, champion=BASE_TEXTS)
    assert check_health(home, well, Champion("r1", "one", "base"), LIMITS, now=NOW) == ()
    [row] = query(home, "SELECT * FROM labeler_health")
    # By hand: 36 of 40 as the anchor said first; people flipped the four odd numbers below 8, of which the labeler flipped two.
    assert (row["anchor_agreement"], row["anchor_n"]) == (0.9, 40)
    assert (row["human_agreement"], row["human_n"]) == (0.9, 20)
    assert (row["answers"], row["votes"], row["mean_margin"], row["halted"]) == (40, 40, 0.25, False)

    fill(home, ill, flipped=30, champion=["I am happy to help. " * 6] * 40)
    reasons = check_health(home, ill, Champion("r2", "two", "base"), LIMITS, now=NOW)
    for words in ("anchor judge is 0.25", "people is", "distinct-1", "distinct-3", "mean length"):
        assert any(words in reason for reason in reasons), words
    rows = query(home, "SELECT release_id, halted FROM labeler_health ORDER BY release_id")
    assert [(row["release_id"], row["halted"]) for row in rows] == [("r1", False), ("r2", True)]
