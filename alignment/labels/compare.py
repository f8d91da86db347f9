"""Compare two constitutions, principle by principle and field by field."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from alignment.labels.constitution import Constitution


class Change(NamedTuple):
    """A principle that differs between two constitutions in its text or its effect.

    `fields` maps what differs to its old and new values: the principle's fields, `in_force`, and the categories that it `decides`.
    """

    principle_id: str
    kind: Literal["added", "removed", "changed"]
    fields: dict[str, tuple[Any, Any]]


def compare(old: Constitution, new: Constitution) -> list[Change]:
    """Return the changes from `old` to `new` in the order of `old`, followed by additions in the order of `new`.

    A new order counts as a change only if it changes which principle decides.
    """
    before, after = _told(old), _told(new)
    found = []
    for name, fields in before.items():
        if name not in after:
            found.append(Change(name, "removed", {}))
        elif differing := {key: (value, after[name][key]) for key, value in fields.items() if value != after[name][key]}:
            found.append(Change(name, "changed", differing))
    return [*found, *(Change(name, "added", {}) for name in after if name not in before)]


def _told(constitution: Constitution) -> dict[str, dict[str, Any]]:
    return {
        one.id: {
            **one.model_dump(mode="json"),
            "in_force": one in constitution.in_force,
            "decides": list(constitution.decides(one)),
        }
        for one in constitution.principles
    }
