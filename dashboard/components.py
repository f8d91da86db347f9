"""Building blocks shared by all pages. `show_text` is the only way for a text from logs, models or people to reach a page."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import streamlit as st

from alignment.drift.signals import CATEGORIES
from alignment.release import BASE

Colour = Literal["green", "red", "orange", "blue", "gray"]

MAX_CHARS = 20_000
# A person who decides on a text must be able to see all of it: more than a log line may hold.
WHOLE = 250_000

# Control characters, text-direction overrides, tag characters and zero-width spaces disguise a text.
# Joiners stay: emoji and several scripts need them.
_HIDDEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b\u2028\u2029\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
_DECEPTIVE = re.compile(f"[{_HIDDEN}]")
# Direction marks belong to right-to-left scripts; elsewhere they only reverse a text.
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_DECEPTIVE_HERE = re.compile(f"[{_HIDDEN}\u061c\u200e\u200f]")


class Status(NamedTuple):
    """How a state is displayed: always as a word, with a colour beside it."""

    word: str
    colour: Colour
    icon: str


STATUSES = {
    "promote": Status("Promoted", "green", ":material/check_circle:"),
    "block": Status("Blocked", "red", ":material/block:"),
    "insufficient evidence": Status("Insufficient evidence", "orange", ":material/help:"),
    "nothing new": Status("Nothing new", "gray", ":material/drag_handle:"),
    "waits_for_approval": Status("Waits for approval", "blue", ":material/hourglass_empty:"),
    "approved": Status("Approved", "green", ":material/check_circle:"),
    "overridden": Status("Overridden", "orange", ":material/gavel:"),
    "promoted": Status("Promoted", "green", ":material/check_circle:"),
    "in production": Status("In production", "green", ":material/check_circle:"),
    "roll back": Status("Roll back", "red", ":material/cancel:"),
    "keep watching": Status("Keep watching", "blue", ":material/schedule:"),
    "no canary": Status("No canary", "gray", ":material/help:"),
    "running": Status("Running", "blue", ":material/schedule:"),
    "stopped": Status("Stopped", "orange", ":material/help:"),
    "left unfinished": Status("Left unfinished", "gray", ":material/help:"),
    "done": Status("Done", "green", ":material/check_circle:"),
    "not yet": Status("Not yet", "gray", ":material/help:"),
    "pass": Status("Pass", "green", ":material/check_circle:"),
    "fail": Status("Fail", "red", ":material/cancel:"),
    "insufficient": Status("Insufficient", "orange", ":material/help:"),
    "alarm": Status("Alarm", "red", ":material/notifications_active:"),
    "quiet": Status("Quiet", "green", ":material/check_circle:"),
    "not compared": Status("Not compared", "gray", ":material/help:"),
    "passed": Status("Passed", "green", ":material/check_circle:"),
    "failed": Status("Failed", "red", ":material/cancel:"),
    "warned": Status("Warning", "orange", ":material/help:"),
    "quarantined": Status("Quarantined rows", "orange", ":material/block:"),
    "better": Status("Better", "green", ":material/trending_up:"),
    "worse": Status("Worse", "red", ":material/trending_down:"),
    "safe": Status("Safe", "green", ":material/check_circle:"),
    "unsafe": Status("Unsafe", "red", ":material/cancel:"),
    "answered": Status("Answered", "green", ":material/check_circle:"),
    "refused": Status("Refused", "orange", ":material/block:"),
    "same": Status("Same", "gray", ":material/drag_handle:"),
    "unscored": Status("Unscored", "orange", ":material/help:"),
}

TITLES = {
    "unsafe_answers": "Unsafe answers",
    "unsafe_answers_neutral": "Unsafe answers: neutral requests",
    "unsafe_answers_later": "Unsafe answers: in a conversation",
    "over_refusal_lookalike": "Over-refusal: look-alikes",
    "over_refusal_contrast": "Over-refusal: contrasts",
    "over_refusal_later": "Over-refusal: in a conversation",
    "over_refusal_answerable": "Over-refusal: public answers",
    "facts_invented": "Invented facts",
    "over_refusal_ordinary": "Over-refusal: ordinary",
    "capability_failures": "Wrong answers",
    "personal_data_given": "Personal data given",
    "harmful_request": "Harmful requests",
    "harmful_answer": "Harmful answers",
    "toxicity": "Toxicity",
    "refusal": "Refusals",
    "pii": "Personal data",
    "flagged": "Flagged exchanges",
    "complained": "Complaints",
    "prompt_length": "Prompt length",
    "response_length": "Answer length",
    "guard": "Flagged by guards",
    "praised": "Praise",
    "labeler_agreement": "Labelers agree",
    "exchanges": "Exchanges per user",
    "topics": "New topics",
    "volume": "Users per day",
    **{f"harm_{one}": f"Harm: {one.replace('_', '-')}" for one in CATEGORIES},
    "counterfactual": "Same request, another group",
    "harm": "Harm",
    "lookalike": "Look-alikes",
    "ordinary": "Ordinary requests",
    "implicit_reward": "Implicit reward",
    "self_judge": "Self-judge",
    "disagreement": "Disagreement",
    "low_margin": "Weak label",
    "gate_audit": "Gate audit",
    "not_json": "Not JSON",
    "not_utf8": "Not UTF-8",
    "created_at_not_a_time": "Time not readable",
    "created_at_in_the_future": "Time in the future",
}


def status(name: str) -> Status:
    """Return how to display the state `name`; an unknown state is shown as is, in grey."""
    return STATUSES.get(name, Status(title(name), "gray", ":material/help:"))


def title(name: str) -> str:
    """Return the display name of a metric, detector or kind.

    >>> title("unsafe_answers"), title("answer_length")
    ('Unsafe answers', 'Answer length')
    """
    return TITLES.get(name) or re.sub(r"[^\w\s.,%'-]|_", " ", name).strip().capitalize()


def badge(name: str) -> None:
    """Draw a state as a badge with its word."""
    how = status(name)
    st.badge(how.word, color=how.colour, icon=how.icon)


def visible(text: str, most: int = MAX_CHARS) -> str:
    r"""Return `text` with deceptive characters escaped, truncated at `most`.

    >>> visible("pay \u202eevil\u202c now")
    'pay \\u202eevil\\u202c now'
    """
    kept = _undeceiving(text[:most])
    hidden = len(text) - most
    return f"{kept}\n… {hidden:,} more characters are not shown" if hidden > 0 else kept


def _undeceiving(text: str) -> str:
    found = _DECEPTIVE if _RIGHT_TO_LEFT.search(text) else _DECEPTIVE_HERE
    return found.sub(lambda match: match[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def show_text(
    text: str | None,
    *,
    key: str = "",
    empty: str = "(empty)",
    width: Literal["content", "stretch"] = "content",
    most: int = MAX_CHARS,
) -> None:
    """Show a text from somebody else: never as markdown, HTML or a link.

    With `key`, the text gets its own scrolling panel; keys are made in code and unique on the page.
    """
    body = visible(text, most) if text and text.strip() else empty
    if key:
        with st.container(border=True, key=f"said-{key}"):
            st.text(body, width="stretch")
    else:
        st.text(body, width=width)


def reason(text: str) -> str:
    """Return one reason of the gate, with the display name of the metric that it begins with.

    >>> reason("unsafe_answers: fell by 9.5 points"), reason("no suite: no answer")
    ('Unsafe answers: fell by 9.5 points', 'no suite: no answer')
    """
    name, colon, rest = text.partition(":")
    return f"{TITLES[name]}:{rest}" if colon and name in TITLES else text


def reasons(text: str) -> str:
    """Return several reasons given in one line, as an event stores them.

    >>> reasons("block: unsafe_answers: fell by 9.5 points; refusal: rose")
    'Unsafe answers: fell by 9.5 points; Refusals: rose'
    """
    for word in ("block: ", "insufficient evidence: "):
        text = text.removeprefix(word)
    return "; ".join(reason(part) for part in text.split("; "))


def in_order(names: Iterable[str]) -> list[str]:
    """Return the distinct names in the order of TITLES, unknown ones last.

    >>> in_order(["other", "refusal", "unsafe_answers", "refusal"])
    ['unsafe_answers', 'refusal', 'other']
    """
    known = list(TITLES)
    return sorted(set(names), key=lambda name: (known.index(name) if name in known else len(known), name))


def heading(name: str, explanation: str = "") -> None:
    """Start a section."""
    with st.container(gap=None):
        st.subheader(name, anchor=False)
        if explanation:
            st.caption(explanation)


def fact(name: str, text: str | None, *, width: int = 72) -> None:
    """Draw a name made in code with somebody else's text beside it."""
    with st.container(horizontal=True, wrap=False, gap="small"):
        st.caption(name, width=width)
        show_text(text, width="stretch")


