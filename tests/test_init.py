"""`align init` writes an `align.toml` that fits the logs and the model it is pointed at, and says plainly what will not work."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from alignment.config import TEAM_SETTINGS, Settings, load_settings, setting_field
from alignment.errors import InputError
from alignment.ingest import log_sources
from bench.reasoner import TEMPLATES
from bench.tiny import make_tiny_model
from flows import init
from flows.cli import app
from flows.doctor import examine
from flows.explain import explain
from flows.settings_file import SourceEntry, settings_text, toml_value

USER = [{"role": "user", "content": "How long does an egg take?"}]
SAID = "Seven minutes."
GATEWAY = {"created_at": "2026-11-01T12:00:00Z", "user_id": "u1", "messages": USER, "response": SAID}
OPENAI = {
    "request": {"model": "m", "messages": USER},
    "response": {"created": 1793534400, "choices": [{"message": {"role": "assistant", "content": SAID}}]},
}
LANGFUSE = {
    "id": "o", "traceId": "c", "type": "GENERATION", "startTime": "2026-11-01T12:00:00Z", "input": USER,
    "output": {"role": "assistant", "content": SAID},
}  # fmt: skip
SHOP = {"asked": {"text": "How long?"}, "reply": SAID, "when": 1793534400, "customer-no": "u1"}


def write(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["init", *map(str, arguments)])


def written() -> dict[str, Any]:
    return tomllib.loads(Path("align.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / 'a "model" \\ ü', max_position_embeddings=400)


def with_template(tiny: Path, folder: Path, template: str) -> Path:
    shutil.copytree(tiny, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_a_gateway_log_and_a_model_are_written_so_that_doctor_accepts_them(tiny: Path, tmp_path: Path) -> None:
    log = write(tmp_path / "logs" / "day.jsonl", *[GATEWAY] * 3, {"x": 1})
    done = run("--logs", log, "--model", tiny)
    assert done.exit_code == 0, done.output
    assert "preset 'gateway' finds 3 exchanges in the first 4 lines" in done.output
    assert "1 not read, messages_not_a_list: no list of messages" in done.output
    settings = load_settings()
    assert (settings.ingest.logs, settings.ingest.preset) == ([str(log)], "gateway")
    # The tiny model reads fewer tokens than a pair may have by default.
    assert (settings.model.path, settings.train.max_tokens) == (str(tiny), 400)
    rows = {row["check"]: row for row in examine(settings, quick=True)}
    assert [rows[name]["result"] for name in ("logs", "gate", "models", "template", "training")] == ["right"] * 5, rows


def test_a_log_that_a_night_would_set_aside_is_told(tmp_path: Path) -> None:
    done = run("--logs", write(tmp_path / "log.jsonl", *[GATEWAY] * 60, *[{"x": 1}] * 60))
    assert (done.exit_code, "will not work" in done.output) == (0, False), done.output
    done = run("--force", "--logs", write(tmp_path / "log.jsonl", *[GATEWAY, {"x": 1}] * 60))
    assert done.exit_code == 1
    assert "25 of 50 records are unusable; a night sets files such as these aside" in done.output


def test_the_file_holds_the_short_list_with_its_own_words_and_nothing_else_is_changed() -> None:
    assert run().exit_code == 0
    text = Path("align.toml").read_text(encoding="utf-8")
    for name in TEAM_SETTINGS:
        section, key = name.split(".")
        assert f"# {setting_field(name).description}\n#{key} = " in text
        assert f"\n[{section}]\n" in text
    assert load_settings() == Settings.model_construct(home=load_settings().home, seeds=load_settings().seeds)
    # What is commented out is the default, and a file that uses it.
    Path("align.toml").write_text("\n".join(line[line.startswith("#") and line[1:2] != " " :] for line in text.split("\n")))
    assert load_settings() == Settings.model_construct(home=load_settings().home, seeds=load_settings().seeds)


@pytest.mark.parametrize(("row", "preset"), [(OPENAI, "openai"), (LANGFUSE, "langfuse")])
def test_another_format_is_told_by_its_first_lines(row: dict[str, Any], preset: str, tmp_path: Path) -> None:
    write(tmp_path / "in [here]" / "log.jsonl", row)
    assert run("--logs", tmp_path / "in [here]").exit_code == 0
    [source] = log_sources(load_settings())
    assert written()["ingest"]["preset"] == preset
    assert [one.name for one in source.find()] == ["log.jsonl"]


def test_two_kinds_at_once_become_two_sources(tmp_path: Path) -> None:
    first, second, third = (write(tmp_path / f"{n}.jsonl", row) for n, row in enumerate((GATEWAY, OPENAI, GATEWAY)))
    # As a shell hands over what it makes of a glob.
    done = run("--logs", first, second, third)
    assert done.exit_code == 0, done.output
    assert "tomorrow's" in done.output
    sources = {one.name: {file.path for file in one.find()} for one in log_sources(load_settings())}
    assert sources == {"gateway": {str(first), str(third)}, "openai": {str(second)}}
    assert "logs" not in written()["ingest"]
    assert "#logs" not in Path("align.toml").read_text()


def test_a_glob_with_two_kinds_is_told(tmp_path: Path) -> None:
    write(tmp_path / "logs" / "a.jsonl", GATEWAY, GATEWAY)
    write(tmp_path / "logs" / "b.jsonl", OPENAI)
    done = run("--logs", "logs/*.jsonl")
    assert done.exit_code == 1
    assert "other files of it fit openai" in done.output
    assert load_settings().ingest.preset == "gateway"


def test_a_format_that_nothing_reads_gets_a_skeleton_that_works_once_filled_in(tmp_path: Path) -> None:
    log = write(tmp_path / "shop.jsonl", SHOP, SHOP)
    done = run("--logs", log)
    assert done.exit_code == 1
    assert "map its fields" in done.output
    text = Path("align.toml").read_text(encoding="utf-8")
    assert """Keys in the first lines: $."customer-no" (text), $.asked.text (text), $.reply (text), $.when (number)""" in text
    # The logs stand there all the same: a night must not run on the sample instead.
    assert load_settings().ingest.logs == [str(log)]
    for field, key in {"messages": "asked.text", "response": "reply", "created_at": "when", "user_id": '\\"customer-no\\"'}.items():
        [line] = [line for line in text.split("\n") if line.startswith(f"#{field} = ")]
        text = text.replace(line, line[1:].replace("KEY", key))
    Path("align.toml").write_text(text.replace("#[ingest.fields]", "[ingest.fields]"))
    found = explain(load_settings(), str(log))
    assert found["fits"] == "source logs"
    assert {one["field"]: one["value"] for one in found["fields"]}["response"] == SAID


def test_nothing_of_a_hostile_log_is_told_or_written(tmp_path: Path) -> None:
    bad = {
        "\x1b[31mqqq": 1,
        'a"]\n[gate]': 2,
        "ada@example.com": 3,
        "sk-proj-" + "a1B2" * 8: 4,
        "x" * 300: 5,
        "plain": "\x1b[2J\nsecret words",
    }
    log = write(tmp_path / "log.jsonl", bad)
    (tmp_path / "text.jsonl").write_text('{"a":\n[[[[\x00\x1b[31m secret words\n' + "[" * 50_000 + "\n", encoding="utf-8")
    done = run("--logs", log, "--logs", tmp_path / "text.jsonl")
    assert done.exit_code == 1
    text = Path("align.toml").read_text(encoding="utf-8")
    for said in (done.output, text):
        assert not any(part in said for part in ("\x1b", "secret words", "ada@", "sk-proj", "xxx", "qqq"))
    assert "Keys in the first lines: $.plain (text)\n" in text
    assert "The first lines show no keys" in text
    assert set(written()["ingest"]["sources"]) == {"own_1", "own_2"}
    load_settings()


def test_a_hostile_file_name_is_escaped_where_it_is_told_and_where_it_is_written(tmp_path: Path) -> None:
    log = write(tmp_path / 'lo"g [1]\\ \n# \x1b[31m\x7f\u202e𝄞.jsonl', GATEWAY)
    done = run("--logs", log)
    assert done.exit_code == 0, done.output
    assert not any(unseen in done.output for unseen in "\x1b\x7f\u202e")
    assert not any(unseen in Path("align.toml").read_text(encoding="utf-8") for unseen in "\x1b\x7f\u202e")
    assert load_settings().ingest.logs == [str(log)]
    [source] = log_sources(load_settings())
    assert [one.path for one in source.find()] == [str(log)]


def test_a_name_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    log = write(tmp_path / "log.jsonl", GATEWAY).rename(tmp_path / "l\udcffg.jsonl")
    done = run("--logs", log)
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "no UTF-8" in done.output
    assert not Path("align.toml").exists()


def test_a_file_that_exists_is_left_alone_unless_forced(tmp_path: Path) -> None:
    config = tmp_path / "align.toml"
    config.write_text("this is [ no TOML")
    config.chmod(0o640)
    done = run()
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "--force" in done.output
    assert config.read_text() == "this is [ no TOML"
    assert run("--force").exit_code == 0
    assert config.stat().st_mode & 0o777 == 0o640
    assert [one.name for one in tmp_path.glob("align.toml*")] == ["align.toml"]
    load_settings()


def test_a_link_to_nothing_is_a_file_that_exists_and_one_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "align.toml").symlink_to(tmp_path / "elsewhere.toml")
    assert run().exit_code == 1
    assert run("--force").exit_code == 0
    assert (tmp_path / "align.toml").is_symlink()
    assert (tmp_path / "elsewhere.toml").is_file()


def test_a_file_that_somebody_wrote_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = init.target(force=False)
    path.write_text("theirs")
    with pytest.raises(InputError, match="meanwhile"):
        init.write_settings(path, "ours", force=False)
    assert path.read_text() == "theirs"


def test_the_file_is_written_where_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_CONFIG", str(tmp_path / "conf" / "my.toml"))
    assert "its folder does not exist" in run().output
    (tmp_path / "conf").mkdir()
    assert run().exit_code == 0
    assert (tmp_path / "conf" / "my.toml").is_file()
    assert not (tmp_path / "align.toml").exists()


@pytest.mark.parametrize(
    ("logs", "said"),
    [
        (["nowhere/*.jsonl"], "no log file matches"),
        (["empty.jsonl"], "has no line"),
        (["s3://key:hunter2@bucket/x"], "keys stand in the environment"),
        (["s3://bucket/x?token=hunter2"], "keys stand in the environment"),
        ([f"day-{number}.jsonl" for number in range(11)], "--logs '*'"),
    ],
)
def test_logs_that_cannot_be_written_down_are_one_error(logs: list[str], said: str) -> None:
    Path("empty.jsonl").touch()
    done = run(*logs)
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert said in done.output
    assert "hunter2" not in done.output
    assert not Path("align.toml").exists()


@pytest.mark.parametrize(
    ("template", "tokens", "said"),
    # A prompt of 256 tokens and an answer of 40 leave 104 of 400.
    [("like R1", 104, "thinks for up to 104 tokens"), ("like Qwen3", 0, "is asked not to think")],
)
def test_a_model_that_thinks_is_told_for_how_long(template: str, tokens: int, said: str, tiny: Path, tmp_path: Path) -> None:
    done = run("--model", with_template(tiny, tmp_path / "m", TEMPLATES[template]))
    assert done.exit_code == 0, done.output
    assert said in done.output
    assert written()["model"]["thinking_tokens"] == tokens


def _without(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no folder"),
        (lambda folder: (shutil.rmtree(folder), folder.write_text("GGUF")), "is a file"),
        (lambda folder: _without(folder, "chat_template.jinja"), "no chat template"),
        (lambda folder: (folder / "chat_template.jinja").write_text("{% for %}"), "template"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "damaged"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "pickled"),
        (lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"), "holds an adapter"),
        (lambda folder: _without(folder, "config.json"), "config.json is missing"),
    ],
)
def test_a_model_that_will_not_work_is_told_in_a_line(spoil: Any, said: str, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny, folder)
    spoil(folder)
    done = run("--model", folder)
    assert done.exit_code == 1, done.output
    [line] = [line for line in done.output.split("\n") if "will not work:" in line]
    assert said in line
    # A night must not train the embedded model instead.
    assert load_settings().model.path == str(folder)


@given(st.lists(st.text(max_size=20), max_size=3), st.text(max_size=20))
def test_whatever_is_written_is_read_back(logs: list[str], path: str) -> None:
    found = tomllib.loads(settings_text({"model.path": path}, [SourceEntry("x", tuple(logs), "gateway")]))
    assert (found["ingest"]["logs"], found["model"]["path"]) == (logs, path)
    assert [tomllib.loads(f"x = {toml_value(value)}")["x"] for value in (True, 7, 0.25, [])] == [True, 7, 0.25, []]
