"""Items on which people differ from one another, from the labelers, or from the gate: a filtered list that can reopen an item."""

from __future__ import annotations

import streamlit as st

from dashboard import components, data, formats, identity, review_data
from dashboard.data import Row
from dashboard.views import deciding, reviewed

PAGE_SIZE = 10
BETWEEN = {"people": "Two people", "labelers": "A person and the labelers", "gate": "A person and the gate"}


def render(kind: str | None) -> None:
    """Draw the list."""
    components.heading(
        "Disagreements",
        "An item on which people are evenly split teaches nothing until another person decides or one of them undoes a verdict.",
    )
    chosen = filters()
    where = (kind, *chosen.values())
    if st.session_state.get("differing_where") != where:
        st.session_state.differing_where, st.session_state.differing_page = where, 0
    page = st.session_state.differing_page
    rows = review_data.review_disagreements(kind=kind, limit=PAGE_SIZE, offset=page * PAGE_SIZE, **chosen)
    if not rows:
        st.caption("Nobody differs here.")
        return
    for number, row in enumerate(rows):
        one(number, row)
    components.pager("differing_page", rows[0]["total"], PAGE_SIZE)


def filters() -> dict[str, str | None]:
    """Draw the filters; return the choices, None for any."""
    facets = data.read("review_facets")
    options = {
        "between": ("Between", list(BETWEEN)),
        "side": ("Side", sorted({row["side"] for row in facets if row["side"]})),
        "reviewer": ("Reviewer", sorted({row["reviewer"] for row in facets if row["reviewer"]})),
    }
    chosen: dict[str, str | None] = {}
    for (name, (label, values)), column in zip(options.items(), st.columns(3, gap="small"), strict=True):
        with column:
            chosen[name] = st.selectbox(label, ["", *values], format_func=word, key=f"differing_{name}") or None
    return chosen


def word(value: str) -> str:
    """Return a filter's value as shown to people; names are shown as somebody typed them."""
    return BETWEEN.get(value) or components.title(value) if value else "Any"


def one(number: int, row: Row) -> None:
    """Draw one disagreement: the prompt, both answers, each person's verdict, and the button that reopens it."""
    with components.card(f"differing-{number}"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.badge(BETWEEN[row["between"]], color="orange" if row["disputed"] else "gray")
            st.badge(components.title(row["kind"] or ""), color="blue")
            if row["disputed"]:
                st.badge("Not taught", color="orange", icon=":material/pause_circle:")
            st.caption(formats.moment(row["decided_at"]), width="content")
            st.button(
                "Open it",
                key=f"open-{row['id'][:16]}",
                type="tertiary",
                on_click=deciding.open_item,
                args=(row["id"],),
                disabled=not identity.may("reviewer"),
            )
        components.show_text(row["prompt"], key=f"prompt-{number}")
        if row["answer_b"] is None:
            components.show_text(row["answer_a"], key=f"answer-{number}", empty="(no answer)")
        else:
            for side, column in zip("ab", st.columns(2), strict=True):
                with column, st.container(gap="xsmall"):
                    st.caption(f"**Answer {side.upper()}**")
                    components.show_text(row[f"answer_{side}"], key=f"answer-{side}-{number}", empty="(no answer)")
        components.fact("Proposed", row["proposal"] or "nothing", width=150)
        for said in row["said"]:
            components.fact(
                reviewed.WORDS_OF.get(said["verdict"], "Said"),
                f"{said['reviewer']}{': ' + said['note'] if said['note'] else ''}",
                width=150,
            )
