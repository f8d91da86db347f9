"""The data checks' findings, and which lines were kept out and why."""

from __future__ import annotations

import re

import streamlit as st

from dashboard import check_charts, components, data, empty_states, formats
from dashboard.data import Row
from data_checks.docs import overall, state, summary, title
from data_checks.words import describe

PAGE_SIZE = 25
DAYS = 30


def render() -> None:
    """Draw the page."""
    st.title("Checks", anchor=False)
    runs, delivered = data.check_runs(), data.deliveries(DAYS)
    if not runs and not delivered:
        empty_states.of_rows("No data was checked yet", "Data is checked when logs are read.")
        return
    suites(runs)
    failures()
    history(delivered)
    set_aside()
    quarantine()
    docs()


def suites(runs: list[Row]) -> None:
    """Draw the last run of each suite with its unmet expectations, in words."""
    if not runs:
        return
    components.heading("Last run of each suite")
    for suite in dict.fromkeys(row["suite"] for row in runs):
        rows = [row for row in runs if row["suite"] == suite]
        with components.card(f"suite-{components.key(suite)}"):
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                components.badge(overall(rows))
                st.markdown(f"**{components.title(title(suite))}**", width="content")
                st.caption(f"{formats.moment(max(row['checked_at'] for row in rows))} · {summary(rows)}", width="content")
            for row in rows:
                if state(row) not in ("passed", "not compared"):
                    components.show_text(describe(row))


def failures() -> None:
    """List recent unmet expectations, from any run."""
    rows = data.check_failures()
    if not rows:
        return
    with st.expander(f"Recently not met ({len(rows)})"):
        components.table(
            [
                {
                    "When": formats.moment(row["checked_at"]),
                    "State": components.status(state(row)).word,
                    "Suite": title(row["suite"]),
                    "Expectation": describe(row),
                }
                for row in rows
            ],
            wide=("Expectation",),
            height=320 if len(rows) > 8 else "content",
        )


def history(delivered: list[Row]) -> None:
    """Draw how many lines were read each day and how many were kept out."""
    if not delivered:
        return
    components.heading("Lines read, day by day", f"The last {DAYS} days (UTC) on which logs were read.")
    rows = data.quarantine_days(DAYS)
    left, right = st.columns(2, gap="small")
    with left, components.card("deliveries"):
        st.markdown("**Read**")
        components.draw(check_charts.deliveries(delivered), "Lines read and quarantined by day")
    with right, components.card("quarantine-days"):
        st.markdown("**Quarantined, by reason**")
        if rows:
            components.draw(check_charts.quarantine_days(rows, reason_words), "Quarantined lines by day and reason")
        else:
            st.caption("No line was quarantined.")


def set_aside() -> None:
    """List the log files that are kept out as a whole, if there are any."""
    rows = data.set_aside()
    if not rows:
        return
    components.heading(
        f"Log files set aside ({len(rows)})",
        "These files are not read. They are tried again when they or their source's settings change, or with `align ingest --accept`.",
    )
    components.table(
        [
            {
                "When": formats.moment(row["set_aside_at"]),
                "Source": row["source"],
                "File": row["path"],
                "Kind": components.title(row["kind"]),
                "Why": row["reason"],
            }
            for row in rows
        ],
        wide=("Why",),
    )


def reason_words(reason: str) -> str:
    """Return why a line was kept out, as shown to people.

    >>> reason_words("not_json"), reason_words("check:ExpectColumnValueLengthsToBeBetween:prompt")
    ('Not JSON', 'Check of prompt')
    """
    if reason.startswith("check:"):
        return f"Check of {components.title(reason.rpartition(':')[2]).lower()}"
    return components.title(reason)


def quarantine() -> None:
    """Draw the quarantined lines, of one reason or of all, one page at a time."""
    components.heading("Quarantined lines", "Texts are redacted, shortened and shown as plain text.")
    reasons = sorted({row["reason"] for row in data.quarantine_days(DAYS)})
    chosen = st.selectbox(
        "Reason", ["", *reasons], format_func=lambda name: reason_words(name) if name else "All", width=320, key="quarantine_reason"
    )
    if st.session_state.get("quarantine_where") != chosen:
        st.session_state.quarantine_where, st.session_state.quarantine_page = chosen, 0
    page = st.session_state.quarantine_page
    rows = data.quarantined(chosen or None, limit=PAGE_SIZE, offset=page * PAGE_SIZE)
    if not rows:
        st.caption("No line was quarantined.")
        return
    components.table([written(row) for row in rows], right=("Line",), wide=("Text",))
    components.pager("quarantine_page", rows[0]["total"], PAGE_SIZE)


def written(row: Row) -> dict[str, str]:
    """Return one quarantined line as the cells of the table."""
    return {
        "When": formats.moment(row["quarantined_at"]),
        "File": str(row["path"] or formats.MISSING),
        "Line": formats.count(row["line_number"]),
        "Reason": reason_words(row["reason"]),
        "Text": (row["raw"] or "") + (" …" if row["cut"] else ""),
    }


def docs() -> None:
    """Show a page of the Data Docs in its own frame."""
    pages = data.data_docs()
    if not pages:
        return
    components.heading("Data Docs", "Great Expectations' pages of the last runs. They work offline and contain no row values. Folder:")
    components.show_text(str(next(iter(pages.values())).parent))
    suite = st.selectbox("Page", ["", *pages], format_func=lambda name: title(name) if name else "None", width=420, key="docs_page")
    if suite:
        # Its link to the index would lead nowhere inside the frame.
        components.frame(re.sub(r"(?s)<nav.*?</nav>", "", pages[suite].read_text(encoding="utf-8")), height=640)


if __name__ == "__main__":
    render()
