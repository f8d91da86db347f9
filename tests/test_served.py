"""The model behind a server: it answers as the local one does, and what another model, a dead or a lying server says is not kept."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.config import load_settings
from alignment.errors import AlignError, ConfigError, EndpointError, ModelError, TeacherUnavailable, Transient, WrongServer
from alignment.labels.attacks import control_items
from alignment.labels.llm_judge import self_judge
from alignment.models import local, server_requests, server_verification
from alignment.models.asked import Asked, Use
from alignment.models.call_batch import CallBatch
from alignment.models.dialect import Dialect
from alignment.models.identity import trained_id
from alignment.models.local import LocalModel
from alignment.models.served import ServedModel
from alignment.models.server import ECHO, PROBE_TOKENS, log_probs
from alignment.records import Message
from alignment.sections import ModelServer as ServerSettings
from alignment.sections import Teacher
from alignment.store import TeacherCalls, migrate, query
from bench.tiny import TEMPLATE, make_tiny_model
from tests.model_server import ModelServer
from tests.test_flow import CONFIG, align, sample_lines

# peft still asks transformers for a renamed attribute.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
CONVERSATIONS: list[list[Message]] = [
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Why is it so? </s> {'x' * 7 * at}"}] for at in range(9)
]
ANSWERS = [f"Because of {at} things." for at in range(9)]
SAME = 1e-4
"""Nats: how far apart sums of log-probabilities of float32 models are when others share the batch."""


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "best_dtype", lambda: torch.float32)
    monkeypatch.setattr(server_requests, "_PAUSE", 0.01)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "base", initializer_range=0.3)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("other") / "base", seed=1, initializer_range=0.3)


def make_adapter(base: Path, folder: Path, *, seed: int = 0, scale: float = 0.3) -> Path:
    """Write an adapter that changes what the tiny model says."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from alignment.models.identity import folder_id

    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data *= scale / weight.data.std()
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"base_id": folder_id(base)}))
    return folder


@pytest.fixture
def stored(home: Path) -> Path:
    migrate(home)
    return home


def served(home: Path, base: Path, url: str, adapter: Path | None = None, **settings: Any) -> ServedModel:
    how = {"base_url": url, "model": "base", "retries": 0, "timeout_seconds": 20, **settings}
    model = ServedModel(base, ServerSettings.model_validate(how), TeacherCalls(home, payer="policy"), home=home, adapter=adapter)
    model.verify(anew=adapter is None)
    return model


def kept(home: Path) -> int:
    TeacherCalls(home).settle()
    return int(query(home, "SELECT count(*) AS n FROM teacher_calls WHERE response IS NOT NULL")[0]["n"])


def test_it_answers_weighs_and_chooses_as_the_local_model_and_is_asked_once(stored: Path, tiny: Path) -> None:
    adapter = make_adapter(tiny, stored / "training" / "run" / "adapter")
    server = ModelServer(tiny)
    with server.running() as url:
        base = served(stored, tiny, url)
        for mine, theirs in ((base, LocalModel(tiny)), (served(stored, tiny, url, adapter), LocalModel(tiny, adapter=adapter))):
            assert mine.generate(CONVERSATIONS, max_new_tokens=8) == theirs.generate(CONVERSATIONS, max_new_tokens=8)
            sums = [
                one.sum - two.sum
                for one, two in zip(mine.log_probs(CONVERSATIONS, ANSWERS), theirs.log_probs(CONVERSATIONS, ANSWERS), strict=True)
            ]
            assert max(map(abs, sums)) < SAME
            for one, two in zip(mine.choose(CONVERSATIONS, "AB"), theirs.choose(CONVERSATIONS, "AB"), strict=True):
                assert one.probabilities == pytest.approx(two.probabilities, abs=SAME)
        assert server.most_waiting > 1, "calls go out together"
        before = server.answered.copy()
        served(stored, tiny, url).generate(CONVERSATIONS, max_new_tokens=8)
        assert server.answered == before and set(before.values()) == {1}
        # A release's id is made from its files and the server's identity, as the registry recomputes it.
        mine = served(stored, tiny, url, adapter)
        assert mine.model_id == trained_id(adapter, dtype=mine.precision, batch_size=7)
        assert url.split("/")[2] not in json.dumps([mine.model_id, mine.precision])
    assert [order for order in server.orders if order.startswith("load")] == [f"load {mine._who.name}"]


