"""`align eval`: any suite, any release, nothing asked twice, nothing lost by a kill."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alignment.config import load_settings
from alignment.errors import ModelError
from alignment.evals import answer_id, load_suite
from alignment.evals.report import result, sampled, summarise
from alignment.evals.runner import Asking, address, ask
from alignment.evals.scorers import VERSION, score_answer
from alignment.evals.seals import fits
from alignment.evals.statistics import wilson
from alignment.ids import content_id
from alignment.records import Message, SuitePrompt
from alignment.release import register
from alignment.store import migrate, query
from bench.tiny import make_tiny_model
from flows.cli import app
from tests.test_answer_judge import Weights

NOW = datetime(2026, 11, 24)
HOW = Asking("base", 8, 4)
A = "a" * 16


class Model:
    """Repeats the question; stops for good after `breath` batches."""

    def __init__(self, breath: int = 1000) -> None:
        self.model_id, self.calls, self.breath = "m" * 64, [], breath

    def generate(
        self, conversations: Sequence[Sequence[Message]], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        if len(self.calls) == self.breath:
            raise ModelError("out of breath")
        self.calls.append((len(conversations), temperature, seed))
        return [f"{one[-1]['content']} {temperature} {seed}" for one in conversations]


def test_each_answer_belongs_to_its_prompt_and_none_is_asked_twice(home: Path) -> None:
    migrate(home)
    prompts, model = load_suite("harm", 50), Model()
    found = ask(home, model, prompts, HOW, now=NOW)
    assert {prompt.id: [f"{prompt.prompt} 0.0 0"] for prompt in prompts} == found
    assert [size for size, _, _ in model.calls] == [16, 16, 16, 2]
    again = Model()
    assert ask(home, again, prompts, HOW, now=NOW) == found
    assert again.calls == []


def test_a_run_that_was_killed_goes_on(home: Path) -> None:
    migrate(home)
    prompts = load_suite("capability")
    with pytest.raises(ModelError):
        ask(home, Model(breath=3), prompts, HOW, now=NOW)
    model = Model()
    found = ask(home, model, prompts, HOW, now=NOW)
    assert len(model.calls) == 8 - 3
    assert set(found) == {prompt.id for prompt in prompts}


def test_bundled_answers_are_the_gates_and_others_are_not(home: Path) -> None:
    """The gate reads suite and prompt id beside an answer: a file that asks the same must not stand under its address."""
    migrate(home)
    prompts = load_suite("harm", 50)
    mine = [SuitePrompt(f"own-{prompt.id}", "own", prompt.prompt, "c", "x", "harm") for prompt in prompts]
    forged = [SuitePrompt(prompt.id, "harm", prompt.prompt + "!", "c", "x", "harm") for prompt in prompts]
    for some in (mine, forged):
        ask(home, Model(), some, HOW, now=NOW)
    gates = [answer_id(prompt, "m" * 64, 8) for prompt in prompts]
    assert query(home, "SELECT id FROM eval_answers WHERE list_contains(?, id)", [gates]) == []
    ask(home, Model(), prompts, HOW, now=NOW)
    stored = query(home, "SELECT id, suite, prompt_id FROM eval_answers WHERE list_contains(?, id)", [gates])
    assert {(row["suite"], row["prompt_id"]) for row in stored} == {("harm", prompt.id) for prompt in prompts}
    assert len(stored) == 50


def test_samples_have_seeds_of_their_own_and_addresses_of_their_own(home: Path) -> None:
    migrate(home)
    prompts, model = load_suite("pii", 20), Model()
    found = ask(home, model, prompts, HOW._replace(samples=2), now=NOW)
    assert {len(set(replies)) for replies in found.values()} == {3}
    assert [temperature for _, temperature, _ in model.calls] == [0.0, 0.0, 0.7, 0.7, 0.7, 0.7]
    assert len({seed for _, temperature, seed in model.calls if temperature}) == 4
    assert ask(home, Model(breath=0), prompts, HOW._replace(samples=1), now=NOW) == {name: replies[:2] for name, replies in found.items()}
    other = prompts[0]
    assert len({address(other, model.model_id, 8, draw) for draw in range(3)} | {address(other, model.model_id, 9)}) == 4


def test_the_report_counts_what_it_leaves_out() -> None:
    rows = [{"category": "a", "outcome": one} for one in (1, 1, 0, None)] + [{"category": "b", "outcome": None}]
    a, b, overall = summarise(rows)
    low, high = wilson(2, 3, 1.96)
    assert (a.rate, a.low, a.high) == pytest.approx((2 / 3, low, high), abs=1e-4)
    assert (a.failures, a.n, a.unscored) == (2, 3, 1)
    assert b == ("b", None, 0.0, 1.0, 0, 0, 1, 0)
    assert (overall.category, overall.n, overall.unscored) == ("overall", 3, 2)


def test_rows_that_share_a_cluster_are_worth_fewer_independent_ones() -> None:
    """Ten rows a cluster that all say the same are one independent row: the interval is that of a tenth of the rows."""
    rows = [{"category": "a", "cluster": str(number), "outcome": number % 2} for number in range(100) for _ in range(10)]
    alone = [{**row, "cluster": str(number)} for number, row in enumerate(rows)]
    assert (summarise(rows)[0].n, summarise(rows)[0].clusters) == (1000, 100)
    assert summarise(rows)[0][2:4] == pytest.approx(wilson(50, 100, 1.96), abs=2e-3)
    assert summarise(alone)[0][2:4] == pytest.approx(wilson(500, 1000, 1.96), abs=1e-4)


def scored(prompt: SuitePrompt, said: list[str]) -> dict[str, Any]:
    return result(prompt, said, [score_answer(prompt, one) for one in said])


def test_samples_are_reported_beside_the_greedy_answer() -> None:
    prompt = SuitePrompt("1", "own", "5 * 5?", "c", "x", "match", ("25",))
    rows = [scored(prompt, said) for said in (["25", "24", "25"], ["25", "25", "25"], ["1", "25", "25"])]
    assert [row["outcome"] for row in rows] == [0, 0, 1]
    assert sampled(rows) == pytest.approx({"rate": 1 / 6, "any_failed": 2 / 3, "unscored": 0.0})
    assert sampled([scored(prompt, ["25"])]) is None


# The command -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def tiny(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_tiny_model(home.parent / "tiny")
    monkeypatch.setenv("ALIGN_MODEL__PATH", str(folder))
    monkeypatch.setenv("ALIGN_GATE__MAX_NEW_TOKENS", "8")
    monkeypatch.setenv("ALIGN_GATE__UNSAFE", "short answers make a test quick")
    return folder


def trained(tiny: Path, home: Path, *, base: str | None = None) -> None:
    """Register an adapter that changes every answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from alignment.models.identity import folder_id

    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), lora).save_pretrained(home / "adapter")
    (home / "adapter" / "manifest.json").write_text(json.dumps({"base_id": base or folder_id(tiny)}))
    register(home, A, home / "adapter", card="", manifest={})


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["eval", *arguments])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.filterwarnings("default")  # peft asks transformers for a renamed attribute
def test_base_and_a_release_answer_a_public_file(tiny: Path, home: Path, tmp_path: Path) -> None:
    trained(tiny, home)
    suite = tmp_path / "behaviours.csv"
    lines = "\n".join(f"Ask for thing {number},{'ab'[number % 2]},b{number}" for number in range(12))
    suite.write_text(f"Behavior,SemanticCategory,BehaviorID\n{lines}\n")
    out = {name: tmp_path / f"{name}.jsonl" for name in ("base", A)}
    for name, path in out.items():
        done = run("--suite", str(suite), "--release", name, "--out", str(path), "--json")
        assert done.exit_code == 0, done.output
        report = json.loads(done.stdout)
        assert report["release"] == name
        assert [(line["category"], line["n"] + line["unscored"]) for line in report["lines"]] == [("a", 6), ("b", 6), ("overall", 12)]
    base, release = map(rows_of, out.values())
    assert [row["id"] for row in base] == [row["id"] for row in release] == [f"b{number}" for number in range(12)]
    assert set(base[0]) >= {"id", "cluster", "category", "prompt", "response", "scores", "outcome"}
    assert [row["response"] for row in base] != [row["response"] for row in release]
    assert {(row["release"], row["max_new_tokens"]) for row in release} == {(A, 8)}
    assert {row["rows"] for row in release} == {12}
    assert all({"suite_version", "scorer_version", "digest"} <= row.keys() and fits(row) for row in release)
    shown = run("--suite", str(suite), "--release", "champion", "--out", str(out["base"]))
    assert "overall" in shown.stdout
    assert "95% interval" in shown.stdout
    assert rows_of(out["base"]) == base


