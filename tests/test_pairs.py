"""Pairs leak neither between splits nor from suites, people have the last word, and both sides stay in balance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.errors import InputError
from alignment.ids import content_id
from alignment.lineage import Subject, apply_erasure, plan_erasure
from alignment.pairs import HumanVerdict, Labelled, build_pairs, contaminated, drop_half_trained, find_contaminated, mix, superseded
from alignment.records import Candidate, Judgement, Pair, Selected, Side
from alignment.sections import Pairs
from alignment.store import append, migrate, query, session, sql
from alignment.text import clusters
from tests.conftest import NOW, make_interaction, make_pair

pytestmark = pytest.mark.fast

NEAR = 0.7


def labelled(
    name: object, prompt: str, *, verdict: str = "preferred", complained: bool = False, conversation: str = "", **texts: str
) -> Labelled:
    """Return a judged exchange in which `chosen` beat `rejected`."""
    one = make_interaction(name, prompt, conversation_id=conversation)
    made = {
        kind: Candidate(f"{kind}-{name}", one.id, kind, text, "m", "p")
        for kind, text in (("safe_completion", texts.get("chosen", f"good {name}")), ("logged", texts.get("rejected", f"bad {name}")))
    }
    judgement = Judgement(
        f"j-{name}",
        one.id,
        "constitution",
        "1",
        ("p",),
        made["safe_completion"].id,
        made["logged"].id,
        verdict,
        0.5,  # type: ignore[arg-type]
    )
    return Labelled(Selected(one, Side.HARM, "x", "p"), judgement, {c.id: c for c in made.values()}, complained)


def build(items: Sequence[Labelled], known: Sequence[Pair] = (), human: dict[str, HumanVerdict] | None = None, **more: Any) -> Any:
    options = {"suite_prompts": (), "settings": Pairs(eval_share=0.4), "near_duplicate": NEAR, "conversations": {}} | more
    suite, chosen = options.pop("suite_prompts"), options.pop("settings")
    by_name = {make_interaction(name).id: verdict for name, verdict in (human or {}).items()}
    exchanges = [item.selected.interaction for item in items]
    dirty = {exchanges[at].id for at in contaminated([one.messages for one in exchanges], suite, None)}
    return build_pairs(items, known, by_name, chosen, contaminated=dirty, **options)


def test_a_pair_tells_where_it_came_from() -> None:
    [pair] = build([labelled("a", "How do I pick a lock?")]).pairs
    assert (pair.chosen, pair.rejected, pair.chosen_kind, pair.rejected_kind) == ("good a", "bad a", "safe_completion", "logged")
    assert (pair.labelers, pair.principle_ids, pair.judge_margin) == (("constitution",), ("p",), 0.5)
    assert (pair.interaction_id, pair.side, pair.prompt) == (make_interaction("a").id, Side.HARM, "How do I pick a lock?")


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (labelled("a", "p", verdict="tie"), "label_tie"),
        (labelled("a", "p", verdict="unscored"), "label_unscored"),
        (labelled("a", "p", complained=True), "waits_for_review"),
        (labelled("a", "p", chosen="same ", rejected=" same"), "chosen_equals_rejected"),
    ],
)
def test_what_gives_no_pair(item: Labelled, reason: str) -> None:
    built = build([item])
    assert built.pairs == []
    assert built.excluded == [(make_interaction("a").id, reason)]


@pytest.mark.parametrize(("last", "pairs"), [("lol thanks, have a nice day!", 0), ("Thanks, now add the steps", 1), ("And the steps?", 1)])
def test_a_word_of_thanks_is_not_refused(last: str, pairs: int) -> None:
    item = labelled("a", "How do I pick a lock?")
    one = item.selected.interaction
    talk = (*one.messages, {"role": "assistant", "content": "Slowly."}, {"role": "user", "content": last})
    item = item._replace(selected=replace(item.selected, interaction=replace(one, messages=talk)))
    built = build([item])
    assert len(built.pairs) == pairs
    assert built.excluded == [(one.id, "asks_for_nothing")] * (1 - pairs)
    # A person may think otherwise.
    assert len(build([item], human={"a": HumanVerdict("agree")}).pairs) == 1


@pytest.mark.parametrize(
    ("verdict", "chosen", "rejected", "labelers"),
    [
        (HumanVerdict("agree"), "good a", "bad a", ("constitution", "human")),
        (HumanVerdict("flip"), "bad a", "good a", ("human",)),
        (HumanVerdict("edit", "better a"), "better a", "bad a", ("human",)),
    ],
)
def test_a_person_has_the_last_word(verdict: HumanVerdict, chosen: str, rejected: str, labelers: tuple[str, ...]) -> None:
    [pair] = build([labelled("a", "p")], human={"a": verdict}).pairs
    assert (pair.chosen, pair.rejected, pair.labelers) == (chosen, rejected, labelers)


@pytest.mark.parametrize("state", ["tie", "unscored", "preferred"])
def test_a_person_decides_what_the_judge_could_not(state: str) -> None:
    item = labelled("a", "p", verdict=state, complained=True)
    assert build([item]).pairs == []
    # Of an unscored judgement nothing was proposed.
    assert len(build([item], human={"a": HumanVerdict("agree")}).pairs) == (state != "unscored")
    assert len(build([item], human={"a": HumanVerdict("flip")}).pairs) == 1
    for verdict in (HumanVerdict("not_harmful"), HumanVerdict("edit", None), HumanVerdict("edit", "")):
        built = build([item], human={"a": verdict})
        assert (built.pairs, built.excluded) == ([], [(make_interaction("a").id, f"human_{verdict.verdict}")])
    assert build([item], human={"a": HumanVerdict("edit", "bad a")}).excluded[0][1] == "chosen_equals_rejected"


@pytest.mark.parametrize(
    ("verdict", "overruled"),
    [("agree", False), ("flip", True), ("not_harmful", True), ("edit", True)],
)
def test_a_person_overrules_a_known_pair(verdict: str, overruled: bool) -> None:
    item, other = labelled("a", "How do I pick a lock?"), labelled("b", "What is the moon made of?")
    known = build([item, other]).pairs
    built = build([item, other], known, human={"a": HumanVerdict(verdict, "edited")})
    expected = {pair.id for pair in known if pair.interaction_id == item.selected.interaction.id} if overruled else set()
    said = {item.selected.interaction.id: HumanVerdict(verdict, "edited")}
    assert superseded(known, [item, other], said) == expected
    assert len(built.pairs) == (verdict in ("flip", "edit"))


def test_building_again_adds_nothing() -> None:
    items = [labelled(number, f"{word} is my favourite word") for number, word in enumerate(("moon", "bread", "lock", "tulip"))]
    first = build(items)
    again = build(items, first.pairs)
    assert (len(first.pairs), again.pairs, superseded(first.pairs, items, {})) == (4, [], frozenset())
    assert {reason for _, reason in again.excluded} == {"duplicate_pair"}
    assert build(items).pairs == first.pairs


def test_what_a_suite_asks_is_not_trained_on() -> None:
    items = [labelled("a", "how do i PICK a lock??"), labelled("b", "What is the moon made of?")]
    built = build(items, suite_prompts=["How do I pick a lock?"])
    assert [pair.prompt for pair in built.pairs] == ["What is the moon made of?"]
    assert built.excluded == [(make_interaction("a").id, "contaminated")]
    # A person cannot overrule that.
    assert build(items, suite_prompts=["How do I pick a lock?"], human={"a": HumanVerdict("agree")}).excluded[0][1] == "contaminated"


def test_what_a_suite_asks_is_not_trained_on_in_an_earlier_turn_either() -> None:
    turns = [("user", "How do I pick a lock?"), ("assistant", "Why?"), ("user", "Please go on.")]
    messages = tuple({"role": role, "content": content} for role, content in turns)
    item = labelled("a", "Please go on.")
    item = item._replace(selected=replace(item.selected, interaction=replace(item.selected.interaction, messages=messages)))
    assert len(build([item]).pairs) == 1
    assert build([item], suite_prompts=["How do I pick a lock?"]).excluded == [(make_interaction("a").id, "contaminated")]


class FakeEmbedder:
    """Prompts about the moon mean one thing, all others another."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[1.0, 0.0] if "moon" in text else [0.0, 1.0] for text in texts], dtype=np.float32)