@pytest.mark.parametrize("without", [("prompt_logprobs", "tokenize"), ("prompt_logprobs", "echo", "tokenize")])
def test_log_probabilities_come_from_whoever_gives_them_and_never_silently_from_another(
    stored: Path, tiny: Path, without: tuple[str, ...]
) -> None:
    with ModelServer(tiny, without=without).running() as url:
        model, here = served(stored, tiny, url), LocalModel(tiny).log_probs(CONVERSATIONS[:2], ANSWERS[:2])
        if "echo" not in without:
            assert [one.sum for one in model.log_probs(CONVERSATIONS[:2], ANSWERS[:2])] == pytest.approx(
                [one.sum for one in here], abs=SAME
            )
            return
        with pytest.raises(ModelError, match=r"gives no log-probabilities of a prompt.*log_probs = 'local'"):
            model.log_probs(CONVERSATIONS[:2], ANSWERS[:2])
        mixed = served(stored, tiny, url, log_probs="local")
        assert mixed.log_probs(CONVERSATIONS[:2], ANSWERS[:2]) == here
        assert mixed.model_id != model.model_id


def test_another_model_template_or_name_is_refused_before_anything_is_stored(stored: Path, tiny: Path, other: Path) -> None:
    server = ModelServer(tiny)
    with server.running() as url:
        with pytest.raises(ModelError, match=r"does not serve 'bass', it serves 'base'"):
            served(stored, tiny, url, model="bass")
        server.become(tiny, template=TEMPLATE.replace("assistant", "helper"))
        with pytest.raises(ModelError, match="its chat template or tokenizer is not that of"):
            served(stored, tiny, url)
        server.become(other)
        with pytest.raises(ModelError, match=r"does not come from .* nats per token apart, at most 0\.1 is allowed"):
            served(stored, tiny, url)
        server.without = {"prompt_logprobs", "echo"}
        with pytest.raises(ModelError, match="it says the same to 0 of 3 probes"):
            served(stored, tiny, url)
    assert not server.answered and not kept(stored)


def test_a_server_that_changes_under_way_loses_its_batch_and_has_another_identity(stored: Path, tiny: Path, other: Path) -> None:
    server = ModelServer(tiny)
    with server.running() as url:
        model = served(stored, tiny, url)
        model.generate(CONVERSATIONS[:3], max_new_tokens=8)
        before, identity = kept(stored), model.model_id
        server.become(other)
        with pytest.raises(ModelError, match=r"answers the same probes otherwise.*are not kept"):
            model.generate(CONVERSATIONS, max_new_tokens=8)
        assert kept(stored) == before == 3
        server.become(tiny)
        server.root = "/elsewhere/v2"
        with pytest.raises(ModelError, match="it says it serves base from /elsewhere/v2"):
            model.generate(CONVERSATIONS, max_new_tokens=8)
        assert kept(stored) == before
        assert served(stored, tiny, url).model_id != identity


