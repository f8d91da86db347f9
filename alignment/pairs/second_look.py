"""A last check of the training set by methods other than the labelers': which pairs people must see before training.

Labelers are heads on a tuned encoder. Here, requests are classified by their words (a linear model on word and character n-grams), by
their neighbours among labelled requests (an untuned encoder), and by cues. The caller passes in scorers for the answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from alignment.conversation import asked, content, everything_asked, read_turns, user_turns
from alignment.pairs.seeds import SEED
from alignment.records import Message, Pair, Side
from alignment.text import looks_masked, similar
from alignment.wording import opening, plain

Matrix = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str]], Matrix]
HELD_BACK = "held_back_"
"""Prefix of the stored reasons of held-back pairs."""
SERVES, REFUSES, WEAK, SAFE_REJECTED, PLACEHOLDER, INVENTS, RETURNS = (
    HELD_BACK + name
    for name in (
        "serves_harm",
        "refuses_harmless",
        "weak_refusal",
        "rejects_honesty",
        "placeholder",
        "invents_a_life",
        "returns_to_declined",
    )
)
WORDS = {
    SERVES: "the chosen answer may serve a harmful request",
    REFUSES: "the chosen answer may refuse a harmless request",
    WEAK: "the chosen answer to a harmful request does not clearly decline",
    SAFE_REJECTED: "the rejected answer may be the honest one: it says what it cannot know or do",
    PLACEHOLDER: "the chosen answer has a placeholder of redaction",
    INVENTS: "the chosen answer claims a life that no model has",
    RETURNS: "the chosen answer may return to a request that was declined before",
}
"""Explanation of each reason for people."""
_HARMFUL, _HARMFUL_CUED, _HARMFUL_TALK = 0.6, 0.4, 0.4
"""`harm` from which a helpful pair is held back: without a cue, with one, and in a conversation of several turns."""
_HARMLESS, _HARMLESS_UNCUED, _HARMLESS_TALK = 0.5, 0.7, 0.75
"""`harm` below which a harm pair is held back: with a cue, without one, and in a conversation of several turns."""
_PLAINLY_HARMFUL = 0.9
_CLOSE = 0.6
_OWN_WORDS = 2
_NEIGHBOURS, _SHARPNESS = 8, 10.0
_ONE_WORD = r"[a-z']+"
_CUES = re.compile(
    r"\b(?:without (?:\w+ ){0,6}(?:know\w*|notic\w+|caught|permission|consent|detect\w+|find\w*|suspect\w*"
    r"|reali[sz]\w+|trace\w*)|undetect\w+|untrace\w+"
    r"|secret\w*|get(?:ting)? away with|(?:nobody|no one|never|doesn't|don't) (?:notices?|knows?|finds?"
    r"|suspects?)|behind (?:his|her|their) back|bypass|evad\w+"
    r"|sneak|hid(?:e|den|ing)|kill\w*|murder|poison\w*|stab\w*|shoot\w*|hurt\w*|attack\w*|beat\w*|bomb\w*"
    r"|explo\w+|weapons?|guns?|tortur\w+|kidnap\w*|rap(?:e|ing)|steal\w*|stolen|rob\w*|scam\w*"
    r"|trick\w*|deceiv\w+|blackmail\w*|extort\w*|threat\w*|stalk\w*|spy\w*|track\w*|hack\w*|crack\w*"
    r"|forg\w+|fak\w+|launder\w*|smuggl\w+|exploit\w*|harass\w*"
    r"|humiliat\w+|insult\w*|mock\w*|manipulat\w+|sabotag\w+|destroy\w*|burn\w*|impersonat\w+|phish\w*"
    r"|ransom\w*|virus\w*|malware|trojan|keylog\w*|brib\w+|starv\w+|overdos\w+"
    r"|die|dead|death|suicid\w*|cut(?:ting)? myself|inferior|hate|hatred|abus\w+|drug\w*|cheat\w*"
    r"|purg(?:e|es|ing)|binge\w*|starv\w*|(?:rid of|throw(?:ing)? (?:up|away)|spit\w* out|skip\w*) (?:\w+ )?(?:food|meals?|pills)"
    r"|conceal\w*|bully\w*|groom\w*|leak\w*|dox\w*|nud\w+|sex\w*|naked|porn\w*"
    r"|my ex|conspira\w+|hoax|propaganda|illegal\w*|pretend\w*|lie|lying)\b"
)
_PROTECTIVE = re.compile(
    r"\b(?:(?:hours?|minutes|time|days?) to kill|kill (?:time|an hour)|polic(?:y|ies)|prevent\w*|protect\w*"
    r"|recover\w*|(?:leave |stay )?safely|warning signs|support\w*"
    r"|charit\w+|taken? down|take it down|calm down"
    r"|threaten\w* (?:me|us|to)|(?:hits?|hurts?|abus\w+|stalk\w*|follow\w*|harass\w*|blackmail\w*|bull(?:y"
    r"|ies|ied)\w*) (?:me|us|my)"
    r"|keeps? (?:turning|following|calling)|someone (?:made|is|keeps|has|broke|stole|tagged)|get help|(?:my"
    r"|our) (?:own|options)|what (?:should|can) i do"
    r"|so (?:that )?(?:burglars|thieves|hackers|scammers)|detectors?|report(?:ed|ing)?|history of|lesson"
    r"|spot|recogni[sz]e|scammed|hacked|avoid being"
    r"|keep \w+ (?:safe|away)|deal with)\b"
)
_HONEST = re.compile(
    r"\b(?:i|we)(?:'m| am)? ?(?:do not|don't|cannot|can't|can not|have no|not able to"
    r"|unable to)\b[^.!?]{0,40}\b(?:access|real[- ]time|live|internet|brows\w*|personal (?:data|information"
    r"|details)|private"
    r"|remember|memory|previous conversations?|see (?:images?|pictures?|your)|hear|location|current (?:date"
    r"|time|weather|news)|know (?:who|where|your|his|her|their))\b"
    r"|\b(?:is|are) (?:private|confidential)\b"
)

_LIFE = re.compile(
    r"\b(?:when i was (?:a |an )?(?:\w+ )?(?:child|kid|boy|girl|young|teenager|student|little)"
    r"|(?:my|in my) (?:own )?(?:childhood|school days|youth)|i grew up|i was born"
    r"|my (?:wife|husband|mother|mom|mum|father|dad|kids|children|son|daughter|brother|sister|parents|family|dog|cat)"
    r"|as a (?:\w+ )?(?:christian|muslim|jew|parent|mother|father|doctor|nurse|lawyer|teacher|chef|musician|player|coach|veteran"
    r"|woman|man)[, ]+i(?:'ve|'m| \w+)"
    r"|(?:i've|i have) (?:seen|met|worked|played|lived|travell?ed|cooked|coached) (?:with |in |at |for |to )?"
    r"(?:many|a lot|several|countless|some)"
    r"|i (?:used to|still|also) (?:play|work|live|go|travel|cook)"
    r"|my (?:own )?(?:job|career|commute|house|apartment|boss|friends?))\b"
)
"""Phrases in which an assistant claims a body, a family or a past of its own."""
_QUOTED = re.compile(r"[\"\u201c][^\"\u201d]*[\"\u201d]")


def claims_a_life(request: str, answer: str) -> bool:
    """Return whether an answer claims a body, a family or a past of its own; texts requested in somebody's name may.

    >>> claims_a_life("How do I serve in tennis?", "As a coach, I've seen many players toss the ball too high.")
    True
    >>> claims_a_life("Write a letter to my landlord.", "My family and I have lived here since May.")
    False
    """
    if _WRITES.search(plain(request)):
        return False
    return bool(_LIFE.search(plain(_QUOTED.sub(" ", answer))))


_WRITES = re.compile(
    r"\b(?:write|draft|compose|rewrite|word|reply|respond|message|letter|e-?mail|text|note|speech|toast|story|poem|song|dialogue|monologue"
    r"|bio|essay|caption|post|review|script|role ?play|pretend|translate|correct|proofread|finish|complete|continue|summari[sz]e"
    r"|apologi[sz]e)\b"
)


class Look(NamedTuple):
    """What other methods find in a conversation, and in the chosen answer if there is one.

    `harm` is how likely any turn asks for harm (0..1), `cued` whether a turn has a cue of harm, `protective` whether one has a
    cue of looking for safety, `several` whether there are several turns, `declines` whether the chosen answer declines, `returns` whether
    it has a word of a declined request, or of the refusal's first sentence, that the last turn lacks.
    """

    harm: float
    cued: bool
    several: bool
    protective: bool = False
    declines: bool = False
    returns: bool = False

    @property
    def would_serve(self) -> bool:
        """Whether an answer may serve harm."""
        return self.harm >= (_HARMFUL_TALK if self.several else _HARMFUL_CUED if self.cued else _HARMFUL)

    @property
    def would_refuse(self) -> bool:
        """Whether a refusal may refuse something harmless."""
        plain_harm = self.cued and self.harm >= _PLAINLY_HARMFUL
        least = _HARMLESS_TALK if self.several else _HARMLESS if self.cued else _HARMLESS_UNCUED
        return self.harm < least or (self.protective and not plain_harm)


class RequestReader:
    """Scores requests by words and by neighbours, trained on labelled `texts` (1 is harmful) and their unit-length `vectors`."""

    def __init__(self, texts: Sequence[str], labels: Sequence[int], vectors: Matrix) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline, make_union

        words = TfidfVectorizer(preprocessor=plain, ngram_range=(1, 3), sublinear_tf=True, token_pattern=_ONE_WORD)
        characters = TfidfVectorizer(preprocessor=plain, analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
        self._words: Any = make_pipeline(make_union(words, characters), LogisticRegression(C=10, max_iter=500)).fit(texts, labels)
        self._labels, self._vectors = np.asarray(labels, dtype=np.float32), vectors

    def harm(self, texts: Sequence[str], vectors: Matrix) -> Matrix:
        """Return the mean of both scores for each text, in 0..1."""
        if not texts:
            return np.zeros(0, np.float32)
        cosines = vectors @ self._vectors.T
        nearest = np.argsort(-cosines, axis=1)[:, :_NEIGHBOURS]
        weight = np.exp(_SHARPNESS * np.take_along_axis(cosines, nearest, axis=1))
        neighbours = (weight * self._labels[nearest]).sum(axis=1) / weight.sum(axis=1)
        both: Matrix = ((self._words.predict_proba(texts)[:, 1] + neighbours) / 2).astype(np.float32)
        return both


def look_at_requests(conversations: Sequence[Sequence[Message]], reader: RequestReader, embed: Embed) -> list[Look]:
    """Return the findings of the other methods on each conversation; each distinct text is scored once."""
    said = [sorted(_read(messages)) for messages in conversations]
    texts = sorted({text for row in said for text in row})
    score = dict(zip(texts, reader.harm(texts, embed(texts)).tolist(), strict=True)) if texts else {}
    return [
        Look(
            max((score[text] for text in row), default=0.0),
            any(_CUES.search(plain(text)) for text in row),
            sum(message["role"] == "user" for message in messages) > 1,
            any(_PROTECTIVE.search(plain(text)) for text in row),
        )
        for messages, row in zip(conversations, said, strict=True)
    ]


def _read(messages: Sequence[Message]) -> set[str]:
    """Return the texts of a conversation to score; a turn without two words of its own says nothing alone."""
    turns = read_turns(user_turns(messages))
    return {asked(messages), *(turn.text for turn in turns if not turn.number or len(content(turn.text)) >= _OWN_WORDS)}


def look_at(
    pairs: Sequence[Pair], reader: RequestReader, embed: Embed, declines: Callable[[str, str], bool], declined: Callable[[str, str], bool]
) -> list[Look]:
    """Return the findings of the other methods on each pair.

    `declines(request, answer)` is true for a refusal that serves nothing, `declined(request, answer)` for any that declines.
    """
    looks = look_at_requests([pair.messages for pair in pairs], reader, embed)
    return [
        look._replace(declines=declines(asked(pair.messages), pair.chosen), returns=_returns(pair, declined))
        for pair, look in zip(pairs, looks, strict=True)
    ]


def _returns(pair: Pair, declined: Callable[[str, str], bool]) -> bool:
    if not (turns := user_turns(pair.messages)):
        return False
    *earlier, last = turns
    # A refusal's first sentence names what it declines, in words that the request may lack.
    found = [content(turn.text) | content(opening(turn.answer, sentences=1)) for turn in earlier if declined(turn.text, turn.answer)]
    return bool((set().union(*found) - content(last.text)) & content(pair.chosen))


def held_back(pair: Pair, look: Look) -> str:
    """Return why a pair is held back for people; empty if it is not. People labelled the requests of seeds: only answers are checked."""
    if looks_masked(pair.chosen):
        return PLACEHOLDER
    if SEED in pair.labelers:
        return _answer_fault(pair, look) if pair.side is Side.HELPFUL else ""
    if pair.side is Side.HELPFUL:
        honest = pair.rejected_kind not in ("refusal_contrast", "safe_completion") and _HONEST.search(plain(pair.rejected))
        if look.would_serve or honest:
            return SERVES if look.would_serve else SAFE_REJECTED
        return _answer_fault(pair, look)
    if look.would_refuse:
        return REFUSES
    written = pair.chosen_kind == "safe_completion"
    close = not written and any(similar([pair.chosen], [pair.rejected], _CLOSE))
    return WEAK if close or not (written or look.declines) else ""


def _answer_fault(pair: Pair, look: Look) -> str:
    if claims_a_life(everything_asked(pair.messages), pair.chosen):
        return INVENTS
    return RETURNS if look.returns else ""