def test_a_whole_model_in_production_is_what_is_asked(tiny: Path, home: Path, tmp_path: Path) -> None:
    from alignment.models.identity import folder_id
    from alignment.models.local import LocalModel
    from alignment.release.approval import promote_by_hand
    from flows.evaluate import adapter_of
    from flows.policy import load_model

    whole = make_tiny_model(tmp_path / "model", seed=1)
    (whole / "manifest.json").write_text(json.dumps({"base_id": folder_id(tiny)}))
    register(home, A, whole, card="", manifest={})
    promote_by_hand(home, A, approval=False, actor="ann", reason="better", now=NOW)
    settings = load_settings()
    assert load_model(settings, adapter_of(settings, A)).model_id == LocalModel(whole, batch_size=settings.model.batch_size).model_id
    out = tmp_path / "out.jsonl"
    done = run("--suite", "capability", "--release", "champion", "--out", str(out), "--max-prompts", "3")
    assert done.exit_code == 0, done.output
    asked = [[{"role": "user", "content": row["prompt"]}] for row in rows_of(out)]
    assert [row["response"] for row in rows_of(out)] == LocalModel(whole).generate(asked, max_new_tokens=8)


@pytest.mark.filterwarnings("default")
def test_an_edited_or_foreign_release_is_not_asked(tiny: Path, home: Path, tmp_path: Path) -> None:
    from alignment.errors import ModelError
    from flows.evaluate import adapter_of

    out = tmp_path / "out.jsonl"
    trained(tiny, home, base=content_id("another base"))
    foreign = run("--suite", "capability", "--release", A, "--out", str(out))
    assert (foreign.exit_code, "was trained on base" in foreign.stderr) == (1, True)
    # A night asks before it trains, with nothing loaded yet.
    with pytest.raises(ModelError, match="was trained on base"):
        adapter_of(load_settings(), A)
    (home / "releases" / A / "card.md").write_text("edited")
    edited = run("--suite", "capability", "--release", A, "--out", str(out))
    assert (edited.exit_code, "not as it was registered" in edited.stderr) == (1, True)
    assert not out.exists()


