"""What is watched for drift. The list is fixed: the threshold of an alarm is shared by all signals, whether they have data or not."""

from __future__ import annotations

CATEGORIES = ("violence", "weapons", "self_harm", "hate", "sexual", "crime", "fraud", "privacy", "malware", "misinformation")
RATES = (
    "harmful_request",
    "harmful_answer",
    "toxicity",
    "refusal",
    "pii",
    "guard",
    "complained",
    "praised",
    "labeler_agreement",
    *(f"harm_{category}" for category in CATEGORIES),
)
"""Shares of a user's exchanges on a day."""
LENGTHS = ("prompt_length", "response_length", "exchanges")
"""Numbers per user and day; they are compared by rank, so that no unit and no giant counts."""
TOPICS, VOLUME = "topics", "volume"
SIGNALS = (*RATES, *LENGTHS, TOPICS, VOLUME)

_OF_DETECTORS = "A new version of the detector counts as drift too: compare the versions on the Checks page."
_TRAFFIC = "Read the exchanges below. If it is misuse, add seeds of this kind ('align seeds add') or label them on the Review page."
_MODEL = "Read the exchanges below and compare releases on the Gate page; 'align release rollback' takes the last one back."
_ACTIONS = {
    "harmful_request": f"{_TRAFFIC} {_OF_DETECTORS}",
    "harmful_answer": f"{_MODEL} {_OF_DETECTORS}",
    "toxicity": f"{_TRAFFIC} {_OF_DETECTORS}",
    "refusal": f"{_MODEL} {_OF_DETECTORS}",
    "pii": "Find the source that began to log personal data, and check its redaction: 'align ingest' counts it by source.",
    "guard": f"{_TRAFFIC} Check whether the guard's model or threshold has changed.",
    "complained": _MODEL,
    "praised": _MODEL,
    "labeler_agreement": "See the Labels page for the labeler that left the others; review disagreements before the next night.",
    "prompt_length": "See whether a client or a prompt template has changed: the slices below name sources and models.",
    "response_length": "See whether the model, its token limit or its system prompt has changed: the slices below name models.",
    "exchanges": "See whether a client retries or a program has begun to ask: the slices below name sources.",
    TOPICS: "Read the exchanges below: they look least like the weeks before. If the topic is to stay, add suite prompts and seeds on it.",
    VOLUME: "See whether a source has stopped or a new one begun: 'align status' lists what was read.",
}


_UNITS = {**dict.fromkeys(LENGTHS, "mean rank, 0 to 1"), TOPICS: "mean score, 0 to 1", VOLUME: "users a day"}


def unit(signal: str) -> str:
    """Return the unit of a signal's daily figure."""
    return _UNITS.get(signal, "share, 0 to 1")


def faded(signal: str, direction: str) -> bool:
    """Return whether a change is that flags became fewer: the exchanges to read are then flagged ones from before it.

    A fall of the labelers' agreement is shown by those on which they disagree.
    """
    return direction == "down" and signal in RATES and signal != "labeler_agreement"


def action(signal: str) -> str:
    """Return what to do about an alarm of `signal`."""
    return _ACTIONS.get(signal, _TRAFFIC)
