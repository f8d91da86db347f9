"""Check that nothing is ever served without a right: random sequences of all events of a release, with an independent oracle.

A sequence draws from gate decisions (with and without approval), approvals, refusals, overrides, promotions by gate, canary and hand,
canaries with changing shares, rollbacks, quarantines and edited files, under a clock that jumps back and forth. Every fourth act runs in
a child that kills itself at a random change of the disk. After each act, whether finished, refused or killed, the releases named in the
raw files `current` and `serving.json` must have a right. The oracle replays the store's raw rows in the sequence's own order, taken from
the step numbers in their ids and reasons; it uses neither `seq` nor `alignment.release.rights`.

Run: python -m bench.serving 200

Effects: forks processes and kills them; writes below a temporary folder.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from alignment.config import Settings
from alignment.errors import AlignError
from alignment.records import GateDecision
from alignment.release import (
    BASE,
    current,
    current_canary,
    end_canary,
    promote,
    quarantine,
    rollback,
    settle,
    start_canary,
)
from alignment.release.approval import WAITS, canary_by_hand, promote_by_hand, say
from alignment.store import migrate, query
from bench.release import NAMES, _die_at, make_registry

_START = datetime(2026, 1, 1)  # noqa: DTZ001 - the registry's times are UTC without a zone
_STEPS, _MOST_CALLS = 12, 45


class Served(NamedTuple):
    """The findings; `wrong` must be empty, and lists sequence, step, act and what was served."""

    sequences: int
    acts: Counter[str]
    refused: int
    killed: int
    released: int
    wrong: list[str]


def template(folder: Path) -> Path:
    """Return a state folder with three undecided releases."""
    home = folder / "template"
    home.mkdir()
    migrate(home)
    make_registry(home, size=300, overridden=False)
    return home


def oracle(home: Path, names: set[str], damaged: set[str]) -> dict[str, bool]:
    """Return which releases have a right, by replaying the store's rows and the marks in the order of their steps."""
    told = query(
        home,
        "SELECT 0 AS kind, id AS told, challenger AS name, id AS decision_id, decision AS said, approval FROM gate_decisions "
        "UNION ALL SELECT 1, reason, release_id, decision_id, verdict, NULL FROM gate_verdicts",
    )
    rows = [(_step(row["told"]), row["kind"], row) for row in told]
    right, asked = dict.fromkeys(names, False), dict.fromkeys(names)
    right[BASE] = True
    for _, kind, row in sorted(rows, key=lambda one: one[:2]):
        name = row["name"]
        if kind == 0:
            asked[name], right[name] = row["decision_id"], row["said"] == "promote" and not row["approval"]
        elif row["decision_id"] == asked[name]:
            right[name] = row["said"] != "refused"
    barred = {name for name in names if os.path.lexists(home / "releases" / name / "QUARANTINED")}
    return {name: one and name not in barred | damaged for name, one in right.items()}


def _step(text: str) -> int:
    return int(text.split("step ")[1].split()[0])


def named(home: Path) -> set[str]:
    """Return the releases named in the raw pointer and `serving.json`."""
    found = set()
    with suppress(FileNotFoundError):
        found.add((home / "releases" / "current").read_text().strip())
    with suppress(FileNotFoundError):
        says = json.loads((home / "releases" / "serving.json").read_text())
        found |= {says["champion"], says["canary"]} - {None}
    return found


