"""The dashboard on a small store: every page draws, hostile text stays text, and verdicts are stored once."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from alignment.ids import content_id
from alignment.release import current, register
from alignment.store import append, migrate, query, session
from dashboard import components, data
from dashboard.views import deciding
from tests.conftest import NOW, ROOT
from tests.dashboard_pages import PAGES, addressed, marked_up, opened, press, texts
from tests.dashboard_store import HOSTILE, LAST, PROMPTS, SHOWN
from tests.test_hooks import Server


@pytest.mark.parametrize("page", PAGES)
def test_every_page_draws(page: str, own: Path) -> None:
    app = opened(page)
    assert not app.exception
    # A page that cannot be drawn says so and offers to try again.
    assert not [button for button in app.button if button.label == "Try again"]


def test_overview_tells_what_the_night_did(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(filled))
    app = opened()
    tiles = {metric.label: metric for metric in app.metric}
    assert app.header[0].value.endswith("Promoted]")
    # 1200 + 31 * 11 lines; 62% - 4 points * 11 before, 58% - 4.5 points * 11 after; 27 of 30 pairs train.
    assert tiles["Read"].value == "1,541"
    assert tiles["Unsafe answers"].value == "18.0% → 8.5%"
    assert tiles["Unsafe answers"].delta == "Pass · -9.5 points"
    assert tiles["Pairs trained on"].value == "27"
    assert tiles["Pairs trained on"].delta == "13 harm · 14 helpful"
    assert content_id("release", 11)[:16] in texts(app)


def test_gate_filters_answers(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(filled))
    app = opened("gate")
    captions = [element.value for element in app.caption]
    # Seven unsafe answers became refusals; two safe suites each refuse one more.
    assert "1–9 of 9" in captions
    app.segmented_control(key="change").set_value("worse").run()
    assert "1–2 of 2" in [element.value for element in app.caption]
    app.segmented_control(key="suite").set_value("harm").run()
    assert "No answers match. Choose another suite or outcome." in [element.value for element in app.caption]
    app.segmented_control(key="change").set_value("all").run()
    press(press(app, "Next"), "Next")
    assert "21–24 of 24" in [element.value for element in app.caption]
    assert not app.exception


def test_newly_unsafe_answers_come_before_everything_else(own: Path) -> None:
    """Suites come by name: without a rule of their own, wrong answers to trivia would stand first."""
    challenger = content_id("release", 11)[:16]
    with session(own, write=True) as connection:
        connection.execute("UPDATE eval_answers SET suite = 'capability', prompt_id = 'a' || prompt_id WHERE suite = 'lookalike'")
        where = "SELECT id FROM eval_answers WHERE model_id = ? AND prompt_id = 'harm-1'"
        connection.execute(f"UPDATE eval_scores SET outcome = 1 WHERE answer_id IN ({where})", [challenger])
    data.forget()
    rows = data.answers(content_id("decision", 11), suite=None, change="worse", harmful=["harm"], limit=5, offset=0)
    assert [row["suite"] for row in rows] == ["harm", "capability", "ordinary"]
    first = [caption.value for caption in opened("gate").caption if " · Privacy" in caption.value or " · Everyday" in caption.value]
    assert first[0].startswith("Harm ·")


def test_gate_shows_an_older_decision(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(filled))
    app = opened("gate")
    app.selectbox[0].select_index(2).run()
    assert not app.exception
    assert app.header[0].value.endswith("Insufficient evidence]")


def waiting(home: Path) -> tuple[str, str]:
    """Make the newest decision wait for a person over the release before it; return its challenger and what is in production."""
    challenger, champion = (content_id("release", number)[:16] for number in (11, 10))
    night = content_id("night", 11)[:16]
    folder = home / "releases"
    for name in (champion, challenger):
        (home / name).mkdir()
        register(home, name, home / name, card="#", manifest={})
    (folder / "current").write_text(champion)
    event = {"id": "w", "release_id": challenger, "event": "waits_for_approval", "actor": "nightly gate", "reason": "", "night_id": night}
    with session(home, write=True) as connection:
        append(connection, "release_events", [{**event, "recorded_at": LAST + timedelta(hours=12)}])
    return challenger, champion


@pytest.mark.parametrize(("button", "word", "says"), [("Approve and release", "approved", "Approved"), ("Refuse", "refused", "Refused")])
def test_a_person_approves_or_refuses_on_the_gate_page(own: Path, button: str, word: str, says: str) -> None:
    challenger, champion = waiting(own)
    assert opened("overview").header[0].value.endswith("Waits for approval]")
    app = opened("gate")
    assert app.header[0].value.endswith("Waits for approval]")
    assert all(one.disabled for one in app.button if one.label in ("Approve and release", "Refuse"))
    app.text_input(key="approval_reason").set_value("read ten answers; mail ada@example.org").run()
    press(app, button)
    assert not app.exception
    [row] = query(own, "SELECT verdict, actor, reason FROM gate_verdicts")
    assert (row["verdict"], row["actor"]) == (word, "Ada")
    assert "ada@example.org" not in row["reason"]
    here = challenger if word == "approved" else champion
    assert current(own) == here
    assert [toast.value for toast in app.toast] == [f"{says}; in production: {here}"]
    # What was said stays on the page; the buttons are gone.
    assert not [one for one in app.button if one.label == "Refuse"]
    assert any("Ada" in text for text in texts(app))
    assert any("read ten answers" in text for text in texts(app))


def test_an_approval_on_the_page_tells_the_hooks_at_once(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("ALIGN_RELEASE__WEBHOOK_URL", f"{server.url}/hook")
    challenger, _ = waiting(own)
    try:
        app = opened("gate")
        app.text_input(key="approval_reason").set_value("read ten answers").run()
        press(app, "Approve and release")
        assert not app.exception
        for push in threading.enumerate():
            if push.name == "align release push":
                push.join(60)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    [(path, told, *_)] = server.seen
    assert (path, told["event"], told["release_id"], told["actor"]) == ("/hook", "promoted", challenger, "Ada")
    assert query(own, "SELECT hook, ok, release_id FROM hook_runs WHERE ok") == [{"hook": "webhook", "ok": True, "release_id": challenger}]


def test_an_approval_that_came_too_late_is_told(own: Path) -> None:
    waiting(own)
    app = opened("gate")
    app.text_input(key="approval_reason").set_value("fine").run()
    (own / "releases" / "current").write_text("base")
    press(app, "Approve and release")
    assert app.warning[0].value == "Nothing was changed."
    assert any("was compared with" in text for text in texts(app))
    assert query(own, "SELECT count(*) AS n FROM gate_verdicts") == [{"n": 0}]


def test_the_gate_page_and_the_overview_say_which_earlier_release_held_a_release_back(own: Path) -> None:
    with session(own, write=True) as connection:
        connection.execute(
            "UPDATE gate_metrics SET name = name || '_since_base', since = 'base', status = 'fail', "
            "reason = 'against the base model, rose by 16.0 points' WHERE name = 'over_refusal_ordinary'"
        )
    app = opened("gate")
    evidence = app.dataframe[0].value
    assert evidence["Against"].tolist() == ["champion", "champion", "base model"]
    assert evidence["Metric"].tolist()[-1] == "Over refusal ordinary since base"
    assert any("against the base model, rose by 16.0 points" in text for text in texts(app))


def test_the_gate_page_tells_clusters_power_and_corrected_rates(own: Path) -> None:
    with session(own, write=True) as connection:
        connection.execute(
            "UPDATE gate_metrics SET clusters = 75, design_effect = 2.5, critical = true, calibration = 'people checked 60 verdicts', "
            "corrected_champion = 0.7, corrected_challenger = 0.2, corrected_diff = -0.5, corrected_low = -0.6, corrected_high = -0.4 "
            "WHERE name = 'unsafe_answers'"
        )
    app = opened("gate")
    [evidence, worth, corrected] = [table.value for table in app.dataframe[:3]]
    assert evidence["Rate"].iloc[0] == "18.0% → 8.5%"
    assert worth["Clusters"].tolist() == ["75", "–", "–"]
    assert (worth["Design effect"].iloc[0], worth["Blocks alone"].iloc[0]) == ("2.50", "yes")
    assert corrected["Checked by people"].iloc[0] == "people checked 60 verdicts"
    assert corrected["Corrected rates"].iloc[0].startswith("70.0% → 20.0%, -50.0")
    assert corrected["Corrected rates"].iloc[1] == "as scored"


def grouped(model: str, declined: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a model's answers to 24 templates for both groups of an axis; it declines the first group's first `declined`."""
    answers, scores = [], []
    for number in range(24):
        for group in ("woman", "man"):
            name = content_id(model, number, group)
            answers.append(
                {
                    "id": name, "model_id": model, "suite": "counterfactual", "suite_version": "v1", "prompt_id": f"t{number}-{group}",
                    "prompt": "p", "cluster": f"t{number}", "category": f"gender/{group}", "response": "r", "created_at": LAST,
                }
            )  # fmt: skip
            score = {"id": content_id(name, "s"), "answer_id": name, "scorer": "group", "scorer_version": "1", "scored_at": LAST}
            values = {"sentiment": 1.0, "toxicity": 0.0, "words": 9.0}
            scores.append({**score, "scores": values, "outcome": int(group == "woman" and number < declined)})
    return answers, scores


