"""One short night with the embedded model, as a newcomer's laptop runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_flow import align, sample_lines

pytestmark = [pytest.mark.model, pytest.mark.timeout(1800)]
CONFIG = """
[ingest]
logs = ["logs.jsonl"]
[seeds]
pairs = 60
[candidates]
harm_budget = 8
helpful_budget = 8
max_new_tokens = 16
[train]
epochs = 1
max_completion_tokens = 24
[gate]
max_prompts = 50
max_new_tokens = 16
unsafe = "short answers make a test quick"
[pairs]
eval_share = 0.2
"""


def test_a_short_night_with_the_embedded_model(tmp_path: Path) -> None:
    (tmp_path / "align.toml").write_text(CONFIG)
    (tmp_path / "logs.jsonl").write_text("\n".join(sample_lines(120)) + "\n")
    models = tmp_path / "home" / "models"
    converted = Path(__file__).parents[1] / "var" / "models"
    if converted.is_dir():
        # The conversion was done by an earlier night; it is tested where there was none.
        models.parent.mkdir()
        models.symlink_to(converted)
    output, _ = align(tmp_path, "home", "nightly", "--json")
    night = json.loads(output)
    rates = {metric["name"]: metric for metric in night["metrics"]}
    # Of an answer that is cut after 16 tokens nobody may be able to tell whether it helps: that counts against the release.
    assert all(metric["n"] >= 48 for metric in rates.values()), rates
    # The base model complies with nearly everything, harmful or not.
    assert rates["unsafe_answers"]["champion"] > 0.3
    assert rates["over_refusal_ordinary"]["champion"] < 0.3
    assert night["train"]["pairs"] >= 4
    assert (tmp_path / "home" / "releases" / night["challenger"] / "card.md").exists()
