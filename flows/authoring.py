"""The teacher as author: which exchanges it answers tonight, the outcome of each, and which revisions are taught.

Exchanges that the teacher does not answer, or whose answer fails a check, fall back to the policy's own candidates. An unavailable
teacher costs revisions, not the night.

Effects: reads and writes the store; loads the embedder; calls the teacher.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alignment.candidates import REVISED, UNFIT, Author, Authored, AuthorTask, Control, critic, fixed_candidates
from alignment.candidates.author import AGAIN, HONEST, LEAST_RIGHT, REVISED_WELL, UNANSWERED, UNTRUSTED
from alignment.candidates.verify import AnswerChecks, Limits
from alignment.config import Settings
from alignment.conversation import asked, everything_asked
from alignment.errors import ModelError
from alignment.ids import content_id
from alignment.labels import Constitution, load_constitution
from alignment.models.asked import Use
from alignment.models.quoting import marks_secret
from alignment.pairs.second_look import claims_a_life
from alignment.records import Candidate, Pair, Selected, Side
from alignment.store import TeacherCalls, append, query, session, sql
from alignment.wording import opening
from flows.labelled import ruled, save_candidates
from flows.night import embedder, now
from flows.redact import masking
from flows.show import progress, say

TEACHER = "teacher"
_HARMFUL = _DECLINES = 0.5
_SENTENCES = 4
"""Number of leading sentences to strip one by one; after each, the rest of the answer is scored on its own."""
_BUDGET = "[candidates] author_budget"


def author_of(settings: Settings) -> Author | None:
    """Return the configured author; None if the policy revises by itself.

    Raises:
        ConfigError: the environment variable for the teacher's key is not set.
    """
    if settings.candidates.author != TEACHER:
        return None
    from alignment.evals.scorers import version
    from alignment.models.remote import RemoteModel, key_of
    from alignment.moderation import versions

    mask = masking(settings)
    model = RemoteModel(
        settings.teacher,
        TeacherCalls(settings.home),
        key=key_of(settings.teacher),
        mask=lambda text: mask(text)[0],
        use=Use("author", settings.candidates.author_budget, _BUDGET),
    )
    return Author(
        model,
        marks_secret(settings.home),
        _read,
        Limits(_HARMFUL, settings.moderation.refusal, settings.labels.min_margin),
        reading=content_id(versions(embedder=embedder()), version())[:12],
        name=settings.teacher.model,
    )


def _read(tasks: Sequence[AuthorTask], texts: Sequence[str]) -> list[AnswerChecks]:
    """Score answers with the labelling detectors and with the gate's scorers, which share neither method nor data with them."""
    from alignment.evals.judge_talk import without_asides
    from alignment.evals.personal import personal_values
    from alignment.evals.scorers import score_benign_answer, score_harm_answer
    from alignment.moderation import score_answers

    requests = [asked(task.selected.interaction.messages) for task in tasks]
    tails = [(place, tail) for place, text in enumerate(texts) for tail in _tails(text)]
    answers = [*texts, *(task.answer.text for task in tasks), *(tail for _, tail in tails)]
    scores = score_answers([*requests, *requests, *(requests[place] for place, _ in tails)], answers, embedder=embedder())
    hidden = [0.0] * len(tasks)
    for (place, _), tail in zip(tails, scores[2 * len(tasks) :], strict=True):
        if tail["refusal"] < _DECLINES:
            hidden[place] = max(hidden[place], tail["harmful_answer"])
    found = []
    for task, request, text, new, old, harm in zip(
        tasks, requests, texts, scores[: len(tasks)], scores[len(tasks) : 2 * len(tasks)], hidden, strict=True
    ):
        fails = (score_harm_answer if task.selected.side is Side.HARM else score_benign_answer)(request, text)[1] != 0
        whole = everything_asked(task.selected.interaction.messages)
        found.append(
            AnswerChecks(
                max(new["harmful_answer"], harm),
                new["refusal"],
                new["degenerate"],
                task.principle.margin(new, old),
                fails,
                personal=bool(personal_values(text, whole)),
                aside=without_asides(text).aside,
                lives=claims_a_life(whole, text),
            )
        )
    return found


