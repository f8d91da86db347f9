"""Choose prompts, generate competing answers, judge them, and build the night's preference pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from prefect import flow, task

from alignment.candidates import (
    HARMLESS,
    PoolRow,
    contrast_batches,
    contrast_ids,
    contrasts,
    critic,
    first_answers,
    first_ids,
    fixed_candidates,
    revision_batches,
    revision_ids,
    revisions,
    sample_batches,
    sample_ids,
    samples,
    seed_batches,
    select,
)
from alignment.config import Settings, load_settings
from alignment.errors import InputError
from alignment.ids import content_id
from alignment.labels import Constitution, Principle, load_constitution
from alignment.models.chat import ChatModel
from alignment.pairs import (
    Decision,
    HumanVerdict,
    Labelled,
    Origin,
    Standing,
    apply_rulings,
    build_pairs,
    decided,
    drop_half_trained,
    find_contaminated,
    load_decisions,
    load_pairs,
    origins,
    save_night,
    stand,
    superseded,
)
from alignment.pairs.seeds import SEED, Seed, drawn
from alignment.records import Candidate, Message, Pair, Selected
from alignment.store import append, query, session, sql
from alignment.text import cap
from flows.authoring import author_answers, author_counts, revisions_of
from flows.checks import check_pairs
from flows.evaluate import held_out
from flows.guards import guard_names
from flows.label import label
from flows.labelled import labelled, masked, ruled, rulings, save_candidates, selected, verdicts
from flows.night import embedder, interaction, now, only_night
from flows.policy import load_model, writer_id
from flows.redact import masking, redact_deeply
from flows.second_look import Held, chosen_pairs, held_counts, save_held, without_held
from flows.seeds import as_labelled, as_selected, choose_seeds, ruled_seeds, save_labelled, taught, taught_tokens, to_be_authored
from flows.show import progress, say


@task
def choose(night_id: str) -> int:
    """Choose tonight's exchanges once; a repeated night keeps its choice."""
    settings = load_settings()
    constitution = load_constitution(settings.labels.constitution)
    if query(settings.home, "SELECT 1 FROM selections WHERE night_id = ? LIMIT 1", [night_id]):
        return 0
    parameters = {"max_chars": settings.candidates.max_prompt_chars, "guards": guard_names(settings), "harmless": HARMLESS}
    rows = query(settings.home, sql("flows", "selection_pool"), parameters)
    pool = [
        PoolRow(
            interaction(row),
            row["harmful_request"],
            row["category"] or "",
            row["toxicity"],
            row["refusal"],
            row["complained"],
        )
        for row in rows
    ]
    choices = select(pool, settings.candidates, refusal_threshold=settings.moderation.refusal, embedder=embedder())
    chosen = {choice.interaction.id: (choice.side, choice.category) for choice in choices}
    for pair in _stale(settings, constitution):
        chosen.setdefault(pair.interaction_id, (pair.side, pair.category))
    selections = [
        {
            "id": content_id(night_id, name),
            "night_id": night_id,
            "interaction_id": name,
            "side": side,
            "category": category,
            "principle_id": constitution.main_id(side, category),
            "position": position,
        }
        for position, (name, (side, category)) in enumerate(chosen.items())
    ]
    with session(settings.home, write=True) as connection:
        append(connection, "selections", selections)
    return len(selections)


def _stale(settings: Settings, constitution: Constitution) -> list[Pair]:
    """Return the pairs to judge again: they rest on a principle that was edited since, and on no person's verdict."""
    decided = {row["interaction_id"] for row in ruled(settings)} | {one.interaction_id for one in rulings(settings)}
    # Seeds carry their own judgement.
    logged = [pair for pair in load_pairs(settings.home) if SEED not in pair.labelers]
    return stand(logged, load_decisions(settings.home), constitution.versions, constitution.main_id, ruled=decided).stale


def standing(settings: Settings) -> Standing:
    """Return the state of all pairs with trainable logs under people's verdicts and today's constitution; overruled pairs are left out."""
    rows, constitution = ruled(settings), load_constitution(settings.labels.constitution)
    items = [*labelled(settings, "", rows), *ruled_seeds(settings, rows, constitution)]
    return _standing(settings, load_pairs(settings.home), items, verdicts(settings, rows))


