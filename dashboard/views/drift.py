"""Whether the traffic or the model's behaviour moved away from its baseline, what drove it, and what to do."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from alignment.drift import action, faded
from alignment.drift.signals import LENGTHS, TOPICS, VOLUME
from dashboard import charts, components, conversation, data, empty_states, formats
from dashboard.data import Row

MARKS = {"alarm": "▲", "quiet": "○"}
SHOWN_DAYS, EXCERPT = 60, 160


def render() -> None:
    """Draw the page."""
    st.title("Drift", anchor=False)
    if wanted := st.query_params.get("exchange"):
        exchange(wanted)
    latest = data.drift_latest()
    if not latest:
        empty_states.of_rows(
            "No drift report yet", "A report compares a day with the same weekday before, so it needs two weeks of traffic."
        )
        return
    summary(latest)
    for number, row in enumerate(data.drift_alarms()):
        alarm(number, row)
    series(data.read("drift_days", days=SHOWN_DAYS))


def state(row: Row) -> str:
    """Return `alarm` or `quiet`."""
    return "alarm" if row["alarm"] else "quiet"


def is_rate(signal: str) -> bool:
    """Return whether a signal is a share of exchanges, to be written as a percentage."""
    return signal not in (*LENGTHS, TOPICS, VOLUME)


def writer(signal: str) -> Callable[[float | None], str]:
    """Return how to write a signal's mean."""
    return formats.percent if is_rate(signal) else formats.plain


def change(signal: str, value: float | None) -> str:
    """Write a change of a signal: of a rate in points, of the number of users as a share of both, of others as a mean rank."""
    if value is None:
        return formats.MISSING
    return formats.points(value) if is_rate(signal) else f"{value:+.3f}"


def summary(latest: list[Row]) -> None:
    """Draw the number of alarms, their meaning, and each signal."""
    alarms, settings, total = [row for row in latest if row["alarm"]], data.settings().drift, data.drift_value()
    with components.card("report"):
        if alarms:
            components.big_status("alarm", f"{len(alarms)} {'alarm' if len(alarms) == 1 else 'alarms'}")
        else:
            components.big_status("quiet")
        if total:
            st.caption(f"Until {formats.day(total['day'])}, the last closed day · evidence {total['value']:.1f} of {settings.run_length:g}")
        [units] = data.read("drift_units")
        if units["unnamed"]:
            st.caption(
                f"{formats.percent(units['unnamed'])} of the last week's exchanges name no user: there, each conversation or "
                "exchange counts as one."
            )
        st.markdown(
            "**Alarm** means: users of the last days differ from those of the same weekdays in the four weeks before, by more than "
            f"{formats.points(settings.tolerance).lstrip('+')} and more than chance explains. Where nothing changes, all signals together "
            f"raise *one* false alarm in {settings.run_length:g} days at most, on average, however often you look. A person counts once a "
            "week, whatever they write. Quiet does not prove that nothing moved: few users only show large changes."
        )
    components.table(
        [written(row) for row in latest],
        right=("Weeks before", "Last 7 days", "Change", "Users", "Evidence"),
        explained={
            "Users": "Compared in the last seven closed days, and kept as their baseline.",
            "Evidence": "The evidence for a change of this signal. An alarm needs the mean over all signals to reach the threshold.",
        },
    )
    st.caption(
        "Rates are means over users. Lengths and exchanges per user are ranks among the four weeks before: 0.5 is the usual. New topics: "
        "how much the prompts look like last week's rather than like those of the weeks before, from 0 to 1."
    )


def written(row: Row) -> dict[str, str]:
    """Return one signal as the cells of the table."""
    write, signal = writer(row["signal"]), row["signal"]
    return {
        "Signal": components.title(signal),
        "State": f"{MARKS[state(row)]} {components.status(state(row)).word}",
        "Weeks before": write(row["baseline"]),
        "Last 7 days": write(row["rate"]),
        "Change": change(signal, None if signal == VOLUME else row["rate"] - row["baseline"]),
        "Since": formats.day(row["since"]) if row["since"] else formats.MISSING,
        "Users": f"{formats.count(row['users'])}, {formats.count(row['baseline_users'])}",
        "Evidence": f"{row['value']:.2f}" if row["value"] < 1000 else f"{row['value']:.0e}",
    }


