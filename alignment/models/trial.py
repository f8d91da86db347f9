"""Try one conversation in a model's chat template as generation and training will use it, to report problems before a night.

Pure, given a tokenizer.
"""

from __future__ import annotations

import re
from typing import Any

from alignment.errors import ModelError
from alignment.models.local import NO_TOKENS, render, turn_ids
from alignment.models.thinking import can_think, opens
from alignment.records import Message

_ANSWER = "Boil it for seven minutes."
_TALK: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Good morning."},
    {"role": "user", "content": "How do I boil an egg?"},
]
_OTHER_MARKS = re.compile(r"<\|channel\|?>|<seed:think>|\[THINK\]|\[BEGIN FINAL RESPONSE\]|<\|think\|>|\u25c1think\u25b7")
"""Of gpt-oss and Gemma 4, Seed-OSS, Magistral, Apriel, and Kimi, in this order."""
_SHORT_PROMPT = 256  # tokens of an ordinary prompt


def try_template(tokenizer: Any, *, thinking_tokens: int, answer_tokens: int, context: int | None) -> str:
    """Return how a template renders prompts and training turns, in one line.

    `context` is the model's context in tokens, None if unknown.

    Raises:
        ModelError: the template takes no conversation, its answers cannot be cut out, it marks thinking in an unknown way or opens a
            thinking block while `thinking_tokens` is 0, or a prompt with thinking and answer exceeds the context.
    """
    name, thinks = str(tokenizer.name_or_path), can_think(str(tokenizer.chat_template))
    if foreign := _OTHER_MARKS.search(str(tokenizer.chat_template)):
        raise ModelError(
            f"the chat template of {name!r} marks thinking with {foreign[0]!r}, which is not told apart from an answer: thoughts would be "
            "judged and taught as answers; set [model] path to a model that marks it with <think> or does not think"
        )
    for talk in (_TALK[1:2], _TALK[1:], _TALK):
        _try_turn(tokenizer, talk)
    opened = any(
        opens(render(tokenizer, talk, add_generation_prompt=True, thinking=bool(thinking_tokens) if thinks else None))
        for talk in (_TALK[1:2], _TALK)
    )
    if opened and not thinking_tokens:
        raise ModelError(NO_TOKENS.format(name=name))
    if context is not None and _SHORT_PROMPT + thinking_tokens + answer_tokens > context:
        raise ModelError(
            f"the model reads {context} tokens, and a prompt of {_SHORT_PROMPT} with [model] thinking_tokens = {thinking_tokens} and an "
            f"answer of {answer_tokens} is longer; lower thinking_tokens"
        )
    if thinking_tokens and thinks:
        return f"thinks for up to {thinking_tokens} tokens before an answer; training turns are the answer alone, behind a closed block"
    if thinking_tokens:
        return f"[model] thinking_tokens = {thinking_tokens}, but the chat template knows no thinking; training turns are right"
    if thinks:
        return (
            "a reasoning model that is asked not to think, and so judged; if it thinks where it serves, set [model] thinking_tokens. "
            "Training turns are the answer alone, behind a closed block"
        )
    return "prompts and training turns are right"


def _try_turn(tokenizer: Any, talk: list[Message]) -> None:
    """Raise ModelError if a training turn differs from the answer it is to teach."""
    turn = turn_ids(tokenizer, talk, _ANSWER)
    said, before = (tokenizer.decode(list(ids), skip_special_tokens=True) for ids in (turn.answer, turn.prompt))
    if "".join(_ANSWER.split()) not in "".join(said.split()) or _ANSWER in before or talk[-1]["content"] not in before:
        raise ModelError(
            f"the chat template of {str(tokenizer.name_or_path)!r} writes the answer {_ANSWER!r} as {said[:80]!r}, so that training would "
            "teach something else; set [model] path to a model whose template keeps what is said"
        )
