"""A local transformers model as a `ChatModel`, with an optional LoRA adapter.

Batches are formed by length over the whole request and padded after their shared prefix. Which conversations share a batch depends
only on the request, because in bfloat16 a different batch can flip a token.

Effects: loads weights; uses the CPU or GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteriaList

from alignment.errors import ModelError
from alignment.models.chat import Choice, Progress
from alignment.models.cores import fits_side_by_side, side_by_side
from alignment.models.folder import check_base, is_whole
from alignment.models.identity import model_id
from alignment.models.logprobs import LogProb, TurnIds, score_turns
from alignment.models.precision import best_dtype
from alignment.models.streaming import Tell, Telling
from alignment.models.thinking import CLOSE, OPEN, AnswerBudget, can_think, closed, cut, finished, opens
from alignment.models.turns import turn_marks
from alignment.reasoning import apart
from alignment.records import Message

NO_TOKENS = (
    "the chat template of {name!r} opens a block of thinking before each answer, and no tokens are allowed for it; set [model] "
    "thinking_tokens, such as 1024, or [model] path to a model that answers at once"
)


def load_tokenizer(model: str | Path) -> Any:
    """Load a tokenizer that has a chat template and a padding token.

    Raises:
        ModelError: the tokenizer cannot be found or has no chat template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot load a tokenizer from {str(model)!r}: {error}. "
            "Set [model] path to a folder with a transformers model, or to 'embedded'"
        ) from error
    if not tokenizer.chat_template:
        raise ModelError(f"the tokenizer of {str(model)!r} has no chat template; use an instruction-tuned model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class Rendered(NamedTuple):
    """A conversation as the template renders it, and the messages that the template was given."""

    text: str
    messages: list[Message]


def render(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool, thinking: bool | None = None) -> str:
    """Return the text of `rendered`."""
    return rendered(tokenizer, messages, add_generation_prompt=add_generation_prompt, thinking=thinking).text


def rendered(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool, thinking: bool | None = None) -> Rendered:
    """Return a conversation as the model's template renders it, without the assistant's thinking.

    `thinking` asks a template that supports the choice to let the model think, or not; None leaves it to the template.

    Turn markers inside a text, special tokens or plain words, are broken up: a log line must not forge a turn. If the template refuses
    the conversation, mostly for a system prompt or roles that do not alternate, it gets the conversation from `alternating`.

    Raises:
        ModelError: the template refuses that too.
    """
    marks = turn_marks(tokenizer)
    # Templates use either name, and ignore unknown names.
    how = {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
    write = partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=add_generation_prompt, **how)
    safe: list[Message] = [{**message, "content": marks.broken(_spoken(message))} for message in messages]
    try:
        try:
            return Rendered(str(write(safe)), safe)
        except TemplateError:
            safe = alternating(safe)
            return Rendered(str(write(safe)), safe)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path!r} refuses a conversation of {roles}: {error}; "
            "set [model] path to a model whose template takes turns of user and assistant"
        ) from error


def _spoken(message: Message) -> str:
    return apart(message["content"]).answer if message["role"] == "assistant" else message["content"]


def alternating(messages: Sequence[Message]) -> list[Message]:
    """Rewrite a conversation for templates that know only user and assistant turns, starting with the user.

    Texts before the first user turn, and those of systems and tools, become the user's.

    >>> [turn["content"] for turn in alternating([{"role": role, "content": role} for role in ("system", "user", "assistant")])]
    ['system\\n\\nuser', 'assistant']
    """
    turns: list[Message] = []
    spoken = False
    for message in messages:
        spoken = spoken or message["role"] == "user"
        role = "assistant" if spoken and message["role"] == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1] = Message(role=role, content=f"{turns[-1]['content']}\n\n{message['content']}")
        else:
            turns.append(Message(role=role, content=message["content"]))
    return turns