def alarm(number: int, row: Row) -> None:
    """Draw one signal of an alarm: its effect, the slices that moved most, exchanges to read, and what to do."""
    signal, way = row["signal"], "rose" if row["direction"] == "up" else "fell"
    with components.card(f"alarm-{number}"):
        st.markdown(f"**{components.title(signal)} {way}** since {formats.day(row['since'])} · alarm of {formats.day(row['day'])}")
        inside = f"{change(signal, row['low'])} to {change(signal, row['high'])}"
        st.caption(
            f"{change(signal, row['effect'])} (95%: {inside}), over {formats.count(row['users'])} users, compared with the "
            "same weekdays of the four weeks before. The day of the change was chosen from the data, so the interval may be too narrow."
        )
        st.markdown(f"**What to do:** {action(signal)}")
        if row["slices"]:
            components.table([_slice(signal, one) for one in row["slices"]], right=("Before", "After", "Change", "Users"))
        if row["exchanges"]:
            what = "what there was more of before" if faded(signal, row["direction"]) else "what drove it"
            number = len(row["exchanges"])
            with st.expander(f"{number} {'exchange' if number == 1 else 'exchanges'}: {what}"), st.container(horizontal=True, gap="small"):
                for name in row["exchanges"]:
                    st.page_link("views/drift.py", label=f"{name[:12]} →", query_params={"exchange": name})


def _slice(signal: str, one: Row) -> dict[str, str]:
    write = writer(signal)
    return {
        "Slice": f"{one['column']}: {one['name'] or 'unknown'}",
        "Before": write(one["before"]),
        "After": write(one["after"]),
        "Change": change(signal, one["after"] - one["before"]),
        "Users": formats.count(one["users"]),
    }


def exchange(name: str) -> None:
    """Draw the exchange that the address names."""
    found = data.read("drift_exchange", id=name)
    with components.card("exchange"):
        if not found:
            st.warning("The address names an exchange that is not stored here; it may have been erased.")
            components.show_text(name[:200])
            return
        [row] = found
        components.show_text(
            f"Exchange {row['id'][:12]} of {formats.moment(row['created_at'])}, answered by {row['model'] or 'an unknown model'}"
        )
        conversation.draw(conversation.turns_of(row["messages"], row["prompt"]))
        st.caption("**Answer**")
        components.show_text(row["response"], key="drift-answer", empty="(no answer)")


def series(rows: list[Row]) -> None:
    """Draw the mean of all e-detectors by day, and each signal beside what it was compared with."""
    components.heading(
        "All e-detectors together", "The mean over all signals by day (UTC). Above the dashed line it is an alarm, and all start again."
    )
    with components.card("value"):
        total = [row for row in rows if row["signal"] == "all"]
        components.draw(charts.detector_value(total, data.settings().drift.run_length), "Mean of all detectors by day")
    components.heading(
        "Day by day",
        "Each closed day's users, and the same weekday of the weeks before. Days and weeks are compared by users who count once.",
    )
    names = sorted({row["signal"] for row in rows} - {"all"}, key=lambda name: (name.startswith("harm_"), name))
    for start in range(0, len(names), 3):
        for name, column in zip(names[start : start + 3], st.columns(3), strict=False):
            with column, components.card(f"series-{components.key(name)}"):
                st.markdown(f"**{components.title(name)}**")
                chosen = [row for row in rows if row["signal"] == name]
                components.draw(charts.daily_signal(chosen, writer(name), rate=is_rate(name)), f"{components.title(name)} by day")


if __name__ == "__main__":
    render()
