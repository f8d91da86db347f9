"""Labelers: turn competing answers into one preference, with the principle that decided it."""

from alignment.labels.check import kept_constitutions, load_constitution
from alignment.labels.constitution import Constitution, Principle
from alignment.labels.judge import judge, review_item

__all__ = ["Constitution", "Principle", "judge", "kept_constitutions", "load_constitution", "review_item"]