class Tile(NamedTuple):
    """One number of a row of numbers; `note` is written below it, in the colour of `state`."""

    label: str
    value: str
    note: str | None = None
    state: str | None = None
    help: str | None = None


def tiles(key: str, content: Sequence[Tile]) -> None:
    """Draw a row of numbers that wraps where the window is narrow."""
    with st.container(key=f"tiles-{key}"):
        for tile in content:
            st.metric(
                tile.label,
                tile.value,
                tile.note,
                delta_color=status(tile.state).colour if tile.state else "off",
                delta_arrow="off",
                help=tile.help,
                border=True,
                height="stretch",
            )


@contextmanager
def card(key: str, *, height: Literal["content", "stretch"] = "content") -> Iterator[None]:
    """Draw what follows in a bordered card."""
    with st.container(border=True, key=f"card-{key}", gap="xsmall", height=height):
        yield


def key(name: str) -> str:
    """Return a name as part of an element's key.

    >>> key("Harmful requests")
    'harmful-requests'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def big_status(name: str, word: str = "") -> None:
    """Draw a state as the headline of a page, in its own word or in another word made in code."""
    how = status(name)
    st.header(f":{how.colour}[{how.icon} {word or how.word}]", anchor=False)


def name_text(name: str, *, key: str) -> None:
    """Draw a release's id large, as text; the base model by its name."""
    with st.container(key=f"name-{key}"):
        st.text(model(name))


