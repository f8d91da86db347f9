"""How the nights trained: one run's curves with what to look at, the trend over the nights, and the run in progress."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from dashboard import components, data, empty_states, formats, night_data, training_charts, training_data
from dashboard.components import Tile
from dashboard.data import Row
from dashboard.views import approving, links, training_words

EVERY = "5s"
# The cards, in drawing order: each with its metrics, and whether they are shares.
KNOWN: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("Loss", ("loss", "eval_loss"), False),
    ("Reward margin", ("rewards/margins", "eval_rewards/margins"), False),
    ("Reward accuracy", ("rewards/accuracies", "eval_rewards/accuracies"), True),
    ("Rewards", ("rewards/chosen", "rewards/rejected", "eval_rewards/chosen", "eval_rewards/rejected"), False),
    ("Distance from the base (KL)", ("kl", "eval_kl"), False),
    ("Tells harm from help", ("eval_refusal_auc", "eval_refused_at_5"), True),
    ("Learning rate", ("learning_rate",), False),
    ("Gradient norm", ("grad_norm",), False),
)
TRENDS = (("Loss", "loss", "plain"), ("Reward margin", "reward_margin", "plain"), ("Reward accuracy", "reward_accuracy", "percent"))


def render() -> None:
    """Draw the page."""
    st.title("Training", anchor=False)
    found = training_data.runs(night=st.query_params.get("night"))
    going = training_data.live()
    if going is not None:
        under_way()
    if not found:
        if going is None:
            empty_states.of_rows("No night has trained yet", "A night trains on the pairs that it accepted.")
        return
    gate = {row["night_id"]: row for row in reversed(data.decisions())}
    run = choose(found, gate)
    if run is None:
        return
    links.of_night(run["night_id"], here="training", name=False)
    values = training_data.metrics(run["run_id"]) if run["run_id"] else {}
    facts(run, training_data.left_behind(run["run_id"]) if run["run_id"] else {}, values)
    reading(run, values)
    curves(values)
    trend(found, gate)


@st.fragment(run_every=EVERY)
def under_way() -> None:
    """Draw the run that has no result yet; only this part of the page is refreshed."""
    with empty_states.of_errors("live"), components.card("live"):
        going = training_data.live()
        if going is None:
            st.markdown("**Training has finished.**")
            if st.button("Show it"):
                st.rerun()
            return
        if going.stopped:
            st.markdown(f"**Training stopped at step {going.step} of {going.of or '?'}.**")
            st.caption(f"Nothing was logged for {formats.duration(going.silent)}. `align nightly` resumes from its last checkpoint.")
        elif not going.rows:
            st.markdown("**Training is starting.** If there is a reference, its log-probs are computed before the first step.")
        else:
            left = f", {formats.duration(going.seconds_left)} left" if going.seconds_left else ""
            speed = f" · {formats.plain(going.pairs_per_second)} pairs/s" if going.pairs_per_second else ""
            st.progress(min(going.step / max(going.of, 1), 1.0), text=f"Training: step {going.step} of {going.of}{left}{speed}")
        values = training_data.by_metric(going.rows)
        cards([card for card in KNOWN[:3] if any(name in values for name in card[1])], values, "live")


def choose(found: list[Row], gate: Mapping[str, Row]) -> Row | None:
    """Return the run of the night that the visitor picks, the newest by default; None if the address names an unknown one."""
    words = {row["night_id"]: f"{night_data.night_name(row['night_id'])} · {verdict(row, gate)}" for row in found}
    picked = components.pick("night", "Night", words)
    return next((row for row in found if row["night_id"] == picked), None)


def verdict(run: Row, gate: Mapping[str, Row]) -> str:
    """Return the gate's decision on a run's release."""
    decision = gate.get(run["night_id"])
    return components.status(approving.word(decision)).word if decision else "No decision"


def facts(run: Row, left: Row, values: Mapping[str, list[Row]]) -> None:
    """Draw the amount of training data, the speed, and the origin of a run."""
    summary = run["summary"]
    pairs, held, computed = (summary.get(name) for name in ("pairs", "held_out", "reference_computed"))
    tokens = max((row["last"] for row in values.get("num_tokens", [])), default=None)
    free = (run["config"] or {}).get("reference_free")
    known = None if free or computed is None or held is None else pairs + held - computed
    speed = (values.get("train_samples_per_second") or [{}])[-1].get("last")
    components.tiles(
        "training",
        [
            Tile("Pairs trained on", formats.count(pairs), None if held is None else f"{held} held out"),
            Tile("Tokens", formats.count(tokens), "in training steps"),
            Tile("Took", formats.duration(run["seconds"]), f"{formats.plain(speed)} pairs/s in steps" if speed else None),
            Tile(
                "Reference log-probs",
                formats.MISSING if known is None else f"{formats.count(known)} known",
                "trained without a reference" if free else None if computed is None else f"{formats.count(computed)} computed",
                help="The frozen base's log-probs of a pair never change, so a night computes only those of its new pairs.",
            ),
        ],
    )
    starts = left.get("starts")
    resumed = formats.MISSING if starts is None else "no" if starts == 1 else f"yes, {starts - 1} times" if starts > 2 else "yes, once"
    with components.card("recipe"):
        components.fact("Base", f"{left.get('base') or 'weights'} · {str(run['base'])[:16]}")
        components.fact("Recipe", training_words.recipe(run["config"]))
        components.fact("Resumed", resumed)
        early = ", stopped early" if summary.get("stopped_early") else ""
        moved = f"; KL {formats.plain(summary['kl'])} nats" if summary.get("kl") is not None else ""
        whose = f"; rewards of {summary['measured_on']}" if summary.get("measured_on") else ""
        components.fact(
            "Measured",
            f"{formats.count(summary.get('steps'))} steps{early}; loss of the last tenth {formats.plain(summary.get('loss'))}"
            f"{moved}{whose}",
        )
        if summary.get("fallback"):
            components.fact("Trained by", f"stock TRL, which takes longer: {summary['fallback']}")
        components.fact("Run", run["run_id"] or "its steps were not logged")


def reading(run: Row, values: Mapping[str, list[Row]]) -> None:
    """Draw what this run's curves show, and how to read such curves."""
    components.heading("What to look at", "The gate judges answers, never these numbers. They help explain a release.")
    with components.card("reading"):
        for remark in training_words.remarks(values):
            with st.container(horizontal=True, wrap=False, gap="small"):
                st.badge("As wanted" if remark.fine else "Look", color="green" if remark.fine else "orange")
                st.markdown(remark.words, width="stretch")
        with st.expander("How to read the curves"):
            for name, words in training_words.MEANINGS:
                st.markdown(f"**{name}** {words}")