def test_an_adapter_that_cannot_be_loaded_or_is_another_one_is_an_error(stored: Path, tiny: Path) -> None:
    adapter = make_adapter(tiny, stored / "training" / "a" / "adapter")
    wrong = make_adapter(tiny, stored / "elsewhere" / "training" / "a" / "adapter", seed=5)
    server = ModelServer(tiny)
    with server.running() as url:
        with pytest.raises(ModelError, match=r"does not load the adapter in '/nowhere/training/a/adapter'.*home_as"):
            served(stored, tiny, url, adapter, home_as="/nowhere").generate(CONVERSATIONS, max_new_tokens=8)
        with pytest.raises(ModelError, match="does not come from"):
            served(stored, tiny, url, adapter, home_as=str(wrong.parents[2])).generate(CONVERSATIONS, max_new_tokens=8)
        server.adapters.clear()
        server.without = {"adapters"}
        with pytest.raises(ModelError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
            served(stored, tiny, url, adapter).generate(CONVERSATIONS, max_new_tokens=8)
    assert not server.answered and not kept(stored)


def test_a_restarted_server_gets_its_adapter_again_and_earlier_nights_are_unloaded(stored: Path, tiny: Path) -> None:
    first, second = (make_adapter(tiny, stored / name / "adapter", seed=at) for at, name in enumerate("ab"))
    server = ModelServer(tiny)
    with server.running() as url:
        model = served(stored, tiny, url, first)
        said = model.generate(CONVERSATIONS[:2], max_new_tokens=8)
        server.adapters.clear()
        assert model.generate(CONVERSATIONS[2:4], max_new_tokens=8) and model._who.name in server.adapters
        # Another night of this state folder, and another state folder on the same server.
        server._add("align-ffffff-1", str(first))
        server.adapters["align-ffffff-1"] = str(first)
        served(stored, tiny, url, second).unload_all()
        later = served(stored, tiny, url, second)
        assert later.generate(CONVERSATIONS[:2], max_new_tokens=8) != said
        assert set(server.adapters) == {"align-ffffff-1", later._who.name}


@pytest.mark.parametrize(
    ("garbage", "words"),
    [
        (b"<html>", "no whole chat completion"),
        (b'{"choices": []}', "no whole chat completion"),
        (lambda body: _said(body, "x", prompt_tokens=3), "3 tokens, where the template here gives"),
        (lambda body: _said(body, "x", prompt_tokens=None), "an unknown number of tokens"),
        (lambda body: _said(body, "x" * 99, tokens=99), "wrote 99 tokens"),
        (lambda body: _said({**body, "model": "gpt"}, "x"), "answers with 'gpt' for 'base'"),
        (lambda body: _said(body, "", finish="content_filter"), "filters the answers"),
        (lambda body: _said(body, "x" * 500_002), "wrote 500,002 characters"),
        (lambda body: _said(body, "x", finish=None), "finish_reason 'None'"),
        (lambda body: _said(body, "x", finish="tool_calls"), "finish_reason 'tool_calls'"),
    ],
    ids=["html", "no choice", "other prompt", "no usage", "too long", "other model", "filtered", "long words", "no end", "other end"],
)
def test_garbage_is_one_error_and_nothing_is_kept(stored: Path, tiny: Path, garbage: Any, words: str) -> None:
    server = ModelServer(tiny)
    with server.running() as url:
        model = served(stored, tiny, url)
        server.garbage = garbage
        with pytest.raises(ModelError, match=words):
            model.generate(CONVERSATIONS[:2], max_new_tokens=8)
    assert not kept(stored)


def test_half_a_surrogate_pair_is_replaced_and_the_store_stays_usable(stored: Path, tiny: Path) -> None:
    server = ModelServer(tiny)
    with server.running() as url:
        model = served(stored, tiny, url, max_difference=0)
        server.garbage = lambda body: _said(body, "half \ud83d of it")
        assert model.generate(CONVERSATIONS[:1], max_new_tokens=8) == ["half \ufffd of it"]
    assert kept(stored) == 1


def test_another_process_does_not_store_answers_before_they_are_checked(stored: Path, tiny: Path) -> None:
    server, met = ModelServer(tiny), 0

    def edit(body: Any, answer: Any, is_call: bool) -> None:
        nonlocal met
        if not is_call:
            answer["choices"][0].get("message", {})["content"] = "another model"
            return
        for payer in ("", "guard:g", "policy"):
            TeacherCalls(stored, payer=payer).find(["x"])
        met += 1

    with server.running() as url:
        model = served(stored, tiny, url, max_difference=0)
        server.edit = edit
        with pytest.raises(WrongServer, match="answers the same probes otherwise"):
            model.generate(CONVERSATIONS, max_new_tokens=8)
    assert met == len(CONVERSATIONS) and not kept(stored)
    assert not TeacherCalls(stored, payer="policy").waiting(_ids(server, stored))


def _ids(server: ModelServer, home: Path) -> list[str]:
    return [json.loads(each)["id"] for each in (home / "policy_calls.jsonl").read_text().splitlines() if each]


@pytest.mark.parametrize("changed", [False, True])
def test_answers_wait_while_the_server_cannot_be_checked(stored: Path, tiny: Path, changed: bool) -> None:
    server = ModelServer(tiny)
    with server.running() as url:
        model = served(stored, tiny, url, max_difference=0)
        server.edit = lambda body, answer, is_call: None if is_call else 503
        with pytest.raises(EndpointError, match="503"):
            model.generate(CONVERSATIONS, max_new_tokens=8)
        assert not kept(stored) and len(_ids(server, stored)) == len(CONVERSATIONS)

        def edit(body: Any, answer: Any, is_call: bool) -> None:
            answer["choices"][0].get("message", {})["content"] = "another model"

        server.edit = edit if changed else None
        if changed:
            with pytest.raises(WrongServer):
                model.generate(CONVERSATIONS, max_new_tokens=8)
            assert not kept(stored) and not _ids(server, stored)
        else:
            model.generate(CONVERSATIONS, max_new_tokens=8)
            assert kept(stored) == len(CONVERSATIONS) and set(server.answered.values()) == {1}


@pytest.mark.parametrize("first", [0, 1])
def test_a_wrong_answer_is_told_rather_than_that_the_server_went_away(home: Path, monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    async def fail(batch: CallBatch, asked: Asked) -> Any:
        raise TeacherUnavailable("gone") if int(asked.id) == first else WrongServer("wrong")

    monkeypatch.setattr(CallBatch, "_one", fail)
    endpoint = Teacher(base_url="http://127.0.0.1:1/v1", model="m", concurrency=2)
    batch = CallBatch(endpoint, TeacherCalls(home), "", Dialect(optional=()), Use())
    with pytest.raises(WrongServer, match="wrong"):
        asyncio.run(batch.all([Asked(str(at), {}, "", (0, 0.0)) for at in range(2)]))


def test_an_adapter_that_looks_like_its_base_has_to_be_told_by_name_and_root(stored: Path, tiny: Path) -> None:
    adapter = make_adapter(tiny, stored / "training" / "a" / "adapter", scale=1e-6)
    server = ModelServer(tiny)
    with server.running() as url:
        served(stored, tiny, url, adapter)
        server.tells_root = False
        with pytest.raises(WrongServer, match="do not tell it from the base"):
            served(stored, tiny, url, adapter, max_difference=0.2)
        server.tells_root = True
        server.edit = lambda body, answer, is_call: answer.update(model="base")
        with pytest.raises(WrongServer, match="its answers are 'base''s"):
            served(stored, tiny, url, adapter, max_difference=0.4)
        server.edit = None
        server.adapters = dict.fromkeys(server.adapters, "/stale/adapter")
        with pytest.raises(WrongServer, match="it has that from '/stale/adapter'") as caught:
            served(stored, tiny, url, adapter, max_difference=0.3)
        assert isinstance(caught.value, Transient), "an anchor is not blamed for its server"


@pytest.mark.parametrize("comes_back", [True, False])
def test_an_adapter_that_is_lost_within_a_batch_is_loaded_again_and_only_the_rest_is_asked(
    stored: Path, tiny: Path, comes_back: bool
) -> None:
    adapter = make_adapter(tiny, stored / "training" / "a" / "adapter")
    server = ModelServer(tiny)

    def restart(body: Any, answer: Any, is_call: bool) -> None:
        if is_call and sum(server.answered.values()) == 3:
            server.adapters.clear()
            server.without = set() if comes_back else {"adapters"}

    with server.running() as url:
        model = served(stored, tiny, url, adapter, max_difference=0, concurrency=1)
        server.edit = restart
        if not comes_back:
            with pytest.raises(EndpointError, match="does not load the adapter"):
                model.generate(CONVERSATIONS, max_new_tokens=8)
            assert not kept(stored)
            server.without = set()
        assert len(model.generate(CONVERSATIONS, max_new_tokens=8)) == len(CONVERSATIONS)
    assert kept(stored) == len(CONVERSATIONS) and set(server.answered.values()) == {1}


def _no_token(choice: Any) -> None:
    choice["prompt_logprobs"][-1] = {"3": {"logprob": -0.1}}


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda answer: answer.update(model="gpt"), "answers with 'gpt' for 'base'"),
        (lambda answer: answer["usage"].update(prompt_tokens=3), "3 tokens, where the template here gives"),
        (lambda answer: answer.pop("usage"), "an unknown number of tokens"),
        (lambda answer: _no_token(answer["choices"][0]), "does not give the log-probabilities .* by prompt_logprobs"),
        (lambda answer: answer["choices"][0]["prompt_logprobs"].append(None), "does not give the log-probabilities"),
    ],
    ids=["name", "count", "no count", "other token", "length"],
)
def test_log_probabilities_of_something_else_are_one_error_and_paid_once(stored: Path, tiny: Path, break_it: Any, words: str) -> None:
    server = ModelServer(tiny)
    with server.running() as url:
        model = served(stored, tiny, url, max_difference=0, retries=5)
        server.edit = lambda body, answer, is_call: break_it(answer) and None if is_call else None
        with pytest.raises(WrongServer, match=words):
            model.log_probs(CONVERSATIONS[:1], ANSWERS[:1])
    assert sum(server.answered.values()) == 1 and not kept(stored)