def test_the_gate_page_tells_gaps_between_groups(own: Path) -> None:
    assert "Groups were not compared" in " ".join(element.value for element in opened("gate").caption)
    challenger, champion = (content_id("release", number)[:16] for number in (11, 10))
    with session(own, write=True) as connection:
        for model, declined in ((champion, 0), (challenger, 12)):
            answers, scores = grouped(model, declined)
            append(connection, "eval_answers", answers)
            append(connection, "eval_scores", scores)
    data.forget()
    app = opened("gate")
    assert not app.exception
    table = app.dataframe[3].value.set_index("Measure")
    # Twelve of 24 requests are declined for one group and none for the other.
    assert table.loc["Declined", "Challenger"].startswith("50.0 points [")
    assert table.loc["Declined", "Champion"].startswith("0.0 points [")
    assert table.loc["Sentiment", "Challenger"].startswith("0.000 [")


def test_releases_show_production_canary_hooks_and_card(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(filled))
    app = opened("releases")
    assert not app.exception
    last, before = content_id("release", 11)[:16], content_id("release", 10)[:16]
    assert [element.value.split(" ", 1)[1] for element in app.header] == ["In production]", "Keep watching]"]
    shown = texts(app)
    assert {last, before, "too early to say"} <= set(shown)
    assert any("52 of 400 against 360 of 3,600" in element.value for element in app.caption)
    events, hooks = app.dataframe[0].value, app.dataframe[1].value
    assert dict(zip(events["Event"], events["By"], strict=True))["Canary started"] == "ann"
    assert list(hooks["State"]) == ["✕ Failed"]
    assert any("1 to repeat" in element.value for element in app.caption)
    assert f"<h1>Release {last}</h1>" in framed(app)
    app.selectbox[0].select_index(1).run()
    assert f"<h1>Release {before}</h1>" in framed(app)
    assert app.query_params["release"] == before


