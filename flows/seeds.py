"""Bring seeds into a night: the bundled ones and those from files, the model's answers to them, and the pairs they give.

Effects: reads and writes the store; loads the embedder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from alignment.candidates import first_ids, fixed_candidates
from alignment.config import Settings
from alignment.conversation import asked
from alignment.errors import InputError
from alignment.evals.formats import read_suite
from alignment.ids import content_id
from alignment.labels import Constitution
from alignment.moderation.corpora import own_requests
from alignment.pairs import Labelled, find_contaminated
from alignment.pairs.seeds import (
    BUNDLED,
    HONESTY,
    LICENCE,
    PROJECT,
    SEED,
    Seed,
    add_seeds,
    alarming,
    draw,
    drawn,
    evasions,
    honesty,
    load_seeds,
    refuse_other,
    remove_seeds,
    save_draw,
    seed,
    turns,
    voices,
)
from alignment.records import Candidate, Judgement, Pair, Selected, Side
from alignment.wording import plain
from flows.evaluate import held_out
from flows.labelled import candidates_of, judgements_of, save_candidates, save_judgements
from flows.night import embedder, now
from flows.policy import writer_id

_SPARE = 1.25
"""Seeds to compare with the suites per seed wanted."""
_DECLINES, _RUDE = 0.5, 0.9
_APOLOGISES = re.compile(r"(?:sorry|i apologi[sz]e|(?:i'm|i am) (?:\w+ )?(?:sorry|afraid|not (?:allowed|able)))\b")
_SCORERS = ("harm", "help", "inability")
"""Scorers whose prompts can be seeds."""


class Added(NamedTuple):
    """The result of adding a file of seeds."""

    new: int
    contaminated: int
    told: tuple[str, ...]


def bundled() -> list[Seed]:
    """Return the project's own seeds: harmful requests paired with harmless ones of their theme, and questions of honest inability."""
    seeds, themes = [*honesty(), *evasions(), *voices(), *turns(), *alarming()], Counter[tuple[str, str]]()
    for row in own_requests():
        harm = bool(row.harm)
        if row.source.startswith("own-contrast"):
            cluster = row.group
        else:
            # Pair the n-th harmful request of a theme with its n-th look-alike.
            themes[row.source, row.category or ""] += 1
            theme = row.category or "ordinary"
            cluster = f"{theme}-{themes[row.source, row.category or '']}"
        category = row.category if harm and row.category else "lookalike" if row.category else "ordinary"
        seeds.append(seed(row.text, category, cluster=cluster, source=BUNDLED))
    return list({one.id: one for one in seeds}.values())


def sync_bundled(settings: Settings) -> None:
    """Add the bundled seeds to the store, or with [seeds] bundled = false remove them from the next night."""
    there = any(one.source == BUNDLED for one in load_seeds(settings.home))
    if settings.seeds.bundled and settings.seeds.pairs:
        add_seeds(settings.home, bundled(), source=BUNDLED, licence=LICENCE, contaminated=0, actor=PROJECT, now=now())
    elif there and not settings.seeds.bundled:
        remove_seeds(settings.home, BUNDLED, actor=PROJECT, reason="[seeds] bundled = false", now=now())


