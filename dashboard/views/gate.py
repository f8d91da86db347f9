"""Why a release was let through or held back: rates, paired differences, and the answers behind them."""

from __future__ import annotations

import streamlit as st

from dashboard import charts, data, figures, show
from dashboard.data import Row
from dashboard.views import approving

PAGE_SIZE = 10
CHANGES = {"changed": "Changed", "worse": "Worse", "better": "Better", "all": "All"}
# The words for outcome 0 and outcome 1, which is the suite's failure.
OUTCOMES = {"harm": ("safe", "unsafe")}


def render() -> None:
    """Draw the page."""
    st.title("Gate", anchor=False)
    decisions = data.decisions()
    if not decisions:
        show.nothing_yet("The gate has not decided anything yet", "align nightly", "A night ends with a decision.")
        return
    decision = choose(decisions)
    metrics = data.gate_metrics(decision["id"])
    summary(decision, metrics)
    approving.render(decision)
    if metrics:
        evidence(metrics)
    examples(decision, metrics)


def choose(decisions: list[Row]) -> Row:
    """Return the decision the visitor picks; the newest at first."""
    by_id = {row["id"]: row for row in decisions}

    def label(key: str) -> str:
        row = by_id[key]
        return f"{figures.moment(row['decided_at'])} · {show.status(approving.word(row)).word}"

    picked = st.selectbox("Decision", list(by_id), format_func=label, width=420)
    return by_id[picked]


def summary(decision: Row, metrics: list[Row]) -> None:
    """Draw what was decided between which models, and the reasons."""
    with show.card("decision"):
        left, right = st.columns([3, 2], gap="medium")
        with left, st.container(gap="xsmall"):
            show.big_status(approving.word(decision))
            for metric in metrics:
                with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                    show.badge(metric["status"])
                    st.markdown(f"**{show.title(metric['name'])}**", width="content")
                    show.show_text(metric["reason"])
            # What is no metric's reason, such as a promotion that came too late.
            for reason in decision["reasons"][len(metrics) :]:
                show.show_text(show.reason(str(reason)))
        with right, st.container(gap="xsmall"):
            for role in ("champion", "challenger"):
                st.caption(role.capitalize())
                show.name_text(decision[role], key=role)


def evidence(metrics: list[Row]) -> None:
    """Draw the rates, the differences against their margins, and the table of everything."""
    show.heading(
        "Evidence",
        "Both models answered the same prompts. A metric passes when its whole interval lies left of its black line.",
    )
    left, right = st.columns(2, gap="small")
    with left, show.card("rates"):
        st.markdown("**Rate of failures**")
        show.draw(charts.rates(metrics), "Rate of failures of champion and challenger for each metric")
    with right, show.card("differences"):
        st.markdown("**Paired difference with its interval**")
        show.draw(charts.differences(metrics), "Paired difference of each metric with interval and margin")
    show.table(
        [written(metric) for metric in metrics],
        right=("Champion", "Challenger", "Difference", "Interval", "n", "Clusters", "Unscored", "Worse", "Better", "p", "Margin"),
    )
    worth(metrics)


def worth(metrics: list[Row]) -> None:
    """Draw what the evidence can show, and what people's checks of the scorer make of it."""
    show.heading("What the evidence is worth", "How small a change this many prompts show, and the rates behind the scorer's own errors.")
    show.table([weighed(metric) for metric in metrics], right=("Design effect", "Shows, with 80% power"))


