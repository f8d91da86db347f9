"""The dashboard's script, which `dashboard.server` runs for each visitor (`align dashboard`).

Effects: reads the store of the configured state folder; the review page appends verdicts.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE.parent) not in sys.path:  # Streamlit puts this folder on the path, not the repository.
    sys.path.insert(0, str(HERE.parent))

import streamlit as st  # noqa: E402

from dashboard import components, data, empty_states, identity  # noqa: E402
from dashboard.views import starting  # noqa: E402

PAGES = {
    "overview": "Overview",
    "nights": "Nights",
    "gate": "Gate",
    "checks": "Checks",
    "releases": "Releases",
    "labels": "Labels",
    "pairs": "Pairs",
    "training": "Training",
    "review": "Review queue",
    "drift": "Drift",
    "gateway": "Gateway",
}


def main() -> None:
    """Draw the visitor's current page, or say why it cannot be drawn and what to do."""
    st.set_page_config(page_icon="🧭", layout="wide")
    st.html(HERE / "style.css")
    st.logo(HERE / "logo.svg", size="medium")
    # Streamlit serves the first page at `/` only; redirect visitors who type or bookmark its name.
    pages = [
        st.Page(HERE / "views" / f"{name}.py", title=title, url_path="home" if name == "overview" else name, default=name == "overview")
        for name, title in PAGES.items()
    ]
    by_name = st.Page(lambda: st.switch_page(pages[0]), title="Overview", url_path="overview", visibility="hidden")
    page = st.navigation([*pages, by_name], position="top")
    st.set_page_config(page_title=f"{page.title} · Continuous alignment")
    with empty_states.of_errors():
        # The guard refuses visitors without a session before this script runs; but the session may have ended, or the server has no guard.
        identity.actor()
        # The gateway works before the first night.
        if not data.has_store() and page.url_path != "gateway":
            empty_states.of_a_store()
            starting.render()
            st.session_state.before_a_store = True
        elif st.session_state.pop("before_a_store", False) and "night_started" in st.session_state:
            # The first night was started here and has made its store meanwhile: show how it goes on.
            st.switch_page(pages[list(PAGES).index("nights")])
        else:
            page.run()
        signed_in()


def signed_in() -> None:
    """Show who is signed in, and offer to sign out."""
    who = identity.current()
    if who is not None:
        with st.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center", gap="small", key="signed-in"):
            components.show_text(f"Signed in as {who.name} ({who.role})")
            # Not markdown, whose links open another tab.
            st.html('<a href="/sign-out" target="_self" style="color: inherit">Sign out</a>', width="content")


if __name__ == "__main__":
    main()