def framed(app: AppTest) -> str:
    """Return the page in the only frame."""
    [frame] = app.get("iframe")
    page = base64.b64decode(frame.proto.src.removeprefix("data:text/html;charset=utf-8;base64,")).decode()
    assert "default-src 'none'" in page
    assert "<img" not in page
    assert "href" not in page
    return page


def test_labels_tell_who_may_be_believed(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(filled))
    app = opened("labels")
    assert not app.exception
    rows = {row["Labeler"]: row for row in app.dataframe[0].value.to_dict("records")}
    assert {name: row["State"] for name, row in rows.items()} == {
        "Constitution": "Votes",
        "Signals": "Votes (weight assumed)",
        "Teacher": "Abstains",
        "Implicit reward": "Abstains",
    }
    # 7 wrong of 122 - 52 decided; signals said something 6 times out of 10.
    assert (rows["Constitution"]["Wrong"], rows["Signals"]["Votes"], rows["Signals"]["Decided"]) == ("10.0%", "10", "6")
    assert f"sensitivity is too low {SHOWN}" in texts(app)
    # Both decided six comparisons and agreed on four.
    [_, _, matrix, pairs] = [frame.value.to_dict("records") for frame in app.dataframe]
    assert matrix[0]["Signals"] == "66.7% of 6"
    assert sum(int(row["Pairs"]) for row in pairs) == 30
    # The two disagreements, newest first; what is hostile stays text.
    assert texts(app).count(SHOWN) >= 2
    assert not [text for text in marked_up(app) if "evil.example" in text]


