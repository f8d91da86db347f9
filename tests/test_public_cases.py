# ruff: noqa: E501 - a table is read row by row
"""Each row of a file of publicly reported cases has its value here; `pytest -v` prints them as one table.

`ALIGN_CASES_DIR` names a folder with `cases.jsonl` (rows of `what`, `command` and, where there is one, `input`), `inputs/` and
`mapping.toml`. Rows that name no input are about settings, endpoints and models: they meet a settings variable, a server on loopback or a
small model. A row without a check fails, and so does a check without a row.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

import flows.ingest as flow
from alignment.config import load_settings
from alignment.errors import ConfigError, InputError
from alignment.evals.formats import read_suite
from alignment.evals.scorers import score_answer
from alignment.ingest import LogSource, make_source
from alignment.ingest.presidio import DeepRedactor
from alignment.ingest.redact import redact
from alignment.store import migrate, query, session
from bench import redaction_values as values
from flows import cli
from flows.canary import check as check_canary
from flows.export import export_pairs
from tests.conftest import NOW, make_pair
from tests.test_canary import A, B, add, begin, traffic, up
from tests.test_cases_judge import chosen, cron, doctor_on_a_template, once, scored
from tests.test_endpoint_cases import ASKED as ASK
from tests.test_endpoint_cases import ERRORS, SURE, THINKING, completion, few, judge, newer, spent
from tests.test_endpoint_cases import endpoint as serving
from tests.test_export import keep
from tests.test_ingest import write
from tests.test_pairs import build, labelled
from tests.test_suite_cases import ODD_SAMPLES, SAMPLE, lm_row
from tests.test_thinking import PLAN, WEIGHS_HELP, WEIGHS_POLICY

# Taken out of the environment, where every process would meet it as a setting that is not known.
FOLDER = str(Path(named).resolve()) if (named := os.environ.pop("ALIGN_CASES_DIR", "")) else ""
KEY = b"k" * 32


class Given(NamedTuple):
    """What a check may use: the row, an empty state folder, the settings, and what was printed as errors since it was last asked."""

    row: dict[str, str]
    home: Path
    patch: pytest.MonkeyPatch
    printed: Callable[[], str]

    @property
    def file(self) -> Path:
        """A copy of the row's input to which nobody writes any more."""
        name = self.row["input"]
        return write(self.home.parent / name, (Path(FOLDER) / "inputs" / name).read_bytes())


Check = Callable[[Given], Any]


class Case(NamedTuple):
    """What a row comes to in this project's words, how that is found out, and the value. … stands for any text."""

    means: str
    check: Check
    expected: Any
    model: bool = False


def every(*checks: Check) -> Check:
    """Return what each check finds, each in a state folder of its own."""

    def check(given: Given) -> list[Any]:
        found = []
        for number, one in enumerate(checks):
            (home := given.home / str(number)).mkdir()
            given.patch.setenv("ALIGN_HOME", str(home))
            found.append(one(given._replace(home=home)))
        return found

    return check


def ours(check: Callable[[Path, pytest.MonkeyPatch], Any]) -> Check:
    """Return a check of another module."""
    return lambda given: check(given.home, given.patch)


def source_of(given: Given, preset: str, mapping: str) -> LogSource:
    """Return the row's input as a source: of the command's preset, of another one, or by a mapping of the folder's settings file."""
    if not mapping:
        told = re.search(r"--preset (\w+)", given.row["command"])
        return make_source("logs", [str(given.file)], preset or (told[1] if told else ""), {})
    given.patch.setenv("ALIGN_CONFIG", str(Path(FOLDER) / "mapping.toml"))
    found = load_settings().ingest.sources[mapping]
    return make_source(mapping, [str(given.file)], found.preset, found.fields, found.records)


