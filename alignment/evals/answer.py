"""Ask a model a suite, in batches that depend on nothing but the suite; each answer is addressed by what made it."""

from __future__ import annotations

from collections.abc import Sequence

from alignment.evals.suites import LIKELIHOOD
from alignment.ids import content_id
from alignment.models.chat import ChatModel
from alignment.records import Message, SuitePrompt


def answer_id(prompt: SuitePrompt, model_id: str, max_new_tokens: int) -> str:
    """Return the address of a model's greedy answer, or of its weighing of the good answer to a prompt that is not asked."""
    if prompt.scorer == LIKELIHOOD:
        return content_id(LIKELIHOOD, model_id, prompt.prompt, prompt.right)
    return content_id("greedy", model_id, prompt.prompt, max_new_tokens)


def batches(prompts: Sequence[SuitePrompt], size: int) -> list[list[SuitePrompt]]:
    """Cut a suite into batches of similar length."""
    ordered = sorted(prompts, key=lambda prompt: (len(prompt.prompt), prompt.id))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def answer(model: ChatModel, batch: Sequence[SuitePrompt], *, max_new_tokens: int) -> list[str]:
    """Return the model's greedy answers to a batch."""
    conversations: list[list[Message]] = [[{"role": "user", "content": prompt.prompt}] for prompt in batch]
    return model.generate(conversations, max_new_tokens=max_new_tokens)
