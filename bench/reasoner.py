"""Create a model that thinks before it answers from one that does not: another chat template, and a short training on thoughts.

`python -m bench.reasoner OUT --base FOLDER --template qwen3` makes one from the bundled traffic's answers, to try a night with.

Effects: reads a model folder, trains, writes another.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from alignment.records import Message

LOOP = "{% for m in messages %}<s>{{ m['role'] }}\n"
END = "</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n"
ANSWERED = "{% if m['role'] == 'assistant' %}{% if loop.last %}<think>\n\n</think>\n\n{% endif %}{% endif %}{{ m['content'] }}"
TEMPLATES = {
    # Writes an empty block before an answer that has none, and thinks unless asked not to.
    "like Qwen3": LOOP
    + ANSWERED
    + END
    + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
    # Opens each answer's block, and keeps no earlier thoughts.
    "like R1": LOOP + "{{ m['content'].split('</think>')[-1] }}" + END + "<think>\n{% endif %}",
}
OPEN, CLOSE = "<think>", "</think>"
MARK = "Let me weigh"
"""The start of every taught thought, to detect thoughts where none should be."""


class Example(NamedTuple):
    """A request with the thought and answer to teach; `before` holds the earlier turns, alternating between user and assistant."""

    asked: str
    thought: str
    answer: str
    before: tuple[str, ...] = ()


def make_reasoner(
    base: Path, folder: Path, template: str, examples: Sequence[Example], *, steps: int, rate: float, batch: int = 8, seed: int = 0
) -> Path:
    """Write the model in `base` to `folder` with a template of `TEMPLATES`, trained to think and answer as `examples` do.

    `steps` of AdamW at a peak `rate`, with `batch` examples each; a quarter are asked not to think if the template supports that.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from alignment.models.identity import RECORD
    from alignment.models.local import load_tokenizer

    shutil.copytree(base, folder, ignore=shutil.ignore_patterns(RECORD))
    marks = load_tokenizer(base)
    written = TEMPLATES[template].replace("</s>", marks.eos_token).replace("<s>", marks.bos_token)
    (folder / "chat_template.jinja").write_text(written, encoding="utf-8")
    tokenizer = load_tokenizer(folder)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    _name_tags(model, tokenizer)
    tokenizer.save_pretrained(folder)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    draw = random.Random(seed)
    for step in range(steps):
        rows = [_row(tokenizer, one, thinking=bool(draw.randrange(4))) for one in draw.choices(examples, k=batch)]
        loss = model(**_batched(rows, tokenizer.pad_token_id)).loss
        loss.backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        if (step + 1) % 5 == 0:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)
    model.to(_stored(base)).save_pretrained(folder)
    return folder


def _name_tags(model: Any, tokenizer: Any) -> None:
    """Give each thinking tag its own token, as such models have, with the meaning of its former spelling."""
    import torch
    from tokenizers import AddedToken

    tags = (OPEN, CLOSE)
    spelled = [tokenizer(tag, add_special_tokens=False)["input_ids"] for tag in tags]
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    if (size := max(tokenizer.convert_tokens_to_ids(list(tags))) + 1) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            for tag, ids in zip(tags, spelled, strict=True):
                table[tokenizer.convert_tokens_to_ids(tag)] = table[ids].mean(dim=0)


def _stored(base: Path) -> Any:
    import torch

    return getattr(torch, json.loads((base / "config.json").read_text(encoding="utf-8")).get("dtype", "float32"))


def _row(tokenizer: Any, one: Example, *, thinking: bool) -> tuple[list[int], list[int]]:
    """Return the tokens of the prompt and of the part to learn."""
    from alignment.models.local import render, text_ids
    from alignment.models.thinking import opens

    talk: list[Message] = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate((*one.before, one.asked))]
    prompt = render(tokenizer, talk, add_generation_prompt=True, thinking=thinking)
    said = f"{one.answer}{tokenizer.eos_token}"
    if opens(prompt):
        said = f"{one.thought}\n{CLOSE}\n\n{said}"
    elif thinking:
        said = f"{OPEN}\n{one.thought}\n{CLOSE}\n\n{said}"
    return text_ids(tokenizer, prompt), text_ids(tokenizer, said)


def _batched(rows: Sequence[tuple[list[int], list[int]]], pad: int) -> dict[str, Any]:
    """Return input_ids, attention_mask and labels, each (B, T); labels cover only the part to learn."""
    import torch

    width = max(len(prompt) + len(said) for prompt, said in rows)
    batch = {name: torch.full((len(rows), width), fill) for name, fill in (("input_ids", pad), ("attention_mask", 0), ("labels", -100))}
    for at, (prompt, said) in enumerate(rows):
        length = len(prompt) + len(said)
        batch["input_ids"][at, :length] = torch.tensor([*prompt, *said])
        batch["attention_mask"][at, :length] = 1
        batch["labels"][at, len(prompt) : length] = torch.tensor(said)
    return batch


def examples_of_traffic(number: int, *, seed: int = 0) -> list[Example]:
    """Return exchanges of the bundled traffic with a thought about each request and the first sentences of its answer."""
    lines = gzip.decompress(Path(str(files("alignment.samples") / "traffic.jsonl.gz")).read_bytes()).decode().splitlines()
    found = []
    for row in random.Random(seed).sample([row for line in lines if (row := _exchange(line))], number):
        asked = row["messages"][-1]["content"]
        thought = f"{MARK} this. They ask: {' '.join(asked.split()[:8])}. I should answer."
        found.append(Example(asked, thought, row["response"][:120].rsplit(".", 1)[0].strip() + "."))
    return found


def _exchange(line: str) -> dict[str, Any]:
    """Return a line's exchange, empty for lines that are broken on purpose."""
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    whole = isinstance(row.get("messages"), list) and row["messages"] and isinstance(row.get("response"), str)
    return row if whole else {}


def main() -> None:
    """Make a reasoning model from the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--base", type=Path, required=True, help="folder of a chat model, such as the state folder's models/…")
    parser.add_argument("--template", choices=("qwen3", "r1"), required=True)
    parser.add_argument("--steps", type=int, default=40, help="of four exchanges each")
    asked = parser.parse_args()
    template = {"qwen3": "like Qwen3", "r1": "like R1"}[asked.template]
    make_reasoner(asked.base, asked.out, template, examples_of_traffic(160), steps=asked.steps, rate=2e-4, batch=4)


if __name__ == "__main__":
    main()
