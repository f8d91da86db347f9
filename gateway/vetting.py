"""The answer stage: what the policy makes of an answer that a model wrote."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gateway.calls import Call, Choice
from gateway.exchange import Delivery, Exchange
from gateway.guard import Guard, StageFindings
from gateway.policy import Action
from gateway.tracing import step
from gateway.upstream import Upstream, UpstreamError


class Vetting:
    """Checks answers; redacts, rewrites or refuses them."""

    def __init__(self, guard: Guard, upstream: Upstream) -> None:
        self.guard, self._upstream = guard, upstream

    async def vet(self, exchange: Exchange, sent: Call, choice: Choice) -> Delivery:
        """Return an answer with what the client gets; one that has to wait for a person is returned as it is."""
        with step("check answer"):
            ruling = await self.guard.answer(exchange.call, choice.texts)
        exchange.answered.append(ruling)
        given = self.refusal(exchange, choice.index, ruling)
        match ruling.strictest:
            case Action.ALLOW | Action.HOLD:
                given = choice
            case Action.REDACT:
                given = self.redacted(choice, ruling) or given
            case Action.REWRITE:
                text = await self.rewritten(exchange, sent, "\n".join(choice.texts), ruling)
                given = given if text is None else Choice(choice.index, text)
        return Delivery(choice, given, waits=ruling.strictest is Action.HOLD)

    def redacted(self, choice: Choice, ruling: StageFindings) -> Choice | None:
        """Return an answer with placeholders in its text and its tools' arguments; None if something personal is a tool's name."""
        hidden = [self.guard.redacted(text, ruling.spans(number)) for number, text in enumerate(choice.texts)]
        if hidden[1::2] != [tool.name for tool in choice.tools]:
            return None
        tools = tuple(tool._replace(arguments=arguments) for tool, arguments in zip(choice.tools, hidden[2::2], strict=True))
        return replace(choice, text=hidden[0], tools=tools)

    def refusal(self, exchange: Exchange, index: int, *rulings: StageFindings) -> Choice:
        """Return the answer that refuses."""
        return Choice(index, self.guard.refusal(exchange.call, *rulings, exchange.asked), (), "content_filter")

    async def rewritten(self, exchange: Exchange, sent: Call, answer: str, ruling: StageFindings) -> str | None:
        """Let the model criticise its answer and write it anew, once; None if that fails or is no better.

        Source: Bai et al. 2022 (arXiv:2212.08073), section 3.
        """
        if sent.path == "completions":
            return None
        principle = self.guard.principle_of(ruling, exchange.asked)
        talk: list[dict[str, Any]] = [*sent.payload["messages"], {"role": "assistant", "content": answer}]
        kept = {key: value for key, value in sent.payload.items() if key not in ("tools", "tool_choice", "parallel_tool_calls")}
        text = ""
        try:
            for request in (principle.critique_request, principle.revision_request):
                talk.append({"role": "user", "content": request})
                asked = replace(sent, payload={**kept, "messages": list(talk), "n": 1}, n=1)
                text = (await self._upstream.complete(asked, exchange.release)).choices[0].text
                talk.append({"role": "assistant", "content": text})
        except UpstreamError:
            return None
        again = await self.guard.answer(exchange.call, (text,))
        exchange.rewritten = bool(text.strip()) and again.strictest is Action.ALLOW
        return text if exchange.rewritten else None