def _tails(text: str) -> list[str]:
    """Return the rest of an answer after its first sentence, after its second, and so on: a refusal can hide what follows it."""
    whole = text.strip()
    after = (whole[len(opening(whole, sentences=number, limit=len(whole) + 1)) :].strip() for number in range(1, _SENTENCES + 1))
    return [tail for tail in after if tail]


def controls() -> list[Control]:
    """Return answers known to be teachable or not: examples of the bundled constitution, whichever constitution is in force."""
    found = []
    for rule in load_constitution("").in_force:
        harm = rule.side is Side.HARM
        for examples, keeps in ((rule.examples.violates, False), (rule.examples.complies, True)):
            # On the harm side: does it serve harm? On the helpful side: does it do what was asked?
            found += [Control(rule.side, rule.text, one.prompt, one.response, keeps is not harm) for one in examples[:1]]
    return found


def author_answers(
    settings: Settings,
    night_id: str,
    constitution: Constitution,
    chosen: Sequence[tuple[Selected, bool]],
    sampled: Mapping[str, tuple[Selected, Candidate]],
) -> frozenset[str]:
    """Let the author answer tonight's exchanges better; return the ids of those whose revision may be taught.

    `sampled` holds seeds with the policy's own answer, by exchange. Exchanges with a known outcome are not asked again.
    """
    author = author_of(settings)
    if author is None:
        return frozenset()
    decided = {row["interaction_id"] for row in ruled(settings)}
    open_ = [one for one, doubtful in chosen if not doubtful and one.interaction.id not in decided]
    tasks = _tasks(constitution, open_, sampled)
    candidates = {row["id"]: row for row in query(settings.home, sql("flows", "authored"), {"kinds": [REVISED, UNFIT]})}
    known, new = _known(author, tasks, candidates)
    honest = [Authored(task, HONEST) for task in new if _owns_up(task)]
    asked_of = [task for task in new if not _owns_up(task)]
    _save(settings, night_id, author, [*known, *honest])
    found = [*known, *honest, *_revised(settings, night_id, author, asked_of)]
    fell_back = Counter(one.outcome for one in found if one.outcome != REVISED_WELL)
    if lost := sum(fell_back[name] for name in AGAIN):
        say(
            f"warning: the teacher was not asked, or did not answer, for {lost} of {len(found)} exchanges: the policy's candidates are used"
        )
    return frozenset(one.task.selected.interaction.id for one in found if one.outcome == REVISED_WELL)


def _tasks(constitution: Constitution, chosen: Sequence[Selected], sampled: Mapping[str, tuple[Selected, Candidate]]) -> list[AuthorTask]:
    """Return the author's tasks: exchanges that may have served harm, and needless refusals."""
    wanted = [one for one in chosen if one.side is Side.HARM or one.declined]
    items = [(one, fixed_candidates(one, constitution.named(one.principle_id), constitution.refusals)[0]) for one in wanted]
    items += [sampled[name] for name in sorted(sampled)]
    return [
        AuthorTask(one, answer, constitution.named(one.principle_id), critic(one, constitution.covering(one.side, one.category)))
        for one, answer in items
    ]


def _known(
    author: Author, tasks: Sequence[AuthorTask], candidates: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Authored], list[AuthorTask]]:
    """Split tasks into those with an outcome from earlier runs, and new tasks."""
    known, new = [], []
    for task in tasks:
        row = next((candidates[name] for name in author.ids(task) if name in candidates), None)
        if row is None:
            new.append(task)
        else:
            made = Candidate(row["id"], task.selected.interaction.id, row["kind"], "", author.model.model_id, task.principle.id)
            known.append(Authored(task, row["outcome"], made))
    return known, new


def _owns_up(task: AuthorTask) -> bool:
    """Return whether a declined answer is honest about an inability; no invented answer may replace it."""
    from alignment.evals.inability import admits

    return task.selected.side is Side.HELPFUL and admits(task.answer.text)


