"""Entry of the dashboard: `streamlit run dashboard/app.py`, or `align dashboard`.

Effects: reads the store of the configured state folder; the review page appends verdicts.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE.parent) not in sys.path:  # Streamlit puts this folder on the path, not the repository.
    sys.path.insert(0, str(HERE.parent))

import duckdb  # noqa: E402
import streamlit as st  # noqa: E402

from alignment.errors import ConfigError, StoreBusy, StoreError  # noqa: E402
from dashboard import data, show  # noqa: E402

PAGES = {
    "overview": "Overview",
    "gate": "Gate",
    "checks": "Checks",
    "releases": "Releases",
    "labels": "Labels",
    "pairs": "Pairs",
    "training": "Training",
    "review": "Review queue",
    "drift": "Drift",
}


def main() -> None:
    """Draw the page the visitor is on, or say why it cannot be drawn and what to do."""
    st.set_page_config(page_title="Continuous alignment", page_icon="🧭", layout="wide")
    st.html(HERE / "style.css")
    st.logo(HERE / "logo.svg", size="medium")
    pages = [
        st.Page(HERE / "views" / f"{name}.py", title=title, url_path=name, default=name == "overview") for name, title in PAGES.items()
    ]
    page = st.navigation(pages, position="top")
    try:
        if data.has_store():
            page.run()
        else:
            welcome()
    except StoreBusy as error:
        problem("The store is busy", str(error), "Another process is writing. It usually takes a moment.")
    except (StoreError, duckdb.Error) as error:
        problem("The store cannot be read", str(error), "`align doctor` says what is wrong and how to repair it.")
    except ConfigError as error:
        problem("The settings are wrong", str(error), "Correct them and try again.")


def welcome() -> None:
    """Say what to run before there is anything to show."""
    st.title("No night has run yet", anchor=False)
    st.text("The first night reads the logs, labels what was flagged, trains, and decides on a release.")
    st.code("align nightly", language=None)
    st.caption("This page then shows its verdict, and the review queue fills. The store is looked for here:")
    show.show_text(str(data.settings().home), key="home")
    st.button("Look again", type="primary")


def problem(what: str, message: str, advice: str) -> None:
    """Say what went wrong without a traceback, with a button that tries again."""
    st.subheader(what, anchor=False)
    st.markdown(advice)
    show.show_text(message, key="problem")
    st.button("Try again", type="primary")


if __name__ == "__main__":
    main()