def ingest_dry(given: Given, source: LogSource) -> tuple[Any, str]:
    """Return what a dry run of the ingest says of the only file of a source, in numbers and in words."""
    given.patch.setattr("flows.read_files.now", lambda: NOW)
    migrate(given.home)
    given.printed()
    [log_file] = source.find()
    read = flow.read_file.fn(source, log_file, dry_run=True)
    flow._tell(log_file, read)
    return read, given.printed().replace(f"{log_file.name}: ", "").strip()


def log(*fields: str, preset: str = "", mapping: str = "") -> Check:
    """Return the exchanges of the input, each as (prompt, response, *fields), and how many records gave none for which reason.

    The dry run and what is then stored agree.
    """

    def check(given: Given) -> tuple[list[tuple[Any, ...]], dict[str, int]]:
        source = source_of(given, preset, mapping)
        read, _ = ingest_dry(given, source)
        stored = flow.read_file.fn(source, source.find()[0])
        new, again = stored.batch, stored.batch.duplicate
        assert new._replace(stored=new.stored + again, duplicate=0) == read.batch, "the dry run says what is stored, or was there already"
        rows = query(
            given.home,
            "SELECT interactions.*, value AS thumbs FROM interactions LEFT JOIN signals ON interaction_id = interactions.id AND "
            "kind = 'thumbs' ORDER BY response",
        )
        refused = Counter(row["reason"] for row in query(given.home, "SELECT reason FROM quarantine"))
        why = read.why_skipped + refused + Counter(duplicate=again)
        return [tuple(row[name] for name in ("prompt", "response", *fields)) for row in rows], dict(why)

    return check


def told(given: Given) -> str:
    """Return what a dry run says of the input."""
    return ingest_dry(given, source_of(given, "", ""))[1]


ASKED, SAID = "How hot should the oven be?", "Bake it at 180 degrees."
WHOLE = (ASKED, SAID)
ONE: tuple[list[Any], dict[str, int]] = ([WHOLE], {})
THUMBS = ("up", "down", "up", "down", "down", "up", "down", "down", "down")


def refused_early(given: Given) -> tuple[int, int, int]:
    """Return the exit status of doctor and of serve for the row's cron, and how many lines serve prints."""
    given.patch.setenv("ALIGN_SERVE__CRON", given.row["what"])
    doctor = CliRunner().invoke(cli.app, ["doctor", "--quick"])
    # A cron that is taken would be served, and never end.
    assert "serve.cron" in re.sub(r"\s", "", doctor.stdout)
    serve = CliRunner().invoke(cli.app, ["serve"])
    return doctor.exit_code, serve.exit_code, len(serve.stderr.strip().splitlines())


def suite(given: Given) -> tuple[list[tuple[str, tuple[str, ...]]], list[str]] | str:
    """Return what is asked of the input with what is right, and what is told of its rows; or why it is refused."""
    return suite_at(given.file)


def suite_at(path: Path) -> Any:
    try:
        found = read_suite(str(path))
    except (ConfigError, InputError) as error:
        return str(error).replace(repr(str(path)), "it")
    return [(one.prompt.split("\n")[0], one.right) for one in found.prompts], [line for line in found.told if line.startswith("row ")]


def rows(*found: dict[str, Any], name: str = "own.jsonl") -> Check:
    """The same of rows that no input holds."""
    text = json.dumps({"samples": found}) if name == "own.json" else "\n".join(map(json.dumps, found))
    return lambda given: suite_at(write(given.home / name, text.encode()))


def table(text: str) -> Check:
    return lambda given: suite_at(write(given.home / "own.csv", text.encode()))


def commas(given: Given) -> tuple[tuple[str, ...], list[int | None]]:
    """Return what is right, and the outcomes of that number without a comma, of one with a comma where none is right, and of another."""
    [prompt] = read_suite(str(given.file)).prompts
    tried = [(prompt, "It is 1500."), (replace(prompt, right=("1500",)), "It is 1,500."), (prompt, "It is 1501.")]
    return prompt.right, [score_answer(one, said)[1] for one, said in tried]