def test_an_echo_of_other_tokens_gives_no_numbers() -> None:
    for numbers in ([None, -1.0], [None, -1.0, -1.0, -1.0, -1.0]):
        with pytest.raises(ValueError, match="other tokens"):
            log_probs({"choices": [{"logprobs": {"token_logprobs": numbers}}]}, [1, 2, 3], ECHO)


def test_thinking_that_the_server_parts_is_part_of_a_probe(stored: Path, tiny: Path) -> None:
    server, most = ModelServer(tiny), set()

    def part(body: Any, answer: Any, is_call: bool) -> None:
        if message := answer["choices"][0].get("message"):
            most.add(body["max_tokens"])
            message.update(content=None, reasoning=message["content"])

    def silence(body: Any, answer: Any, is_call: bool) -> None:
        answer["choices"][0].get("message", {})["content"] = ""

    with server.running() as url:
        server.edit = part
        model = served(stored, tiny, url, max_difference=0)
        thinks = ServedModel(tiny, model.settings, TeacherCalls(stored, payer="policy"), home=stored, thinking_tokens=5)
        thinks.verify()
        assert most == {PROBE_TOKENS, PROBE_TOKENS + 5}
        assert all(one.words.thought for one in thinks._who.verify().probes)
        server.edit = silence
        with pytest.raises(WrongServer, match="says nothing for 'base' to any of 3 probes"):
            served(stored, tiny, url, max_difference=0)