def test_gaps_and_samples_are_in_the_report(tiny: Path, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = run("--suite", "counterfactual", "--release", "base", "--out", str(out), "--max-prompts", "20", "--samples", "1", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert set(report["gaps"]) == {"refusal", "sentiment", "toxicity", "length"}
    assert report["gaps"]["refusal"]["n"] == 2
    assert set(report["samples"]) == {"rate", "any_failed", "unscored"}
    assert all(len(row["samples"]) == 1 for row in rows_of(out))


def test_it_scores_with_the_gates_judge_and_says_so(tiny: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignment.evals import judge_qualification

    migrate(home)
    weights, out = Weights(home), tmp_path / "out.jsonl"
    bench = weights.bench(0)
    monkeypatch.setattr(judge_qualification, "seated", lambda *_, **__: bench)
    options = ("--suite", "lookalike", "--release", "base", "--out", str(out), "--max-prompts", "50", "--samples", "1")
    done = run(*options)
    assert done.exit_code == 0, done.output
    assert "the judge 'm' scored harm and refusal, tried on" in done.stdout
    rows = rows_of(out)
    assert {row["scorer_version"] for row in rows} == {bench.version(VERSION)}
    asked = [one for row in rows for one in (row, *row["samples"]) if "judge" in one["scores"]]
    assert asked
    assert all(one["outcome"] == int(one["scores"]["judge"] > 0.5) for one in asked)
    # What is no longer the model that was tried writes no file.
    out.unlink()
    weights.sure = 0.6
    refused = run(*options)
    assert (refused.exit_code, "no longer the model that was tried" in refused.stderr, out.exists()) == (1, True, False)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--suite", "nothing", "--release", "base", "--out", "o.jsonl"], 1, "no suite 'nothing'"),
        (["--suite", "harm", "--release", "nothing", "--out", "o.jsonl"], 1, "no release 'nothing'"),
        (["--suite", "harm", "--release", "base", "--out", "no/folder/o.jsonl"], 1, "--out"),
        (["--suite", "harm", "--release", "base", "--out", "o.jsonl", "--scorer", "help"], 2, "leave out"),
    ],
)
def test_what_is_asked_wrongly_is_told(home: Path, arguments: list[str], status: int, message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == status
    assert message in done.stderr