def turn_ids(tokenizer: Any, messages: Sequence[Message], answer: str) -> TurnIds:
    """Return the tokens of a conversation and of the assistant's turn that answers it, as training sees them.

    The answer is stripped, as generated answers are, and its thinking is removed, because it is never taught. Where the tokenizer would
    merge across the border, the turn is tokenised alone, since generation continues after the prompt's last token.

    Raises:
        ModelError: the template renders the conversation differently once it is answered.
    """
    before = render(tokenizer, messages, add_generation_prompt=True)
    answered: Message = {"role": "assistant", "content": apart(answer).answer.strip()}
    whole = render(tokenizer, [*messages, answered], add_generation_prompt=False)
    if (found := cut(before, whole)) is None:
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path!r} ends a prompt with {before[-40:]!r}, and an answered one does not begin with "
            "that prompt, so that its answer cannot be cut out; set [model] path to a model whose template only adds the answer"
        )
    prompt, ids = text_ids(tokenizer, found.prompt), text_ids(tokenizer, found.prompt + found.turn)
    rest = ids[len(prompt) :] if ids[: len(prompt)] == prompt else text_ids(tokenizer, found.turn)
    return TurnIds(tuple(prompt), tuple(rest))


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a rendered text."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return tokens and attention mask, both (B, T), and the length P of the prefix that all rows share, short of any row's last token.

    A row is laid out as shared prefix, padding, rest: the prefix is at the same place in all rows.

    >>> padded([[1, 2, 3, 4], [1, 2, 5]], pad=0)[0].tolist()
    [[1, 2, 3, 4], [1, 2, 0, 5]]
    """
    shortest = min(map(len, rows))
    shared = next((at for at in range(shortest - 1) if len({row[at] for row in rows}) > 1), shortest - 1)
    width = max(map(len, rows))
    tokens = torch.full((len(rows), width), pad, dtype=torch.long)
    visible = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        rest = len(row) - shared
        tokens[index, :shared], visible[index, :shared] = torch.tensor(row[:shared], dtype=torch.long), 1
        tokens[index, width - rest :], visible[index, width - rest :] = torch.tensor(row[shared:], dtype=torch.long), 1
    return tokens, visible, shared


class _Batch(NamedTuple):
    """Prompts as tokens, and which of them end inside a thinking block."""

    rows: list[list[int]]
    opened: list[bool]


def _tell_of(tell: Tell, places: Sequence[int], row: int, text: str) -> None:
    tell(places[row], text)


class LocalModel:
    """A causal language model in this process."""

    def __init__(
        self,
        folder: Path,
        *,
        adapter: Path | None = None,
        batch_size: int = 32,
        progress: Progress | None = None,
        thinking_tokens: int = 0,
    ) -> None:
        """`adapter` was trained from the model in `folder`: an adapter, or the folder of a whole model that replaces it.

        `thinking_tokens` limits thinking, on top of the answer's own limit; with 0 the model is asked not to think.
        """
        if adapter is not None and is_whole(adapter):
            folder, adapter = adapter, None
        self.folder, self.adapter = folder, adapter
        self.batch_size, self.progress, self.thinking_tokens = batch_size, progress, thinking_tokens

    @cached_property
    def model_id(self) -> str:
        """See `ChatModel.model_id`."""
        return model_id(self.folder, self.adapter, dtype=self.precision, batch_size=self.batch_size)

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizer = load_tokenizer(self.folder)
        tokenizer.padding_side = "left"
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = self._base()
        if self.adapter is not None:
            from peft import PeftModel

            check_base(self.folder, self.adapter)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # peft still asks transformers for a renamed attribute
                merged = PeftModel.from_pretrained(model, self.adapter).merge_and_unload().state_dict()
            # On a CPU, the model object that was merged answers a third slower than a fresh one with the same weights.
            model = self._base()
            model.load_state_dict(merged)
        return model.to(device).eval()

    def _base(self) -> Any:
        try:
            return AutoModelForCausalLM.from_pretrained(self.folder, dtype=best_dtype(), trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot load the model {str(self.folder)!r}: {error}") from error

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        subjects: Sequence[str] = (),
        tell: Tell | None = None,
    ) -> list[str]:
        """See `ChatModel.generate`. Answers exclude thinking; unfinished thinking is returned in its tags (see `finished`).

        `tell` gets the number of a conversation and the beginning of its answer while the model writes.

        Raises:
            ModelError: a conversation is too long, or the template opens a thinking block but `thinking_tokens` is 0.
        """
        asked = [render(self._tokenizer, conversation, add_generation_prompt=True, thinking=self._wanted) for conversation in conversations]
        prompts = [self._opened(prompt) for prompt in asked]
        limit = self._model.config.max_position_embeddings - max_new_tokens - self.thinking_tokens
        answers = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        together = [self._asked([prompts[index] for index in batch], limit) for batch in batches]
        torch.manual_seed(seed)

        def write(place: int) -> torch.Tensor:
            # Thinking is no answer, and is told apart only at the end.
            told = partial(_tell_of, tell, batches[place]) if tell and not self.thinking_tokens else None
            return self._write(together[place], max_new_tokens=max_new_tokens, temperature=temperature, tell=told)

        # Draws come from one sequence of random numbers, so sampled batches take turns.
        in_turn = bool(temperature or self.thinking_tokens or tell or not self._is_small)
        places = range(len(batches))
        written = map(write, places) if in_turn else side_by_side(write, places)
        done = 0
        for batch, output in zip(batches, written, strict=True):
            for index, text in zip(batch, self._decoded(output), strict=True):
                answers[index] = finished(f"{OPEN}\n{text}" if opens(prompts[index]) else text)
            done += len(batch)
            if self.progress:
                self.progress(done, len(order))
        return answers

    @cached_property
    def _is_small(self) -> bool:
        return fits_side_by_side(self._model)

    @property
    def _wanted(self) -> bool | None:
        return bool(self.thinking_tokens) if can_think(str(self._tokenizer.chat_template)) else None

    def _opened(self, prompt: str) -> str:
        if opens(prompt) and not self.thinking_tokens:
            raise ModelError(NO_TOKENS.format(name=str(self.folder)))
        return prompt

    @property
    def precision(self) -> str:
        """The dtype of its computation; another dtype gives slightly other log-probabilities."""
        return str(best_dtype())

    def turns(self, conversations: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[TurnIds]:
        """Return the tokens of each conversation and its answer, without loading weights."""
        return [turn_ids(self._tokenizer, messages, answer) for messages, answer in zip(conversations, answers, strict=True)]

    def score(self, turns: Sequence[TurnIds]) -> list[LogProb]:
        """Return the log-probability of each turn's answer."""
        limit = self._model.config.max_position_embeddings
        if (longest := max((len(turn.prompt) + len(turn.answer) for turn in turns), default=0)) > limit:
            raise ModelError(f"a conversation of {longest} tokens does not fit the model's {limit}; lower [candidates] max_prompt_chars")
        return score_turns(self._model, turns, batch_size=self.batch_size)

    def log_probs(self, conversations: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[LogProb]:
        """Return (sum, tokens) of each answer's log-probability given its conversation, including its end of turn.

        Raises:
            ModelError: a conversation with its answer is longer than the model's context.
        """
        return self.score(self.turns(conversations, answers))

    def choose(self, conversations: Sequence[Sequence[Message]], options: Sequence[str], *, subjects: Sequence[str] = ()) -> list[Choice]:
        """See `Chooser.choose`: uses the next token's probabilities, among the options' first tokens only.

        A conversation that exceeds the model's context gets no choice.

        Raises:
            ModelError: two options begin with the same token.
        """
        # The letter must come first: a thinking model would begin with its thoughts.
        off = False if can_think(str(self._tokenizer.chat_template)) else None
        letters = [self._tokenizer(option, add_special_tokens=False)["input_ids"][0] for option in options]
        if len(set(letters)) < len(letters):
            raise ModelError(f"the model {str(self.folder)!r} cannot tell the options {list(options)!r} apart by their first token")
        rows = [
            self._tokenizer(closed(render(self._tokenizer, one, add_generation_prompt=True, thinking=off)), add_special_tokens=False)[
                "input_ids"
            ]
            for one in conversations
        ]
        limit = self._model.config.max_position_embeddings
        found = [Choice(None, "too long")] * len(rows)
        order = sorted((index for index in range(len(rows)) if len(rows[index]) < limit), key=lambda index: (len(rows[index]), index))
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        asked = [[rows[index] for index in batch] for batch in batches]
        run = partial(self._odds, letters=letters)
        done = 0
        for batch, chosen in zip(batches, side_by_side(run, asked) if self._is_small else map(run, asked), strict=True):
            for index, odds in zip(batch, chosen, strict=True):
                found[index] = Choice(tuple(odds))
            done += len(batch)
            if self.progress:
                self.progress(done, len(order))
        return found

    @torch.inference_mode()  # type: ignore[untyped-decorator,unused-ignore]
    def _odds(self, rows: list[list[int]], letters: list[int]) -> list[list[float]]:
        """Return (B, letters) probabilities of the next token among `letters`."""
        width = max(map(len, rows))
        tokens = torch.full((len(rows), width), self._tokenizer.pad_token_id, dtype=torch.long)
        for index, row in enumerate(rows):
            tokens[index, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        lengths = torch.tensor([len(row) for row in rows])
        visible = (torch.arange(width)[None, :] >= width - lengths[:, None]).long()
        positions = (visible.cumsum(1) - 1).clamp(min=0)
        device = self._model.device
        logits = self._model(
            input_ids=tokens.to(device), attention_mask=visible.to(device), position_ids=positions.to(device), logits_to_keep=1
        ).logits[:, -1, letters]
        odds: list[list[float]] = torch.softmax(logits.float(), dim=-1).tolist()
        return odds

    def _asked(self, prompts: list[str], limit: int) -> _Batch:
        """Return rendered prompts as a batch.

        Raises:
            ModelError: one is longer than `limit`.
        """
        rows: list[list[int]] = self._tokenizer(prompts, add_special_tokens=False)["input_ids"]
        if (longest := max(map(len, rows))) > limit:
            thinking = f" or [model] thinking_tokens = {self.thinking_tokens}" if self.thinking_tokens else ""
            raise ModelError(
                f"a conversation of {longest} tokens does not fit the model's {limit}; lower [candidates] max_prompt_chars{thinking}"
            )
        return _Batch(rows, [opens(prompt) for prompt in prompts])

    @torch.inference_mode()  # type: ignore[untyped-decorator,unused-ignore]
    def _write(self, batch: _Batch, *, max_new_tokens: int, temperature: float, tell: Tell | None = None) -> torch.Tensor:
        """Return the tokens (B, T) that the model writes after each prompt."""
        rows, device = batch.rows, self._model.device
        tokens, visible, shared = padded(rows, self._tokenizer.pad_token_id)
        tokens, visible = tokens.to(device), visible.to(device)
        cache = None
        if shared and len(rows) > 1:
            # Compute the shared prefix, mostly the system prompt, once.
            cache = self._model.base_model(tokens[:1, :shared], use_cache=True).past_key_values
            cache.batch_repeat_interleave(len(rows))
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 50, "top_p": 1.0} if temperature else {"do_sample": False}
        criteria = StoppingCriteriaList([Telling(self._decoded, tokens.shape[1], tell)] if tell else [])
        if self.thinking_tokens:
            criteria.append(AnswerBudget(self._tokenizer, tokens.shape[1], len(rows), most=max_new_tokens, opened=batch.opened))
        output: torch.Tensor = self._model.generate(
            input_ids=tokens,
            attention_mask=visible,
            past_key_values=cache,
            max_new_tokens=max_new_tokens + self.thinking_tokens,
            pad_token_id=self._tokenizer.pad_token_id,
            stopping_criteria=criteria,
            **sampling,
        )
        return output[:, tokens.shape[1] :]

    def _decoded(self, output: torch.Tensor) -> list[str]:
        """Return texts without special tokens, except those that mark thinking."""
        special = {number for number, token in self._tokenizer.added_tokens_decoder.items() if token.special}
        marks = {self._tokenizer.convert_tokens_to_ids(mark) for mark in (OPEN, CLOSE)} & special
        if not marks:
            return [text.strip() for text in self._tokenizer.batch_decode(output, skip_special_tokens=True)]
        kept = [[one for one in row if one in marks or one not in special] for row in output.tolist()]
        return [text.strip() for text in self._tokenizer.batch_decode(kept, skip_special_tokens=False)]