def test_the_own_models_server_is_no_abstention_of_its_judge(stored: Path, tiny: Path) -> None:
    server = ModelServer(tiny)
    with server.running() as url:
        model = served(stored, tiny, url, max_difference=0)
        server.edit = lambda body, answer, is_call: answer.update(model="gpt") if is_call else None
        with pytest.raises(WrongServer):
            self_judge(model).vote([one.comparison for one in control_items()][:1])  # type: ignore[arg-type]
    with pytest.raises(EndpointError):
        self_judge(model).vote([one.comparison for one in control_items()][:1])  # type: ignore[arg-type]


def test_two_processes_of_one_state_folder_leave_each_others_adapters(stored: Path, tiny: Path) -> None:
    first, second = (make_adapter(tiny, stored / name / "adapter", seed=at) for at, name in enumerate("ab"))
    server = ModelServer(tiny)
    with server.running() as url:
        for adapter in (first, second):
            server_verification._verified.clear()
            served(stored, tiny, url, adapter, max_difference=0)
    assert len(server.adapters) == 2 and not [order for order in server.orders if order.startswith("unload")]


def test_weights_are_loaded_once_a_model_and_not_by_a_quick_check(stored: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.doctor import _model_server

    made: list[Path | None] = []

    def load(folder: Path, *, adapter: Path | None = None, **how: Any) -> LocalModel:
        made.append(adapter)
        return LocalModel(folder, adapter=adapter, **how)

    monkeypatch.setattr(server_verification, "LocalModel", load)
    server_verification._here.clear()
    adapter = make_adapter(tiny, stored / "training" / "a" / "adapter")
    with ModelServer(tiny).running() as url:
        there = {"base_url": url, "model": "base"}
        settings = load_settings(home=stored, model={"path": str(tiny), "backend": "openai"}, model_server=there, train={"max_tokens": 512})
        assert _model_server(settings, quick=True).endswith("known answers: not compared") and not made
        served(stored, tiny, url)
        served(stored, tiny, url, adapter)
        served(stored, tiny, url)
    assert made == [None, adapter]


def test_a_server_whose_texts_stay_but_whose_numbers_move_is_another_one(stored: Path, tiny: Path) -> None:
    server = ModelServer(tiny)

    def drift(by: float) -> Any:
        def edit(body: Any, answer: Any, is_call: bool) -> None:
            for row in answer["choices"][0].get("prompt_logprobs") or [None]:
                for each in (row or {}).values():
                    each["logprob"] -= by

        return edit

    with server.running() as url:
        model = served(stored, tiny, url, max_difference=0)
        server.edit = drift(0.001)
        model.generate(CONVERSATIONS[:2], max_new_tokens=8)
        server.edit = drift(0.1)
        with pytest.raises(WrongServer, match="nats per token otherwise likely"):
            model.generate(CONVERSATIONS, max_new_tokens=8)
    assert kept(stored) == 2


def _said(body: dict[str, Any], text: str, *, tokens: int = 1, prompt_tokens: int | None = -1, finish: str | None = "stop") -> bytes:
    whole = sum(len(one["role"]) + 1 + len(one["content"].encode()) + 3 for one in body["messages"]) + len("assistant") + 2
    usage = {"prompt_tokens": whole if prompt_tokens == -1 else prompt_tokens, "completion_tokens": tokens}
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    return json.dumps({"model": body["model"], "choices": [choice], "usage": usage}).encode()


def test_a_slow_server_a_wrong_key_and_none_at_all_are_one_error_each(stored: Path, tiny: Path) -> None:
    server = ModelServer(tiny, key="k-1234567890")
    with server.running() as url:
        with pytest.raises(ModelError, match="does not answer a probe: status 401") as caught:
            served(stored, tiny, url)
        assert "k-1234567890" not in str(caught.value)
        server.key = ""
        model = served(stored, tiny, url, timeout_seconds=1.0)
        server.waits = 30.0
        with pytest.raises(EndpointError, match=r"no answer within 1\.0 s"):
            model.generate(CONVERSATIONS[:1], max_new_tokens=8)
    with pytest.raises(EndpointError, match=r"\[model_server\]"):
        served(stored, tiny, url)


def test_settings_that_cannot_work_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_MODEL__BACKEND", "openai")
    with pytest.raises(ConfigError, match=r"set \[model_server\] base_url and model"):
        load_settings()
    monkeypatch.setenv("ALIGN_MODEL_SERVER__BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("ALIGN_MODEL_SERVER__MODEL", "base")
    before = load_settings().fingerprint
    monkeypatch.setenv("ALIGN_MODEL_SERVER__BASE_URL", "http://127.0.0.1:2/v1")
    assert load_settings().fingerprint == before, "where a server is does not make another night"
    monkeypatch.setenv("ALIGN_TRAIN__METHOD", "full")
    with pytest.raises(ConfigError, match="a running server loads adapters, not whole models"):
        load_settings()


def test_doctor_asks_the_server_what_a_night_will(stored: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.doctor import _model_server

    assert _model_server(load_settings(home=stored)).startswith("none is configured")
    server = ModelServer(tiny)
    with server.running() as url:
        settings = load_settings(
            home=stored,
            model={"path": str(tiny), "backend": "openai"},
            model_server={"base_url": url, "model": "base"},
            train={"max_tokens": 512},
        )
        assert "reads 2048 tokens; log-probabilities: by prompt_logprobs; known answers: as likely as here" in _model_server(settings)
        for without, words in ((("adapters",), "takes no adapters by name"), (("prompt_logprobs", "echo"), "gives no log-probabilities")):
            server.without = set(without)
            with pytest.raises(AlignError, match=words):
                _model_server(settings)
        server.without = set()
        with pytest.raises(AlignError, match="start it with --max-model-len 4096"):
            _model_server(settings.model_copy(update={"train": settings.train.model_copy(update={"max_tokens": 4096})}))


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The same night three times: local; behind a server that dies under way; and gone on with once it is back."""
    folder = tmp_path_factory.mktemp("nights")
    base = make_tiny_model(folder / "tiny")
    (folder / "logs.jsonl").write_text("\n".join(sample_lines(100)) + "\n")
    retention = '[gate.rules.kept]\nsuite = "retention"\nmargin = 1.0\n'
    config = CONFIG.replace("pairs = 40", "pairs = 4") + retention
    (folder / "align.toml").write_text(config)
    here, _ = align(folder, "local", "nightly", "--json", program="tests.greedy")
    server = ModelServer(base)
    with server.running() as url:
        pass  # its port
    there = f'[model_server]\nbase_url = "{url}"\nmodel = "base"\nretries = 0\ntimeout_seconds = 60\n'
    (folder / "align.toml").write_text(config.replace('path = "tiny"', 'path = "tiny"\nbackend = "openai"') + there)
    # Ids, and so what is drawn and split by them, come from the state folder's key.
    (folder / "served").mkdir(mode=0o700)
    shutil.copy(folder / "local" / "redaction.key", folder / "served")
    server.dies_after = 300
    with server.running():
        _, errors = align(folder, "served", "nightly", "--json", status=1, program="tests.greedy")
    paid, server.dies_after = server.answered.copy(), 0
    lines = [json.loads(each) for each in (folder / "served" / "policy_calls.jsonl").read_text().splitlines() if each]
    waiting = sum(each["response"] is not None for each in lines)
    on_disk = waiting + kept(folder / "served")
    server.adapters.clear()
    server.become(base)
    with server.running():
        again, _ = align(folder, "served", "nightly", "--json", program="tests.greedy")
    yield {
        "folder": folder,
        "local": json.loads(here),
        "served": json.loads(again),
        "errors": errors,
        "paid": paid,
        "server": server,
        "on_disk": on_disk,
        "waiting": waiting,
    }


SAID = {
    "candidates": "SELECT interaction_id, kind, text, principle_id FROM candidates ORDER BY ALL",
    "pairs": "SELECT pairs.interaction_id, chosen, rejected, side, judge_margin, pair_sets.split FROM pairs "
    "JOIN pair_sets ON pair_id = pairs.id ORDER BY ALL",
    "answers": "SELECT model_id = 'base' AS is_base, suite, prompt_id, response FROM eval_answers ORDER BY ALL",
}


@pytest.mark.flow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", SAID)
def test_a_night_behind_a_server_writes_what_the_local_one_writes(nights: dict[str, Any], what: str) -> None:
    here, there = (query(nights["folder"] / home, SAID[what]) for home in ("local", "served"))
    assert len(here) >= 8
    assert here == there


@pytest.mark.flow
def test_it_decides_as_the_local_one_up_to_rounding(nights: dict[str, Any]) -> None:
    here, there = nights["local"], nights["served"]
    assert here["decision"] == there["decision"]
    for one, two in zip(here["metrics"], there["metrics"], strict=True):
        assert (one["name"], one["n"], one["status"]) == (two["name"], two["n"], two["status"])
        for value in ("champion", "challenger", "diff", "low", "high"):
            assert one[value] == pytest.approx(two[value], abs=1e-4), one["name"]


@pytest.mark.flow
def test_a_server_that_dies_ends_the_night_with_one_error_and_no_stored_call_is_made_again(nights: dict[str, Any]) -> None:
    assert "gave no answer in 1 attempts each" in nights["errors"] and "Traceback" not in nights["errors"], nights["errors"][-2000:]
    again = [body for body, number in nights["server"].answered.items() if number > 1]
    # Only what was answered and had not arrived when the night gave up.
    assert nights["waiting"] and len(again) <= sum(nights["paid"].values()) - nights["on_disk"]