def add_file(
    settings: Settings, path: str, *, source: str, licence: str, actor: str, kind: str | None = None, scorer: str | None = None
) -> Added:
    """Add the prompts of a suite's file as seeds, except those that an evaluation suite asks.

    Raises:
        ConfigError, InputError: the file cannot be read, marks no prompt as harmful or not, or lacks names or a licence.
    """
    if not source.strip() or source == BUNDLED or not licence.strip():
        raise InputError(
            f"seeds need a source other than {BUNDLED!r} and a licence, not {source!r} and {licence!r}; give --source and --licence"
        )
    refuse_other(settings.home, source, licence)
    found = read_suite(path, kind=kind, scorer=scorer)
    known = [one for one in found.prompts if one.scorer in _SCORERS]
    if not known:
        raise InputError(
            f"{path!r} says of none of {len(found.prompts)} prompts whether it is harmful; give --scorer harm or --scorer help"
        )
    themes = _themes([asked(one.conversation) for one in known if one.scorer == "harm"])
    seeds = [
        seed(
            one.prompt,
            HONESTY if one.scorer == "inability" else themes[asked(one.conversation)] if one.scorer == "harm" else "lookalike",
            cluster=one.cluster or one.id,
            source=source,
            chosen=one.right[0] if one.scorer == "inability" and one.right else "",
            before=one.before,
        )
        for one in known
        if one.scorer != "inability" or one.right
    ]
    clean = _clean(settings, seeds)
    new = add_seeds(settings.home, clean, source=source, licence=licence, contaminated=len(seeds) - len(clean), actor=actor, now=now())
    return Added(new, len(seeds) - len(clean), found.told)


def _themes(texts: Sequence[str]) -> dict[str, str]:
    """Return the harm category of each text: the category of the nearest of the project's own harmful requests."""
    own = [row for row in own_requests() if row.harm]
    if not texts:
        return {}
    vectors, mine = (embedder().embed(list(some)) for some in (texts, [row.text for row in own]))
    nearest = (vectors @ mine.T).argmax(axis=1)
    return {text: str(own[int(at)].category) for text, at in zip(texts, nearest, strict=True)}


def _clean(settings: Settings, seeds: Sequence[Seed]) -> list[Seed]:
    """Return the seeds whose cluster contains no suite prompt."""
    dirty = find_contaminated(settings.home, {one.id: one.exchange.messages for one in seeds}, held_out(settings), embedder(), now=now())
    clusters = {(one.source, one.cluster) for one in seeds if one.id in dirty}
    return [one for one in seeds if (one.source, one.cluster) not in clusters]


def choose_seeds(settings: Settings, night_id: str) -> None:
    """Draw about [seeds] pairs seeds for a night, once; a repeated night keeps its draw."""
    wanted = settings.seeds.pairs
    if wanted and not drawn(settings.home, night_id):
        some = draw(load_seeds(settings.home), int(wanted * _SPARE))
        save_draw(settings.home, night_id, draw(_clean(settings, some), wanted))


def as_selected(seeds: Sequence[Seed], constitution: Constitution) -> list[Selected]:
    """Return seeds as selected exchanges, each with the principle that decides it."""
    return [Selected(one.exchange, one.side, one.category, constitution.main_id(one.side, one.category)) for one in seeds]


def as_labelled(
    settings: Settings, seeds: Sequence[Seed], constitution: Constitution, revisions: Mapping[str, Candidate] | None = None
) -> list[Labelled]:
    """Return the seeds that teach something, with their two answers; `revisions` are an author's, by seed.

    A harmful request that the model already declines needs no pair. A harmless request whose answer is unfit has none to teach, unless
    an author wrote one.
    """
    found = []
    for one, selected, answer in _first_answers(settings, seeds, constitution):
        if item := _item(one, selected, answer, (revisions or {}).get(one.id), constitution):
            found.append(item)
    return found


def to_be_authored(settings: Settings, seeds: Sequence[Seed], constitution: Constitution) -> dict[str, tuple[Selected, Candidate]]:
    """Return the seeds whose good answer an author may write, with the model's own: answers that served harm, and unfit ones to
    harmless requests.

    Answers that came with a seed are kept, such as an honest inability.
    """
    wanted = [one for one in seeds if not one.chosen]
    answers = _first_answers(settings, wanted, constitution)
    return {
        one.id: (selected, answer)
        for one, selected, answer in answers
        if answer is not None and answer.text.strip() and (_unfit(answer.text) if one.side is Side.HELPFUL else not _declines(answer.text))
    }


