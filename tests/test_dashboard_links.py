"""Addresses and links: the address names what a page shows, pages lead to one another, and a night has one name on all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignment.ids import content_id
from alignment.store import append, session
from dashboard import data, night_data
from tests.dashboard_pages import addressed, opened, texts
from tests.dashboard_store import LAST, night_rows

NIGHT, OLDER = (content_id("night", number)[:16] for number in (11, 4))
DECISION, RELEASE = content_id("decision", 11), content_id("release", 11)[:16]


def links(app: Any) -> dict[str, tuple[str, str]]:
    """Return where the page's links lead: by label, the page and what its address says."""
    found = [element.proto for element in app.get("page_link")]
    return {one.label: (one.page.rsplit("/", 1)[-1], one.query_string) for one in found}


@pytest.mark.parametrize(
    ("page", "name", "value", "leads"),
    [
        ("nights", "night", NIGHT, {"Decision →", "Release →", "Training →", "30 pairs →"}),
        ("gate", "decision", DECISION, {"Night →", "Release →", "Training →", "30 pairs →"}),
        ("releases", "release", RELEASE, {"Night →", "Decision →", "Training →", "30 pairs →"}),
        ("training", "night", NIGHT, {"Night →", "Decision →", "Release →", "30 pairs →"}),
        ("pairs", "night", NIGHT, {"Night →", "Decision →", "Release →", "Training →"}),
    ],
)
def test_each_page_leads_to_the_others_about_the_same_night(page: str, name: str, value: str, leads: set[str], own: Path) -> None:
    app = addressed(page, **{name: value})
    assert not app.exception
    assert app.query_params[name] in (value, [value])
    found = links(app)
    assert leads <= set(found)
    targets = {
        "Night →": f"night={NIGHT}", "Decision →": f"decision={DECISION}", "Release →": f"release={RELEASE}",
        "Training →": f"night={NIGHT}", "30 pairs →": f"night={NIGHT}",
    }  # fmt: skip
    assert {label: found[label][1] for label in leads} == {label: targets[label] for label in leads}


def test_without_an_id_the_newest_is_shown_and_the_address_names_it(own: Path) -> None:
    app = opened("gate")
    assert app.query_params["decision"] in (DECISION, [DECISION])
    assert app.selectbox[0].value == DECISION


@pytest.mark.parametrize(
    ("page", "name"), [("nights", "night"), ("gate", "decision"), ("releases", "release"), ("training", "night"), ("pairs", "night")]
)
def test_an_unknown_id_says_so_and_shows_nothing_else(page: str, name: str, own: Path) -> None:
    app = addressed(page, **{name: "<b>0123</b>"})
    assert not app.exception
    assert app.selectbox[0].value is None
    assert [warning.value for warning in app.warning] == ["The address names one that is not stored here. Choose one from the list."]
    assert "<b>0123</b>" in texts(app)
    # Nothing of the newest is shown in its place, and whoever picks one gets it.
    assert not app.metric
    assert not [link for link in links(app) if link in ("Decision →", "Night →")]
    app.selectbox[0].select_index(1).run()
    assert not app.warning
    assert app.query_params[name] not in ("<b>0123</b>", ["<b>0123</b>"])


def test_an_address_that_changes_counts_more_than_what_was_picked_before(own: Path) -> None:
    app = addressed("nights", night=NIGHT)
    app.selectbox[0].select_index(2).run()
    app.query_params["night"] = OLDER
    app.run()
    assert app.selectbox[0].value == OLDER


def test_an_old_night_is_found_by_its_address(own: Path) -> None:
    """The list ends after thirty nights; the address may name an older one."""
    rows = [row for number in range(12, 45) for row in night_rows(number, 60)["night_events"]]
    with session(own, write=True) as connection:
        append(connection, "night_events", rows)
    data.forget()
    oldest = content_id("night", 12)[:16]
    assert oldest not in [row["night_id"] for row in night_data.nights()]
    app = addressed("nights", night=oldest)
    assert app.selectbox[0].value == oldest and not app.warning


def test_a_night_has_one_time_on_all_pages(own: Path) -> None:
    """It began at 02:00, was decided nine minutes later, and its training ended at another time again."""
    began = "2026-11-22 02:00 UTC"
    with session(own, write=True) as connection:
        connection.execute("UPDATE training_runs SET finished_at = finished_at + INTERVAL 7 MINUTE")
    data.forget()
    assert night_data.night_name(NIGHT) == began
    for page, address in (("nights", {}), ("gate", {}), ("training", {}), ("pairs", {})):
        assert addressed(page, **address).selectbox[0].options[0].startswith(began), page
    assert f"Night of {began}" in [caption.value for caption in addressed("releases", release=RELEASE).caption]
    assert opened("training").dataframe[-1].value["Night"].iloc[0] == began
    assert any(began in caption.value for caption in opened("overview").caption)
    assert LAST.hour == 2
