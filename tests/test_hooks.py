"""Hooks tell real servers of a change, come again when they failed, and never change the registry."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alignment.config import Settings, load_settings
from alignment.errors import ConfigError
from alignment.release import current, rollback
from alignment.release.approval import promote_by_hand
from alignment.store import query
from flows import cli, hooks
from flows.cli import base
from flows.hooks import deliver
from tests.conftest import NOW
from tests.test_registry import A, B, C, add, up


class Server(ThreadingHTTPServer):
    """A vLLM server and a webhook in one: keeps what it was sent; fails with `fail` as often as `failures` says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.loras: dict[str, str] = {}
        self.seen: list[tuple[str, dict[str, Any], dict[str, str], bytes]] = []
        self.failures, self.fail, self.slow = 0, 503, 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        if self.broken():
            return
        self.reply(200, {"data": [{"id": name} for name in ("my-base-model", *self.server.loras)]})

    def broken(self) -> bool:
        time.sleep(self.server.slow)
        if self.server.failures:
            self.server.failures -= 1
            self.reply(self.server.fail, {"error": "no\x1b[31m"})
            return True
        return False

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        self.server.seen.append((self.path, body, dict(self.headers), raw))
        if self.broken():
            return
        loras, name = self.server.loras, body.get("lora_name")
        if self.path == "/v1/load_lora_adapter":
            fresh = name not in loras
            loras[name] = body["lora_path"]
            self.reply(200 if fresh else 400, "loaded" if fresh else "The lora adapter has already been loaded.")
        elif self.path == "/v1/unload_lora_adapter":
            self.reply(200 if loras.pop(name, None) else 404, "done")
        else:
            self.reply(200, "thanks")


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture(autouse=True)
def _adapters_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    # The registered adapters of these tests are bytes; whose base they carry is tested elsewhere.
    monkeypatch.setattr("flows.evaluate.adapter_of", lambda settings, name: str(settings.home / "releases" / name / "adapter"))


def settings(monkeypatch: pytest.MonkeyPatch, **values: Any) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"ALIGN_RELEASE__{name.upper()}", str(value))
    return load_settings()


def down(home: Path) -> None:
    rollback(home, actor="ann", reason="worse", now=NOW.replace(hour=3))