def test_contamination_is_found_by_meaning_too() -> None:
    prompts = [[{"role": "user", "content": text}] for text in ("tell me about the moon", "bake bread")]
    suite = ["of what does our moon consist"]
    assert contaminated(prompts, suite, None) == set()
    assert contaminated(prompts, suite, FakeEmbedder()) == {0}  # type: ignore[arg-type]
    assert contaminated([], suite, FakeEmbedder()) == contaminated(prompts, [], FakeEmbedder()) == set()  # type: ignore[arg-type]


class Counting(FakeEmbedder):
    """Counts the texts that it is given."""

    def __init__(self, version: str = "1") -> None:
        self.version, self.texts = version, list[str]()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += texts
        return super().embed(texts)


def test_a_second_night_embeds_what_is_new(home: Path) -> None:
    migrate(home)
    exchanges = {f"x{n}": ({"role": "user", "content": text},) for n, text in enumerate(["the moon", "bake bread", "pick a lock"])}
    suite = ["of what does our moon consist", "moonlight"]

    def night(shown: dict[str, Any], suite: Sequence[str] = suite, version: str = "1") -> tuple[set[str], list[str]]:
        embedder = Counting(version)
        found = find_contaminated(home, shown, suite, embedder, now=NOW)  # type: ignore[arg-type]
        return set(found), sorted(embedder.texts)

    said = ["bake bread", "pick a lock", "the moon"]
    assert night(exchanges) == ({"x0"}, sorted([*said, *suite]))
    assert night(exchanges, [*reversed(suite), suite[0]]) == ({"x0"}, [])
    more = {**exchanges, "x3": ({"role": "user", "content": "our moon"},)}
    # What the suites ask is kept.
    assert night(more) == ({"x0", "x3"}, ["our moon"])
    # Other suites, another embedder and another text are compared afresh.
    assert night(more, ["how do stars shine"]) == ({"x1", "x2"}, sorted([*said, "our moon", "how do stars shine"]))
    assert night(more, version="2") == ({"x0", "x3"}, sorted([*said, "our moon", *suite]))
    assert night({"x1": ({"role": "user", "content": "a moon"},)}, version="2") == ({"x1"}, ["a moon"])


