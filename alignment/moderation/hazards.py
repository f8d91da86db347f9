"""What guards' labels mean: each family's labels, as MLCommons' hazards and as this project's ten categories.

The hazards are the twelve of AILuminate 1.0 (arXiv:2503.05731), under the codes that MLCommons' own benchmark uses for them. Not all have
a category here (nobody teaches against a breach of copyright), and not all labels are a hazard there (an insult is none). A label without a
category still flags; it does not say under which principle to teach.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from alignment.errors import ConfigError
from alignment.moderation.corpora import CATEGORIES

HAZARDS: Mapping[str, str] = {
    "vcr": "violent crimes",
    "ncr": "non-violent crimes",
    "src": "sex-related crimes",
    "cse": "child sexual exploitation",
    "iwp": "indiscriminate weapons",
    "ssh": "suicide and self-harm",
    "ipv": "intellectual property",
    "spc": "specialized advice",
    "dfm": "defamation",
    "hte": "hate",
    "prv": "privacy",
    "sxc": "sexual content",
}
HARM = "harm"
"""In the settings: harmful, without a category."""


class Meaning(NamedTuple):
    """What a label means: a hazard's code and a category, either of which may be empty; `ignored` labels never flag."""

    hazard: str = ""
    category: str = ""
    ignored: bool = False


class LabelSet(NamedTuple):
    """The labels of one family, and where they are documented."""

    source: str
    labels: Mapping[str, Meaning]


CATEGORY_OF: Mapping[str, str] = {
    "vcr": "violence", "ncr": "crime", "src": "sexual", "cse": "sexual", "iwp": "weapons", "ssh": "self_harm", "ipv": "", "spc": "",
    "dfm": "misinformation", "hte": "hate", "prv": "privacy", "sxc": "sexual",
}  # fmt: skip
"""The category of each hazard; fraud and malware are crimes there, and misinformation is a hazard only as defamation."""
HAZARD_OF: Mapping[str, str] = {
    "violence": "vcr", "weapons": "iwp", "self_harm": "ssh", "hate": "hte", "sexual": "sxc", "crime": "ncr", "fraud": "ncr",
    "privacy": "prv", "malware": "ncr", "misinformation": "",
}  # fmt: skip
"""The hazard of each category; misinformation about no living person is none of the twelve."""


def _of(hazard: str, category: str | None = None) -> Meaning:
    return Meaning(hazard, CATEGORY_OF[hazard] if category is None else category)


_ONLY_HARM = Meaning()
_TOXIC = {
    "toxicity": _ONLY_HARM,
    "severe_toxicity": _ONLY_HARM,
    "identity_attack": _of("hte"),
    "insult": _ONLY_HARM,
    "threat": _of("vcr"),
}