def accepted(settings: Settings) -> list[Pair]:
    """Return the current pairs, without those that a last look holds back and nobody has decided on."""
    rows = ruled(settings)
    decided_on = {*verdicts(settings, rows), *(one.interaction_id for one in rulings(settings))}
    return without_held(settings, standing(settings).current, ruled=decided_on)


def _standing(
    settings: Settings, known: Sequence[Pair], items: Sequence[Labelled], human: Mapping[str, HumanVerdict], made: Sequence[Decision] = ()
) -> Standing:
    gone = superseded(known, items, human)
    decisions = [*load_decisions(settings.home), *made]
    constitution = load_constitution(settings.labels.constitution)
    found = stand([pair for pair in known if pair.id not in gone], decisions, constitution.versions, constitution.main_id, ruled=human)
    return found._replace(current=apply_rulings(found.current, known, rulings(settings)))


@task
def generate(night_id: str) -> int:
    """Generate the missing candidates of tonight's exchanges; return how many the model wrote."""
    settings = load_settings()
    constitution = load_constitution(settings.labels.constitution)
    wanted, seeds = selected(settings, night_id), drawn(settings.home, night_id)
    chosen = [one for one, _ in wanted]
    seeded = as_selected([one for one in seeds if one.needs_answer], constitution)
    known = {row["id"] for row in query(settings.home, "SELECT id FROM candidates")}
    fixed = [
        candidate for one in chosen for candidate in fixed_candidates(one, constitution.named(one.principle_id), constitution.refusals)
    ]
    save_candidates(settings, [candidate for candidate in fixed if candidate.id not in known])

    model = _Writer(load_model(settings, None), writer_id(settings))
    made = _written(settings, constitution, model, [_seeds_way(settings, seeded)], known)
    # Exchanges that the author answers well need no other candidates. Seeds are answered first, because the author reads those answers.
    authored = author_answers(settings, night_id, constitution, wanted, to_be_authored(settings, seeds, constitution))
    rest = [one for one in chosen if one.interaction.id not in authored]
    made += _written(settings, constitution, model, _ways(settings, constitution, rest), known)
    _tell_of_silence(settings, night_id)
    return made


class _Writer(NamedTuple):
    """A model whose texts are stored under a separate id."""

    model: ChatModel
    model_id: str

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        subjects: Sequence[str] = (),
    ) -> list[str]:
        """See `ChatModel.generate`."""
        return self.model.generate(conversations, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, subjects=subjects)


def _silence(settings: Settings, night_id: str) -> tuple[int, int]:
    """Return how many texts the model wrote for a night, and how many of them are empty."""
    [row] = query(settings.home, sql("flows", "silence"), {"night_id": night_id, "model": writer_id(settings)})
    return row["written"], row["empty"]


def _tell_of_silence(settings: Settings, night_id: str) -> None:
    written, empty = _silence(settings, night_id)
    if empty:
        tokens = settings.model.thinking_tokens
        why = f"; a model that only thought has none: raise [model] thinking_tokens = {tokens}" if tokens else ""
        say(f"warning: {empty} of {written} texts that the model wrote are empty and teach nothing{why}")


def _written(settings: Settings, constitution: Constitution, model: Any, ways: Sequence[_Way], known: Collection[str]) -> int:
    """Let the model write the missing candidates, batch by batch; return how many it wrote."""
    mask, made = masking(settings), 0
    for way in ways:
        total, done = sum(map(len, way.batches)), 0
        with progress(way.title) as advance:
            for batch in way.batches:
                guidance = [constitution.named(one.principle_id) for one in batch]
                if not way.ids(model.model_id, batch, guidance) <= set(known):
                    written = way.write(model, batch, guidance, max_new_tokens=settings.candidates.max_new_tokens)
                    save_candidates(settings, [masked(candidate, mask) for candidate in written])
                    made += len(written)
                done += len(batch)
                advance(done, total)
    return made