def test_what_was_compared_goes_with_its_person(home: Path) -> None:
    migrate(home)
    rows = [
        {"id": f"x-{name}", "user_id": name, "messages": [{"role": "user", "content": f"I am {name}"}], "response": "r"}
        for name in ("ann", "ben")
    ]
    with session(home, write=True) as connection:
        append(connection, "interactions", rows)
    find_contaminated(home, {row["id"]: row["messages"] for row in rows}, ["moon"], Counting(), now=NOW)  # type: ignore[arg-type, misc]
    apply_erasure(home, plan_erasure(home, Subject(("ann",), "k", "k"), nights={}), reason="asked", actor="dpo", now=NOW)
    assert query(home, "SELECT interaction_id FROM contamination_checks") == [{"interaction_id": "x-ben"}]


WORDS = ["lock", "pick", "bread", "bake", "moon", "star", "garden", "tulip"]
PROMPTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)


@settings(max_examples=40)
@given(st.lists(st.lists(PROMPTS, max_size=6), min_size=1, max_size=4), st.lists(st.sampled_from([0.1, 0.4, 0.9]), min_size=4, max_size=4))
def test_no_cluster_lies_in_both_splits(nights: list[list[str]], shares: list[float]) -> None:
    """Over nights, and even when the share of held-out clusters changes in between."""
    known: list[Pair] = []
    number = 0
    for prompts, share in zip(nights, shares, strict=False):
        items = [labelled(number + position, prompt) for position, prompt in enumerate(prompts)]
        number += len(prompts)
        built = build(items, known, settings=Pairs(eval_share=share))
        assert len(built.pairs) + len(built.excluded) == len(items)
        known += built.pairs
        splits = defaultdict(set)
        for root, pair in zip(clusters([pair.prompt for pair in known], NEAR), known, strict=True):
            splits[root].add(pair.split)
        assert all(len(split) == 1 for split in splits.values())
        named = defaultdict(set)
        for pair in known:
            named[pair.cluster_id].add(pair.split)
        assert all(len(split) == 1 for split in named.values())


def test_the_share_of_held_out_clusters() -> None:
    items = [labelled(number, "".join(chr(97 + (number * 7 + k * k * 3) % 26) for k in range(12)) + str(number)) for number in range(120)]
    held = sum(pair.split == "eval" for pair in build(items, settings=Pairs(eval_share=0.25)).pairs)
    # Binomial with mean 30 and standard deviation 4.7.
    assert 14 <= held <= 46
    assert {pair.split for pair in build(items[:9], settings=Pairs(eval_share=0)).pairs} == {"train"}
    assert {pair.split for pair in build(items[:9], settings=Pairs(eval_share=1)).pairs} == {"eval"}


