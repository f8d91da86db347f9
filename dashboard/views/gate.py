"""Why a release passed or was held back: rates, paired differences, and the answers behind them."""

from __future__ import annotations

import streamlit as st

from alignment.evals.suites import suite_scorer
from dashboard import charts, components, data, empty_states, formats, night_data
from dashboard.data import Row
from dashboard.views import approving, groups, links

PAGE_SIZE = 10
CHANGES = {"changed": "Changed", "worse": "Worse", "better": "Better", "all": "All"}
EXPLAINED = {
    "Interval": "Where the true difference lies, in points, with the gate's confidence on each side.",
    "Against": "What the challenger is compared with; earlier models are included so that small rises do not add up.",
    "Margin": "The whole interval has to stay below this.",
    "Prompts": "How many prompts both models answered.",
    "Clusters": "Prompts that ask for the same thing count as one.",
    "Unscored": "Answers that the scorer could not judge.",
    "Worse": "Prompts that only the challenger failed.",
    "Better": "Prompts that only the champion failed.",
    "p": "How likely this much change is by chance alone (exact McNemar test).",
    "Rule": "Superior: it has to fall. Non-inferior: it may rise by less than the margin.",
    "Shows, with 80% power": "The smallest change that this many prompts would show four times out of five.",
    "Design effect": "How much evidence is lost because prompts of a cluster say the same; 1 is none.",
    "Blocks alone": "Whether a failure of this metric alone holds the release back.",
    "Corrected rates": "Rates corrected for the scorer's own errors, where people have checked it.",
}
AGAINST = {"": "champion", "base": "base model", "approved": "last approved by a person"}
# The words for outcomes 0 and 1; 1 is the suite's failure.
OUTCOMES = {"harm": ("safe", "unsafe"), "help": ("answered", "refused")}


def render() -> None:
    """Draw the page."""
    st.title("Gate", anchor=False)
    decisions = data.decisions(decision=st.query_params.get("decision"))
    if not decisions:
        empty_states.of_rows("The gate has not decided anything yet", "A night ends with a decision.")
        return
    decision = choose(decisions)
    if decision is None:
        return
    links.of_night(decision["night_id"], here="gate")
    metrics = in_order(data.gate_metrics(decision["id"]))
    weakened(decision)
    summary(decision, metrics)
    approving.render(decision)
    if metrics:
        evidence(metrics)
        groups.render(decision)
    examples(decision, metrics)


def in_order(metrics: list[Row]) -> list[Row]:
    """Return metrics with those about harm first, and those against earlier releases last."""
    order = components.in_order(metric["name"] for metric in metrics)
    return sorted(metrics, key=lambda metric: (metric["since"] != "", order.index(metric["name"])))


def choose(decisions: list[Row]) -> Row | None:
    """Return the decision that the visitor picks, the newest by default; None if the address names an unknown one."""
    nights = [row["night_id"] for row in decisions]
    words = {}
    for row in decisions:
        # A night that was gated again has several.
        when = f" · decided {formats.moment(row['decided_at'])}" if nights.count(row["night_id"]) > 1 else ""
        words[row["id"]] = f"{night_data.night_name(row['night_id'])} · {components.status(approving.word(row)).word}{when}"
    picked = components.pick("decision", "Decision on the night of", words)
    return next((row for row in decisions if row["id"] == picked), None)


def weakened(decision: Row) -> None:
    """Show which settings weakened the gate for this decision, and the stated reason; nothing if none did."""
    found = decision["weakened"]
    if not found:
        return
    with st.container(key="weakened"):
        st.error("This decision was made with a weaker gate than the project's floor.")
        st.caption("Reason given")
        components.show_text(found.get("reason"), empty="(none)")
        for one in found.get("settings", ()):
            components.show_text(str(one))


def summary(decision: Row, metrics: list[Row]) -> None:
    """Draw the decision, the two models, and the reasons."""
    with components.card("decision"):
        left, right = st.columns([3, 2], gap="medium")
        with left, st.container(gap="xsmall"):
            components.big_status(approving.word(decision))
            for metric in metrics:
                with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                    components.badge(metric["status"])
                    st.markdown(f"**{components.title(metric['name'])}**", width="content")
                    components.show_text(metric["reason"])
            # Reasons that belong to no metric, such as a promotion that came too late.
            for reason in decision["reasons"][len(metrics) :]:
                components.show_text(components.reason(str(reason)))
        with right, st.container(gap="xsmall"):
            for role in ("champion", "challenger"):
                st.caption(role.capitalize())
                components.name_text(decision[role], key=role)


def evidence(metrics: list[Row]) -> None:
    """Draw the rates, the differences against their margins, and the table of all metrics."""
    components.heading(
        "Evidence",
        "Both models answered the same prompts. A metric passes when its whole interval lies left of its upright line.",
    )
    left, right = st.columns(2, gap="small")
    with left, components.card("rates"):
        st.markdown("**Rate of failures**")
        components.draw(
            charts.rates([metric for metric in metrics if not metric["since"]]),
            "Rate of failures of champion and challenger for each metric",
        )
    with right, components.card("differences"):
        st.markdown("**Paired difference with its interval**")
        components.draw(charts.differences(metrics), "Paired difference of each metric with interval and margin")
    components.table(
        [written(metric) for metric in metrics],
        right=("Rate", "Difference", "Interval", "Margin", "Worse", "Better", "p"),
        explained=EXPLAINED,
    )
    worth(metrics)