def test_vllm_holds_what_is_in_use(home: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(monkeypatch, vllm_url=server.url, vllm_folder="/models")
    add(home, A, B)
    up(home, A)
    [run] = deliver(chosen)
    assert (run["hook"], run["ok"], server.loras) == ("vllm", True, {A: f"/models/{A}/adapter"})
    up(home, B)
    deliver(chosen)
    assert list(server.loras) == [B]
    assert [path for path, *_ in server.seen] == ["/v1/load_lora_adapter"] * 2 + ["/v1/unload_lora_adapter"]
    assert deliver(chosen) == []  # nothing is left to tell
    server.loras.clear()  # the server was started again
    deliver(chosen)
    assert list(server.loras) == [B]
    rollback(home, actor="ann", reason="worse", now=NOW)
    rollback(home, actor="ann", reason="worse", now=NOW)
    deliver(chosen)
    assert server.loras == {}


def test_a_webhook_is_signed_and_sent_once(home: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hooks.SECRET, "key")
    chosen = settings(monkeypatch, webhook_url=f"{server.url}/hook")
    add(home, A)
    up(home, A)
    deliver(chosen)
    deliver(chosen)
    [(path, body, headers, raw)] = server.seen
    assert path == "/hook"
    assert {name: body[name] for name in ("event", "release_id", "previous", "actor", "reason")} == {
        "event": "promoted", "release_id": A, "previous": "base", "actor": "ann",
        "reason": "overridden after no decision of the gate: better",
    }  # fmt: skip
    assert headers["X-Align-Signature"] == "sha256=" + hmac.new(b"key", raw, hashlib.sha256).hexdigest()
    assert headers["X-Align-Delivery"] == body["id"]


def test_a_passing_failure_is_tried_again(home: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(monkeypatch, webhook_url=server.url)
    add(home, A)
    up(home, A)
    server.failures = 2
    [run] = deliver(chosen, pause=0.01)
    assert (run["ok"], run["tries"]) == (True, 3)
    assert len({headers["X-Align-Delivery"] for _, _, headers, _ in server.seen}) == 1


def test_a_hook_that_fails_changes_nothing_and_is_repeated_in_order(home: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(monkeypatch, webhook_url=server.url)
    add(home, A, B)
    server.failures = 99
    up(home, A)
    [run] = deliver(chosen, pause=0.01)
    assert not run["ok"]
    assert "503" in run["detail"]
    assert "\x1b" not in run["detail"]
    up(home, B)
    down(home)
    assert [row["ok"] for row in deliver(chosen, pause=0.01)] == [False]  # the second waits for the first
    assert current(home) == A
    server.failures = 0
    server.seen.clear()
    assert [row["ok"] for row in deliver(chosen)] == [True] * 3
    assert [(body["event"], body["release_id"]) for _, body, *_ in server.seen] == [("promoted", A), ("promoted", B), ("rolled_back", A)]
    assert query(home, "SELECT count(*) FILTER (ok) AS good, count(*) AS n FROM hook_runs") == [{"good": 3, "n": 5}]


def test_a_refusal_is_not_tried_again(home: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(monkeypatch, vllm_url=server.url, webhook_url=server.url)
    add(home, A)
    up(home, A)
    server.failures, server.fail = 99, 403
    runs = deliver(chosen, pause=0.01)
    assert [(run["hook"], run["ok"]) for run in runs] == [("vllm", False), ("webhook", False)]
    assert len(server.seen) == 1
    assert current(home) == A


def test_what_an_address_keeps_secret_is_in_no_report(home: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    host = server.url.removeprefix("http://")
    url = f"http://bot:PASS%40WORD@{host}/hook/SEGMENT00?token=TOKEN1234&b=OTHER%2B99"
    said = "bot PASS@WORD PASS%40WORD TOKEN1234 OTHER+99 OTHER%2B99 /hook/SEGMENT00? SEGMENT00"

    def echo(self: Handler) -> bool:
        self.reply(403, f"{said} {self.headers['Authorization']}")
        return True

    monkeypatch.setattr(Handler, "broken", echo)
    add(home, A)
    up(home, A)
    runs = deliver(settings(monkeypatch, webhook_url=url, vllm_url=url), pause=0.01)
    rows = query(home, "SELECT detail FROM hook_runs")
    assert len(runs) == len(rows) == 2
    packed = base64.b64encode(b"bot:PASS@WORD").decode().rstrip("=")
    for detail in [run["detail"] for run in runs] + [row["detail"] for row in rows]:
        assert "***" in detail
        assert not [word for word in ("bot", "PASS", "WORD", "TOKEN", "OTHER", "SEGMENT", packed) if word in detail], detail


def test_a_slow_server_is_given_up(home: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(monkeypatch, webhook_url=server.url, hook_timeout=0.1)
    add(home, A)
    up(home, A)
    server.slow = 0.5
    started = time.monotonic()
    [run] = deliver(chosen, pause=0.01)
    assert not run["ok"]
    assert "Timeout" in run["detail"]
    assert time.monotonic() - started < 3
    assert current(home) == A


def test_the_push_command_repeats_what_failed(home: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "prepare", lambda *_, **__: None)
    settings(monkeypatch, webhook_url=server.url)
    add(home, A)
    server.failures, server.fail = 99, 400
    promoted = CliRunner().invoke(cli.app, ["release", "promote", A, "--reason", "better", "--actor", "ann"])
    assert promoted.exit_code == 0
    assert f"{A} is in production" in promoted.stdout
    assert "align release push" in promoted.stderr
    assert CliRunner().invoke(cli.app, ["release", "push"]).exit_code == 1
    server.failures = 0
    pushed = CliRunner().invoke(cli.app, ["release", "push", "--json"])
    assert pushed.exit_code == 0
    assert [row["ok"] for row in json.loads(pushed.stdout)["hooks"]] == [True]
    shown = CliRunner().invoke(cli.app, ["release", "show", A])
    assert "Hook webhook (promoted): done" in shown.stdout


def test_addresses_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"release\.webhook_url"):
        settings(monkeypatch, webhook_url="ftp://x")


def test_a_whole_model_is_copied_for_servers_and_not_given_to_vllm_as_an_adapter(
    home: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignment.release import register
    from bench.tiny import make_tiny_model

    whole, target = make_tiny_model(tmp_path / "whole"), tmp_path / "merged"
    monkeypatch.setattr("flows.evaluate.adapter_of", lambda settings, name: str(settings.home / "releases" / name / "model"))
    register(home, A, whole, card="# a", manifest={})
    up(home, A)
    runs = deliver(settings(monkeypatch, vllm_url=server.url, merged_weights=target))
    said = {run["hook"]: (run["ok"], run["detail"]) for run in runs}
    assert said["merged"] == (True, f"current is {target / A}")
    assert said["vllm"][0] is False
    assert "is a whole model" in said["vllm"][1]
    assert server.seen == []
    for path in whole.iterdir():
        assert (target / "current" / path.name).read_bytes() == path.read_bytes()


def test_of_exported_models_the_last_two_stay(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.tiny import make_tiny_model

    base, target = make_tiny_model(tmp_path / "base"), tmp_path / "merged"
    monkeypatch.setenv("ALIGN_MODEL__PATH", str(base))
    monkeypatch.setattr("alignment.models.merge.export_merged", lambda base, adapter, target: target.mkdir(parents=True))
    chosen = settings(monkeypatch, merged_weights=target)
    (target / "somebody's own").mkdir(parents=True)
    for number, name in enumerate((A, B, C)):
        add(home, name)
        promote_by_hand(home, name, approval=False, actor="flow", reason="safer", now=NOW.replace(hour=number))
        [run] = deliver(chosen)
        assert run["ok"], run["detail"]
    assert {path.name for path in target.iterdir()} == {"somebody's own", "current", B, C}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for a renamed attribute
def test_merged_weights_are_the_adapted_model(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from alignment.models.identity import folder_id
    from alignment.release import register
    from bench.tiny import make_tiny_model

    base, target = make_tiny_model(tmp_path / "base"), tmp_path / "merged"
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, weights in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(weights)
    adapted.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "manifest.json").write_text(json.dumps({"base_id": folder_id(base)}))
    register(home, A, tmp_path / "adapter", card="# a", manifest={})
    monkeypatch.setenv("ALIGN_MODEL__PATH", str(base))
    chosen = settings(monkeypatch, merged_weights=target)
    up(home, A)
    [run] = deliver(chosen)
    assert run["ok"], run["detail"]
    assert (target / "current").resolve() == target / A
    merged = load_file(target / "current" / "model.safetensors")
    plain = adapted.merge_and_unload().state_dict()
    key = "model.layers.0.self_attn.q_proj.weight"
    assert torch.allclose(merged[key], plain[key])
    assert not torch.allclose(merged[key], load_file(base / "model.safetensors")[key])
    down(home)
    deliver(chosen)
    assert (target / "current").resolve() == base
    inside = deliver(settings(monkeypatch, merged_weights=home / "merged"))
    assert "lies in the state folder" in inside[0]["detail"]