def curves(values: Mapping[str, list[Row]]) -> None:
    """Draw the run's logged metrics: the known ones first, the rest as the visitor picks."""
    if not values:
        st.caption("This run's steps were not logged.")
        return
    components.heading("Step by step", "Dots: single steps. Line: moving mean over a twentieth of the run. Names are TRL's.")
    cards([card for card in KNOWN if any(len(values.get(name, [])) > 1 for name in card[1])], values, "run")
    taken = {name for _, names, _ in KNOWN for name in names if len(values.get(name, [])) > 1}
    more = sorted(name for name, rows in values.items() if name not in taken and len(rows) > 1)
    once = [name for name, rows in values.items() if len(rows) == 1]
    held = [name for _, names, _ in KNOWN for name in names if name in once]
    once = [*held, *sorted(set(once) - set(held))]
    left, right = st.columns(2, gap="small")
    with left:
        if more:
            with components.card("more"):
                picked = st.selectbox("Another metric", more, key="training_more", format_func=components.visible)
                components.draw(training_charts.curves({picked: values[picked]}), f"{components.visible(picked)} by step")
    with right:
        if once:
            with st.expander(f"Measured once ({len(once)})", expanded=not more):
                components.table(
                    [{"Metric": name, "Value": formats.plain(values[name][0]["last"])} for name in once], right=("Value",), height=240
                )


def cards(content: list[tuple[str, tuple[str, ...], bool]], values: Mapping[str, list[Row]], where: str) -> None:
    """Draw one card per group of metrics, two side by side."""
    for start in range(0, len(content), 2):
        for (name, metrics, share), column in zip(content[start : start + 2], st.columns(2, gap="small"), strict=False):
            with column, components.card(f"{where}-{components.key(name)}"):
                st.markdown(f"**{name}**")
                drawn = {metric: values[metric] for metric in metrics if len(values.get(metric, [])) > 1}
                if drawn:
                    components.draw(training_charts.curves(drawn, percent=share), f"{name} by step")
                if held := [metric for metric in metrics if len(values.get(metric, [])) == 1]:
                    write = formats.percent if share else formats.plain
                    whose = "On held-out pairs: " if all(metric.startswith("eval_") for metric in held) else ""
                    st.caption(whose + " · ".join(f"{metric} {write(values[metric][0]['last'])}" for metric in held))


def trend(found: list[Row], gate: Mapping[str, Row]) -> None:
    """Draw how the runs ended night by night, with their releases and the gate's decisions."""
    components.heading("Night by night", "How each run ended. A point's colour and shape show the gate's decision on its release.")
    rows = [
        {
            **run["summary"],
            "seconds": run["seconds"],
            "at": night_data.began(run["night_id"]) or run["finished_at"],
            "night": night_data.night_name(run["night_id"]),
            "release": (gate.get(run["night_id"]) or {}).get("challenger"),
            "verdict": verdict(run, gate),
        }
        for run in reversed(found)
    ]
    shown = (*TRENDS, ("Duration", "seconds", "duration"))
    for start in (0, 2):
        for (name, key, write), column in zip(shown[start : start + 2], st.columns(2, gap="small"), strict=True):
            with column, components.card(f"trend-{key}"):
                st.markdown(f"**{name}**")
                components.draw(training_charts.night_trend([{**row, "value": row.get(key)} for row in rows], write), f"{name} by night")
    components.table(
        [written(row) for row in reversed(rows)],
        right=("Pairs", "Steps", "Loss", "Margin", "Accuracy", "Took"),
        height=420 if len(rows) > 10 else "content",
    )


def written(row: Row) -> dict[str, str]:
    """Return one night's run as the cells of the table."""
    return {
        "Night": row["night"],
        "Release": row["release"] or formats.MISSING,
        "Gate": row["verdict"],
        "Pairs": formats.count(row.get("pairs")),
        "Steps": formats.count(row.get("steps")),
        "Loss": formats.plain(row.get("loss")),
        "Margin": formats.plain(row.get("reward_margin")),
        "Accuracy": formats.percent(row.get("reward_accuracy")),
        "Took": formats.duration(row["seconds"]),
    }


if __name__ == "__main__":
    render()