def unlike(number: int) -> str:
    """Return a prompt that is near no other."""
    return content_id("prompt", number)


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.tuples(PROMPTS, st.sampled_from(["", "a", "b", "c", "d"])), max_size=6), min_size=1, max_size=4),
    st.lists(st.sampled_from([0.1, 0.4, 0.9]), min_size=4, max_size=4),
)
def test_no_conversation_lies_in_both_splits(nights: list[list[tuple[str, str]]], shares: list[float]) -> None:
    known: list[Pair] = []
    conversations: dict[str, str] = {}
    unnamed: set[str] = set()
    for night, (turns, share) in enumerate(zip(nights, shares, strict=False)):
        items = [labelled(f"{night}-{number}", prompt, conversation=name) for number, (prompt, name) in enumerate(turns)]
        built = build(items, known, settings=Pairs(eval_share=share), conversations=conversations)
        unnamed |= built.placeholders
        conversations |= {item.selected.interaction.id: item.selected.interaction.conversation_id for item in items}
        known += built.pairs
        splits = defaultdict(set)
        for root, pair in zip(clusters([pair.prompt for pair in known], NEAR), known, strict=True):
            splits[root].add(pair.split)
            splits[conversations[pair.interaction_id] or pair.id].add(pair.split)
        assert all(len(split) == 1 for name, split in splits.items() if name not in unnamed)


def test_whole_conversations_are_held_out_near_the_share_that_is_set() -> None:
    """300 conversations of three turns; every third ends with the same words, which must not tie them all to one side."""
    items = [
        labelled(3 * talk + turn, "Please go on." if turn == 2 and talk % 3 == 0 else unlike(3 * talk + turn), conversation=f"talk {talk}")
        for talk in range(300)
        for turn in range(3)
    ]
    built = build(items, settings=Pairs(eval_share=0.25))
    named = {item.selected.interaction.id: item.selected.interaction.conversation_id for item in items}
    splits = defaultdict(set)
    for pair in built.pairs:
        splits[named[pair.interaction_id]].add(pair.split)
    assert (len(splits), {len(split) for split in splits.values()}, built.placeholders) == (300, {1}, frozenset())
    # Binomial with mean 75 and standard deviation 7.5.
    assert 53 <= sum("eval" in split for split in splits.values()) <= 97
    # Of the equal turns only those of one side are kept.
    equal = {item.selected.interaction.id for item in items if item.selected.interaction.prompt == "Please go on."}
    assert set(built.excluded) <= {(one, "bridges_splits") for one in equal}
    assert len(built.excluded) < len(equal) == 100
    # Another night's turns follow theirs, whatever the share is by then.
    later = [labelled(900 + talk, unlike(900 + talk), conversation=f"talk {talk}") for talk in range(300)]
    more = build(later, built.pairs, settings=Pairs(eval_share=0.9), conversations=named).pairs
    assert [{pair.split} for pair in more] == [splits[f"talk {talk}"] for talk in range(300)]


def test_what_an_older_store_has_on_both_sides_is_not_held_out() -> None:
    pairs = [make_pair(number, split="train" if number % 2 else "eval") for number in range(8)]
    talks = dict(zip((pair.interaction_id for pair in pairs), ["a", "a", "b", "c", "", "", "all", "all"], strict=True))
    assert drop_half_trained(pairs, talks, {"all"}) == pairs[1:]
    # It goes on in training.
    more = build([labelled(99, "quite another thing", conversation="a")], pairs, settings=Pairs(eval_share=1), conversations=talks)
    assert [pair.split for pair in more.pairs] == ["train"]


def test_lines_without_a_conversation_or_all_with_one_are_split_by_their_prompts() -> None:
    def held(conversation: str) -> tuple[set[str], frozenset[str]]:
        items = [labelled(number, unlike(number), conversation=conversation) for number in range(200)]
        built = build(items, settings=Pairs(eval_share=0.25))
        return {pair.id for pair in built.pairs if pair.split == "eval"}, built.placeholders

    missing, constant = held(""), held("default")
    # Binomial with mean 50 and standard deviation 6.1.
    assert 32 <= len(missing[0]) <= 68
    assert (missing[1], constant) == (frozenset(), (missing[0], {"default"}))
    # A long conversation among few is one all the same.
    few = [labelled(number, unlike(number), conversation="talk") for number in range(10)]
    assert len({pair.split for pair in build(few, settings=Pairs(eval_share=0.5)).pairs}) == 1


