"""Compute shared prefixes once: a batch becomes one row without padding, a tree of tokens.

The row is `common | prompt 1 | answer | answer … | prompt 2 | answer …`. The prefix common to all prompts (mostly the system prompt) is
computed once, pairs with the same prompt share it, and no answer sees another answer. An answer begins with its prompt's last token, which
predicts its first. Positions are those of separate rows, so every token sees exactly what it would see alone. Results return in the
layout of TRL's own forward, so TRL's losses and metrics need no change.

Source: prefix sharing for DPO, Wang & Hegde 2024 (arXiv:2410.20305).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from alignment.errors import TrainingError
from alignment.train.fused_lm_head import can_score, score
from alignment.train.sharding import whole

NAME = "align_shared"


@dataclass
class Layout:
    """N tokens of a batch in one row.

    `tokens`, `positions` and `labels` are (1, N); a label is the next token or -100. `rows` and `columns` (M,) map the labelled tokens, in
    order, to TRL's (2B, T-1) grid. `node` (N,) numbers the segments of the tree; `body` (N,) is the number of a token's prompt. The
    common prefix of length `common` is node 0. `groups` are the borders of the prompts with their answers.
    """

    tokens: Tensor
    positions: Tensor
    labels: Tensor
    rows: Tensor
    columns: Tensor
    node: Tensor
    body: Tensor
    common: int
    groups: list[tuple[int, int]]
    masks: dict[Any, Any] = field(default_factory=dict)

    def inputs(self, dtype: torch.dtype) -> dict[str, Any]:
        """Return the inputs of a model that uses `attend`."""
        # transformers does not rebuild a 4-D mask; `attend` reads the layout instead.
        unused = torch.zeros((1, 1, 1, 1), dtype=dtype, device=self.tokens.device)
        return {"input_ids": self.tokens, "position_ids": self.positions, "attention_mask": unused, "layout": self}

    def visible(self, query: Tensor, key: Tensor, window: int | None) -> Tensor:
        """Return which keys, by index, a query sees: earlier tokens in its own segment, its prompt and the common prefix."""
        ahead = self.positions[0, query] - self.positions[0, key]
        node = self.node[key]
        seen = (ahead >= 0) & ((node == 0) | (node == self.body[query]) | (node == self.node[query]))
        return seen if window is None else seen & (ahead < window)

    def mask(self, group: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return a group's additive mask (1, 1, queries, keys), computed once per batch."""
        name = (group, window, dtype)
        if name not in self.masks:
            start, end = self.groups[group]
            device = self.tokens.device
            query = torch.arange(start, end, device=device)
            key = torch.cat([torch.arange(self.common, device=device), query])
            seen = self.visible(query.unsqueeze(1), key.unsqueeze(0), window)
            self.masks[name] = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, torch.finfo(dtype).min)[None, None]
        return self.masks[name]  # type: ignore[no-any-return]


