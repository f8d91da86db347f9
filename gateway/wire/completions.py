"""Plain completions: `/v1/completions`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.calls import Call, Completion, End, Event, Failure, Text, TokenCounts, known_only, want
from gateway.wire import sse
from gateway.wire.chat import PASSED, answers, consent, parameters, usage

_OURS = frozenset("model prompt stream stream_options n user metadata".split())


class Completions:
    """Completions of one prompt. A list of prompts, tokens, `suffix`, `echo` and `logprobs` are refused."""

    name = "completions"
    path = "/v1/completions"

    def parse(self, body: Mapping[str, Any]) -> Call:
        """See `Wire.parse`."""
        known_only(body, PASSED | _OURS)
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1:
            prompt = prompt[0]
        if not isinstance(prompt, str) or not prompt:
            raise Failure(422, "unsupported_content", "'prompt' is no text; tokens and several prompts cannot be checked", param="prompt")
        options, metadata = want(body, "stream_options", dict, {}), want(body, "metadata", dict, {})
        payload = parameters(body)
        return Call(
            interface=self.name,
            payload=payload | {"prompt": prompt, "n": (n := answers(body))},
            path="completions",
            stream=want(body, "stream", bool, False),
            usage_in_stream=want(options, "include_usage", bool, False),
            n=n,
            user=want(body, "user", str, ""),
            conversation=str(metadata.get("conversation_id") or ""),
            consent=consent(metadata),
        )

    def body(self, call: Call, completion: Completion) -> dict[str, Any]:
        """See `Wire.body`."""
        return {
            **_head(completion),
            "choices": [
                {"index": choice.index, "text": choice.text, "finish_reason": choice.finish, "logprobs": None}
                for choice in completion.choices
            ],
            "usage": usage(completion.usage),
        }

    def frames(self, call: Call, completion: Completion) -> CompletionFrames:
        """See `Wire.frames`."""
        return CompletionFrames(call, completion)

    def error(self, refused: Failure) -> dict[str, Any]:
        """See `Wire.error`."""
        return sse.openai_error(refused)


class CompletionFrames:
    """Chunks of plain completions."""

    def __init__(self, call: Call, completion: Completion) -> None:
        self._head, self._usage = _head(completion), call.usage_in_stream

    def start(self) -> Iterator[bytes]:
        """See `Frames.start`."""
        return iter(())

    def event(self, event: Event) -> Iterator[bytes]:
        """See `Frames.event`."""
        match event:
            case Text(index, text):
                yield self._chunk(index, text, None)
            case End(index, finish):
                yield self._chunk(index, "", finish)
            case TokenCounts() if self._usage:
                yield sse.data({**self._head, "choices": [], "usage": usage(event)})

    def stop(self) -> Iterator[bytes]:
        """See `Frames.stop`."""
        yield sse.DONE

    def failed(self, refused: Failure) -> Iterator[bytes]:
        """See `Frames.failed`."""
        yield sse.data(sse.openai_error(refused))

    def _chunk(self, index: int, text: str, finish: str | None) -> bytes:
        return sse.data({**self._head, "choices": [{"index": index, "text": text, "finish_reason": finish, "logprobs": None}]})


def _head(completion: Completion) -> dict[str, Any]:
    return {"id": completion.id, "object": "text_completion", "created": completion.created, "model": completion.model}
