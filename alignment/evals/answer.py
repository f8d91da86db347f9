"""How a suite is answered: in batches that depend only on the suite; each answer's id is a hash of everything that produced it."""

from __future__ import annotations

from collections.abc import Sequence

from alignment.evals.suites import LIKELIHOOD
from alignment.ids import content_id
from alignment.records import SuitePrompt


def answer_id(prompt: SuitePrompt, model_id: str, max_new_tokens: int, thinking_tokens: int = 0) -> str:
    """Return the id of a model's greedy answer, or of the good answer's log-likelihood for a prompt that is not asked."""
    if prompt.scorer == LIKELIHOOD:
        return content_id(LIKELIHOOD, model_id, prompt.prompt, prompt.right, *filter(None, [prompt.before]))
    # With thinking enabled, an answer's tokens are counted from its first word after the thinking.
    thinking = ("from the first word", thinking_tokens) if thinking_tokens else None
    return content_id("greedy", model_id, prompt.prompt, max_new_tokens, *filter(None, [thinking, prompt.before]))


def batches(prompts: Sequence[SuitePrompt], size: int) -> list[list[SuitePrompt]]:
    """Cut a suite into batches of similar length."""
    ordered = sorted(prompts, key=lambda prompt: (sum(map(len, (*prompt.before, prompt.prompt))), prompt.id))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]
