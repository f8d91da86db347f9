"""The release in production, answered in the gateway's own process by a tiny model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from bench.tiny import make_tiny_model
from gateway.calls import Call, End, Text, TokenCounts
from gateway.embedded import EmbeddedUpstream
from gateway.upstream import UpstreamError

TOKENS = 24


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedUpstream]:
    folder = tmp_path_factory.mktemp("embedded")
    make_tiny_model(folder / "tiny")
    made = EmbeddedUpstream(folder, folder / "tiny", seconds=60)
    yield made
    asyncio.run(made.close())


def call(text: str, n: int = 1, **more: Any) -> Call:
    return Call("chat", {"messages": [{"role": "user", "content": text}], "max_tokens": TOKENS, **more}, n=n)


async def streamed(upstream: EmbeddedUpstream, asked: Call) -> tuple[list[str], list[int], list[str]]:
    """Return the texts of a stream by answer, how many pieces each had, and how it ended."""
    texts, pieces, ends = [""] * asked.n, [0] * asked.n, [""] * asked.n
    async for event in upstream.stream(asked, "base"):
        match event:
            case Text(index, text):
                texts[index], pieces[index] = texts[index] + text, pieces[index] + 1
            case End(index, finish):
                ends[index] = finish
            case TokenCounts():
                pass
    return texts, pieces, ends


@pytest.mark.parametrize("asked", [
    call("How do I boil an egg?"),
    call("How do I boil an egg?", n=3, temperature=1.0, seed=5),
])  # fmt: skip
def test_a_stream_says_piece_by_piece_what_is_answered_at_once(upstream: EmbeddedUpstream, asked: Call) -> None:
    whole = asyncio.run(upstream.complete(asked, "base"))
    texts, pieces, ends = asyncio.run(streamed(upstream, asked))
    assert texts == [choice.text for choice in whole.choices] and all(texts)
    assert ends == [choice.finish for choice in whole.choices] and min(pieces) > 1


def test_a_stream_ends_before_a_stop_whose_beginning_it_never_sent(upstream: EmbeddedUpstream) -> None:
    [text], _, _ = asyncio.run(streamed(upstream, call("x")))
    stop = text[len(text) // 2 : len(text) // 2 + 4]
    [cut], _, [end] = asyncio.run(streamed(upstream, call("x", stop=[stop])))
    assert cut == text.split(stop, 1)[0] and end == "stop"


def test_streams_and_whole_answers_are_written_together(upstream: EmbeddedUpstream) -> None:
    async def ask() -> list[Any]:
        return await asyncio.gather(
            streamed(upstream, call("one")), upstream.complete(call("two two two"), "base"), streamed(upstream, call("three"))
        )

    first, second, third = asyncio.run(ask())
    alone = [asyncio.run(upstream.complete(call(text), "base")).choices[0].text for text in ("one", "two two two", "three")]
    assert [first[0][0], second.choices[0].text, third[0][0]] == alone


def test_a_client_that_leaves_costs_nobody_else_an_answer(upstream: EmbeddedUpstream) -> None:
    async def ask() -> str:
        stream = upstream.stream(call("leaving"), "base")
        await anext(stream)
        staying = asyncio.create_task(upstream.complete(call("staying"), "base"))
        await stream.aclose()
        return (await staying).choices[0].text

    assert asyncio.run(ask()) == asyncio.run(upstream.complete(call("staying"), "base")).choices[0].text


@pytest.mark.parametrize("key", ["tools", "response_format", "logit_bias"])
def test_what_the_model_cannot_do_is_refused(upstream: EmbeddedUpstream, key: str) -> None:
    async def first() -> Any:
        return await anext(upstream.stream(call("x", **{key: {"a": 1}}), "base"))

    with pytest.raises(UpstreamError, match="not supported by the embedded model"):
        asyncio.run(first())
    with pytest.raises(UpstreamError, match="not supported by the embedded model"):
        asyncio.run(upstream.complete(call("x", **{key: {"a": 1}}), "base"))