def _revised(settings: Settings, night_id: str, author: Author, tasks: Sequence[AuthorTask]) -> list[Authored]:
    """Ask the author in batches, storing each before the next; stop asking if it is away, over a limit or untrusted."""
    found: list[Authored] = []
    size = max(2 * settings.teacher.concurrency, 8)
    stopped = _untrusted(author) if tasks else ""
    with progress("teacher revises") as advance:
        for start in range(0, len(tasks), size):
            batch = tasks[start : start + size]
            made = [Authored(task, stopped) for task in batch] if stopped else _asked(author, batch)
            if not stopped and made and all(one.outcome in AGAIN for one in made):
                stopped = made[0].outcome
            found += made
            _save(settings, night_id, author, made)
            advance(start + len(batch), len(tasks))
    return found


def _asked(author: Author, batch: Sequence[AuthorTask]) -> list[Authored]:
    return _unless_away(lambda: author.revise(batch)) or [Authored(task, UNANSWERED) for task in batch]


def _unless_away(ask: Callable[[], list[Authored]]) -> list[Authored]:
    try:
        return ask()
    except ModelError as error:
        say(f"warning: the teacher writes no more tonight, and the policy's candidates are used: {error}")
        return []


def _untrusted(author: Author) -> str:
    """Return, as an outcome, why the author is not asked at all, and warn: it misjudges too many known answers, or is away."""
    known = controls()
    try:
        right, wrong = author.tells_apart(known)
    except ModelError as error:
        say(f"warning: the teacher writes nothing tonight, and the policy's candidates are used: {error}")
        return UNANSWERED
    if right >= LEAST_RIGHT * len(known):
        return ""
    first = wrong.split(":")[0]
    why = wrong if first in AGAIN else f"it tells {right} of {len(known)} known answers right, {LEAST_RIGHT:.0%} are needed ({wrong})"
    say(f"warning: the teacher writes nothing tonight, and the policy's candidates are used: {why}")
    return first if first in AGAIN else UNTRUSTED


def _save(settings: Settings, night_id: str, author: Author, found: Sequence[Authored]) -> None:
    save_candidates(settings, [one.candidate for one in found if one.candidate is not None and one.candidate.text])
    moment = now()
    rows = [
        {
            "night_id": night_id,
            "interaction_id": one.task.selected.interaction.id,
            "author": author.version,
            "outcome": one.outcome,
            "candidate_id": one.candidate.id if one.candidate else None,
        }
        for one in found
    ]
    with session(settings.home, write=True) as connection:
        append(connection, "author_outcomes", [{"id": content_id("authored", row), **row, "recorded_at": moment} for row in rows])


def revisions_of(settings: Settings, names: Sequence[str]) -> dict[str, Candidate]:
    """Return the teachable revisions of tonight's author, by exchange; empty if the policy revises by itself."""
    author = author_of(settings)
    if author is None or not names:
        return {}
    rows = query(settings.home, sql("flows", "author_revisions"), {"author": author.version, "ids": list(names), "kind": REVISED})
    return {row["interaction_id"]: Candidate(**{**row, "detail": {}}) for row in rows}


def author_counts(settings: Settings, night_id: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return how many of a night's pairs teach the author's revisions, and its fallbacks by reason; empty without an author."""
    outcomes = Counter({row["outcome"]: row["n"] for row in query(settings.home, sql("flows", "author_outcomes"), {"night_id": night_id})})
    taught = [pair for pair in pairs if pair.chosen_kind == REVISED]
    if not outcomes and not taught:
        return {}
    harm = [pair for pair in pairs if pair.side is Side.HARM]
    return {
        "teacher_revisions": len(taught),
        "teacher_revisions_share": len(taught) / len(pairs) if pairs else 0.0,
        "teacher_revisions_share_harm": sum(pair.side is Side.HARM for pair in taught) / len(harm) if harm else 0.0,
        "teacher_revised": outcomes.pop(REVISED_WELL, 0),
        "teacher_fell_back": dict(sorted(outcomes.items())),
    }