class Sequence:
    """One random sequence in its own state folder."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.draw, self.step, self.damaged = home, random.Random(seed), 0, set[str]()
        self.moment, self.last, self.waits = _START, NAMES[0], False

    def act(self) -> tuple[str, Callable[[], Any]]:
        """Return the next act and its name; moves the clock, often back."""
        self.step += 1
        self.moment += timedelta(hours=self.draw.uniform(-30, 24))
        choices = {
            "decide": 7, "gate promotes": 8, "promote by hand": 5, "override": 2, "approve": 1, "refuse": 1, "canary": 5,
            "canary override": 1, "canary ends": 1, "canary promotes": 3, "rollback": 3, "quarantine": 1, "settle": 1, "edit": 0.5,
        }  # fmt: skip
        held, here = current_canary(self.home), current(self.home)
        choices |= {"approve": 8} if self.waits else {}
        choices |= {} if held else {"canary promotes": 0, "canary ends": 0}
        name = "decide" if self.step == 1 else self.draw.choices(list(choices), list(choices.values()))[0]
        # Mostly the last decided release, so that much is served whose right can be lost.
        release = self.last if self.draw.random() < 0.5 else self.draw.choice(NAMES)
        share = self.draw.choice([0.1, 0.3])
        home, now, why = self.home, self.moment, f"step {self.step} "
        by: dict[str, Any] = {"actor": "ann", "reason": why, "now": now}
        required = self.draw.random() < 0.3
        acts: dict[str, Callable[[], Any]] = {
            "decide": lambda: self._decide(release, required),
            "gate promotes": lambda: promote(home, release, **{**by, "actor": "gate"}, replacing=here, approval=required),
            "promote by hand": lambda: promote_by_hand(home, release, approval=required, **{**by, "actor": ""}),
            "override": lambda: promote_by_hand(home, release, approval=required, **by),
            "approve": lambda: say(home, None, "approved", **by),
            "refuse": lambda: say(home, None, "refused", **by),
            "canary": lambda: start_canary(home, release, share=share, approval=required, **by),
            "canary override": lambda: canary_by_hand(home, release, share=share, approval=required, **by),
            "canary ends": lambda: end_canary(home, **by),
            "canary promotes": lambda: promote(home, held.release_id if held else release, **by, replacing=here, held=held),
            "rollback": lambda: rollback(home, **by),
            "quarantine": lambda: quarantine(home, release, **by),
            "settle": lambda: settle(home, now=now),
            "edit": lambda: self._edit(release),
        }
        return name, acts[name]

    def _decide(self, release: str, required: bool) -> None:
        from flows import decision as deciding
        from flows import gate

        self.last, self.waits = release, required
        word: Any = self.draw.choice(["promote", "promote", "promote", "block", "insufficient evidence"])
        settings = Settings.model_validate({"home": self.home, "gate": {"approval": "required" if required else "none"}})
        name = f"step {self.step} "
        deciding.now = gate.now = lambda: self.moment  # type: ignore[assignment]
        decision = GateDecision(name, current(self.home), release, word, ("because",), ())
        deciding.save_decision(settings, f"night {self.draw.randrange(3)}", decision, [], model_id=None)
        if required and word == "promote":
            [row] = query(self.home, "SELECT night_id FROM gate_decisions WHERE id = ?", [name])
            gate.record_events(settings, [(release, WAITS, "gate", "", row["night_id"])], key=name)

    def _edit(self, release: str) -> None:
        """Change the weights, but not the manifest, of a release that is not served."""
        if release in named(self.home):
            raise AlignError("it is served")
        with (self.home / "releases" / release / "adapter" / "adapter_model.safetensors").open("ab") as out:
            out.write(b"x")
        self.damaged.add(release)

    def killed(self, act: Callable[[], Any]) -> None:
        """Run an act in a child that is killed at a random change of the disk, or ends before it."""
        child, call, before = os.fork(), self.draw.randrange(1, _MOST_CALLS), self.draw.random() < 0.5
        if not child:
            try:
                _die_at(call, before=before)
                act()
            finally:
                os._exit(0)
        os.waitpid(child, 0)


def run(sequences: int, *, seed: int = 0, steps: int = _STEPS, kills: float = 0.25, told: bool = False) -> Served:
    """Run random sequences and check what is served after each act."""
    found = Served(sequences, Counter(), 0, 0, 0, [])
    refused = killed = released = 0
    with tempfile.TemporaryDirectory(prefix="serving-") as folder:
        clean = template(Path(folder))
        for number in range(sequences):
            home = Path(folder) / f"home-{number}"
            shutil.copytree(clean, home)
            one = Sequence(home, seed * 100_000 + number)
            for _ in range(steps):
                name, act = one.act()
                done, before = "done", current(home)
                if name != "edit" and one.draw.random() < kills:
                    one.killed(act)
                    done, killed = "killed", killed + 1
                else:
                    try:
                        act()
                    except AlignError:
                        done, refused = "refused", refused + 1
                found.acts[f"{name}, {done}"] += 1
                released += current(home) not in (before, BASE)
                right = oracle(home, set(NAMES), one.damaged)
                if bad := [served for served in named(home) if not right[served]]:
                    found.wrong.append(f"sequence {number}, step {one.step}: after {name!r}, {done}, {', '.join(bad)} was served")
            shutil.rmtree(home)
            if told:
                print(f"\r{number + 1} of {sequences} sequences, {len(found.wrong)} wrong", end="", file=sys.stderr, flush=True)
    return found._replace(refused=refused, killed=killed, released=released)


def main() -> None:
    """Print the findings; exit with status 1 if anything was served without a right."""
    found = run(int(sys.argv[1]) if len(sys.argv) > 1 else 200, seed=int(sys.argv[2]) if len(sys.argv) > 2 else 0, told=True)
    for name, number in sorted(found.acts.items()):
        print(f"{number:6} {name}")
    print(
        f"{found.sequences} sequences, {found.acts.total()} acts: {found.released} releases, {found.refused} refused, {found.killed} killed"
    )
    print("\n".join(found.wrong) or "nothing was served without a right")
    sys.exit(bool(found.wrong))


if __name__ == "__main__":
    main()
