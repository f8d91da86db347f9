"""The release in production, its predecessors and why they changed, and the state of the canary."""

from __future__ import annotations

import streamlit as st

from alignment.release import BASE
from dashboard import canary_charts, components, data, empty_states, formats, identity, night_data
from dashboard.data import Row
from dashboard.views import changing, links


def render() -> None:
    """Draw the page."""
    st.title("Releases", anchor=False)
    changing.render()
    registered, events = data.releases(), data.release_events()
    if not registered and not events:
        empty_states.of_rows("Nothing was released yet", "A night releases when the gate says so.")
        return
    left, right = st.columns([2, 3], gap="small")
    with left:
        production(registered)
    with right:
        canary()
    cards(registered)
    history(registered, events)
    hooks()


def production(registered: list[Row]) -> None:
    """Draw what is in production and the event that put it there."""
    row = data.production()
    with components.card("production"):
        components.big_status("in production")
        components.name_text(row["release_id"] if row else BASE, key="production")
        if row is None:
            st.caption("The base model: no release has been promoted.")
            return
        if row["event"]:
            st.caption(f"{components.title(row['event'])} {formats.moment(row['recorded_at'])}")
            components.fact("By", row["actor"])
            components.fact("Reason", components.reasons(row["reason"] or ""))
        kept = sum(one["status"] == "kept" for one in registered)
        barred = sum(one["status"] == "quarantined" for one in registered)
        st.caption(f"{len(registered)} registered, {kept} kept, {barred} quarantined.")
        if row["release_id"] != BASE:
            changing.button("roll back", row["release_id"])


def canary() -> None:
    """Draw the canary that holds a share, or the last canary, with its confidence sequence."""
    held, looks = data.held_canary(), data.canary_checks()
    with components.card("canary"):
        last = looks[0] if looks else None
        watched = last if held is None or (last and last["release_id"] == held.release_id) else None
        components.big_status(watched["decision"] if watched else "keep watching" if held else "no canary")
        if held:
            components.name_text(held.release_id, key="canary")
            st.caption(f"Answers {held.share:.0%} of the traffic beside the champion since {held.started_at[:16].replace('T', ' ')} UTC")
            components.fact("Reason", held.reason)
        elif watched:
            components.name_text(watched["release_id"], key="canary")
            st.caption("The last canary; now the champion answers everything.")
        else:
            st.caption("The champion answers everything. `align release canary ID --share 0.1 --reason …` gives a release a share.")
        if watched:
            components.show_text(watched["reason"])
            sequence(watched)
        elif held:
            st.caption("Not tested yet: the next night tests it, or `align release canary --check`.")


def sequence(look: Row) -> None:
    """Draw the confidence sequence of the last look and what it means."""
    if look["curve"]:
        chart = canary_charts.sequence(look["curve"], margin=look["margin"], harm=look["harm"])
        components.draw(chart, "Confidence sequence of the change of the failure rate")
    st.caption(
        f"Change of the failure rate, canary minus champion: {formats.count(look['canary_failures'])} of "
        f"{formats.count(look['canary_exchanges'])} against {formats.count(look['champion_failures'])} of "
        f"{formats.count(look['champion_exchanges'])} exchanges. The band holds at all times together with {1 - look['alpha']:.0%} "
        "confidence, so you may look as often as you like."
    )


def history(registered: list[Row], events: list[Row]) -> None:
    """List what happened, by whom and why."""
    components.heading("History", "Every event of every release (UTC). Nothing is deleted.")
    status = {row["release_id"]: row["status"] for row in registered}
    components.table(
        [
            {
                "When": formats.moment(row["recorded_at"]),
                "Release": components.model(row["release_id"]),
                "Event": components.title(row["event"]),
                "Now": components.title(status[row["release_id"]]) if row["release_id"] in status else formats.MISSING,
                "By": row["actor"] or formats.MISSING,
                "Reason": night_data.with_names(components.reasons(row["reason"] or formats.MISSING)),
            }
            for row in events
        ],
        wide=("Reason",),
        height=320 if len(events) > 8 else "content",
    )


def hooks() -> None:
    """List the hooks that were told of changes, and the results."""
    rows = data.hook_states()
    if not rows:
        return
    failed = sum(not row["ok"] for row in rows)
    said = f"{failed} to repeat with `align release push`." if failed else "All were told."
    components.heading("Hooks", f"The result of each hook's last try. {said} A failing hook changes no release.")
    components.table(
        [
            {
                "When": formats.moment(row["recorded_at"]),
                "Hook": row["hook"],
                "State": "✕ Failed" if not row["ok"] else "✓ Told",
                "Event": components.title(row["event"]),
                "Release": row["release_id"],
                "Runs": formats.count(row["runs"]),
                "Answer": row["detail"] or "",
            }
            for row in rows
        ],
        right=("Runs",),
        wide=("Answer",),
    )


def cards(registered: list[Row]) -> None:
    """Show the card of the release that the visitor picks."""
    if not registered:
        return
    components.heading(
        "One release", "Where it came from, what may be done with it, and its card: what a person needs to know to trust it."
    )
    picked = components.pick("release", "Release", {row["release_id"]: f"{row['release_id']} · {row['status']}" for row in registered})
    if picked is None:
        return
    links.of_night(night_data.night_of(picked), here="releases")
    status = next(row["status"] for row in registered if row["release_id"] == picked)
    with st.container(horizontal=True, vertical_alignment="center", key="change"):
        if status not in ("in production", "quarantined"):
            changing.button("promote", picked)
        if status != "quarantined":
            changing.button("quarantine", picked)
    if not identity.may("approver"):
        st.caption(changing.FOR_APPROVERS)
    text, page = data.release_card(picked)
    if page:
        with st.container(key="release-card"):
            components.frame(page, height=560)
    else:
        components.show_text(text, key="card", empty="This release has no card.")
    if page:
        st.download_button("Card as a page", page, file_name=f"release-{picked}.html", mime="text/html")


if __name__ == "__main__":
    render()
