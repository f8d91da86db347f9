"""The pairs a night trained on: which answer was preferred, by whom, and where each pair came from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import streamlit as st

from alignment.lineage import trace
from alignment.lineage.trace import Node
from dashboard import components, data, empty_states, formats, night_data
from dashboard.data import Row
from dashboard.views import links, ruling

PAGE_SIZE = 10
FILTERS = {
    "split": "Split",
    "side": "Side",
    "category": "Category",
    "principle": "Principle",
    "labelers": "Labelled by",
    "source": "Log source",
}
SPLITS = {"train": "Trained on", "eval": "Held out"}


def render() -> None:
    """Draw the page."""
    st.title("Pairs", anchor=False)
    ruling.say_what_happened()
    nights = night_data.nights(night=st.query_params.get("night"))
    if not nights:
        empty_states.of_rows("No night has built pairs yet", "A night labels what was flagged and builds pairs from it.")
        return
    night = components.pick("night", "Night", {row["night_id"]: formats.moment(row["started_at"]) for row in nights})
    if night is None:
        return
    links.of_night(night, here="pairs", name=False)
    facets = data.read("pair_facets", night=night)
    if not facets:
        empty_states.of_rows("This night has no pairs yet", "It has not finished labelling, or kept no pair.", "align curate")
        return
    chosen = filters(facets)
    where = (night, *chosen.values())
    if st.session_state.get("pairs_where") != where:
        st.session_state.pairs_where, st.session_state.pairs_page = where, 0
    page = st.session_state.pairs_page
    rows = data.read("pair_list", night=night, limit=PAGE_SIZE, offset=page * PAGE_SIZE, **chosen)
    if not rows:
        st.caption("No pair matches.")
        return
    written = {each["pair_id"]: each for each in data.read("pair_steps", pairs=[row["id"] for row in rows])}
    for number, row in enumerate(rows):
        pair(number, row, written.get(row["id"]))
    components.pager("pairs_page", rows[0]["total"], PAGE_SIZE)


def filters(facets: list[Row]) -> dict[str, str | None]:
    """Draw the filters with the available values; return the choices, None for any."""
    options = {name: [row[name] for row in facets] for name in FILTERS if name != "principle"}
    options["principle"] = [name for row in facets for name in row["principles"] or ()]
    chosen: dict[str, str | None] = {}
    for start in (0, 3):
        for (name, label), column in zip(list(FILTERS.items())[start : start + 3], st.columns(3, gap="small"), strict=True):
            with column:
                known = sorted({value for value in options[name] if value})
                chosen[name] = st.selectbox(label, ["", *known], format_func=word, key=f"pairs_{name}") or None
    text = st.text_input("Words in the prompt or an answer", key="pairs_text", max_chars=200)
    return {**chosen, "text": text.strip() or None}


def word(value: str) -> str:
    """Return a filter's value as shown to people."""
    return SPLITS.get(value) or components.title(value) if value else "Any"


def pair(number: int, row: Row, written: Row | None) -> None:
    """Draw one pair with the labelers that preferred it and, for a revision, how it was `written`; its lineage on request."""
    with components.card(f"pair-{number}"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.badge(SPLITS.get(row["split"], components.title(str(row["split"]))), color="blue" if row["split"] == "train" else "gray")
            st.badge(components.title(row["side"] or "no side"), color="gray")
            st.badge(components.title(row["category"] or "no category"), color="gray")
            st.caption(agreement(row), width="content")
        principles = ", ".join(row["principles"] or ()) or "none"
        components.show_text(
            f"Decided by {principles} · labelled by {row['labelled_by'] or 'nobody'} · from {row['source'] or 'an unknown source'}"
        )
        components.show_text(conversation(row["messages"]), key=f"prompt-{number}")
        for side, column in zip(("chosen", "rejected"), st.columns(2), strict=True):
            with column, st.container(gap="xsmall"):
                st.caption(f"**{side.capitalize()}** · {components.title(row[f'{side}_kind'] or 'unknown kind').lower()}")
                components.show_text(row[side], key=f"{side}-{number}", empty="(no answer)")
        if written:
            steps(number, written)
        ruling.render(row)
        lineage(row["id"])


def steps(number: int, written: Row) -> None:
    """Draw how a revision was made: each critique with the text written after it, the checks, and the model."""
    detail = data.parsed(written["detail"])
    with st.expander("How the chosen answer was written"):
        author = f"{detail['author']}, " if detail.get("author") else "the model itself, "
        components.show_text(f"By {author}{written['model']}", key=f"author-{number}")
        for turn in range(1, 1 + sum(name.startswith("critique_") for name in detail)):
            for name in ("critique", "revision"):
                st.caption(f"**{name.capitalize()}**")
                components.show_text(str(detail.get(f"{name}_{turn}", "")), key=f"{name}-{number}-{turn}", empty="(nothing)")
        if detail.get("verification"):
            st.caption("**Checked** · by detectors and scorers, then by the same model in separate requests")
            components.show_text(detail["verification"], key=f"verification-{number}")


def agreement(row: Row) -> str:
    """Return how strong a label is, and how many labelers were for and against it."""
    voted = row["votes_for"] + row["votes_against"]
    votes = f" · {row['votes_for']} of {voted} labelers for it" if voted else ""
    return f"Judge margin {formats.plain(row['judge_margin'])}{votes}"


def conversation(messages: str | None) -> str:
    """Return the prompt, or for a longer conversation every turn with its speaker.

    >>> conversation('[{"role": "user", "content": "Hi"}]')
    'Hi'
    """
    turns: Any = data.parsed(messages, [])
    said = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    if len(said) == 1:
        return str(said[0].get("content", ""))
    return "\n\n".join(f"{turn.get('role', '?')}: {turn.get('content', '')}" for turn in said)


def lineage(name: str) -> None:
    """Draw a button that shows where the pair came from and what learnt from it."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"`align trace {name[:16]}`", width="content")
        opened = st.session_state.get("pairs_traced") == name
        # Callbacks run before the page is redrawn.
        st.button(
            "Hide the trace" if opened else "Trace",
            key=f"trace-{name[:16]}",
            type="tertiary",
            on_click=toggle,
            args=(None if opened else name,),
        )
    if opened:
        found = trace(data.settings().home, name)
        for side, nodes in (("Made of", found.origin), ("Became", found.became)):
            st.caption(side)
            components.show_text("\n".join(tree(nodes)), key=f"trace-{components.key(side)}", empty="nothing")


def toggle(name: str | None) -> None:
    """Show the lineage of one pair, or of none."""
    st.session_state.pairs_traced = name


def tree(nodes: Iterable[Node], depth: int = 0) -> list[str]:
    """Return a lineage as indented lines."""
    lines = []
    for node in nodes:
        facts = " · ".join(f"{name} {str(value)[:80]}" for name, value in node.facts.items() if value is not None)
        lines.append(f"{'    ' * depth}{node.kind} {node.id[:16]}  {facts}".replace("\n", " "))
        lines += tree(node.parts, depth + 1)
        lines += [f"{'    ' * (depth + 1)}and {node.more} more"] if node.more else []
    return lines


if __name__ == "__main__":
    render()