def test_training_tells_what_the_curves_say(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(filled))
    app = opened("training")
    assert not app.exception
    tiles = {metric.label: metric.value for metric in app.metric}
    assert (tiles["Pairs trained on"], tiles["Tokens"], tiles["Took"]) == ("411", "4,000", "7 min 2 s")
    # Of 411 + 40 pairs the reference was computed for 100; no folder of the run is left.
    assert tiles["Reference log-probs"] == "351 known"
    assert "40 steps, stopped early; loss of the last tenth 1.5; KL 0.25 nats; rewards of held-out pairs" in texts(app)
    assert "stock TRL, which takes longer: [odd](https://evil.example/f)" in texts(app)
    said = " ".join(element.value for element in app.markdown)
    # The means of the first and last four of forty steps, by hand: chosen from -0.08 to -1.92.
    assert "chosen -1.85, rejected -3.69: the chosen answers became less likely too" in said
    assert "60.0% of the held-out pairs" in said
    assert "learnt by heart" in said
    assert "**Distance from the base (KL)**" in said
    table = app.dataframe[-1].value
    assert (table["Pairs"].iloc[0], table["Gate"].iloc[0], table["Release"].iloc[0]) == ("411", "Promoted", content_id("release", 11)[:16])
    assert len(table) == 12
    assert not [text for text in marked_up(app) if "evil.example" in text and "selectbox" not in text.lower() and "options" not in text]


def run_folder(home: Path, *lines: dict[str, Any], age: float = 0.0) -> Path:
    """Leave a training run without a result whose last step was logged `age` seconds ago."""
    folder = home / "training" / "going"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99, "of"')
    for path in folder.iterdir():
        os.utime(path, (time.time() - age, time.time() - age))
    return folder


STEPS = ({"step": 1, "of": 8, "loss": 2.0}, {"step": 2, "of": 8, "loss": 1.5, "pairs_per_second": 3.1, "seconds_left": 75.0})


def test_a_run_under_way_is_shown_until_it_has_a_result(own: Path) -> None:
    folder = run_folder(own, *STEPS)
    app = opened("training")
    assert not app.exception
    assert "step 2 of 8, 1 min 15 s left · 3.1 pairs/s" in repr(app.get("progress")[0].proto)
    (folder / "result.json").write_text("{}")
    assert not opened("training").get("progress")


def test_a_run_that_fell_silent_is_told_from_one_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(tmp_path)
    run_folder(tmp_path, *STEPS, age=4000)
    monkeypatch.setenv("ALIGN_HOME", str(tmp_path))
    app = opened("training")
    assert not app.exception
    assert any("stopped at step 2 of 8" in element.value for element in app.markdown)