def worth(metrics: list[Row]) -> None:
    """Draw the power of the evidence, and the correction by people's checks of the scorer."""
    components.heading(
        "What the evidence is worth", "The smallest change that this many prompts show, and rates corrected for the scorer's errors."
    )
    right = ("Prompts", "Clusters", "Unscored", "Design effect", "Shows, with 80% power")
    components.table([weighed(metric) for metric in metrics], right=right, explained=EXPLAINED)
    components.table([corrected(metric) for metric in metrics], wide=("Checked by people",), explained=EXPLAINED)


def weighed(metric: Row) -> dict[str, str]:
    """Return the evidence behind one metric as the cells of the table; older decisions recorded less."""
    effect = metric["design_effect"]
    return {
        "Metric": components.title(metric["name"]),
        "Rule": str(metric["rule"] or formats.MISSING),
        "Blocks alone": formats.MISSING if metric["critical"] is None else "yes" if metric["critical"] else "no",
        "Prompts": formats.count(metric["n"]),
        "Clusters": formats.count(metric["clusters"]),
        "Unscored": formats.count(metric["unscored"]),
        "Design effect": formats.MISSING if effect is None else f"{effect:.2f}",
        "Shows, with 80% power": formats.change(metric, "detectable").lstrip("+"),
    }


def corrected(metric: Row) -> dict[str, str]:
    """Return one metric's rates corrected for the scorer's errors as the cells of the table."""
    rates = "as scored"
    if metric["corrected_diff"] is not None:
        interval = formats.interval(metric["corrected_low"], metric["corrected_high"])
        rates = f"{formats.percent(metric['corrected_champion'])} → {formats.percent(metric['corrected_challenger'])}, "
        rates += f"{formats.points(metric['corrected_diff'])} {interval}"
    return {
        "Metric": components.title(metric["name"]),
        "Corrected rates": rates,
        "Checked by people": metric["calibration"] or formats.MISSING,
    }


def written(metric: Row) -> dict[str, str]:
    """Return one metric as the cells of the table."""
    return {
        "Metric": components.title(metric["name"]),
        "Against": AGAINST.get(metric["since"], str(metric["since"])),
        "Rate": f"{formats.value(metric, 'champion')} → {formats.value(metric, 'challenger')}",
        "Difference": formats.change(metric, "diff"),
        "Interval": formats.interval(metric["low"], metric["high"]) if charts.is_rate(metric) else formats.nats(metric),
        "Margin": formats.change({**metric, "margin": charts.margin_line(metric)}, "margin"),
        "Worse": formats.count(metric["worse"]),
        "Better": formats.count(metric["better"]),
        "p": formats.p_value(metric["p_value"]),
        "Status": components.status(metric["status"]).word,
    }


def examples(decision: Row, metrics: list[Row]) -> None:
    """Draw answers of both models to the same prompts, a page at a time."""
    components.heading("Answers, before and after")
    suites = ["all", *dict.fromkeys(metric["suite"] for metric in metrics)]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        suite = st.segmented_control("Suite", suites, format_func=components.title, default="all", required=True, key="suite")
        change = st.segmented_control(
            "Outcome", list(CHANGES), format_func=CHANGES.__getitem__, default="changed", required=True, key="change"
        )
    where = (decision["id"], suite, change)
    if st.session_state.get("gate_where") != where:
        st.session_state.gate_where, st.session_state.gate_page = where, 0
    page = st.session_state.gate_page
    rows = data.answers(
        decision["id"],
        suite=None if suite == "all" else suite,
        change=None if change == "all" else change,
        harmful=[name for name in suites if suite_scorer(name) == "harm"],
        limit=PAGE_SIZE,
        offset=page * PAGE_SIZE,
    )
    if not rows:
        st.caption("No answers match. Choose another suite or outcome.")
        return
    for number, row in enumerate(rows):
        example(number, row)
    components.pager("gate_page", rows[0]["total"], PAGE_SIZE)


def example(number: int, row: Row) -> None:
    """Draw one prompt with both answers."""
    with components.card(f"example-{number}"):
        with st.container(horizontal=True, vertical_alignment="center"):
            components.badge(row["change"])
            st.caption(f"{components.title(row['suite'])} · {components.title(row['category'] or 'no category')}", width="content")
        components.show_text(row["prompt"], key=f"prompt-{number}")
        for side, column in zip(("champion", "challenger"), st.columns(2), strict=True):
            with column, st.container(gap="xsmall"):
                with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                    st.caption(side.capitalize(), width="content")
                    components.badge(outcome(row["suite"], row[f"{side}_outcome"]))
                components.show_text(row[f"{side}_answer"], key=f"{side}-{number}", empty="(no answer)")


def outcome(suite: str, value: int | None) -> str:
    """Return the word for an outcome: 1 is the suite's failure.

    >>> outcome("harm", 1), outcome("lookalike", 1), outcome("ordinary", 0), outcome("capability", 1), outcome("harm", None)
    ('unsafe', 'refused', 'answered', 'failed', 'unscored')
    """
    if value is None:
        return "unscored"
    return OUTCOMES.get(suite_scorer(suite), ("passed", "failed"))[value]


if __name__ == "__main__":
    render()
