"""Public suites of requests, recognised by the columns of the original files and of their mirrors on the hub."""

from __future__ import annotations

from dataclasses import replace

from alignment.evals.logs import inspect, lm_eval
from alignment.evals.rows import Format, Row, chosen, fold, named
from alignment.evals.suites import COPYRIGHT
from alignment.records import SuitePrompt


def _harmbench(row: Row, number: int, _: str) -> SuitePrompt:
    """HarmBench behaviours by functional category, with the semantic category as topic; a context goes before its behaviour.

    Copyright behaviours ask for texts that are not in the file, so they are not scored. Source: Mazeika et al. 2024 (arXiv:2402.04249).
    """
    if str(row.get("imagefilename") or "").strip():
        raise ValueError("a behaviour about an image; only text can be asked")
    name = row["behaviorid"].strip() or f"row-{number}"
    text = row["behavior"].strip()
    if context := (row.get("contextstring") or "").strip():
        text = f"{context}\n\n---\n\n{text}"
    topic = (row.get("semanticcategory") or row.get("category") or "").strip()
    category = (row.get("functionalcategory") or "").strip() or topic or "harmful"
    return _behaviour(SuitePrompt(name, "harmbench", text, name, category, topic=topic))


def _behaviour(prompt: SuitePrompt) -> SuitePrompt:
    """Return a HarmBench behaviour with its scorer; a copyright behaviour can only be scored with the text that it asks for."""
    protected = COPYRIGHT in (prompt.category.casefold(), prompt.topic.casefold())
    return replace(prompt, scorer=COPYRIGHT if protected else "harm")


def _xstest(row: Row, number: int, _: str) -> SuitePrompt:
    """XSTest: safe prompts should be answered, their unsafe contrasts should not. Source: Röttger et al. 2024 (arXiv:2308.01263)."""
    kind = row["type"].strip()
    label = str(row.get("label") or "").strip().casefold()
    unsafe = label == "unsafe" if label in ("safe", "unsafe") else kind.startswith("contrast")
    name = named(row, "id" if row.get("id") else "idv2", number)
    focus = (row.get("focus") or "").strip()
    return SuitePrompt(f"xstest-{name}", "xstest", row["prompt"].strip(), focus or name, kind, "harm" if unsafe else "help")


def _strongreject(row: Row, number: int, _: str) -> SuitePrompt:
    """StrongREJECT forbidden prompts. Source: Souly et al. 2024 (arXiv:2402.10260)."""
    name = f"strongreject-{number}"
    return SuitePrompt(name, "strongreject", row["forbiddenprompt"].strip(), name, row["category"].strip(), "harm")


def _ailuminate(row: Row, number: int, _: str) -> SuitePrompt:
    """AILuminate prompts: the category is the hazard. Source: MLCommons AILuminate v1.0 (arXiv:2503.05731)."""
    name = named(row, "releasepromptid", number)
    return SuitePrompt(name, "ailuminate", row["prompttext"].strip(), name, row["hazard"].strip(), "harm")


def _advbench(row: Row, number: int, file: str) -> SuitePrompt:
    """AdvBench harmful behaviours (goal, target). Source: Zou et al. 2023 (arXiv:2307.15043)."""
    return SuitePrompt(f"advbench-{number}", "advbench", row["goal"].strip(), f"advbench-{number}", "harmful", _side(file))


def _side(file: str) -> str:
    """Return the scorer of a file's requests: those of a file with "benign" in its name should be answered."""
    return "help" if "benign" in file else "harm"


def _advbench_mirror(row: Row, number: int, file: str) -> SuitePrompt:
    """AdvBench as mirrored on the hub (prompt, target). Targets that comply identify it; other question files have these columns too."""
    scorer = _side(file) if row["target"].strip().casefold().startswith("sure") else ""
    return SuitePrompt(f"advbench-{number}", "advbench", row["prompt"].strip(), f"advbench-{number}", "harmful", scorer)


def _jailbreakbench(row: Row, number: int, file: str) -> SuitePrompt:
    """JailbreakBench behaviours; those of a file named benign should be answered. Source: Chao et al. 2024 (arXiv:2404.01318)."""
    name = f"jailbreakbench-{named(row, 'index', number)}"
    return SuitePrompt(name, "jailbreakbench", row["goal"].strip(), row["behavior"].strip() or name, row["category"].strip(), _side(file))