class _Way(NamedTuple):
    """One way to generate candidates, with the function that predicts a batch's candidate ids."""

    title: str
    batches: list[list[Selected]]
    ids: Callable[..., set[str]]
    write: Callable[..., list[Candidate]]


def _seeds_way(settings: Settings, seeded: Sequence[Selected]) -> _Way:
    first = taught_tokens(settings)

    def answer(model: Any, batch: Sequence[Selected], guidance: Sequence[Principle], *, max_new_tokens: int) -> list[Candidate]:
        return first_answers(model, batch, guidance, max_new_tokens=first)

    return _Way("answer seeds", seed_batches(seeded, settings.model.batch_size), partial(first_ids, max_new_tokens=first), answer)


def _ways(settings: Settings, constitution: Constitution, chosen: Sequence[Selected]) -> list[_Way]:
    size, own = settings.model.batch_size, settings.candidates

    def critics(batch: Sequence[Selected]) -> list[Principle]:
        return [critic(one, constitution.covering(one.side, one.category)) for one in batch]

    def revised_ids(name: str, batch: Sequence[Selected], guidance: Sequence[Principle]) -> set[str]:
        return revision_ids(name, batch, guidance, critics=critics(batch), rounds=own.revision_rounds)

    def revise(model: Any, batch: Sequence[Selected], guidance: Sequence[Principle], *, max_new_tokens: int) -> list[Candidate]:
        return revisions(model, batch, guidance, max_new_tokens=max_new_tokens, critics=critics(batch), rounds=own.revision_rounds)

    return [
        _Way("critique → revise", revision_batches(chosen, size, budget=own.revision_budget), revised_ids, revise),
        _Way("contrast", contrast_batches(chosen, size, budget=own.contrast_budget), contrast_ids, contrasts),
        _Way("ask again", sample_batches(chosen, size), sample_ids, samples),
    ]


@task
def build(night_id: str) -> dict[str, Any]:
    """Build the new pairs and tonight's training set, check both, and store them; return counts."""
    settings = load_settings()
    constitution, rows = load_constitution(settings.labels.constitution), ruled(settings)
    known, human, seeds = load_pairs(settings.home), verdicts(settings, rows), drawn(settings.home, night_id)
    of_seeds = _of_seeds(settings, [one for one in seeds if one.id not in human], constitution)
    items = [*labelled(settings, night_id, rows), *ruled_seeds(settings, rows, constitution), *of_seeds]
    made = decided(items, human, constitution.versions)
    current = _standing(settings, known, items, human, made).current
    # If a person ruled on an exchange's pair, build nothing else from that exchange.
    ruled_on = {one.interaction_id for one in rulings(settings)}
    by_hand = [pair for pair in current if pair.id not in {one.id for one in known}]
    overruled = [(item.selected.interaction.id, "ruled_on_by_a_person") for item in items if item.selected.interaction.id in ruled_on]
    paired = {pair.interaction_id for pair in current} & {one.id for one in seeds}
    items = [item for item in items if item.selected.interaction.id not in ruled_on | paired]
    exchanges = {pair.interaction_id: pair.messages for pair in current}
    exchanges |= {item.selected.interaction.id: item.selected.interaction.messages for item in items}
    # A suite added or changed since may now ask what earlier pairs teach.
    dirty = find_contaminated(settings.home, exchanges, held_out(settings), embedder(), now=now())
    came_from = origins(settings.home, {*exchanges, *(pair.interaction_id for pair in known)})
    conversations = {name: origin.conversation for name, origin in came_from.items()}
    built = build_pairs(
        items,
        known,
        human,
        settings.pairs,
        near_duplicate=settings.candidates.near_duplicate,
        conversations=conversations,
        contaminated=dirty,
    )
    _tell_of_placeholders(built.placeholders)
    usable = [*(pair for pair in current if pair.interaction_id not in dirty), *built.pairs]
    whole = drop_half_trained(usable, conversations, built.placeholders)
    if len(whole) < len(usable):
        say(f"{len(usable) - len(whole)} held-out pairs are left out: other turns of their conversations were trained on")
    training_set, held = _look_again(settings, whole, seeds, came_from, ruled={*human, *ruled_on})
    check_pairs(settings, night_id, training_set)
    built = built._replace(pairs=[*by_hand, *built.pairs], excluded=[*built.excluded, *overruled])
    # Store the questions first: a night killed between the two writes builds its set again, and asks the same questions.
    save_held(settings, night_id, held, _judged(settings, items, held))
    save_night(settings.home, night_id, built, training_set, made, now=now())
    if held:
        say(f"held back from training: {len(held)} pairs, which wait for people ('align dashboard' → Review)")
    return {
        "new_pairs": len(built.pairs),
        "excluded": dict(Counter(why for _, why in built.excluded)),
        "held_back": len(held),
    }