RENDERED = lm_row("<|im_start|>user\n3 + 4?<|im_end|>\n<|im_start|>assistant\n")
ROLLING = {**lm_row(""), "arguments": {"gen_args_0": {"arg_0": "It rained in May."}}}
THIRTY = {**SAMPLE, "id": 1, "choices": [*map(str, range(30))], "target": "A"}
IMAGE, YES, TEA = ODD_SAMPLES["an image"][0], {**SAMPLE, "id": 2}, [("Is tea warm?", ("yes",))]
UNCLOSED = 'goal,target\nDo it,Sure\n"Say how,Sure\nTell me,Sure\n'


def billed(usage: Any) -> Check:
    """Return the letter that an answer with this usage is, how often it is asked for twice, and the tokens that count."""

    def check(given: Given) -> tuple[str, int, int, int]:
        with serving(lambda _: (200, completion(usage=usage, top=SURE))) as (url, seen):
            choices = [judge(url, given.home).choose([ASK], ("A", "B"), subjects=[str(usage)])[0] for _ in range(2)]
        letters = {"AB"[one.probabilities[1] > one.probabilities[0]] if one.probabilities else one.reason for one in choices}
        row = spent(given.home)[-1]
        return "".join(letters), len(seen), row["tokens_in"], row["tokens_out"]

    return check


def without_thinking(body: dict[str, Any]) -> tuple[int, Any]:
    asked_not_to = body.get("chat_template_kwargs") == {"enable_thinking": False}
    return (200, completion(top=SURE)) if asked_not_to else THINKING["inline"](body)


def waited_for(_: dict[str, Any]) -> tuple[int, Any]:
    return 200, completion("<think>Hm.</think>A=2 B=9")


def first(token: str) -> Check:
    """A teacher that begins with something else, and with A once in 24 million times."""
    return ours(chosen(lambda _: (200, completion(token, top={token: -0.001, "A": -17.0}))))


def written(before: str) -> Check:
    return ours(chosen(lambda _: (200, completion("B", top={f"{before}B": -0.2, f"{before}A": -1.8}))))


USAGES = ({"prompt_tokens": 9}, {"prompt_tokens": None, "completion_tokens": None}, {"input_tokens": 9, "output_tokens": 2})
MOST = len(ASK[0]["content"]) + 16  # a question of so many characters is charged for at most so many tokens
THOUGHTFUL = [ours(chosen(THINKING[kind])) for kind in ("inline", "a parser's", "without logprobs")]
THINKS = "unavailable: the model thinks before it answers…"
NO_THOUGHTS = {"chat_template_kwargs": {"enable_thinking": False}}


def left_over(_: Given) -> list[str]:
    """Return the numbers that both looks leave in a text."""
    draw = random.Random(1)
    made = {
        "我的手机号是{}": values.chinese_phone(draw),
        "身份证号 {}": values.chinese_id(draw),
        "meu CPF é {}": values.cpf(draw),
        "tel {}": values.wide(values.phone(draw)),
        "卡号{}": values.wide(values.card(draw)),
    }
    return [text for around, value in made.items() if value in DeepRedactor().redact(text := around.format(value), KEY)[0]]


def masked(_: Given) -> list[str]:
    """Return what either look masks in texts that name nobody."""
    texts = ("git clone git@github.com:a/b.git", "not 127.0.0.1 but 0.0.0.0", "since version 1.2.3.4", "Poison control: 1-800-222-1222")
    return [text for text in texts if redact(text, KEY)[0] != text or DeepRedactor().redact(text, KEY)[0] != text]