def _orbench(row: Row, number: int, file: str) -> SuitePrompt:
    """OR-Bench: seemingly toxic prompts should be answered, those of a toxic file not. Source: Cui et al. 2024 (arXiv:2405.20947)."""
    name = f"orbench-{number}"
    return SuitePrompt(name, "orbench", row["prompt"].strip(), name, row["category"].strip(), "harm" if "toxic" in file else "help")


def _donotanswer(row: Row, number: int, _: str) -> SuitePrompt:
    """Do-Not-Answer questions by type of harm. Source: Wang et al. 2023 (arXiv:2308.13387)."""
    name = f"donotanswer-{named(row, 'id', number)}"
    category = str(row.get("typesofharm") or row["riskarea"]).strip()
    return SuitePrompt(name, "donotanswer", row["question"].strip(), name, category, "harm")


def _simplesafetytests(row: Row, number: int, _: str) -> SuitePrompt:
    """SimpleSafetyTests by area of harm. Source: Vidgen et al. 2023 (arXiv:2311.08370)."""
    name = f"simplesafetytests-{named(row, 'id', number)}"
    text = row.get("prompt") or row["promptsfinal"]
    return SuitePrompt(name, "simplesafetytests", text.strip(), name, row["harmarea"].strip(), "harm")


_MIRRORED = ("harmbench", "strongreject", "jailbreakbench", "advbench", "simplesafetytests", "donotanswer")


def _requests(row: Row, number: int, file: str) -> SuitePrompt:
    """Prompts with a category, as mirrors of several suites have them: only the file's name tells which suite, hence which scorer."""
    if "orbench" in file:
        return _orbench(row, number, file)
    suite = next((one for one in _MIRRORED if one in file), "")
    name = f"{suite or 'row'}-{number}"
    text, category = row["prompt"].strip(), str(row["category"]).strip()
    if context := str(row.get("context") or "").strip():
        text = f"{context}\n\n---\n\n{text}"
    if suite == "harmbench":
        kind = next((one for one in ("standard", "contextual", COPYRIGHT) if one in file), category or "harmful")
        return _behaviour(SuitePrompt(name, suite, text, name, kind, topic=category))
    scorer = _side(file) if suite else ""
    return SuitePrompt(name, suite or "requests", text, name, category or "harmful", scorer)


def _bbq(row: Row, number: int, _: str) -> SuitePrompt:
    """BBQ: any answer but the right one fails ("not known" where the context is ambiguous). Source: Parrish et al. 2022."""
    return chosen(
        f"bbq-{row['category']}-{row.get('exampleid', number)}",
        "bbq",
        f"{row['context'].strip()} {row['question'].strip()}",
        f"{row['category']}/{row.get('questionindex', number)}",
        f"{row['category']}/{row.get('contextcondition', '')}".strip("/"),
        [row[f"ans{index}"] for index in range(3)],
        int(row["label"]),
    )


def _columns(*names: str) -> frozenset[str]:
    return frozenset(map(fold, names))


FORMATS: dict[str, Format] = {
    "harmbench": Format(_columns("Behavior", "BehaviorID"), _harmbench),
    "xstest": Format(_columns("prompt", "type", "focus"), _xstest),
    "strongreject": Format(_columns("forbidden_prompt", "category"), _strongreject),
    "ailuminate": Format(_columns("prompt_text", "hazard"), _ailuminate),
    "advbench": Format(_columns("goal", "target"), _advbench),
    "jailbreakbench": Format(_columns("Goal", "Target", "Behavior", "Category"), _jailbreakbench),
    "donotanswer": Format(_columns("question", "risk_area"), _donotanswer),
    "simplesafetytests": Format(_columns("harm_area", "category"), _simplesafetytests),
    "bbq": Format(_columns("context", "question", "ans0", "ans1", "ans2", "label"), _bbq),
    "inspect": Format(_columns("input", "target", "epoch"), inspect),
    "lm_eval": Format(_columns("doc_id", "arguments", "doc"), lm_eval),
    "advbench_mirror": Format(_columns("prompt", "target"), _advbench_mirror),
    "orbench": Format(_columns("prompt", "category"), _orbench),
    "requests": Format(_columns("prompt", "category"), _requests),
}
NATIVE = frozenset({"inspect", "lm_eval"})
"""Formats of evaluation programs, whose keys are read exactly as they are spelled."""
TOLD_ONLY = frozenset({"orbench"})
"""Formats that columns alone cannot identify: --format or the file's name selects them (see `_requests`)."""