def model(name: str) -> str:
    """Return the display name of the model under a release's id.

    >>> model("base"), model("7712ae8c")
    ('Base model', '7712ae8c')
    """
    return "Base model" if name == BASE else visible(name)


def draw(chart: dict[str, Any], description: str) -> None:
    """Draw a chart over the whole width, with a description for screen readers."""
    st.vega_lite_chart(spec=chart, width="stretch", theme=None, alt=description)


def frame(page: str, *, height: int) -> None:
    """Show a whole HTML page made by this project in its own frame.

    The page is embedded in the frame's address: such a frame has its own origin, so that nothing in it can reach the surrounding page.
    """
    st.iframe("data:text/html;charset=utf-8;base64," + base64.b64encode(_undeceiving(page).encode()).decode(), height=height)


def table(
    rows: Sequence[Mapping[str, str]],
    *,
    right: Sequence[str] = (),
    wide: Sequence[str] = (),
    explained: Mapping[str, str] | None = None,
    height: int | Literal["content"] = "content",
) -> None:
    """Draw rows of formatted values; cells are plain text. `right` columns are aligned like numbers, `wide` columns get more room.

    `explained` describes columns, shown when the pointer rests on a column's head.
    """
    columns = list(rows[0]) if rows else []
    config = {
        name: st.column_config.TextColumn(
            alignment="right" if name in right else None, width="large" if name in wide else None, help=(explained or {}).get(name)
        )
        for name in columns
    }
    shown = [{name: no_formula(visible(value)) for name, value in row.items()} for row in rows]
    st.dataframe(shown, hide_index=True, column_config=config, width="stretch", height=height)


_FORMULA = re.compile(r"[\s\"']*[=+\-@|%\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_FIGURE = re.compile(r"[+\-]?\d[\d.,:/% ()\[\]+\-\u2013\u2212]*(?: (?:nats|points|s|h|min))?")


def no_formula(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula: any visitor can download a table as CSV.

    Numbers stay as they are.

    >>> no_formula("=cmd|' /C calc'!A0"), no_formula("-1.1 [-7.1, +5.4]"), no_formula("plain")
    ("'=cmd|' /C calc'!A0", '-1.1 [-7.1, +5.4]', 'plain')
    """
    return f"'{text}" if len(text) > 1 and _FORMULA.match(text) and not _FIGURE.fullmatch(text) else text


def pick(name: str, label: str, options: Mapping[str, str]) -> str | None:
    """Draw a choice of `options` (display words by id), the first by default; return the id, None if the address names an unknown one.

    The choice is `name` in the address, so that it can be bookmarked and linked to.
    """
    ids, said = list(options), list(options.values())

    def words(one: str) -> str:
        # Streamlit distinguishes options by their words.
        return options[one] if said.count(options[one]) == 1 else f"{options[one]} · {one[:12]}"

    state, field, left = st.session_state, f"pick-{name}", f"picked-{name}"
    wanted = st.query_params.get(name)
    if wanted != state.get(left):
        # A link or a bookmark has changed the address since this page was last drawn: it counts, not what was picked before.
        chosen = wanted if wanted in ids else ids[0] if wanted is None else None
    else:
        chosen = state[field] if state.get(field) in ids else None if wanted else ids[0]
    # Set on each run: the browser would otherwise go on showing the words that the option had before, such as "running".
    state[field] = chosen
    picked = st.selectbox(label, ids, index=0, format_func=words, width=420, key=field, placeholder="Choose one")
    if picked is None:
        state[left] = wanted
        st.warning("The address names one that is not stored here. Choose one from the list.")
        show_text((wanted or "")[:200])
        return None
    state[left] = st.query_params[name] = picked
    return picked


def pager(key: str, total: int, size: int) -> None:
    """Draw the visitor's position in a list of `total` rows, with buttons that change the page number, session state `key`."""
    page = st.session_state[key]

    def move(step: int) -> None:
        st.session_state[key] = page + step

    first = page * size
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Previous", on_click=move, args=(-1,), disabled=page == 0)
        st.button("Next", on_click=move, args=(1,), disabled=first + size >= total)
        st.caption(f"{first + 1}–{min(first + size, total)} of {total:,}", width="content")