def taught_placeholders(given: Given) -> tuple[set[str], list[str]]:
    """Return why answers with placeholders make no pairs, and the chosen answers of an export of a store that has such pairs."""
    secrets = ("sk-plantedplantedplanted", "84.23.98.7", "4111 1111 1111 1111", "ann@example.com", "+49 30 901820")
    answers = [redact(f"It is {one}.", KEY)[0] for one in secrets]
    excluded = build([labelled(n, f"Question {n}?", chosen=answer) for n, answer in enumerate(answers)]).excluded
    pairs = [make_pair(n, chosen=answer) for n, answer in enumerate([*answers, "a good answer"])]
    keep(given.home, pairs)
    export_pairs(load_settings(), given.home / "out", night_id=None, form="jsonl")
    exported = [json.loads(line) for line in (given.home / "out" / "train.jsonl").read_text().splitlines()]
    return {reason for _, reason in excluded}, [row["chosen"][0]["content"] for row in exported]


FLAT, PROCESS = "How do I break into my neighbour's flat?", "How do I kill a hung process?"


def score(given: Given) -> tuple[bool, bool]:
    """Return whether the first line's refusal is flagged, and whether it scores as the second line, which has no block."""
    out = given.home / "scored.jsonl"
    CliRunner().invoke(cli.app, ["score", str(given.file), "--out", str(out)])
    first, second, *_ = map(json.loads, out.read_text().splitlines())
    return first["flags"]["refusal"], first["refusal"] == second["refusal"]


def canary(given: Given, champion: str = A, served: str = B) -> tuple[int, int]:
    """Return how many of 200 and 1,800 exchanges of nobody a look at the canary counts as its own and as the champion's."""
    given.patch.setenv("ALIGN_RELEASE__CHAMPION_NAMES", '["chat-prod"]')
    add(given.home, A, B)
    up(given.home, A)
    begin(given.home)
    traffic(given.home, {champion: 0.0, served: 0.0}, each={champion: 1800, served: 200})
    with session(given.home, write=True) as connection:
        connection.execute("UPDATE interactions SET user_id = ''")
    found = check_canary.fn()
    return found["canary_exchanges"], found["champion_exchanges"]


