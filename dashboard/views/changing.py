"""An approver's change of what is served, on the Releases page: a button, a dialog that says what will happen, and the act.

Effects: moves production and appends to the store when a dialog is confirmed; changes the visitor's session state.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import uuid4

import streamlit as st

from alignment.errors import AlignError
from alignment.release.change import Action, PlannedChange
from alignment.release.hooks import configured
from dashboard import components, data, identity, night_data

LABELS: dict[Action, str] = {"promote": "Promote", "roll back": "Roll back", "quarantine": "Quarantine"}
DONE: dict[Action, str] = {"promote": "Promoted", "roll back": "Rolled back", "quarantine": "Quarantined"}
FOR_APPROVERS = "Only people in [dashboard] approvers in align.toml may change what is served."


class OpenDialog(NamedTuple):
    """The change that the visitor's dialog shows; `token` tells its confirmation from that of an earlier dialog."""

    token: str
    plan: PlannedChange


def button(action: Action, release: str) -> None:
    """Draw the button that opens the dialog, for those who may press it."""
    if identity.may("approver"):
        st.button(f"{LABELS[action]} …", key=f"{components.key(action)}-{release}", on_click=ask, args=(action, release))


def render() -> None:
    """Draw what the last act did, and the dialog that is open."""
    if said := st.session_state.pop("change_said", None):
        st.toast(said)
    if trouble := st.session_state.pop("change_problem", None):
        st.warning("Nothing was changed.")
        components.show_text(trouble)
    if trouble := st.session_state.pop("change_stopped", None):
        st.warning("It was stopped on its way.")
        components.show_text(trouble)
    if "change_asked" in st.session_state:
        _dialog()


def ask(action: Action, release: str) -> None:
    """Open the dialog on an action, or say why it cannot be done."""
    try:
        with identity.acting_as("approver"):
            st.session_state.change_asked = OpenDialog(uuid4().hex, data.plan_change(action, release))
    except AlignError as error:
        st.session_state.change_problem = str(error)


def close() -> None:
    """Close the dialog without doing anything."""
    st.session_state.pop("change_asked", None)


@st.dialog("Change what is served", on_dismiss=close)
def _dialog() -> None:
    asked: OpenDialog | None = st.session_state.get("change_asked")
    if asked is None:
        # Confirmed or cancelled: the whole page shows what came of it.
        st.rerun()
    plan = asked.plan
    st.markdown(f"**{LABELS[plan.action]}**")
    components.show_text(components.model(plan.release_id))
    for line in consequences(plan):
        components.show_text(night_data.with_names(line))
    if trouble := st.session_state.pop("change_refused", None):
        st.warning("Not done yet.")
        components.show_text(trouble)
    with st.form(f"change-{asked.token[:16]}", border=False, enter_to_submit=False):
        field = f"change-reason-{asked.token[:16]}"
        st.text_input("Reason", key=field, max_chars=data.MAX_REASON, placeholder="why; kept for ever with your name")
        with st.container(horizontal=True):
            word = "Override and promote" if plan.overrides else LABELS[plan.action]
            st.form_submit_button(f"{word} now", type="primary", on_click=act, args=(asked.token, field))
            st.form_submit_button("Cancel", on_click=close)


def consequences(plan: PlannedChange) -> list[str]:
    """Return what will happen, a sentence each."""
    before, after = components.model(plan.before), components.model(plan.after)
    said = [f"In production: {before}, afterwards {after}." if plan.after != plan.before else f"{before} stays in production."]
    if plan.right is not None and plan.overrides:
        said.append(f"This overrides what is on record: {plan.right.why}. The override is recorded under your name.")
    elif plan.right is not None:
        said.append(f"It may be served: {plan.right.why}.")
    if plan.action == "quarantine":
        said.append("It is barred from production for good; this cannot be taken back.")
    if plan.canary:
        said.append(f"The canary {plan.canary} ends.")
    if plan.after != plan.before:
        hooks = ", ".join(configured(data.settings()))
        said.append(f"The hooks are told: {hooks}." if hooks else "No hook is configured; servers that read serving.json follow.")
    return said


def act(token: str, field: str) -> None:
    """Carry out the change that the dialog shows. A second press finds no dialog, and does nothing."""
    asked: OpenDialog | None = st.session_state.get("change_asked")
    if asked is None or asked.token != token:
        return
    try:
        # Checked again here: rights may have been taken since the dialog opened.
        with identity.acting_as("approver") as who:
            reason = data.stated_reason(st.session_state.get(field))
            # Taken away first: a press that comes while this one is at work does nothing.
            close()
            here = data.carry_out(asked.plan, actor=who.name, reason=reason)
    except data.ChangeStopped as error:
        st.session_state.change_stopped = str(error)
        return
    except AlignError as error:
        st.session_state["change_refused" if "change_asked" in st.session_state else "change_problem"] = str(error)
        return
    st.session_state.change_said = f"{DONE[asked.plan.action]}; in production: {components.model(here)}"