def weighed(metric: Row) -> dict[str, str]:
    """Return one metric's power and corrected rates as the cells of the table; older decisions have neither."""
    rates = "as scored"
    if metric["corrected_diff"] is not None:
        interval = figures.interval(metric["corrected_low"], metric["corrected_high"])
        rates = f"{figures.percent(metric['corrected_champion'])} → {figures.percent(metric['corrected_challenger'])}, "
        rates += f"{figures.points(metric['corrected_diff'])} {interval}"
    effect = metric["design_effect"]
    return {
        "Metric": show.title(metric["name"]),
        "Shows, with 80% power": figures.change(metric, "detectable").lstrip("+"),
        "Design effect": figures.MISSING if effect is None else f"{effect:.2f}",
        "Blocks alone": figures.MISSING if metric["critical"] is None else "yes" if metric["critical"] else "no",
        "Corrected rates": rates,
        "Checked by people": metric["calibration"] or figures.MISSING,
    }


def written(metric: Row) -> dict[str, str]:
    """Return one metric as the cells of the table."""
    return {
        "Metric": show.title(metric["name"]),
        "Champion": figures.value(metric, "champion"),
        "Challenger": figures.value(metric, "challenger"),
        "Difference": figures.change(metric, "diff"),
        "Interval": figures.interval(metric["low"], metric["high"]) if charts.is_rate(metric) else figures.nats(metric),
        "Margin": figures.change({**metric, "margin": charts.margin_line(metric)}, "margin"),
        "n": figures.count(metric["n"]),
        "Clusters": figures.MISSING if metric["clusters"] is None else figures.count(metric["clusters"]),
        "Unscored": figures.count(metric["unscored"]),
        "Worse": figures.count(metric["worse"]),
        "Better": figures.count(metric["better"]),
        "p": figures.p_value(metric["p_value"]),
        "Rule": str(metric["rule"] or figures.MISSING),
        "Status": show.status(metric["status"]).word,
    }


def examples(decision: Row, metrics: list[Row]) -> None:
    """Draw answers of both models to the same prompts, a page at a time."""
    show.heading("Answers, before and after")
    suites = ["all", *dict.fromkeys(metric["suite"] for metric in metrics)]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        suite = st.segmented_control("Suite", suites, format_func=show.title, default="all", required=True, key="suite")
        change = st.segmented_control(
            "Outcome", list(CHANGES), format_func=CHANGES.__getitem__, default="changed", required=True, key="change"
        )
    where = (decision["id"], suite, change)
    if st.session_state.get("gate_where") != where:
        st.session_state.gate_where, st.session_state.gate_page = where, 0
    page = st.session_state.gate_page
    rows = data.answers(
        decision["champion"],
        decision["challenger"],
        suite=None if suite == "all" else suite,
        change=None if change == "all" else change,
        limit=PAGE_SIZE,
        offset=page * PAGE_SIZE,
    )
    if not rows:
        st.caption("No answers match. Choose another suite or outcome.")
        return
    for number, row in enumerate(rows):
        example(number, row)
    show.pager("gate_page", rows[0]["total"], PAGE_SIZE)


def example(number: int, row: Row) -> None:
    """Draw one prompt with both answers."""
    with show.card(f"example-{number}"):
        with st.container(horizontal=True, vertical_alignment="center"):
            show.badge(row["change"])
            st.caption(f"{show.title(row['suite'])} · {show.title(row['category'] or 'no category')}", width="content")
        show.show_text(row["prompt"], key=f"prompt-{number}")
        for side, column in zip(("champion", "challenger"), st.columns(2), strict=True):
            with column, st.container(gap="xsmall"):
                with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                    st.caption(side.capitalize(), width="content")
                    show.badge(outcome(row["suite"], row[f"{side}_outcome"]))
                show.show_text(row[f"{side}_answer"], key=f"{side}-{number}", empty="(no answer)")


def outcome(suite: str, value: int | None) -> str:
    """Return the word for an outcome: 1 is the suite's failure.

    >>> outcome("harm", 1), outcome("lookalike", 1), outcome("ordinary", 0), outcome("harm", None)
    ('unsafe', 'refused', 'answered', 'unscored')
    """
    if value is None:
        return "unscored"
    return OUTCOMES.get(suite, ("answered", "refused"))[value]


if __name__ == "__main__":
    render()
