"""Links from what a page shows to what belongs to it: night, decision, release, training and pairs lead to one another."""

from __future__ import annotations

import streamlit as st

from dashboard import night_data


def of_night(night: str | None, *, here: str, name: bool = True) -> None:
    """Draw links to the other pages about a night; `here` is the page that draws them. With `name`, say which night it is."""
    if not night:
        return
    found = night_data.related(night)
    targets = (
        ("nights", "Night", {"night": night}, True),
        ("gate", "Decision", {"decision": found.decision}, found.decision),
        ("releases", "Release", {"release": found.release}, found.release),
        ("training", "Training", {"night": night}, found.trained),
        ("pairs", f"{found.pairs:,} pairs", {"night": night}, found.pairs),
    )
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"links-{here}"):
        if name:
            st.caption(f"Night of {night_data.night_name(night)}", width="content")
        for page, label, address, there in targets:
            if there and page != here:
                st.page_link(f"views/{page}.py", label=f"{label} →", query_params={key: str(value) for key, value in address.items()})
