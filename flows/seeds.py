"""Seeds on their way into a night: the bundled ones and those of files, what the model answers them, and the pairs they give.

Effects: reads and writes the store; loads the embedder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from alignment.candidates import fixed_candidates
from alignment.config import Settings
from alignment.errors import InputError
from alignment.evals.formats import read_suite
from alignment.ids import content_id
from alignment.labels import Constitution
from alignment.moderation.corpora import own_requests
from alignment.pairs import Labelled, find_contaminated
from alignment.pairs.seeds import BUNDLED, HONESTY, LICENCE, SEED, Seed, draw, honesty, load_seeds, plant, remove, seed
from alignment.records import Candidate, Judgement, Selected, Side
from flows.chosen import candidates_of
from flows.evaluate import held_out
from flows.night import base_id, embedder, now

_SPARE = 1.25
"""So many seeds are compared with the suites for each one wanted."""
_DECLINES = 0.5
_SIDES = {"harm": Side.HARM, "help": Side.HELPFUL, "inability": Side.HARM}
"""By the scorer of a suite's prompt: which mistake its seed teaches against."""


class Added(NamedTuple):
    """What became of a file of seeds."""

    new: int
    contaminated: int
    told: tuple[str, ...]


def bundled() -> list[Seed]:
    """Return the project's own seeds: harmful requests beside harmless ones of their theme, and questions of honest inability."""
    seeds, themes = honesty(), Counter[tuple[str, str]]()
    for row in own_requests():
        harm = bool(row.harm)
        if row.source.startswith("own-contrast"):
            cluster = row.group
        else:
            # The n-th harmful request of a theme beside its n-th look-alike.
            themes[row.source, row.category or ""] += 1
            theme = row.category or "ordinary"
            cluster = f"{theme}-{themes[row.source, row.category or '']}"
        category = row.category if harm and row.category else "lookalike" if row.category else "ordinary"
        seeds.append(seed(row.text, category, cluster=cluster, source=BUNDLED))
    return list({one.id: one for one in seeds}.values())


def plant_bundled(settings: Settings) -> None:
    """Bring the bundled seeds into the store, or take them out of the next night with [seeds] bundled = false."""
    there = any(one.source == BUNDLED for one in load_seeds(settings.home))
    if settings.seeds.bundled:
        plant(settings.home, bundled(), source=BUNDLED, licence=LICENCE, contaminated=0, actor="align", now=now())
    elif there:
        remove(settings.home, BUNDLED, actor="align", reason="[seeds] bundled = false", now=now())


def add_file(settings: Settings, path: str, *, source: str, licence: str, scorer: str | None, actor: str) -> Added:
    """Add the prompts of a suite's file as seeds, but for those that an evaluation suite asks.

    Raises:
        ConfigError, InputError: the file cannot be read, says of no prompt whether it is harmful, or names or licence are missing.
    """
    if not source.strip() or source == BUNDLED or not licence.strip():
        raise InputError(
            f"seeds need a source other than {BUNDLED!r} and a licence, not {source!r} and {licence!r}; give --source and --licence"
        )
    found = read_suite(path, scorer=scorer)
    known = [one for one in found.prompts if one.scorer in _SIDES]
    if not known:
        raise InputError(
            f"{path!r} says of none of {len(found.prompts)} prompts whether it is harmful; give --scorer harm or --scorer help"
        )
    themes = _themes([one.prompt for one in known if one.scorer == "harm"])
    seeds = [
        seed(
            one.prompt,
            HONESTY if one.scorer == "inability" else themes[one.prompt] if one.scorer == "harm" else "lookalike",
            cluster=one.cluster or one.id,
            source=source,
            chosen=one.right[0] if one.scorer == "inability" and one.right else "",
        )
        for one in known
        if one.scorer != "inability" or one.right
    ]
    clean = _clean(settings, seeds)
    new = plant(settings.home, clean, source=source, licence=licence, contaminated=len(seeds) - len(clean), actor=actor, now=now())
    return Added(new, len(seeds) - len(clean), found.told)


def _themes(texts: Sequence[str]) -> dict[str, str]:
    """Return the harm category of each text: that of the nearest of the project's own harmful requests."""
    own = [row for row in own_requests() if row.harm]
    if not texts:
        return {}
    vectors, mine = (embedder().embed(list(some)) for some in (texts, [row.text for row in own]))
    nearest = (vectors @ mine.T).argmax(axis=1)
    return {text: str(own[int(at)].category) for text, at in zip(texts, nearest, strict=True)}


def _clean(settings: Settings, seeds: Sequence[Seed]) -> list[Seed]:
    """Return the seeds of clusters of which no suite asks anything."""
    dirty = find_contaminated(settings.home, {one.id: one.exchange.messages for one in seeds}, held_out(settings), embedder(), now=now())
    clusters = {(one.source, one.cluster) for one in seeds if one.id in dirty}
    return [one for one in seeds if (one.source, one.cluster) not in clusters]


def tonight(settings: Settings) -> list[Seed]:
    """Return the seeds that this night teaches, about [seeds] pairs of them."""
    wanted = settings.seeds.pairs
    return draw(_clean(settings, draw(load_seeds(settings.home), int(wanted * _SPARE))), wanted) if wanted else []


def as_selected(seeds: Sequence[Seed], constitution: Constitution) -> list[Selected]:
    """Return seeds as what the model is asked and principles decide."""
    return [Selected(one.exchange, one.side, one.category, constitution.main_id(one.side, one.category)) for one in seeds]


def unanswered(seeds: Sequence[Seed]) -> list[Seed]:
    """Return those that need an answer of the model: what a pair of a harmful request rejects, and what another chooses."""
    return [one for one in seeds if not (one.rejected if one.side is Side.HARM else one.chosen)]


def as_labelled(settings: Settings, seeds: Sequence[Seed], constitution: Constitution) -> tuple[list[Labelled], int]:
    """Return seeds with their two answers, and how many teach nothing: what the model does already needs no pair.

    That is a harmful request that it declines by itself. A harmless one that it declines has no answer to teach.
    """
    chosen, model = as_selected(seeds, constitution), base_id(settings)
    answers = candidates_of(settings, chosen)
    items = [
        item
        for one, selected in zip(seeds, chosen, strict=True)
        if (item := _item(one, selected, [answer for answer in answers.get(one.id, ()) if answer.model == model], constitution))
    ]
    return items, len(seeds) - len(items)


def _item(one: Seed, selected: Selected, answers: Sequence[Candidate], constitution: Constitution) -> Labelled | None:
    rule = constitution.named(selected.principle_id)
    answered = next((answer for answer in answers if answer.principle_id == rule.id), None)
    if one in unanswered([one]) and (answered is None or not answered.text.strip() or _declines(answered.text)):
        return None
    harm = one.side is Side.HARM
    declining = fixed_candidates(selected, rule, constitution.refusals)[-1]
    good = _written(declining, one.chosen) if one.chosen else declining if harm else answered
    bad = _written(declining, one.rejected) if one.rejected else answered if harm else declining
    if good is None or bad is None:
        return None
    name = content_id(SEED, one.id, rule.version, good.id, bad.id)
    judgement = Judgement(name, one.id, SEED, one.source, (rule.id,), good.id, bad.id, "preferred", 1.0)
    return Labelled(selected, judgement, {good.id: good, bad.id: bad})


def _declines(answer: str) -> bool:
    from alignment.evals.scorers import refuses

    return refuses(answer) >= _DECLINES


def _written(like: Candidate, text: str) -> Candidate:
    return replace(like, id=content_id(like.id, text), kind="written", text=text, model="")
