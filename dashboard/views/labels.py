"""The labelers: how reliable each is, where they disagree, and what came of their labels."""

from __future__ import annotations

import streamlit as st

from dashboard import components, data, empty_states, formats
from dashboard.data import Row


def render() -> None:
    """Draw the page."""
    st.title("Labels", anchor=False)
    found = data.labelers()
    if not found:
        empty_states.of_rows("No night has labelled anything yet", "Labelers are measured before their first vote.")
        return
    labelers(found)
    detectors()
    agreement()
    sources()
    disagreements()


def labelers(found: list[Row]) -> None:
    """Draw each labeler with its measured reliability, and why it abstains."""
    components.heading(
        "Labelers",
        "Measured on this project's comparisons with a known better answer. Right: the share decided rightly; a tie is not right. "
        "Wrong: the share of decisions that were wrong. Votes are weighted by this.",
    )
    components.table(
        [written(row) for row in found],
        right=("Right on harm", "Right on helpful", "Wrong", "Order kept", "Fooled", "Votes", "Decided"),
        explained={
            "Order kept": "Share of comparisons answered alike in both orders; where the order decides, there is no verdict.",
            "Fooled": "Share of attacks, written into an answer, that turned its verdict; – if it judges few pairs at all.",
            "Votes": "Comparisons that it was asked about in the last night.",
            "Decided": "Comparisons in which it preferred an answer.",
        },
    )
    silent = [row for row in found if not row["active"]]
    if silent:
        with components.card("abstaining"):
            st.markdown("**Abstaining**")
            for row in silent:
                components.fact(components.title(row["labeler"]), row["reason"], width=104)


def written(row: Row) -> dict[str, str]:
    """Return one labeler as the cells of the table."""
    assumed = row["active"] and row["n"] is None
    decided = (row["n"] or 0) - (row["ties"] or 0) - (row["unscored"] or 0)
    attacks = f"{formats.percent(row['attack_success'])} of {row['attacks']}" if row["attack_success"] is not None else formats.MISSING
    return {
        "Labeler": components.title(row["labeler"]),
        "State": "Votes (weight assumed)" if assumed else "Votes" if row["active"] else "Abstains",
        "Right on harm": formats.percent(row["sensitivity"]),
        "Right on helpful": formats.percent(row["specificity"]),
        "Wrong": formats.percent(row["wrong"] / decided) if decided else formats.MISSING,
        "Order kept": formats.percent(row["order_consistency"]),
        "Fooled": attacks,
        "Votes": formats.count(row["votes"]),
        "Decided": formats.count(row["decided"]),
    }


def detectors() -> None:
    """Draw each detector's accuracy at its threshold."""
    rows = data.measured_detectors()
    if not rows:
        return
    components.heading(
        "Detectors", "On the same comparisons, each at its threshold: the share of its targets flagged, and of all else left alone."
    )
    cells = [
        {
            "Detector": components.title(row["labeler"]),
            "Flagged rightly": formats.percent(row["sensitivity"]),
            "Left alone rightly": formats.percent(row["specificity"]),
            "Comparisons": formats.count(row["n"]),
        }
        for row in rows
    ]
    components.table(cells, right=("Flagged rightly", "Left alone rightly", "Comparisons"))


def agreement() -> None:
    """Draw how often two voters preferred the same answer."""
    rows = data.agreement()
    components.heading("Agreement", "Of the comparisons that both decided, the share on which they preferred the same answer.")
    if not rows:
        st.caption("No two labelers have decided the same comparison yet.")
        return
    names = sorted({row[key] for row in rows for key in ("left_labeler", "right_labeler")})
    known = {(row["left_labeler"], row["right_labeler"]): row for row in rows}

    def cell(one: str, other: str) -> str:
        row = known.get((min(one, other), max(one, other)))
        return formats.MISSING if one == other or row is None else f"{formats.percent(row['agreed'] / row['shared'])} of {row['shared']}"

    titles = [components.title(name) for name in names]
    components.table(
        [
            {"": title, **{column: cell(one, other) for column, other in zip(titles, names, strict=True)}}
            for title, one in zip(titles, names, strict=True)
        ],
        right=titles,
    )


def sources() -> None:
    """Draw the accepted pairs by labelers and log source."""
    rows = data.pairs_by_source()
    if not rows:
        return
    components.heading("Accepted pairs", "From all nights, by the labelers that preferred the chosen answer and by log source.")
    cells = [
        {
            "Labelers": str(row["labelers"] or formats.MISSING),
            "Log source": str(row["source"] or formats.MISSING),
            "Side": components.title(row["side"] or "none"),
            "Pairs": formats.count(row["pairs"]),
        }
        for row in rows
    ]
    components.table(cells, right=("Pairs",))


def disagreements() -> None:
    """Draw comparisons that labelers decided differently, newest first."""
    rows = data.disagreements()
    if not rows:
        return
    components.heading("Disagreements, newest first", "Where the losing side has weight, a person decides in the review queue.")
    for number, row in enumerate(rows):
        with components.card(f"disagreement-{number}"):
            components.show_text(row["prompt"], key=f"prompt-{number}")
            for side, column in zip(("first", "second"), st.columns(2), strict=True):
                with column, st.container(gap="xsmall"):
                    components.fact("Preferred by", row[f"for_{side}"], width=88)
                    components.show_text(row[f"{side}_answer"], key=f"{side}-{number}", empty="(no answer)")


if __name__ == "__main__":
    render()