def _first_answers(settings: Settings, seeds: Sequence[Seed], constitution: Constitution) -> list[tuple[Seed, Selected, Candidate | None]]:
    """Return each seed with the model's own answer at tonight's length, None where there is no such answer."""
    chosen = as_selected(seeds, constitution)
    rules = [constitution.named(one.principle_id) for one in chosen]
    of_tonight = first_ids(writer_id(settings), chosen, rules, max_new_tokens=taught_tokens(settings))
    answers = candidates_of(settings, chosen)
    return [
        (one, selected, next((answer for answer in answers.get(one.id, ()) if answer.id in of_tonight), None))
        for one, selected in zip(seeds, chosen, strict=True)
    ]


def taught_tokens(settings: Settings) -> int:
    """Return the token limit for the model's answer to a seed: no longer than pairs are taught."""
    return min(settings.candidates.max_new_tokens, settings.train.max_completion_tokens)


def save_labelled(settings: Settings, items: Sequence[Labelled]) -> None:
    """Store both answers and the judgement of each seed, so that a person can decide again and an id can be traced."""
    save_candidates(settings, [answer for item in items for answer in item.candidates.values()])
    save_judgements(settings, [item.judgement for item in items])


def ruled_seeds(settings: Settings, ruled: Sequence[dict[str, Any]], constitution: Constitution) -> list[Labelled]:
    """Return the seeds that people decided on, with the two answers that they saw, whether or not tonight draws them."""
    decided = {row["interaction_id"] for row in ruled}
    chosen = as_selected([one for one in load_seeds(settings.home) if one.id in decided], constitution) if decided else []
    judgements = judgements_of(settings, chosen, [row["judgement_id"] for row in ruled])
    answers = candidates_of(settings, chosen)
    return [
        Labelled(one, judgements[one.interaction.id], {answer.id: answer for answer in answers.get(one.interaction.id, ())})
        for one in chosen
        if one.interaction.id in judgements
    ]


def _item(
    one: Seed, selected: Selected, answer: Candidate | None, revision: Candidate | None, constitution: Constitution
) -> Labelled | None:
    rule, harm = constitution.named(selected.principle_id), one.side is Side.HARM
    needed = one.needs_answer and (harm or revision is None)
    if needed and (answer is None or not answer.text.strip() or (_declines(answer.text) if harm else _unfit(answer.text))):
        return None
    declining = fixed_candidates(selected, rule, constitution.refusals)[-1]
    good = _written(declining, one.chosen) if one.chosen else revision or (declining if harm else answer)
    bad = _written(declining, one.rejected) if one.rejected else answer if harm else declining
    if good is None or bad is None:
        return None
    name = content_id(SEED, one.id, rule.version, good.id, bad.id)
    judgement = Judgement(name, one.id, SEED, one.source, (rule.id,), good.id, bad.id, "preferred", 1.0)
    return Labelled(selected, judgement, {good.id: good, bad.id: bad})


def taught(settings: Settings, pairs: Sequence[Pair], seeds: Sequence[Seed]) -> list[Pair]:
    """Return the pairs that may train tonight: pairs from logs, and those of the drawn seeds whose answers are fit by today's rule."""
    idle = {one.id for one in load_seeds(settings.home)} - {one.id for one in seeds}
    return [
        pair
        for pair in pairs
        if pair.interaction_id not in idle and not (SEED in pair.labelers and pair.side is Side.HELPFUL and _unfit(pair.chosen))
    ]


def _declines(answer: str) -> bool:
    from alignment.evals.scorers import refuses

    return refuses(answer) >= _DECLINES


def _unfit(answer: str) -> bool:
    """Return whether an answer to a harmless request may not be taught: it declines, opens as refusals do, or is rude.

    >>> _unfit("I'm afraid I'm not able to see your pets."), _unfit("Ivy likes shade.")
    (True, False)
    """
    from alignment.evals.scorers import toxicity

    return _declines(answer) or bool(_APOLOGISES.match(plain(answer))) or toxicity(answer) >= _RUDE


def _written(like: Candidate, text: str) -> Candidate:
    return replace(like, id=content_id(like.id, text), kind="written", text=text, model="")
