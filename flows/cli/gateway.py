"""`align gateway`: the moderation gateway, its policy, its keys, and what waits for a person."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from alignment.errors import InputError
from flows.cli.base import Actor, Json, Misuse, answering, app, command, fails_clearly, print_json, print_rows, start

gateway = typer.Typer(
    help="Serve the model behind checks of prompts and answers; what is flagged becomes tonight's material.", invoke_without_command=True
)
app.add_typer(gateway, name="gateway")
keys = typer.Typer(no_args_is_help=True, help="Keys of clients; without any, only this machine may ask.")
gateway.add_typer(keys, name="key")


@gateway.callback()
@fails_clearly
def gateway_command(context: typer.Context) -> None:
    """Serve the model behind checks of prompts and answers; what is flagged becomes tonight's material.

    It speaks OpenAI's chat completions, completions, Responses and moderations, and Anthropic's Messages. [gateway] upstream names the
    server that answers; without one, the release in production answers in this process.
    """
    if context.invoked_subcommand is None:
        _serve()


def _serve() -> None:
    settings = start(writes=True)
    from flows.policy import base_path
    from flows.show import say
    from gateway.server import run

    run(settings, base=lambda: base_path(settings), tell=say)


@command(gateway, "check")
def check_command(
    policy: Annotated[str, typer.Argument(metavar="[POLICY.yaml]", help="a policy file; [gateway] policy if not given")] = "",
    as_json: Json = False,
) -> None:
    """Validate a policy and list its rules. Exit status 1, with every problem, if it is wrong."""
    settings = start()
    from gateway.policy import load_policy
    from gateway.server import policy_of

    found = load_policy(Path(policy)) if policy else policy_of(settings)
    rows = [
        {"stage": rule.stage, "rule": rule.id, "check": rule.check, "from": rule.threshold, "action": rule.action.value, "mode": rule.mode}
        | {"if_it_fails": "goes on" if rule.fail_open else "counts as fired"}
        for rule in found.rules
    ]
    print_rows(rows, as_json=as_json)


@command(gateway, "explain")
def explain_command(
    request: Annotated[str, typer.Argument(metavar="REQUEST.json", help="body of a chat completion, or a text file with one prompt")],
    answer: Annotated[str, typer.Option("--answer", help="an answer to check as well")] = "",
    as_json: Json = False,
) -> None:
    """Show which rules would fire on a request, with their scores, and what would be done; nothing is sent or logged."""
    settings = start()
    from gateway.calls import Failure
    from gateway.metrics import Metrics
    from gateway.server import guard_of
    from gateway.wire.chat import Chat

    try:
        text = Path(request).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {request!r}: {error}; give a JSON file, or a text file with a prompt") from error
    try:
        body = json.loads(text)
    except ValueError:
        body = {"messages": [{"role": "user", "content": text.strip()}]}
    if not isinstance(body, dict):
        raise InputError(f"{request!r} is JSON, but no object; give the body of a chat completion")
    try:
        call = Chat().parse(body)
    except Failure as error:
        raise InputError(f"the gateway would refuse this request with status {error.status}: {error.message}") from error
    guard, detectors = guard_of(settings, Metrics())

    async def rule() -> dict[str, Any]:
        asked = await guard.prompt(call)
        said = await guard.answer(call, (answer,)) if answer else None
        named = {rule.check for rule in guard.policy.rules} & {"harmful_request", *(_OF_ANSWERS if answer else ())}
        scores = {name: await _scored(guard, name, call, answer) for name in sorted(named)}
        found = {"prompt": asked.strictest.value, "findings": [one.logged() for one in asked.findings], "scores": scores}
        return found | ({"answer": said.strictest.value, "answer_findings": [one.logged() for one in said.findings]} if said else {})

    try:
        told = asyncio.run(rule())
    finally:
        detectors.stop()
    if as_json:
        print_json(told)
        return
    for stage, findings in (("prompt", "findings"), ("answer", "answer_findings")):
        if stage in told:
            print(f"{stage}: {told[stage]}")
            columns = dict.fromkeys(name for row in told[findings] for name in row)
            if columns:
                print_rows([{name: row.get(name, "") for name in columns} for row in told[findings]], as_json=False)
            else:
                print("  no rule fires")
    for name, value in told["scores"].items():
        print(f"{name}: {value:.3f}")


_OF_ANSWERS = ("harmful_answer", "harmful_exchange")


async def _scored(guard: Any, name: str, call: Any, answer: str) -> float:
    from gateway.checks import Checked

    texts = (answer,) if name in _OF_ANSWERS else tuple(turn["content"] for turn in call.messages)
    return float((await guard.checks.run(name, Checked(call.messages, texts, call.system, call.tool_texts))).score)


@command(keys, "add")
def add_key_command(
    name: Annotated[str, typer.Argument(help="whose key it is; logs carry this name")],
    per_minute: Annotated[int, typer.Option(min=0, help="requests allowed per minute; 0 is no limit")] = 0,
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    settings = start(writes=True)
    from gateway.keys import Keys

    if not name.strip() or not name.isprintable() or len(name) > 100:
        raise Misuse(f"{name[:50]!r} is no name; give up to 100 printable characters")
    print(Keys(settings.home).add(name.strip(), per_minute=per_minute))


@command(keys, "list")
def list_keys_command(as_json: Json = False) -> None:
    """List clients and their limits."""
    settings = start()
    from gateway.keys import Keys

    known = Keys(settings.home).known
    print_rows([{"name": key.name, "per_minute": key.per_minute or "no limit"} for key in known], as_json=as_json)


@command(keys, "remove")
def remove_key_command(name: Annotated[str, typer.Argument(help="whose key it is")]) -> None:
    """Remove a key; a running gateway stops accepting it at once."""
    settings = start(writes=True)
    from gateway.keys import Keys

    Keys(settings.home).remove(name)


@command(gateway, "held")
def held_command(as_json: Json = False) -> None:
    """List what waits for a person, oldest first."""
    settings = start()
    from alignment.store.held import HeldExchanges
    from alignment.text import cap

    rows = [
        {"id": item.id, "since": item.created_at, "stage": item.stage, "rules": item.reason}
        | {"prompt": cap(item.conversation[-1]["content"] if item.conversation else "", 200), "answer": cap(item.said, 200)}
        for item in HeldExchanges(settings.home).waiting()
    ]
    print_rows(rows, as_json=as_json)


@command(gateway, "decide")
def decide_command(
    name: Annotated[str, typer.Argument(metavar="ID", help="from 'align gateway held'")],
    verdict: Annotated[Literal["allow", "refuse"], typer.Argument(help="what the client gets")],
    actor: Actor = "",
    reason: Annotated[str, typer.Option("--reason", help="why")] = "",
) -> None:
    """Decide on a held exchange; the client gets the outcome when it asks next, and tonight's labelers read the verdict."""
    settings = start(writes=True)
    from alignment.store.held import HeldExchanges

    item = HeldExchanges(settings.home).decide(name, verdict, actor=answering(actor), why=reason)
    print(f"{item.id}: {item.verdict}, decided by {item.actor}")