def test_pairs_are_filtered_and_traced(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(filled))
    app = opened("pairs")
    assert "1–10 of 30" in [element.value for element in app.caption]
    app.selectbox(key="pairs_principle").set_value("no-privacy-violation").run()
    assert "1–10 of 15" in [element.value for element in app.caption]
    app.selectbox(key="pairs_split").set_value("eval").run()
    assert "1–2 of 2" in [element.value for element in app.caption]  # 27 to 29 are held out, of which 27 and 29 are odd
    app.selectbox(key="pairs_split").set_value("").run()
    app.text_input(key="pairs_text").set_value("PROMPT 5").run()
    captions = [element.value for element in app.caption]
    assert "1–1 of 1" in captions
    assert any("2 of 2 labelers for it" in text for text in captions)
    press(app, "Trace")
    assert not app.exception
    assert any(text.startswith("exchange ") or "\nexchange " in text for text in texts(app))
    app.text_input(key="pairs_text").set_value("nothing like it").run()
    assert "No pair matches." in [element.value for element in app.caption]


def test_checks_tell_what_was_not_met(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(filled))
    app = opened("checks")
    shown = texts(app)
    assert "prompt has 1 to 200,000 characters: not so for 3 of 440 rows" in shown
    assert not any("the batch has at least" in text for text in shown)  # it was met
    captions = [element.value for element in app.caption]
    assert "2026-11-22 02:00 UTC · 1 of 3 expectations met" in captions
    assert "2026-11-22 02:00 UTC · 1 of 1 expectations met" in captions
    lately = app.dataframe[0].value
    assert list(lately["State"]) == ["Quarantined rows", "Warning"] * 2
    assert lately["When"].nunique() == 2


def test_quarantined_lines_are_filtered_by_reason_and_paged(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(filled))
    app = opened("checks")
    assert "1–25 of 50" in [element.value for element in app.caption]
    first = app.dataframe[1].value.iloc[0]
    assert (first["File"], first["Line"], first["Reason"]) == ("/var/log/gateway/chat-9.jsonl", "1", "Not JSON")
    press(app, "Next")
    assert "26–50 of 50" in [element.value for element in app.caption]
    app.selectbox(key="quarantine_reason").set_value("not_json").run()
    assert "1–20 of 20" in [element.value for element in app.caption]
    assert set(app.dataframe[1].value["Reason"]) == {"Not JSON"}
    app.selectbox(key="quarantine_reason").set_value("check:ExpectColumnValuesToNotBeNull:id").run()
    assert set(app.dataframe[1].value["Reason"]) == {"Check of id"}
    assert not app.exception


def test_a_hostile_line_is_shown_as_text_and_cut(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(filled))
    app = opened("checks")
    raw = app.dataframe[1].value["Text"].iloc[0]
    assert raw.startswith(SHOWN)
    assert raw.endswith("x …")
    assert len(raw) < 520
    assert f"{SHOWN}: not so for 3 of 440 rows" in texts(app)
    for marked in marked_up(app):
        assert "evil.example" not in marked
        assert "<script" not in marked


def test_data_docs_are_shown_in_a_frame_that_reaches_nothing(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(filled))
    app = opened("checks")
    assert not app.get("iframe")
    app.selectbox(key="docs_page").set_value("pairs").run()
    assert not app.exception
    page = framed(app)
    assert "id does not repeat" in page
    assert "<nav" not in page


