"""Data Docs: a page for the last run of each suite, and an index, readable offline.

Great Expectations renders the expectations; the page around them is ours, because its own loads styles and scripts from elsewhere and
writes some names into the page unescaped. The pages are built from stored results, which hold rules and counts but no row values.

Effects: writes HTML files into one folder, each atomically.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from data_checks.run import quiet
from data_checks.words import describe, rule

Row = Mapping[str, Any]

TITLES = {
    "interactions": "Exchanges of the last log file",
    "pairs": "Pairs of the last night",
    "training": "What the last training was given",
    "eval_answers": "Answers that the gate judged",
    "ingest_history": "The last ingest beside earlier ones",
    "pairs_history": "The last night's pairs beside earlier ones",
}
STATES = ("failed", "warned", "quarantined", "passed", "not compared")
"""From the worst to the least informative."""
_REACTIONS = {"row": "quarantines", "stop": "stops", "warn": "warns"}


def title(suite: str) -> str:
    """Return the display name of a suite."""
    return TITLES.get(suite, suite.replace("_", " ").capitalize())


def state(row: Row) -> str:
    """Return `passed`, `failed`, `warned`, `quarantined` (of its rows) or `not compared` for a result."""
    if row["detail"].get("note"):
        return "not compared"
    if row["success"]:
        return "passed"
    return {"warn": "warned", "row": "quarantined" if row["rows_failed"] else "failed"}.get(row["severity"], "failed")


def overall(rows: Sequence[Row]) -> str:
    """Return the state of a run: the worst state of its results."""
    states = {state(row) for row in rows}
    return next(one for one in STATES if one in states)


def summary(rows: Sequence[Row]) -> str:
    """Return how many expectations were met, in words."""
    states = [state(row) for row in rows]
    said = f"{states.count('passed')} of {len(states)} expectations met"
    notes = states.count("not compared")
    return said + (f", {notes} without anything to compare with" if notes else "")


def write_docs(folder: Path, rows: Sequence[Row], *, only: Collection[str] | None = None) -> Path:
    """Write the pages of the suites in `rows` (just `only`, if given) and the index of all; return the index's path.

    `rows` are the results of the last run of each suite, with `detail` as a mapping.
    """
    folder.mkdir(parents=True, exist_ok=True)
    suites: dict[str, list[Row]] = {}
    for row in rows:
        suites.setdefault(row["suite"], []).append(row)
    with quiet():
        for suite, found in suites.items():
            page = folder / _file(suite)
            if only is None or suite in only or not page.exists():
                _write(page, render_suite(suite, found))
        _write(folder / "index.html", render_index(suites))
    return folder / "index.html"


def _file(suite: str) -> str:
    return f"{re.sub(r'[^a-z0-9_]', '', suite)}.html"


def _write(path: Path, text: str) -> None:
    scratch = path.with_suffix(f".{os.getpid()}.part")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)


@cache
def _view() -> Any:
    from great_expectations.render.view import DefaultJinjaPageView

    return DefaultJinjaPageView(custom_views_directory=str(files("data_checks") / "pages"))


def render_suite(suite: str, rows: Sequence[Row]) -> str:
    """Return the page of one suite."""
    lines = [
        {
            "state": state(row).capitalize(),
            "css": _css(state(row)),
            "reaction": _REACTIONS.get(row["severity"], row["severity"]),
            "words": describe(row),
            "checked": f"{row['rows_checked']:,}",
            "failed": f"{row['rows_failed']:,}",
        }
        for row in sorted(rows, key=lambda row: STATES.index(state(row)))
    ]
    computed = [row for row in rows if state(row) != "not compared" and not row["detail"].get("error")]
    document = _document(suite, computed)
    more = {"title": title(suite), "when": _when(rows), "summary": summary(rows), "rows": lines}
    return str(_view().render(document, template="suite.html", **more))


def render_index(suites: Mapping[str, Sequence[Row]]) -> str:
    """Return the index page of the suites."""
    pages = [
        {
            "file": _file(suite),
            "title": title(suite),
            "state": overall(rows).capitalize(),
            "css": _css(overall(rows)),
            "when": _when(rows),
            "summary": summary(rows),
        }
        for suite, rows in sorted(suites.items())
    ]
    return str(_view().env.get_template("index.html").render(pages=pages))


def _css(name: str) -> str:
    return "noted" if name == "not compared" else name


def _when(rows: Sequence[Row]) -> str:
    return f"{max(row['checked_at'] for row in rows):%Y-%m-%d %H:%M} UTC"


def _document(suite: str, rows: Sequence[Row]) -> Any:
    """Return Great Expectations' rendering of results, without its overview, which links to missing pages."""
    from great_expectations import __version__
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    met = sum(row["success"] for row in rows)
    share = 100.0 * met / len(rows) if rows else None
    statistics = {
        "evaluated_expectations": len(rows),
        "successful_expectations": met,
        "unsuccessful_expectations": len(rows) - met,
        "success_percent": share,
    }
    result = ExpectationSuiteValidationResult(
        success=met == len(rows),
        results=[_gx_result(row) for row in rows],
        suite_name=suite,
        statistics=statistics,
        meta={"great_expectations_version": __version__, "run_id": {"run_name": suite, "run_time": "2000-01-01T00:00:00+00:00"}},
    )
    document = ValidationResultsPageRenderer().render(result)
    document.sections = [section for section in document.sections if section.section_name != "Overview"]
    return document


def _harmless(value: Any) -> Any:
    """Return an argument without characters special to HTML or templates: Great Expectations escapes only some."""
    if isinstance(value, str):
        return re.sub(r"[^\w .,:;/*@%()=^$?{}\[\]+-]", "·", value)
    return [_harmless(one) for one in value] if isinstance(value, list) else value


def _gx_result(row: Row) -> Any:
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.util import camel_to_snake

    detail = row["detail"]
    arguments = dict(detail.get("arguments") or {})
    words = detail.get("words") or ""
    if "column" in arguments and words and words != rule(row["expectation"], arguments):
        arguments["column"] = words
    failed, checked = row["rows_failed"], row["rows_checked"]
    share = 100.0 * failed / checked if checked else 0.0
    counts = {"element_count": checked, "unexpected_count": failed, "unexpected_percent": share, "unexpected_percent_nonmissing": share}
    if detail.get("observed") is not None:
        counts |= {"observed_value": detail["observed"]}
    return ExpectationValidationResult(
        success=bool(row["success"]),
        expectation_config=ExpectationConfiguration(
            type=camel_to_snake(row["expectation"]), kwargs={name: _harmless(value) for name, value in arguments.items()}
        ),
        result=counts,
        exception_info={"raised_exception": False, "exception_message": None, "exception_traceback": None},
        meta={},
    )
