"""What changed between two constitutions, principle by principle and field by field."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from alignment.labels.constitution import Constitution


class Change(NamedTuple):
    """One principle that is not the same in both; `fields` names those that differ, with their values before and after."""

    principle_id: str
    kind: Literal["added", "removed", "changed"]
    fields: dict[str, tuple[Any, Any]]


def compare(old: Constitution, new: Constitution) -> list[Change]:
    """Return the changes from `old` to `new`, in the order of `old`, then what is new in the order of `new`.

    An order that changed is no change of a principle, though it can change which one is a category's main one.
    """
    before = {one.id: one.model_dump(mode="json") for one in old.principles}
    after = {one.id: one.model_dump(mode="json") for one in new.principles}
    found = []
    for name, fields in before.items():
        if name not in after:
            found.append(Change(name, "removed", {}))
        elif differing := {key: (value, after[name][key]) for key, value in fields.items() if value != after[name][key]}:
            found.append(Change(name, "changed", differing))
    return [*found, *(Change(name, "added", {}) for name in after if name not in before)]