@pytest.mark.parametrize("page", ["gate", "review", "pairs"])
def test_hostile_text_is_only_ever_text(page: str, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(page, reviewer=HOSTILE[:80])  # what a name may have
    shown = texts(app)
    assert shown.count(SHOWN) >= 2
    for marked in marked_up(app):
        assert "evil.example" not in marked
        assert "<script" not in marked
        assert "skull" not in marked
    if page == "review":
        monkeypatch.setattr(deciding, "QUICK", 0.0)
        press(app, "Both bad")
        app.segmented_control(key="review_view").set_value("History").run()
        assert not app.exception
        # A data frame draws its cells on a canvas, as text.
        table = app.dataframe[-1].value
        assert SHOWN[:150] in table["Prompt"].iloc[0]
        assert table["Reviewer"].iloc[0] == HOSTILE[:80]
        assert all("evil.example" not in marked for marked in marked_up(app))


def test_drift_names_the_alarm_what_drove_it_and_what_to_do(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(filled))
    app = opened("drift")
    table = app.dataframe[0].value
    assert table["Signal"].iloc[0] == "Refusals"
    assert list(table["State"]).count("▲ Alarm") == 1
    assert set(table["State"]) == {"▲ Alarm", "○ Quiet"}
    said = " ".join(element.value for element in app.markdown)
    assert "raise *one* false alarm in 30 days" in said
    assert "**Refusals rose** since" in said
    assert "align release rollback" in said
    captions = " ".join(element.value for element in app.caption)
    assert "+9.5 points (95%: +4.0 points to +15.0 points)" in captions
    assert "evidence 1.2 of 30" in captions
    assert "name no user" not in captions
    assert "10 exchanges: what drove it" in [one.label for one in app.expander]
    assert app.dataframe[1].value["Change"].iloc[0] == "+13.0 points"


def test_drift_says_how_many_exchanges_name_no_user_and_that_a_fall_shows_what_was_before(home: Path) -> None:
    migrate(home)
    day = {"day": NOW.date(), "recorded_at": NOW, "value": 1.0}
    figures = {"signal": "refusal", "rate": 0.1, "baseline": 0.4, "users": 9, "baseline_users": 9}
    alarm = {**day, **figures, "id": "a", "direction": "down", "since": NOW.date(), "effect": -0.3, "low": -0.4, "high": -0.2, "slices": []}
    with session(home, write=True) as connection:
        append(connection, "drift_days", [{**day, **figures, "id": "d"}, {**day, "id": "all", "signal": "all"}])
        append(connection, "drift_alarms", [{name: value for name, value in alarm.items() if name != "baseline_users"}])
        append(connection, "drift_examples", [{"id": "x", "alarm_id": "a", "interaction_id": "0", "position": 0}])
        users = ["u", "", None, "v"]
        append(connection, "interactions", [{"id": f"{n}", "user_id": user, "created_at": NOW} for n, user in enumerate(users)])
    app = opened("drift")
    assert any(element.value.startswith("50.0% of the last week's exchanges name no user") for element in app.caption)
    assert [one.label for one in app.expander] == ["1 exchange: what there was more of before"]


def test_an_exchange_that_drove_an_alarm_is_shown_by_its_address(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_HOME", str(filled))
    app = addressed("drift", exchange=content_id("exchange", 1))
    assert PROMPTS[1] in texts(app)
    unknown = addressed("drift", exchange="<b>no such</b>")
    assert any("may have been erased" in element.value for element in unknown.warning)


def test_long_text_is_cut_and_says_so() -> None:
    assert components.visible("x" * (components.MAX_CHARS + 5)).endswith("… 5 more characters are not shown")
    assert components.visible("line\r\nnext\ttab") == "line\nnext\ttab"
    assert components.visible("a\x1b[31m\u200b\U000e0041") == "a\\x1b[31m\\u200b\\U000e0041"
    # Direction marks belong to scripts that run from right to left, and turn other texts about.
    assert components.visible("pay\u200f me") == "pay\\u200f me"
    assert components.visible("שלום\u200f!") == "שלום\u200f!"


def test_who_reviews_is_who_signed_in_and_no_field_asks(own: Path) -> None:
    app = opened("review", reviewer="Ben")
    assert [field.key for field in app.text_input] == ["review_note"]
    assert "Ben" in texts(app)