def _look_again(
    settings: Settings, pairs: Sequence[Pair], seeds: Sequence[Seed], came_from: Mapping[str, Origin], *, ruled: Collection[str]
) -> tuple[list[Pair], list[Held]]:
    """Return tonight's training set, and what a last look holds back from it."""
    with progress("look again"):
        sources = {name: origin.source for name, origin in came_from.items()}
        return chosen_pairs(settings, taught(settings, pairs, seeds), ruled=ruled, sources=sources, seeds={one.id for one in seeds})


def _of_seeds(settings: Settings, seeds: Sequence[Seed], constitution: Constitution) -> list[Labelled]:
    """Return the seeds that teach something, with both answers stored."""
    found = as_labelled(settings, seeds, constitution, revisions_of(settings, [one.id for one in seeds]))
    save_labelled(settings, found)
    return found


def _tell_of_placeholders(names: Collection[str]) -> None:
    for name in sorted(names):
        say(
            f"warning: too many exchanges have the conversation id {cap(name, 40)!r} for one conversation: they are split by their prompts "
            "alone, so that turns of one conversation may be both trained on and held out; give each conversation an id of its own"
        )


def _judged(settings: Settings, items: Sequence[Labelled], held: Sequence[Held]) -> Callable[[Pair], str]:
    """Return a function from a pair to the id of its judgement, tonight's or the latest earlier one; empty if it has none."""
    known = {item.selected.interaction.id: item.judgement.id for item in items}
    missing = sorted({one.pair.interaction_id for one in held} - known.keys())
    rows = query(settings.home, sql("flows", "label_judgements"), {"ids": missing, "decided": []}) if missing else []
    known |= {row["interaction_id"]: row["id"] for row in rows}
    return lambda pair: known.get(pair.interaction_id, "")


def pair_counts(settings: Settings, night_id: str) -> dict[str, Any]:
    """Return the number of pairs in the night's set, by labeler and by side."""
    pairs = load_pairs(settings.home, night_id)
    return {
        "pairs": len(pairs),
        "pairs_by_labeler": dict(Counter(name for pair in pairs for name in pair.labelers)),
        "pairs_by_side": dict(Counter(pair.side.value for pair in pairs)),
        **author_counts(settings, night_id, pairs),
    }


@flow(name="curate")
def curate(night_id: str) -> dict[str, Any]:
    """Build the training set of a night; return counts. A night that was built before is not rebuilt."""
    settings = load_settings()
    with only_night(settings):
        if not query(settings.home, "SELECT 1 FROM pair_sets WHERE night_id = ? LIMIT 1", [night_id]):
            choose(night_id)
            redact_deeply()
            if not selected(settings, night_id) and not load_pairs(settings.home):
                raise InputError(
                    "nothing to label: no exchange is new, consents to training, is clearly harmful or harmless, and has at most "
                    f"{settings.candidates.max_prompt_chars} characters ([candidates] max_prompt_chars); add logs: 'align ingest --logs …'"
                )
            choose_seeds(settings, night_id)
            generate(night_id)
            label(night_id)
            build(night_id)
        [row] = query(settings.home, "SELECT count(*) AS n FROM selections WHERE night_id = ?", [night_id])
        held = held_counts(settings, night_id)
        return {
            "selected": row["n"],
            "empty_texts": _silence(settings, night_id)[1],
            **pair_counts(settings, night_id),
            "held_back": sum(held.values()),
            "held_back_by_reason": held,
        }
