"""The official clients of OpenAI and Anthropic work against the gateway unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from gateway.policy import load_policy
from tests.gateway_server import Setup, gateway

TOOL = {"name": "look", "description": "Look something up.", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}}
LONG = "say: " + "one word and then another " * 40


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Setup]:
    with gateway(tmp_path, load_policy(None)) as running:
        yield running


def _openai(gate: Setup) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gate.url}/v1", api_key="unused", max_retries=0)


def _anthropic(gate: Setup) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gate.url, api_key="unused", max_retries=0)


def _user(said: str) -> Any:
    return [{"role": "user", "content": said}]


def test_openais_client_chats_streams_and_calls_tools(gate: Setup) -> None:
    client = _openai(gate)
    assert client.chat.completions.create(model="m", messages=_user("say: hi")).choices[0].message.content == "hi"
    refused = client.chat.completions.create(model="m", messages=_user("HARM")).choices[0]
    assert refused.finish_reason == "content_filter"

    pieces = client.chat.completions.create(model="m", messages=_user(LONG), stream=True, stream_options={"include_usage": True})
    chunks = list(pieces)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == LONG.removeprefix("say: ").strip()
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 5

    tools: Any = [{"type": "function", "function": TOOL}]
    asked = 'say: {"q": "x"}'
    [call] = client.chat.completions.create(model="m", messages=_user(asked), tools=tools).choices[0].message.tool_calls or []
    assert (call.type, call.function.name, call.function.arguments) == ("function", "look", '{"q": "x"}')
    with client.chat.completions.stream(model="m", messages=_user(asked), tools=tools) as stream:
        final = stream.get_final_completion().choices[0].message.tool_calls
    assert final and final[0].function.arguments == '{"q": "x"}'
    turns: Any = [
        *_user("look"),
        {"role": "assistant", "tool_calls": [call.to_dict()]},
        {"role": "tool", "tool_call_id": call.id, "content": "say: found"},
    ]
    assert client.chat.completions.create(model="m", messages=turns).choices[0].message.content == "found"


def test_openais_client_completes_lists_models_and_moderates(gate: Setup) -> None:
    client = _openai(gate)
    assert client.completions.create(model="m", prompt="say: hi").choices[0].text == "hi"
    assert "".join(piece.choices[0].text for piece in client.completions.create(model="m", prompt="say: hi", stream=True)) == "hi"
    assert [model.id for model in client.models.list()] == ["base"]
    flagged, fine, toxic = client.moderations.create(input=["HARM", "hello", "TOXIC"]).results
    assert (flagged.flagged, fine.flagged, toxic.flagged) == (True, False, True)
    assert flagged.categories.illicit and toxic.categories.harassment and not fine.categories.violence


def test_openais_client_uses_responses(gate: Setup) -> None:
    client = _openai(gate)
    assert client.responses.create(model="m", input="say: hi", instructions="Be kind.").output_text == "hi"
    assert gate.scripted.seen[-1]["messages"][0] == {"role": "system", "content": "Be kind."}
    refused = client.responses.create(model="m", input=[{"role": "user", "content": [{"type": "input_text", "text": "HARM"}]}])
    assert refused.status == "incomplete" and refused.incomplete_details and refused.incomplete_details.reason == "content_filter"
    with client.responses.stream(model="m", input=LONG) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == LONG.removeprefix("say: ").strip() and kinds[-1] == "response.completed"
    tools: Any = [{"type": "function", **TOOL, "strict": False}]
    [called] = client.responses.create(model="m", input='say: {"q": "x"}', tools=tools).output
    assert called.type == "function_call" and called.arguments == '{"q": "x"}'
    given: Any = [
        {"role": "user", "content": "look"},
        called.to_dict(),
        {"type": "function_call_output", "call_id": called.call_id, "output": "say: found"},
    ]
    assert client.responses.create(model="m", input=given).output_text == "found"
    with client.responses.stream(model="m", input='say: {"q": "x"}', tools=tools) as stream:
        assert stream.get_final_response().output[0].type == "function_call"


def test_anthropics_client_chats_streams_and_calls_tools(gate: Setup) -> None:
    client = _anthropic(gate)
    [block] = client.messages.create(model="m", max_tokens=99, system="Be kind.", messages=_user("say: hi")).content
    assert block.type == "text" and block.text == "hi"
    assert client.messages.create(model="m", max_tokens=99, messages=_user("HARM")).stop_reason == "refusal"
    with client.messages.stream(model="m", max_tokens=99, messages=_user(LONG)) as stream:
        assert "".join(stream.text_stream) == LONG.removeprefix("say: ").strip()
        assert stream.get_final_message().usage.output_tokens == 5
    tools: Any = [{"name": "look", "description": "Look.", "input_schema": TOOL["parameters"]}]
    use = client.messages.create(model="m", max_tokens=99, messages=_user('say: {"q": "x"}'), tools=tools)
    assert use.stop_reason == "tool_use" and use.content[0].type == "tool_use" and use.content[0].input == {"q": "x"}
    result = {"type": "tool_result", "tool_use_id": use.content[0].id, "content": "say: found"}
    turns: Any = [*_user("look"), {"role": "assistant", "content": [use.content[0].to_dict()]}, {"role": "user", "content": [result]}]
    [found] = client.messages.create(model="m", max_tokens=99, messages=turns, tools=[]).content
    assert found.type == "text" and found.text == "found"
    with client.messages.stream(model="m", max_tokens=99, messages=_user('say: {"q": "x"}'), tools=tools) as stream:
        assert stream.get_final_message().content[0].type == "tool_use"


def test_clients_raise_their_own_errors(gate: Setup) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="only text can be checked"):
        picture: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
        _openai(gate).chat.completions.create(model="m", messages=picture)
    gate.scripted.how = "down"
    with pytest.raises(openai.InternalServerError):
        _openai(gate).chat.completions.create(model="m", messages=_user("x"))
    with pytest.raises(anthropic.InternalServerError):
        _anthropic(gate).messages.create(model="m", max_tokens=9, messages=_user("x"))
    gate.scripted.how = "breaks"
    with pytest.raises(openai.APIError):
        list(_openai(gate).chat.completions.create(model="m", messages=_user(LONG), stream=True))
    with pytest.raises(anthropic.APIError), _anthropic(gate).messages.stream(model="m", max_tokens=9, messages=_user(LONG)) as stream:
        stream.get_final_message()