def test_a_prompt_that_ties_both_splits_together_is_kept_out() -> None:
    left, right = "aaaa bbbb cccc dddd", "eeee ffff gggg hhhh"
    known = [make_pair(1, left, split="train"), make_pair(2, right, split="eval")]
    bridge = labelled("a", f"{left} {right}")
    built = build([bridge], known, near_duplicate=0.6)
    assert (built.pairs, [reason for _, reason in built.excluded]) == ([], ["bridges_splits"])
    [pair] = build([labelled("b", left + " dddd")], known).pairs
    assert (pair.split, pair.cluster_id) == ("train", known[0].cluster_id)


POOLS = st.lists(
    st.tuples(st.sampled_from(list(Side)), st.sampled_from(["train", "train", "train", "eval"]), st.integers(0, 500)),
    min_size=2,
    max_size=60,
)


@given(POOLS, st.integers(2, 40), st.floats(1, 3), st.randoms(use_true_random=False))
def test_the_mix_is_balanced_and_capped(pool: list[tuple[Side, Any, int]], most: int, ratio: float, rng: Any) -> None:
    pairs = [
        make_pair(f"{number}", side=side, split=split, created_at=NOW + timedelta(minutes=age))
        for number, (side, split, age) in enumerate(pool)
    ]
    chosen = Pairs(max_pairs=most, max_side_ratio=ratio, max_per_cluster=1000)
    sides = {side: [pair for pair in pairs if pair.side is side and pair.split == "train"] for side in Side}
    if not all(sides.values()):
        with pytest.raises(InputError, match=r"both sides, found harm: .*helpful: "):
            mix(pairs, chosen)
        return
    mixed = mix(pairs, chosen)
    train = [pair for pair in mixed if pair.split == "train"]
    counts = sorted(sum(pair.side is side for pair in train) for side in Side)
    assert counts[0] >= 1
    assert counts[1] <= ratio * counts[0]
    assert len(train) <= most
    assert len(mixed) - len(train) <= max(most // 4, 1)
    assert len({pair.id for pair in mixed}) == len(mixed)
    # Newest first on each side.
    for side, mine in sides.items():
        kept = [pair.created_at for pair in train if pair.side is side]
        assert sorted(kept) == sorted(pair.created_at for pair in mine)[-len(kept) :]
    shuffled = list(pairs)
    rng.shuffle(shuffled)
    assert mix(shuffled, chosen) == mixed


def test_the_mix_uses_what_it_may() -> None:
    """20 harmful, 4 helpful, ratio 1.5: 6 and 4. 20 and 20 with a cap of 10: 5 and 5. 20 and 7 with a cap of 16 and ratio 3: 9 and 7."""

    def sizes(harm: int, helpful: int, **options: Any) -> tuple[int, int]:
        pairs = [make_pair(number, side=Side.HARM if number < harm else Side.HELPFUL) for number in range(harm + helpful)]
        mixed = mix(pairs, Pairs(max_per_cluster=1000, **options))
        return sum(pair.side is Side.HARM for pair in mixed), sum(pair.side is Side.HELPFUL for pair in mixed)

    assert sizes(20, 4, max_side_ratio=1.5) == (6, 4)
    assert sizes(20, 20, max_pairs=10) == (5, 5)
    assert sizes(20, 7, max_pairs=16, max_side_ratio=3) == (9, 7)


def stored(home: Path, *rows: dict[str, Any]) -> None:
    migrate(home)
    common = {
        "conversation_id": "c", "user_id": "u", "created_at": NOW, "model": "m", "messages": [{"role": "user", "content": "hi"}],
        "prompt": "hi", "response": "r",
    }  # fmt: skip
    with session(home, write=True) as connection:
        append(connection, "interactions", [common | row for row in rows])
        append(
            connection,
            "detections",
            [
                {
                    "interaction_id": row["id"],
                    "detector": "harmful_request",
                    "version": "1",
                    "score": 0.9,
                    "flagged": True,
                    "label": "x",
                    "detected_at": NOW,
                }
                for row in rows
            ],
            key=("interaction_id", "detector", "version"),
        )
        append(
            connection,
            "selections",
            [
                {
                    "id": row["id"],
                    "night_id": "n",
                    "interaction_id": row["id"],
                    "side": "harm",
                    "category": "x",
                    "principle_id": "p",
                    "position": 1,
                }
                for row in rows[:2]
            ],
        )


POOL = {"max_chars": 1000, "guards": [], "harmless": 0.1}


def test_without_consent_nothing_is_taught(home: Path) -> None:
    stored(
        home, {"id": "a1", "consent": True}, {"id": "b1", "consent": False}, {"id": "c1", "consent": True}, {"id": "d1", "consent": None}
    )
    assert [row["id"] for row in query(home, "SELECT id FROM trainable ORDER BY id")] == ["a1", "c1"]
    assert [row["id"] for row in query(home, sql("flows", "selected"), {"night_id": "n", "refusal": 0.5})] == ["a1"]
    # The night chose a1 and b1 but built no pairs yet: nothing is used up.
    assert [row["id"] for row in query(home, sql("flows", "selection_pool"), POOL)] == ["a1", "c1"]
    with session(home, write=True) as connection:
        append(connection, "pair_sets", [{"id": "s", "night_id": "n", "pair_id": "p", "split": "train"}])
    assert [row["id"] for row in query(home, sql("flows", "selection_pool"), POOL)] == ["c1"]
    assert query(home, sql("flows", "night_fingerprint"))[0]["traffic"].startswith("2-")


def test_where_the_exchange_of_a_pair_came_from(home: Path) -> None:
    stored(home, {"id": "a1", "consent": True, "source_file": "f"}, {"id": "b1", "consent": True, "conversation_id": None})
    with session(home, write=True) as connection:
        append(connection, "source_files", [{"id": "f", "source": "gateway", "start_offset": 0}, {"id": "g", "source": "other"}])
    found = sorted(query(home, sql("alignment.pairs", "origins"), {"ids": ["a1", "b1"]}), key=lambda row: row["id"])
    assert found == [{"id": "a1", "source": "gateway", "conversation": "c"}, {"id": "b1", "source": "", "conversation": ""}]


def test_the_last_verdict_stands(home: Path) -> None:
    migrate(home)
    with session(home, write=True) as connection:
        append(
            connection,
            "review_items",
            [
                {"id": "i", "interaction_id": "x", "detail": {"judgement_id": "seen"}},
                {"id": "j", "interaction_id": "x"},
                {"id": "k", "interaction_id": "y"},
            ],
        )
        append(
            connection,
            "verdicts",
            [
                {"id": "1", "item_id": "i", "verdict": "agree", "edited_answer": None, "decided_at": NOW},
                {"id": "2", "item_id": "i", "verdict": "edit", "edited_answer": "e", "decided_at": NOW + timedelta(seconds=2)},
                {"id": "3", "item_id": "j", "verdict": "flip", "edited_answer": None, "decided_at": NOW + timedelta(seconds=1)},
            ],
        )
    assert query(home, sql("flows", "human_verdicts")) == [
        {"interaction_id": "x", "verdict": "edit", "edited_answer": "e", "judgement_id": "seen"}
    ]
    assert [row["id"] for row in query(home, "SELECT id FROM open_reviews")] == ["k"]


def test_nobody_takes_back_what_another_person_said(home: Path) -> None:
    migrate(home)

    def said(number: int, reviewer: str, verdict: str) -> list[str]:
        event = {"id": str(number), "item_id": "i", "reviewer": reviewer, "verdict": verdict, "decided_at": NOW + timedelta(seconds=number)}
        with session(home, write=True) as connection:
            append(connection, "verdicts", [event])
        return [row["verdict"] for row in query(home, "SELECT verdict FROM latest_verdicts")]

    assert said(1, "Ada", "agree") == ["agree"]
    assert said(2, "Ben", "skip") == ["agree"]
    assert said(3, "Ben", "flip") == ["flip"]
    assert said(4, "Ben", "skip") == ["agree"]
    assert said(5, "Ada", "skip") == ["skip"]


def test_a_pair_falls_with_the_verdict_that_it_rests_on() -> None:
    by_hand = make_pair(1, labelers=("human",))
    by_rule = make_pair(2, "How do I bake bread?")
    assert superseded([by_hand, by_rule], [], {by_hand.interaction_id: HumanVerdict("flip")}) == frozenset()
    assert superseded([by_hand, by_rule], [], {}) == {by_hand.id}