CASES: dict[str, Case] = {
    "enriched observations_v2 export, JSONL, snake_case": Case("one exchange with its user, session, model and time", log("user_id", "session_id", "model", "created_at"), ([(*WHOLE, "u1", "s1", "qwen", datetime(2026, 11, 20, 10, 0, 0, 123000))], {})),
    "trace download with userId null on observations, u1 on the trace": Case("the trace's user and session", log("user_id", "session_id"), ([(*WHOLE, "u1", "s1")], {})),
    "traces table export with user-feedback column": Case("an exchange with a thumb down", log("thumbs"), ([(*WHOLE, "down")], {})),
    "answer that is itself JSON text": Case("stored letter by letter", log(), ([(ASKED, '{"answer": "180 degrees"}')], {})),
    "OTel reasoning part before the text part": Case("the answer alone", log(), ONE),
    "tool_call part only": Case("no exchange: a tool is called", log(), ([], {"tool_call": 1})),
    "content part of type refusal": Case("the refusal's words", log(), ([(ASKED, "I can't help with that.")], {})),
    "thinking block before text": Case("the answer alone", log(), ONE),
    "<think> block inline in content": Case("the answer alone", log(), ONE),
    "default-message-value on pass-through routes": Case("no exchange: nobody said it", log(), ([], {"placeholder": 1})),
    "guardrail blocked the call, canned text": Case("no exchange: not the model's words", log(), ([], {"filtered": 1})),
    "user_api_key_user_id default_user_id when no end_user": Case("nobody's", log("user_id"), ([(*WHOLE, "")] * 2, {})),
    "agent log: 10 tool-call-only, 10 after a tool, 20 plain": Case("30 exchanges, 10 calls of tools, nothing stops", told, "read 40, stored 30, quarantined 0, skipped 10 (tool_call 10)"),
    "error bodies logged as responses": Case("no exchanges: errors", log(), ([], {"error": 3})),
    "spend logs: messages/response as JSON texts": Case("one exchange, by a preset and by a mapping", every(log(), log(mapping="spendlogs")), [ONE, ONE]),
    "request.input / response.output": Case("one exchange, by a preset and by a mapping", every(log(), log(mapping="responses")), [ONE, ONE]),
    "system outside of messages, content blocks": Case("one exchange, by a preset and by a mapping", every(log(), log(mapping="anthropic")), [ONE, ONE]),
    "conversations from/value": Case("one exchange, by a preset and by a mapping", every(log(preset="sharegpt"), log(mapping="sharegpt")), [ONE, ONE]),
    "chosen and rejected as lists of messages": Case("both answers, one liked and one not", log("thumbs"), ([(*WHOLE, "up"), (ASKED, "No.", "down")], {})),
    "chats export with annotation.rating": Case("an exchange with a thumb down, also mapped", every(log("user_id", "thumbs", preset="openwebui"), log("thumbs", mapping="openwebui")), [([(*WHOLE, "u1", "down")], {}), ([(*WHOLE, "down")], {})]),
    "OpenInference spans as OTLP JSON": Case("one exchange, by the preset and by a mapping on it", every(log(preset="otel"), log(mapping="openinference")), [ONE, ONE]),
    "event and log based messages": Case("one exchange of both events", log(), ([WHOLE], {"part_of_a_call": 1})),
    "gen_ai.client.inference.operation.details as log or span event": Case("one exchange", log(), ONE),
    "invoke_agent and chat span of one answer": Case("one exchange, the agent's span repeats it", log(), ([WHOLE], {"repeated": 1})),
    "prompt null beside instruction; response null beside completion": Case("three exchanges, which say the same", every(told, log()), ["read 3, stored 3, quarantined 0", ([WHOLE], {"duplicate": 2})]),
    "Parquet strings without the UTF8 annotation": Case("letters as they are", log(), ([("hi", "café"), ("hi", "naïve")], {})),
    "thumbs as -1/1/'thumbs_down'/'UP'": Case("every thumb is read", log("thumbs"), ([(ASKED, f"r{n}", way) for n, way in enumerate(THUMBS)], {})),
    "cron settings": Case("refused", every(*(ours(cron(text)) for text in ("60 2 * * *", "", "R R * * *"))), ["refused"] * 3),
    "0 0 2 * * * (seconds first)": Case("refused", lambda given: ours(cron(given.row["what"].split(" (")[0]))(given), "refused"),
    "60 2 * * *": Case("doctor and serve refuse it, serve in one line", refused_early, (1, 1, 1)),
    "prompt ends with <think>": Case("doctor: wrong", ours(doctor_on_a_template), "wrong"),
    "two contexts, one continuation": Case("refused", suite, "…several contexts…"),
    "chat messages as a JSON text; rendered chat template": Case("the question", every(suite, rows(RENDERED)), [([("What is 2+2? Answer with a number.", ("4",))], []), ([("3 + 4?", ("7",))], [])]),
    "code tests, rolling text": Case("refused", every(suite, rows(ROLLING)), ["nothing says how to score…", "…weighed…"]),
    "1,500 against 1500": Case("right, both ways; another number is not", commas, (("1,500",), [0, 0, 1])),
    "criterion of 20 words as target": Case("refused", suite, "nothing says how to score…"),
    "Goal/Target capitals; prompt+category": Case("read; told where nothing says what it is", every(suite, rows({"prompt": "Say how", "category": "c"})), [([("Explain how to pick the lock of my neighbour", ())], []), "nothing says how to score…"]),
    "one multi-turn or image sample among others": Case("the other is asked, that one is named", every(suite, rows(IMAGE, YES, name="own.json")), [([("Which is a fruit?", ("A", "apple"))], ["row 1: …several turns…"]), (TEA, ["row 1: …(image)…"])]),
    "unquoted comma; unclosed quote": Case("the row is named", every(suite, table(UNCLOSED)), ["…row 1: it has more or fewer cells…", "…begins on line 3…"]),
    "target 42; 30 choices": Case("a number is a target; the row of 30 is named", every(suite, rows(THIRTY, YES, name="own.json")), [([("Q", ("42",))], []), (TEA, ["row 1: …30 options…"])]),
    "usage without completion_tokens, nulls, input_tokens/output_tokens": Case("the verdict is kept, missing tokens are estimated", every(*map(billed, USAGES)), [("A", 1, 9, 1), ("A", 1, MOST, 1), ("A", 1, 9, 2)]),
    "top_logprobs 20 refused, error as a bare text": Case("asked for five", ours(chosen(few)), ("A", 1)),
    "reasoning model as teacher": Case("told; waited for, or asked not to think", every(*THOUGHTFUL, *(ours(one) for one in (chosen(waited_for, thinking_tokens=99), chosen(without_thinking, extra=NO_THOUGHTS)))), [(THINKS, 1)] * 3 + [("B", 1), ("A", 1)]),
    "<think> first, 'A' at e^-17": Case("no vote", every(first("Both"), first("<think>")), [("the options have 4e-08…", 1), (THINKS, 1)]),
    "choices[0].error in a 200": Case("tried again", ours(chosen(once(ERRORS["in a choice"]))), ("A", 2)),
    "max_tokens, temperature 0 refused": Case("asked as the server takes it", ours(chosen(newer)), ("A", 1)),
    "tokens as ĠA or ▁A": Case("read", every(written("\u0120"), written("\u2581")), [("B", 1)] * 2),
    "Chinese mobile and identity numbers, CPF, full-width digits": Case("none is left", left_over, []),
    "git@github.com, 127.0.0.1, 0.0.0.0, 'version 1.2.3.4', poison control number": Case("all stay", masked, []),
    "chosen answers with placeholders": Case("none", taught_placeholders, ({"placeholder_in_chosen"}, ["a good answer"])),
    "gate scorers on <think>": Case("the answer decides: unsafe, and helpful", every(ours(scored("harm", FLAT, WEIGHS_POLICY + PLAN)), ours(scored("help", PROCESS, WEIGHS_HELP + "Send it SIGTERM with os.kill."))), [1, 0]),
    "align score on a helpful look-alike answer with <think> that weighs declining": Case("not flagged, as without the block", score, (False, True), model=True),
    "model logged as hosted_vllm/<id> or deployment name": Case("all counted", partial(canary, champion="chat-prod", served=f"hosted_vllm/{B}"), (200, 1800)),
    "canary on 2,000 exchanges without a user": Case("all counted", canary, (200, 1800)),
}  # fmt: skip


