"""Shown where a page has nothing to draw or cannot be drawn: the one place that says what is wrong and what to do.

Effects: reads whether a night is running; draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import streamlit as st

from alignment.errors import AlignError, ConfigError, StoreBusy, StoreError
from dashboard import components, data, night_data


@contextmanager
def of_errors(part: str = "page") -> Iterator[None]:
    """Run the block; if it fails, say why without a traceback, with a retry button.

    A page has at most one `part` of each name.
    """
    try:
        yield
    except StoreBusy as error:
        problem("The store is busy", str(error), "Another process is writing. It usually takes a moment.", part)
    except (StoreError, duckdb.Error) as error:
        problem("The store cannot be read", str(error), "`align doctor` says what is wrong and how to repair it.", part)
    except ConfigError as error:
        problem("The settings are wrong", str(error), "Correct them and try again.", part)
    except AlignError as error:
        problem("This cannot be shown", str(error), "The message says what to do.", part)


def problem(what: str, message: str, advice: str, part: str = "page") -> None:
    """Say what went wrong, and what to do."""
    st.subheader(what, anchor=False)
    st.markdown(advice)
    components.show_text(message, key=f"problem-{part}")
    st.button("Try again", type="primary", key=f"again-{part}")


def of_a_store() -> None:
    """Say which command to run before there is anything to show."""
    going = night_data.working()
    st.title("The first night is running" if going else "No night has run yet", anchor=False)
    st.text("The first night reads the logs, labels what was flagged, trains, and decides on a release.")
    if not going:
        st.code("align nightly", language=None)
    st.caption("Then this page shows its decision, and the review queue fills. The store is expected in:")
    components.show_text(str(data.settings().home), key="home")
    st.button("Look again", type="primary")


def of_rows(what: str, why: str, command: str = "align nightly") -> None:
    """Say that there is nothing to show yet, and which command changes that, or that a night is working on it."""
    with st.container(border=True, key=f"empty-{components.key(what)}"):
        st.markdown(f"**{what}**")
        st.caption(why)
        if night_data.working():
            st.caption("A night is running; this fills when it gets here.")
            st.page_link("views/nights.py", label="How far the night is →")
            st.button("Look again", key=f"again-{components.key(what)}")
        else:
            st.code(command, language=None)