def lay_out(input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Layout:
    """Lay out TRL's (2B, T) batch of chosen rows over rejected rows; `labels` is -100 outside the answers.

    Leaves out answers without tokens.
    """
    device = input_ids.device
    rows = [row[:length] for row, length in zip(input_ids.tolist(), attention_mask.sum(1).tolist(), strict=True)]
    prompts = _by_prompt(rows, labels)
    common = _common(list(prompts))
    columns: list[list[int]] = [[] for _ in range(7)]
    tokens, positions, target, at_row, at_column, node, body = columns
    groups: list[tuple[int, int]] = []
    number = 0

    def add(row: Sequence[int], start: int, end: int, here: int, under: int) -> None:
        tokens.extend(row[start:end])
        positions.extend(range(start, end))
        node.extend([here] * (end - start))
        body.extend([under] * (end - start))

    if common:
        add(next(iter(prompts)), 0, common, 0, 0)
        target.extend([-100] * common)
    for prompt, answers in prompts.items():
        first, number = len(tokens), number + 1
        under, last = number, len(prompt) - 1
        add(prompt, common, last, under, under)
        target.extend([-100] * (last - common))
        for index in answers:
            number += 1
            row = rows[index]
            add(row, last, len(row) - 1, number, under)
            target.extend(row[last + 1 :])
            at_row.extend([index] * (len(row) - 1 - last))
            at_column.extend(range(last, len(row) - 1))
        groups.append((first, len(tokens)))
    made = [torch.tensor(values, device=device, dtype=torch.long) for values in columns]
    return Layout(made[0][None], made[1][None], made[2][None], made[3], made[4], made[5], made[6], common, groups)


def _by_prompt(rows: Sequence[list[int]], labels: Tensor) -> dict[tuple[int, ...], list[int]]:
    """Return the indices of rows with an answer, grouped by prompt."""
    prompts: dict[tuple[int, ...], list[int]] = {}
    for index, (row, label) in enumerate(zip(rows, labels, strict=True)):
        start = _start(label, len(row))
        if start < len(row):
            prompts.setdefault(tuple(row[:start]), []).append(index)
    return prompts


def _start(labels: Tensor, length: int) -> int:
    answered = (labels != -100).nonzero()
    return int(answered[0]) if len(answered) else length


def _common(prompts: Sequence[tuple[int, ...]]) -> int:
    """Return how many tokens all prompts share, excluding each prompt's last token."""
    if len(prompts) < 2:
        return 0
    low, high = min(prompts), max(prompts)
    shortest = min(map(len, prompts)) - 1
    return next((at for at in range(shortest) if low[at] != high[at]), shortest)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over a `Layout` behind transformers' interface; without a layout, transformers' SDPA.

    Raises:
        NotImplementedError: the model needs an attention feature that this one lacks.
    """
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)  # type: ignore[no-any-return]
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise NotImplementedError(f"its attention uses {name}")
    groups = query.shape[1] // key.shape[1]
    if query.is_cuda:
        return flex(query, key, value, layout, scaling, kwargs.get("sliding_window")), None
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    return dense(query, key, value, layout, scaling, kwargs.get("sliding_window")), None


def dense(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None, window: int | None) -> Tensor:
    """Attend with one SDPA call per prompt and its answers; (1, heads, N, D) in, (1, N, heads, D) out."""
    sdpa = functools.partial(torch.nn.functional.scaled_dot_product_attention, scale=scaling)
    parts, common = [], layout.common
    if common:
        key_0, value_0 = key[:, :, :common], value[:, :, :common]
        if window is None or window >= common:
            parts.append(sdpa(query[:, :, :common], key_0, value_0, is_causal=True))
        else:
            at = torch.arange(common, device=query.device)
            parts.append(sdpa(query[:, :, :common], key_0, value_0, attn_mask=layout.visible(at[:, None], at[None], window)))
    for number, (start, end) in enumerate(layout.groups):
        keys, values = key[:, :, start:end], value[:, :, start:end]
        if common:
            keys, values = torch.cat([key_0, keys], 2), torch.cat([value_0, values], 2)
        parts.append(sdpa(query[:, :, start:end], keys, values, attn_mask=layout.mask(number, window, query.dtype)))
    return torch.cat(parts, 2).transpose(1, 2).contiguous()


def flex(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None, window: int | None) -> Tensor:
    """Do the same as `dense` with one FlexAttention call over a block mask; compiled on CUDA."""
    from torch.nn.attention.flex_attention import create_block_mask

    size = query.shape[2]
    if ("flex", window) not in layout.masks:

        def seen(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return layout.visible(q, k, window)

        layout.masks["flex", window] = create_block_mask(seen, None, None, size, size, device=str(query.device))
    run = _flex(query.is_cuda)
    out = run(query, key, value, block_mask=layout.masks["flex", window], scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
    return out.transpose(1, 2).contiguous()


@functools.cache
def _flex(compiled: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention  # type: ignore[return-value,no-any-return,unused-ignore]


def install(causal: Any, *, share: bool = True) -> None:
    """Make `causal(…, labels=…, fused_lm_head=True)`, as TRL calls it after `add_fused_lm_head`, compute shared rows.

    It also accepts weights of pairs; without `share`, this is all it adds.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    stock = causal.forward
    if share:
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        causal.set_attn_implementation(NAME)

    @functools.wraps(stock)
    def forward(*args: Any, fused_lm_head: bool = False, weight: Tensor | None = None, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return stock(*args, **kwargs)
        found = shared_forward(causal, stock, **kwargs) if share else stock(*args, **kwargs, fused_lm_head=True)
        if weight is not None:
            # TRL weighs pairs by WPO's exp(mean(log_probs - log_sum_sq_probs)), chosen times rejected; replace it with our weights.
            shift = torch.cat([weight, torch.ones_like(weight)]).log().unsqueeze(1)
            found.log_sum_sq_probs = found.log_probs.detach() - shift
            causal.scored = found.log_probs
        return found

    causal.forward = forward


def why_not(causal: Any, longest: float = float("inf"), *, call: Any = None) -> str | None:
    """Install shared rows and test them; return None, or why stock TRL must train this model, which it then does.

    Two answers to each of two prompts must get the log-probs of separate rows, and no answer may affect another. A sliding window
    shorter than the `longest` row is mostly longer than these rows, so `attend` must be told of it. `call` is the model to call where
    `causal` is a part of it.

    Raises:
        TrainingError: see `refuse_other_logits`.
    """
    call = call or causal
    stock, implementation, kinds = causal.forward, causal.config._attn_implementation, getattr(causal.config, "layer_types", None)
    inputs = _example(causal)
    try:
        refuse_other_logits(causal, call, inputs)
    except TrainingError:
        raise
    except Exception as error:  # whatever the model's code raises, stock TRL trains it
        return f"{type(error).__name__}: {error}"
    if odd := sorted(set(kinds or ()) - {"full_attention", "sliding_attention"}):
        return f"it has layers of kind {', '.join(odd)}"
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][:2, 12:] = other["input_ids"][:2, 12:].flip(-1)
    try:
        with torch.no_grad():
            expected = call(**inputs).log_probs
            install(causal)
            with _windows_told() as told:
                found, moved = call(**inputs).log_probs, call(**other).log_probs
    except Exception as error:  # whatever the model's code raises, stock TRL trains it
        reason: str | None = f"{type(error).__name__}: {error}"
    else:
        tolerance = 1e-3 if causal.dtype == torch.float32 else 0.5
        off = float((found - expected).abs().max())
        reason = f"its log-probs differ by {off:.2g} from separate rows" if not off <= tolerance else None
        if not torch.equal(found[2:], moved[2:]):
            reason = "an answer changes what it says of another one"
        if (window := _window(causal.config)) and window < longest and window not in told:
            reason = f"its attention does not say its sliding window of {window} tokens, fewer than a row may have"
    if reason:
        causal.forward = stock
        causal.set_attn_implementation(implementation)
    return reason


def refuse_other_logits(causal: Any, call: Any, inputs: Mapping[str, Any]) -> None:
    """Refuse a model that changes its logits in a way TRL's head does not: the head is what trains it, with or without shared rows.

    TRL reads scales and caps from the configuration under the names that it knows. A model with another name would train on other
    log-probs than it generates with.

    Raises:
        TrainingError: they differ.
    """
    plain = {name: value for name, value in inputs.items() if name not in ("labels", "fused_lm_head")}
    with torch.no_grad():
        fused = call(**inputs).log_probs
        logits = call(**plain).logits[:, :-1].float()
    labels = inputs["labels"][:, 1:]
    said = logits.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
    off = float((fused - said)[labels != -100].abs().max())
    if not off <= (1e-3 if causal.dtype == torch.float32 else 0.5):
        raise TrainingError(
            f"models of type {causal.config.model_type!r} change their logits in a way that training does not know: log-probs of answers "
            f"differ by {off:.2g} from its own forward pass; name another model in [model] path"
        )


def _window(config: Any) -> int | None:
    """Return the sliding window of the layers that have one."""
    kinds = getattr(config, "layer_types", None)
    return getattr(config, "sliding_window", None) if kinds is None or "sliding_attention" in kinds else None


@contextmanager
def _windows_told() -> Iterator[set[int | None]]:
    """Record the sliding windows passed to `attend` inside the block."""
    from transformers import AttentionInterface

    told: set[int | None] = set()

    def noting(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        told.add(kwargs.get("sliding_window"))
        return attend(*args, **kwargs)

    AttentionInterface.register(NAME, noting)
    try:
        yield told
    finally:
        AttentionInterface.register(NAME, attend)


def _example(causal: Any) -> dict[str, Any]:
    """Return two prompts of 12 tokens that share 6, each with two answers of 6 tokens."""
    device = causal.get_input_embeddings().weight.device
    size = causal.config.get_text_config().vocab_size
    tokens = torch.randint(3, size, (4, 18), generator=torch.Generator().manual_seed(0))
    tokens[:, :6] = tokens[0, :6]
    tokens[2:, :12] = tokens[:2, :12]
    tokens = tokens.to(device)
    labels = tokens.clone()
    labels[:, :12] = -100
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "labels": labels,
        "use_cache": False,
        "fused_lm_head": True,
    }


def shared_forward(causal: Any, stock: Any, *, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **kwargs: Any) -> SimpleNamespace:
    """Return log_probs, entropy, mean_logits (float) and is_top1 (bool), each (2B, T-1), zero outside the answers."""
    layout = lay_out(input_ids, attention_mask, labels)
    inputs = layout.inputs(causal.dtype)
    kwargs.pop("use_cache", None)
    if can_score(causal):
        hidden = causal.base_model(**inputs, **kwargs, use_cache=False).last_hidden_state
        here = layout.labels[0] != -100
        values: tuple[Tensor, ...] = score(hidden[0, here], whole(causal.get_output_embeddings().weight), layout.labels[0, here])
        aux = None
    else:
        outputs = stock(**inputs, **kwargs, shift_labels=layout.labels, fused_lm_head=True)
        here = layout.labels != -100
        values = tuple(getattr(outputs, name)[here] for name in ("log_probs", "entropy", "mean_logits", "is_top1"))
        aux = outputs.aux_loss
    shape = (input_ids.shape[0], input_ids.shape[1] - 1)

    def grid(one: Tensor) -> Tensor:
        return torch.zeros(shape, dtype=one.dtype, device=one.device).index_put((layout.rows, layout.columns), one)

    log_probs, entropy, mean_logits, is_top1 = map(grid, values)
    return SimpleNamespace(log_probs=log_probs, entropy=entropy, mean_logits=mean_logits, is_top1=is_top1, aux_loss=aux)