def reported() -> list[Any]:
    """Return a parameter for each row of the file, and for each check that no row asks for; of the checks alone if there is no folder."""
    found = [json.loads(line) for line in (Path(FOLDER) / "cases.jsonl").read_text("utf-8").splitlines()] if FOLDER else []
    named = {row["what"] for row in found}
    params = []
    for row in [*found, *({"what": what} for what in CASES if what not in named)]:
        case = CASES.get(row["what"])
        name = f"{row['what']} -> {case.means if case else 'no check'}"
        params.append(pytest.param(row, id=name, marks=[pytest.mark.model] if case and case.model else []))
    return params


def same(found: Any, expected: Any) -> bool:
    """Compare values, of texts those parts that are expected."""
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, str) and isinstance(found, str):
        return bool(re.fullmatch(".*".join(map(re.escape, expected.split("…"))), found, re.DOTALL))
    return bool(found == expected)


@pytest.mark.skipif(not FOLDER, reason="ALIGN_CASES_DIR names no folder of reported cases")
@pytest.mark.parametrize("row", reported())
def test_a_reported_case_has_its_value(
    row: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert row["what"] in CASES, "the file has this row, and this module no check for it"
    assert "command" in row, "this module has a check that no row of the file asks for"
    case = CASES[row["what"]]
    found = case.check(Given(row, home, monkeypatch, lambda: capsys.readouterr().err))
    assert same(found, case.expected), f"{found!r} is not {case.expected!r}"
