"""Export accepted pairs as a preference dataset that `datasets` and TRL load directly, with a card.

Effects: `write_export` writes a folder.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from alignment.errors import InputError
from alignment.records import Message, Pair
from alignment.text import printable

Format = Literal["jsonl", "parquet"]
SPLITS = {"train": "train", "eval": "test"}


def preference(pair: Pair) -> dict[str, Any]:
    """Return one row: `prompt`, `chosen` and `rejected` as lists of messages, and the pair's provenance without any user id."""

    def said(text: str) -> list[Message]:
        return [{"role": "assistant", "content": text}]

    return {
        "prompt": [{"role": turn["role"], "content": turn["content"]} for turn in pair.messages],
        "chosen": said(pair.chosen),
        "rejected": said(pair.rejected),
        "id": pair.id,
        "side": pair.side.value,
        "category": pair.category,
        "chosen_kind": pair.chosen_kind,
        "rejected_kind": pair.rejected_kind,
        "labelers": list(pair.labelers),
        "principles": list(pair.principle_ids),
        "judge_margin": pair.judge_margin,
        "cluster": pair.cluster_id,
    }


def write_export(pairs: Sequence[Pair], folder: Path, card: str, *, form: Format = "jsonl") -> dict[str, int]:
    """Write the pairs, one file per split, and the card into `folder`, which must be empty or new. Return rows by file.

    Raises:
        InputError: there are no pairs, or the folder is not empty.
    """
    if not pairs:
        raise InputError("there are no pairs to export; run 'align nightly' first")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{str(folder)!r} is not an empty folder; name a new one with --out, nothing is overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for split, name in SPLITS.items():
        rows = [preference(pair) for pair in pairs if pair.split == split]
        if rows:
            path = folder / f"{name}.{form}"
            _write(rows, path)
            written[path.name] = len(rows)
    (folder / "README.md").write_text(front(written) + card, encoding="utf-8")
    return written


def _write(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
        return
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def front(written: Mapping[str, int]) -> str:
    """Return the card's YAML header, which maps files to splits for `datasets`."""
    files = [{"split": name.split(".")[0], "path": name} for name in written]
    head = {"configs": [{"config_name": "default", "data_files": files}], "tags": ["preference", "dpo", "trl"], "license": "other"}
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n"


def card(
    pairs: Sequence[Pair],
    *,
    principles: Mapping[str, str],
    constitution: str,
    labelers: Sequence[Mapping[str, Any]],
    without_consent: int,
    seeds: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the card's text: counts, labelers and their reliability, principles, consent and licence.

    `principles` maps ids to texts; `seeds` has a row (source, licence, pairs) per source of seeds.
    """
    lines = [
        "# Preference pairs",
        f"{len(pairs)} pairs in TRL's conversational preference format: `prompt`, `chosen` and `rejected` are lists of messages.",
        "",
        "## Counts",
        _table(("side", "split", "pairs"), sorted(Counter((p.side.value, SPLITS[p.split]) for p in pairs).items())),
        "## Labelers",
        "Shares right on comparisons written for this purpose; a tie is not right. Pairs of several labelers count for each.",
        _labelers(pairs, labelers),
        f"## Principles (constitution {constitution})",
        _principles(pairs, principles),
        "## Consent",
        f"{without_consent} of {len(pairs)} pairs lack consent to training. Exchanges without consent are never labelled, and "
        "an erased person's pairs are not in this export. Personal data that was found is masked.",
        "",
        "## Licence",
        "Prompts and logged answers belong to those who wrote and logged them; the terms of the service that logged them apply. "
        "Safe completions come with the constitution. Answers by a model are under that model's licence. "
        "Rejected answers may be harmful: train on them only as rejected.",
        "",
        *_seeds(seeds),
    ]
    return "\n".join(lines)


def _table(head: Sequence[str], counts: Sequence[tuple[tuple[str, ...], int]]) -> str:
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(key)} | {n} |" for key, n in counts)]
    return "\n".join([*rows, ""])


def _seeds(seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    if not seeds:
        return []
    return [
        "Requests of these sources are under their own licences:",
        "",
        _table(("source", "licence", "pairs"), [((_cell(row["source"]), _cell(row["licence"])), row["pairs"]) for row in seeds]),
    ]


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|")


def _labelers(pairs: Sequence[Pair], measured: Sequence[Mapping[str, Any]]) -> str:
    known = {row["labeler"]: row for row in measured}
    rows = ["| labeler | pairs | right on harm | right on helpful | same in both orders |", "|---|---|---|---|---|"]
    for name, n in sorted(Counter(name for pair in pairs for name in pair.labelers).items()):
        rates = [known.get(name, {}).get(key) for key in ("sensitivity", "specificity", "order_consistency")]
        rows.append(f"| {name} | {n} | " + " | ".join("not measured" if rate is None else f"{rate:.2f}" for rate in rates) + " |")
    return "\n".join([*rows, ""])


def _principles(pairs: Sequence[Pair], texts: Mapping[str, str]) -> str:
    counted = Counter(name for pair in pairs for name in pair.principle_ids)
    return "\n".join(
        [*(f"- `{name}` ({n}): {texts.get(name, 'no longer in the constitution')}" for name, n in sorted(counted.items())), ""]
    )
