"""Start a night from the Nights page, and follow the one that runs: its stage, how long it takes, and how it ended.

Effects: starts a process when an approver confirms; changes the visitor's session state and address.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import streamlit as st

from alignment.errors import AlignError
from dashboard import components, data, empty_states, formats, identity, night_data, night_start, training_data
from dashboard.night_data import Going
from dashboard.night_start import Started

EVERY = "3s"
# How long Prefect may take until it begins a run that is due.
_BEGINS_SECONDS = 120.0
STORED = {"curate": ("candidates", "votes"), "gate": ("answers",)}


def render() -> None:
    """Draw the button that starts a night, what it led to, and the night that runs."""
    if trouble := st.session_state.pop("night_problem", None):
        st.warning("No night was started.")
        components.show_text(trouble)
    ended()
    if night_data.working() or {"night_started", "night_seen"} & set(st.session_state):
        st.fragment(follow, run_every=EVERY)()
    elif identity.may("approver"):
        st.button("Start a night …", on_click=ask)
    else:
        st.caption("An approver can start a night here; see [dashboard] in align.toml.")
    if "night_asked" in st.session_state:
        _dialog()


def ask() -> None:
    """Open the dialog."""
    st.session_state.night_asked = uuid4().hex


def close() -> None:
    """Close the dialog without doing anything."""
    st.session_state.pop("night_asked", None)


@st.dialog("Start a night", on_dismiss=close)
def _dialog() -> None:
    token = st.session_state.get("night_asked")
    if token is None:
        # Started or cancelled: the whole page shows what came of it.
        st.rerun()
    st.markdown(
        "It reads the configured logs, trains, and lets the gate decide, as `align nightly` does: **the gate may promote a release.** "
        "Starting takes some seconds. It goes on if you close this page."
    )
    with st.form(f"night-{token[:16]}", border=False, enter_to_submit=False):
        field = f"night-force-{token[:16]}"
        st.checkbox("Even if there is nothing new", key=field)
        with st.container(horizontal=True):
            st.form_submit_button("Start it now", type="primary", on_click=act, args=(token, field))
            st.form_submit_button("Cancel", on_click=close)


def act(token: str, field: str) -> None:
    """Start a night. A second press finds no dialog, and does nothing."""
    state = st.session_state
    if state.get("night_asked") != token:
        return
    # Taken away first: a press that comes while this one is at work does nothing.
    close()
    try:
        # Checked again here: rights may have been taken since the dialog opened.
        with identity.acting_as("approver") as who:
            state.night_started = night_start.start_night(actor=who.name, force=bool(state.get(field)))
    except AlignError as error:
        state.night_problem = str(error)
        return
    state.night_follow = True


def follow() -> None:
    """Draw the night that runs, every few seconds; once it has ended, draw the whole page again."""
    with empty_states.of_errors("follow"):
        going, state = night_data.going(), st.session_state
        started: Started | None = state.get("night_started")
        if going is not None:
            state.night_seen = going.since
            if going.night and state.pop("night_follow", False):
                # Its first row has come: show this night below.
                st.query_params["night"] = going.night["night_id"]
                st.rerun()
            draw(going)
        elif started and started.how == "run" and "night_seen" not in state and _ago(started.at) < _BEGINS_SECONDS:
            with components.card("going"):
                st.markdown("**A night is due.** `align serve` begins it within seconds.")
        else:
            state.pop("night_started", None)
            state.night_ended = state.pop("night_seen", started.at if started else None)
            state.pop("night_follow", None)
            # How it ended was written after the last look.
            data.forget()
            st.rerun()


def draw(going: Going) -> None:
    """Draw the stage that runs, and how long it has taken."""
    with components.card("going"), st.container(gap="small"):
        components.big_status("running")
        which = f"Night of {formats.moment(going.night['started_at'])}" if going.night else f"Began {formats.moment(going.since)}"
        began = f"{which} · {formats.duration(_ago(going.since))} so far"
        st.caption(began + ("" if going.night else " · a night gets its page once it has read the logs"))
        live = training_data.live() if going.stage == "train" else None
        doing = components.title(going.stage) if going.stage else "Reading the logs, or a stage by hand"
        took = f"{doing}: {formats.duration(_ago(going.stage_since))} so far"
        usual = f", {formats.duration(going.usual)} last time" if going.usual else ""
        if live and live.rows and live.of:
            left = f", {formats.duration(live.seconds_left)} left" if live.seconds_left else ""
            st.progress(min(live.step / live.of, 1.0), text=f"{took} · step {live.step} of {live.of}{left}{usual}")
        elif going.usual:
            st.progress(min(_ago(going.stage_since) / going.usual, 0.99), text=f"{took}{usual}")
        else:
            st.markdown(f"**{took}**")
        stored = [f"{going.stored[name]:,} {name}" for name in STORED.get(going.stage or "", ()) if going.stored.get(name)]
        if stored:
            st.caption("Stored in this stage so far: " + ", ".join(stored))
        if said := night_start.last_lines(since=going.since):
            with st.expander("What it says"):
                components.show_text(said, key="night-says")


def ended() -> None:
    """Say once how the night ended that this page has followed."""
    began: datetime | None = st.session_state.pop("night_ended", None)
    if began is None:
        return
    night = next(iter(night_data.nights() if data.has_store() else []), None)
    if night and night["finished_at"] and night["finished_at"] >= began:
        st.success(f"The night has ended: {components.status(night['state']).word}.")
    elif night and (night["started_at"] >= began or any(each["at"] >= began for each in night_data.failures(night["night_id"]))):
        st.warning("The night has stopped before its end; below it says why.")
    else:
        without_a_row(night_start.last_lines(since=began).splitlines())


def without_a_row(said: list[str]) -> None:
    """Say how a night ended that stored nothing of itself: it found nothing new, or stopped while it read the logs."""
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    if errors:
        st.warning("It has stopped before its first stage was over.")
        components.show_text(errors[-1])
    elif said and said[-1].startswith("In production:"):
        st.info("It has ended: there was nothing new since the last night, so it trained nothing.")
    else:
        st.info("It has ended without a decision: there was nothing new, or it was stopped; with `align serve`, Prefect's pages say which.")


def _ago(at: datetime) -> float:
    return max((datetime.now(UTC).replace(tzinfo=None) - at).total_seconds(), 0.0)