LABEL_SETS: Mapping[str, LabelSet] = {
    "qwen3guard": LabelSet(
        "https://huggingface.co/Qwen/Qwen3Guard-Gen-8B, Safety Policy",
        {
            "Violent": _of("vcr"),
            "Non-violent Illegal Acts": _of("ncr"),
            "Sexual Content or Sexual Acts": _of("sxc"),
            "PII": _of("prv"),
            "Suicide & Self-Harm": _of("ssh"),
            "Unethical Acts": _of("hte"),
            # What the card describes is untruth about governments and public figures.
            "Politically Sensitive Topics": _of("dfm"),
            "Copyright Violation": _of("ipv"),
            "Jailbreak": _ONLY_HARM,
        },
    ),
    "llama_guard": LabelSet(
        "https://github.com/meta-llama/PurpleLlama, Llama-Guard3/8B/MODEL_CARD.md and Llama-Guard4/12B/MODEL_CARD.md",
        {
            "S1": _of("vcr"),
            "S2": _of("ncr"),
            "S3": _of("src"),
            "S4": _of("cse"),
            "S5": _of("dfm"),
            "S6": _of("spc"),
            "S7": _of("prv"),
            "S8": _of("ipv"),
            "S9": _of("iwp"),
            "S10": _of("hte"),
            "S11": _of("ssh"),
            "S12": _of("sxc"),
            # False facts about elections; AILuminate counts advice on elections as specialized advice.
            "S13": _of("spc", "misinformation"),
            "S14": _of("ncr", "malware"),
        },
    ),
    "granite_guardian": LabelSet(
        "https://github.com/ibm-granite/granite-guardian, README.md and evaluation/models: the umbrella risk, which names no kind of harm",
        {"harm": _ONLY_HARM},
    ),
    "shieldgemma": LabelSet(
        "https://huggingface.co/google/shieldgemma-9b and arXiv:2407.21772, the four harm types",
        {"dangerous": _of("vcr"), "harassment": Meaning("", "hate"), "hate": _of("hte"), "sexual": _of("sxc")},
    ),
    "gpt_oss_safeguard": LabelSet(
        "the bundled policy; https://cookbook.openai.com/articles/gpt-oss-safeguard-guide has the form of its answer",
        {category: Meaning(HAZARD_OF[category], category) for category in CATEGORIES},
    ),
    "openai_moderation": LabelSet(
        "https://platform.openai.com/docs/api-reference/moderations/object",
        {
            "harassment": Meaning("", "hate"),
            "harassment/threatening": _of("vcr"),
            "hate": _of("hte"),
            "hate/threatening": _of("hte"),
            "illicit": _of("ncr"),
            "illicit/violent": _of("vcr", "weapons"),
            "self-harm": _of("ssh"),
            "self-harm/intent": _of("ssh"),
            "self-harm/instructions": _of("ssh"),
            "sexual": _of("sxc"),
            "sexual/minors": _of("cse"),
            "violence": _of("vcr"),
            "violence/graphic": _of("vcr"),
        },
    ),
    "perspective": LabelSet(
        "https://developers.perspectiveapi.com/s/about-the-api-attributes-and-languages, production attributes",
        {
            **{name.upper(): meaning for name, meaning in _TOXIC.items()},
            # Swearing harms nobody by itself.
            "PROFANITY": Meaning(ignored=True),
        },
    ),
    "detoxify": LabelSet(
        "https://github.com/unitaryai/detoxify, README.md, Labels",
        {**_TOXIC, "obscene": Meaning(ignored=True), "sexual_explicit": _of("sxc")},
    ),
    "transformers": LabelSet("the model's own labels, mapped in the settings", {}),
}


_OPEN = frozenset({"transformers", "detoxify", "openai_moderation", "gpt_oss_safeguard"})
"""Families whose labels depend on the model, the server or the policy."""


def meanings(family: str, changes: Mapping[str, str], where: str) -> dict[str, Meaning]:
    """Return what each label of a family means, with the settings' `changes`; `where` names the setting.

    Raises:
        ConfigError: a change names a label that the family does not have, or a meaning that does not exist.

    >>> meanings("llama_guard", {"S8": ""}, "labels")["S8"]
    Meaning(hazard='', category='', ignored=True)
    """
    known = LABEL_SETS[family].labels
    for label, meant in changes.items():
        if family not in _OPEN and label not in known:
            raise ConfigError(f"{where}: {label!r} is no label of {family}; its labels are {', '.join(known)}")
        if meant and meant != HARM and meant not in CATEGORIES and meant not in HAZARDS:
            raise ConfigError(
                f"{where}: {label} = {meant!r} is no meaning; give {', '.join(CATEGORIES)}, {HARM}, a hazard ({', '.join(HAZARDS)}), "
                "or '' to ignore the label"
            )
    return {**known, **{label: _meaning(meant) for label, meant in changes.items()}}


def _meaning(meant: str) -> Meaning:
    if meant in CATEGORIES:
        return Meaning(HAZARD_OF[meant], meant)
    return _of(meant) if meant in HAZARDS else Meaning(ignored=not meant)
