"""The history of the review queue: every verdict, and how often people agree with the proposals."""

from __future__ import annotations

import streamlit as st

from alignment.labels.review_queue import UNDO
from dashboard import components, formats, review_data
from dashboard.data import Row

WORDS = {
    "agree": "Agree",
    "flip": "Flip",
    "both_bad": "Both bad",
    "edit": "Edited answer",
    "not_harmful": "Not harmful",
    "skip": "Skip",
}
WORDS_OF = {
    "agree": "As proposed",
    "flip": "The other way",
    "both_bad": "Both bad",
    "edit": "Wrote another answer",
    "not_harmful": "Request is harmless",
}
"""Words for a verdict where the proposal is shown beside it."""


def render(progress: list[Row], kind: str | None) -> None:
    """Draw how people judge each kind of proposal, and the verdicts, newest first."""
    components.heading("How people judge the proposals", "Counts the verdicts that stand. For gate audits, this measures the gate.")
    components.table(
        [agreement(row) for row in progress], right=("Decided", "Agree", "Flip", "Both bad", "Edited", "Not harmful", "Disputed", "Open")
    )
    positions()
    components.heading("Verdicts, newest first")
    rows = review_data.review_history(kind)
    if rows:
        verdict_table(rows)
    else:
        st.caption("Nobody has decided anything yet.")


def agreement(row: Row) -> dict[str, str]:
    """Return how one kind of item was decided."""

    def part(name: str) -> str:
        decided = row["decided"]
        return f"{row[name]} ({formats.percent(row[name] / decided)})" if decided else formats.MISSING

    return {
        "Kind": components.title(row["kind"]),
        "Decided": f"{row['decided']} of {row['items']}",
        "Agree": part("agree"),
        "Flip": part("flip"),
        "Both bad": part("both_bad"),
        "Edited": part("edit"),
        "Not harmful": part("not_harmful"),
        "Disputed": formats.count(row["disputed"]),
        "Open": formats.count(row["items"] - row["decided"]),
    }


def positions() -> None:
    """Say how often the left answer was preferred: the order is random, so an unbiased reviewer comes to half."""
    found = review_data.review_positions()
    if found["n"]:
        share = formats.percent(found["on_the_left"] / found["n"])
        st.caption(f"The answer on the left was preferred in {share} of {found['n']} verdicts; the order is random each time.")


def word(event: Row) -> str:
    """Return a verdict as shown to people; an undo is a skip with its own note."""
    if event["verdict"] == "skip" and event["note"] == UNDO:
        return "Undo"
    return WORDS.get(event["verdict"], str(event["verdict"]))


def verdict_table(events: list[Row]) -> None:
    """List verdicts. Cells are plain text, because names, notes and prompts come from others."""
    rows = []
    for event in events:
        row = {
            "When": formats.moment(event["decided_at"]),
            "Reviewer": str(event["reviewer"]),
            "Verdict": word(event),
            "Note": "" if word(event) == "Undo" else event["note"] or "",
        }
        if "prompt" in event:
            row |= {
                "Stands": "disputed" if event["stands"] and event["disputed"] else "yes" if event["stands"] else "no",
                "Kind": components.title(event["kind"] or ""),
                "Proposal": event["proposal"] or "",
                "Prompt": event["prompt"] or "",
            }
        row["Edited answer"] = event["edited_answer"] or ""
        rows.append(row)
    components.table(rows, wide=("Prompt",), height=420 if len(rows) > 10 else "content")
