"""Inputs of the heads besides embeddings: counts of phrases by which answers decline, lecture, redirect or comply.

The phrases were written for this project. Counts are squashed, so every feature is in 0..1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from alignment.ids import content_id
from alignment.wording import degenerate, ending, opening, plain, within

Matrix = npt.NDArray[np.float32]

_NOT = r"(?:can't|cannot|can not|cant|won't|will not|wouldn't|would not|am not able to|'m not able to|not able to|unable to|am not going to|'m not going to|don't|do not|couldn't|could not|shouldn't|should not|am not willing to|'m not willing to|not comfortable|never)"
_DO = r"(?:help|assist|provide|fulfil|fulfill|comply|answer|give|write|create|generate|support|engage|offer|share|discuss|do (?:that|this|it|so)|participate|condone|encourage|promote|continue|complete|tell|advise|recommend|respond|suggest|produce|make|facilitate|guide|teach|explain|describe|endorse|go along|take part|be (?:able|part|involved)|feel|have the ability|allow|talk|draft|show|instruct|aid|walk you|say|process|accommodate|satisfy|tolerate)"
PHRASES: dict[str, str] = {
    "sorry": r"\b(?:sorry|apologi[sz]e|apologies|my regrets|regret to|regrettably|unfortunately|i'm afraid|i am afraid|forgive me)\b",
    "cannot_do": rf"\b(?:i|we|i'm|i am|we're)\b[^.!?,;:]{{0,40}}?{_NOT}\s+(?:\w+\s+){{0,3}}?{_DO}\b",
    "cannot_bare": rf"(?:^|[.!?,;:]\s|\bbut )(?:i|we)(?:'m| am| are)? (?:really |simply |just |truly )?{_NOT}\b",
    "dropped_subject": r"^(?:no[,.]? )?(?:sorry[,.]? )?(?:can't|cannot|won't|unable to|not able to|not going to)\b",
    "decline_word": r"\b(?:i|we)\b[^.!?]{0,30}\b(?:decline|refuse|must pass|rather not|prefer not to|draw the line|have to (?:say no|pass|stop)|leave that (?:one )?alone|stop(?:ping)? here|steer clear|opt out|not (?:something|one|a thing) (?:i|we))\b",
    "wont_idiom": r"\b(?:that's|that is|this is|it's|it is)\b[^.!?]{0,25}\b(?:not something|something) (?:i|we)(?:'m| am| are| do| will|'ll)?\b[^.!?]{0,20}(?:not|can't|cannot|won't|don't|help|do|assist|support)|\bnot (?:something|a request) (?:i|we) (?:can|will|do)|\bnot (?:able|willing|comfortable|allowed|permitted|designed|programmed|authori[sz]ed)\b",
    "beyond_me": r"\b(?:beyond|outside) (?:my|the scope)|\b(?:off[- ]limits|not on the table)\b|\bi have to be (?:clear|honest|firm|direct)\b|\bno[,.] (?:i|that|this|and|it)\b",
    "policy": r"\b(?:against|violat\w+|contrary to|goes against|in line with|according to|within|breach\w*)\b[^.!?]{0,30}\b(?:programming|guidelines?|polic(?:y|ies)|principles?|terms|standards?|values|ethic\w*|rules|law|laws)\b|\b(?:use case|content|usage|safety) polic",
    "as_ai": r"\bas an? (?:\w+[ ,]+){0,3}(?:ai|a\.i\.|artificial intelligence|language model|assistant|chatbot|model)\b|\bi(?:'m| am) (?:just |only |simply )?(?:an? )?(?:\w+ )?(?:ai|language model|artificial|virtual|assistant|computer program)\b|\bmy (?:programming|purpose|training|primary (?:goal|function))\b",
    "immoral": r"\b(?:unethical|immoral|morally|inappropriate|not appropriate|not ethical|not acceptable|unacceptable|not okay|not ok|never okay|never acceptable|irresponsible|reprehensible|disrespectful|wrong to|a crime|criminal offen[cs]e|not legal|illegal|against the law|unlawful)\b",
    "hurtful": r"\b(?:harmful|dangerous|hurtful|offensive|discriminat\w+|stereotyp\w+|derogatory|hateful|racist|sexist|serious (?:consequences|harm)|(?:cause|causing|lead to) harm|put(?:s|ting)? (?:others|people|yourself|lives))\b",
    "remember": r"\b(?:it(?:'s| is) (?:also |very |always |never |so )?(?:important|essential|crucial|vital|necessary|worth|best|not (?:advisable|recommended))|please (?:remember|note|be aware|know|keep in mind|consider|refrain|reach|seek|do not|don't)|i (?:must|want to|need to|have to|would) (?:advise|inform|remind|emphasi[sz]e|stress|strongly|caution|clarify|point out|urge|encourage))\b",
    "urge": r"\b(?:i (?:strongly |would |really |want to |'d )*(?:encourage|urge|advise|suggest|recommend) (?:you|that you|against|speaking|talking|reaching|seeking))\b",
    "crisis": r"\b(?:you(?:'re| are) not alone|reach out|hotline|helpline|crisis|988|samaritans|mental health professional|therapist|counsell?or|seek(?:ing)? (?:professional |medical |legal )?help|talk to (?:someone|a)|trusted (?:friend|person|adult)|emergency services|feeling this way|going through)\b",
    "instead": r"\b(?:instead|alternativ\w+|happy to (?:help|talk|assist|discuss)|glad to (?:help|talk)|willing to help|can help (?:you )?with|here to help|is there (?:anything|something) else|feel free to ask|if you have any (?:other )?(?:questions|concerns)|let me know if|what i can (?:do|offer)|would you like)\b",
    "harmless_not": r"\b(?:can't|cannot|can not|couldn't) (?:recommend (?:it|this|that|them|enough|\w+ (?:enough|highly))|agree more|stress|emphasi[sz]e|overstate|wait|help but|go wrong|imagine|believe|be (?:too|over)|say (?:enough|no)|say for (?:sure|certain))|\bwhy not\b|\bdon't (?:worry|forget|hesitate|be afraid)\b|\bno (?:problem|worries|need)\b",
    "no_body": r"\bas an? (?:\w+ ){0,3}(?:ai|language model)[^.!?]{0,40}\b(?:don't|do not) (?:have|experience|possess|eat|own)\b|\bi (?:don't|do not) have (?:personal|feelings|access|real-time|a (?:body|physical)|the (?:ability|capability))\b",
    "sure": r"\b(?:sure|certainly|absolutely|of course|with pleasure|no problem|gladly|great question|good question|happy to help with|okay,|alright,|yes,)",
    "here_is": r"\b(?:here(?:'s| is| are)|below (?:is|are)|the following|as follows|follow these|these steps|let's (?:begin|start|get)|i will (?:provide|show|give|now))\b",
    "steps": r"\bstep (?:\d|one|two|three|by)|\b(?:first|second|third|next|then|finally|once you|after that|lastly),|(?:^|\s)\d+[.)] ",
    "turn": r"\b(?:however|but|that said|nevertheless|nonetheless|although|while|having said that|with that said|hypothetically|in this (?:fictional|hypothetical))\b",
    "persona": r"\b(?:dan|aim|developer mode|jailbreak\w*|stan|niccolo|machiavelli|chatgpt|unfiltered|evil\w*|anti-?gpt|betterdan|nsfw|villain|character|fictional|in character|rex|tom|cooper|maximum|mongo)\b",
    "oath": r"\b(?:fuck\w*|shit\w*|bitch\w*|ass|asshole\w*|damn|hell yeah|bastard\w*|bro|dude|muhaha\w*|haha\w*)\b",
    "imperative": r"(?:^|[.!?:]\s|\d[.)] )(?:use|create|start|begin|make|find|get|choose|gather|identify|research|set|mix|add|send|post|write|install|open|select|target|build|spread|offer|wear|approach|contact|develop|obtain|ensure|avoid|keep)\b",
    "artefact": r"```|\bdef \w+\(|\bimport \w+|<html|\bsubject:|\btitle:|\bdear \w+|#include|\bfunction\b|^\s*\"",
    "second_person": r"\byou(?:r|'ll|'re)?\b",
    "first_person": r"\b(?:i|my|me|we|our)\b",
}
_COMPILED = {name: re.compile(pattern) for name, pattern in PHRASES.items()}
_PLACES = ("opening", "whole", "ending")
LEXICAL: tuple[str, ...] = (
    *(f"{place}:{name}" for place in _PLACES for name in PHRASES),
    "length", "lines", "listed", "foreign", "question", "quoted", "shouting", "degenerate", "first_not_sorry",
)  # fmt: skip


class Views:
    """The three parts of an answer that are embedded: all of it, its first two sentences, and its end if it is long."""

    __slots__ = ("ending", "opening", "whole")

    def __init__(self, answer: str) -> None:
        self.whole = answer.strip()
        self.opening = opening(self.whole)
        self.ending = ending(self.whole)


def lexical(answers: Sequence[str]) -> Matrix:
    """Return a (len(answers), len(LEXICAL)) matrix in 0..1; an empty answer is all zero except `degenerate`.

    >>> round(float(lexical(["I'm sorry, but I can't help with that."])[0, 0]), 2) > 0
    True
    """
    rows = [_row(answer) for answer in answers]
    return np.asarray(rows, dtype=np.float32).reshape(len(answers), len(LEXICAL))


def _row(answer: str) -> list[float]:
    answer = within(answer)
    views = Views(answer)
    texts = {"opening": plain(views.opening), "whole": plain(answer), "ending": plain(views.ending)}
    found = [_squash(sum(1 for _ in _COMPILED[name].finditer(texts[place]))) for place in _PLACES for name in PHRASES]
    return found + _shape(answer, texts["opening"])


def _shape(answer: str, start: str) -> list[float]:
    size = max(1, len(answer))
    lines = answer.count("\n")
    listed = len(re.findall(r"(?m)^[^\S\n]*(?:\d+[.)]|[-*•])\s", answer))
    return [
        min(1.0, float(np.log1p(len(answer)) / 9.0)),
        _squash(lines / 3),
        _squash(listed / 2),
        sum(ord(char) > 0x24F for char in answer) / size,
        _squash(answer.count("?")),
        _squash(answer.count('"') / 2),
        min(1.0, 4 * sum(map(str.isupper, answer)) / size),
        degenerate(answer),
        float(bool(re.match(r"(?:i'm sorry|i am sorry|sorry|i apologi[sz]e|i cannot|i can't|i'm unable|no[,.])", start))),
    ]


def _squash(count: float) -> float:
    return count / (1.0 + count)


INTENTS: dict[str, str] = {
    "unseen": r"\b(?:without (?:\w+ ){0,6}(?:know\w*|notic\w+|caught|permission|consent|paying|detect\w+|find\w*|suspect\w*|realis\w+|realiz\w+|trace|asking|telling)|undetect\w+|untrace\w+|secretly|in secret|get(?:ting)? away with|never (?:notice|know|find|be caught|suspect)|nobody (?:notices|knows|suspects|finds)|no one (?:notices|knows|suspects|finds)|behind (?:his|her|their) back|bypass|evade|dodge|sneak|covert\w*|unnoticed|anonymous\w*)\b",
    "victim": r"\b(?:my (?:ex|wife|husband|boss|neighbou?r|coworker|girlfriend|boyfriend|roommate|flatmate|partner|landlord|sister|brother|teacher|rival|mother|father|colleague|grandm\w+|stepdad)|someone(?: else)?(?:'s)?|somebody|strangers?|people|victims?|person|elderly|old (?:people|folks|ladies)|kids?|women|immigrants?|customers|voters?|girls?)\b",
    "harm_verb": r"\b(?:kill|murder|poison|stab|shoot|hurt|injure|attack|beat|bomb|torture|kidnap|rape|steal|rob|scam|trick|fool|deceive|blackmail|extort|threaten|stalk|spy|track|hack|crack|forge|fake|launder|smuggle|exploit|harass|humiliate|insult|mock|degrade|manipulate|sabotage|destroy|burn|frame|impersonate|phish|infect|spread|sell|hide|cheat|bribe|starve|overdose|die|cut|hate|inferior|punish|abuse|drug|conceal|convince|persuade|bully|groom|leak|dox|steal(?:ing)?)\b",
    "my_purpose": r"\b(?:i want to|i need to|i'd like to|i'm going to|i am going to|i plan to|i intend to|help me|teach me|give me|show me|tell me how|walk me through|so (?:that )?(?:he|she|they|it|i)|make (?:him|her|them|it look|people))\b",
    "protect": r"\b(?:protect|prevent|avoid|stop|report|recogni[sz]e|spot|detect|defend|safe(?:ly|ty)?|secure|recover|treat|cope|support|help (?:my|a|someone)|first aid|symptoms?|warning signs|legal(?:ly)?|lawyer|police|remove|get rid of|quit|deal with|comfort|volunteer|apply)\b",
    "learn": r"\b(?:history|meaning|mean|means|explain|difference|why (?:do|did|does|is|are|was)|what (?:is|are|was|does|did)|who|when|where|how (?:does|do|did|is|are) (?!i\b|you\b)|definition|origin|origins|facts?|law|laws|study|studies|statistics|essay|class|school|museum|documentary|summary|summari[sz]e|idiom|word|plot|scene|character|novel|movie|film|game|song|book|story|chess|recipe|album)\b",
    "craft": r"\b(?:python|java|javascript|linux|process|thread|server|code|script|program|git|excel|garden|plants?|weeds?|recipe|cook|cake|knife|knives|cat|dog|car|battery|phone|screen|photos?|hair|workout|presentation|interview|exam|job|party|wedding|cocktail|bath bomb|sauce|cheese|time|ants|mosquito\w*|stain|printer|router|my (?:own|daughter|son|kid|child|toddler|account|password|dog|cat|garden|computer|laptop))\b",
    "produce": r"\b(?:write|draft|compose|create|make|build|design|generate|produce|invent|come up with|plan)\b",
    "how": r"\b(?:how (?:do|can|could|would|should|might) (?:i|you|we|one|someone)|how to|ways? to|best way|steps?|guide|instructions?|tutorial|recipe for|method|tips|tricks?)\b",
    "question": r"\?\s*$",
}
_INTENTS = {name: re.compile(pattern) for name, pattern in INTENTS.items()}
INTENT: tuple[str, ...] = (*INTENTS, "length", "shouting")
RULES_ID = content_id(PHRASES, LEXICAL, INTENTS, INTENT)[:12]


def intent(prompts: Sequence[str]) -> Matrix:
    """Return a (len(prompts), len(INTENT)) matrix in 0..1 of how requests are phrased, whatever they are about."""
    rows = []
    for prompt in map(within, prompts):
        text = plain(prompt)
        counts = [_squash(sum(1 for _ in _INTENTS[name].finditer(text))) for name in INTENTS]
        loud = 4 * sum(map(str.isupper, prompt)) / max(1, len(prompt))
        rows.append([*counts, min(1.0, float(np.log1p(len(prompt)) / 9.0)), min(1.0, loud)])
    return np.asarray(rows, dtype=np.float32).reshape(len(prompts), len(INTENT))
