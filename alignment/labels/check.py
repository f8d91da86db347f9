"""Read a constitution and report all problems of the file at once, each with its line.

YAML's own loader keeps line marks. At a syntax error, the principle with the error is dropped and the rest is parsed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError

from alignment.errors import ConfigError
from alignment.labels.constitution import CATEGORIES, LOCALE, NO_SIDE, Constitution, Example, Examples, Principle, applying
from alignment.records import Side
from alignment.text import cap

Place = tuple[str | int, ...]
Scorer = Callable[[Sequence[str], Sequence[str]], Sequence[Mapping[str, float]]]
"""Returns detector scores in 0..1 for each (prompt, answer)."""
_SHOWN, _MOST_SYNTAX = 60, 50


class Problem(NamedTuple):
    """A problem and its place: a 1-based line, and a path of keys and 0-based positions."""

    line: int
    place: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.place}: {self.message}" if self.place else f"line {self.line}: {self.message}"


class ParsedConstitution(NamedTuple):
    """A parsed constitution file: the constitution is None if there are problems. `syntax`: parts of it are not YAML."""

    constitution: Constitution | None
    problems: list[Problem]
    syntax: bool
    line_of: Callable[[Place], int]


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError):  # for example a date with month 13
            return node.value


def read_constitution(text: str) -> ParsedConstitution:
    """Return the constitution in `text`, or all its problems in line order."""
    node, data, problems, skipped = _parse(text)
    syntax = bool(problems)

    def line_of(place: Place) -> int:
        return _line(node, place)

    found: Constitution | None = None
    if node is not None or not syntax:
        problems += _repeated(node)
        try:
            found = Constitution.model_validate(data)
        except ValidationError as error:
            # `_across` also works on invalid fields; the models' own validators check the same rules, but run too late.
            problems += [_explain(dict(one), node) for one in error.errors() if not _told_better(dict(one))]
        problems += [Problem(line_of(place), ".".join(map(str, place)), message) for place, message in _across(data, whole=not syntax)]
        problems = [one for one in problems if one.line not in skipped or not one.place]
    problems = sorted(set(problems))
    return ParsedConstitution(None if problems else found, problems, syntax, line_of)


_kept: list[dict[str, Constitution]] = []


@contextmanager
def kept_constitutions() -> Iterator[None]:
    """Let `load_constitution` read each file only once in this process until the block ends, even if the file changes."""
    _kept.append(_kept[-1] if _kept else {})
    try:
        yield
    finally:
        _kept.pop()


def load_constitution(path: str = "") -> Constitution:
    """Read a constitution; an empty path is the bundled one. Within `kept_constitutions`, each path is read once.

    Raises:
        ConfigError: there are problems; the message lists all, each with its line.
    """
    kept = _kept[-1] if _kept else {}
    if path not in kept:
        kept[path] = _load(path)
    return kept[path]


def _load(path: str) -> Constitution:
    source, text = constitution_text(path)
    read = read_constitution(text)
    if read.constitution is None:
        listed = "\n".join(f"  - {problem}" for problem in read.problems)
        state = "not valid YAML" if read.syntax else "wrong"
        raise ConfigError(f"the constitution {str(source)!r} is {state}:\n{listed}\ncorrect it and run again")
    return read.constitution


def constitution_text(path: str = "") -> tuple[Path, str]:
    """Return the path and the text of a constitution; an empty path is the bundled one.

    Raises:
        ConfigError: the file cannot be read, or is not UTF-8.
    """
    source = Path(path) if path else Path(str(files("alignment.labels") / "constitution.yaml"))
    try:
        raw = source.read_bytes()
        return source, raw.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the constitution {str(source)!r}: {error.strerror}; correct [labels] constitution") from error
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"the constitution {str(source)!r} is not valid YAML: line {line}: a byte that is no UTF-8; save it as UTF-8"
        ) from error


def never_deciding(constitution: Constitution) -> Iterator[tuple[Place, str]]:
    """Yield principles that decide no exchange, with the reason: not in force, or outranked in each of their categories."""
    for number, one in enumerate(constitution.principles):
        if one not in constitution.in_force:
            why = f"is not in force: its locale is {one.locale!r} and the constitution's {constitution.locale!r}"
            yield ("principles", number, "locale"), f"[{one.id}] {why}"
        elif not constitution.decides(one):
            mains = {main.id: main.weight for category in one.categories for main in [constitution.main(Side.of(category), category)]}
            weights = f"{', '.join(f'{weight:g}' for weight in mains.values())} to its {one.weight:g}"
            why = f"{', '.join(mains)} stands before it in each of its categories (weight {weights}, then place)"
            left = "it is only used to revise answers" if one.side is Side.HARM else "nothing uses it"
            yield ("principles", number), f"[{one.id}] decides no preference: {why}; {left}"


def uncovered(constitution: Constitution) -> Iterator[tuple[Place, str]]:
    """Yield categories that no principle in force names, and the principle that decides them anyway."""
    for category in CATEGORIES:
        main = constitution.main(Side.of(category), category)
        if category not in main.categories:
            yield ("principles",), f"no principle in force covers {category}: {main.id} decides it, the first of side {main.side.value!r}"


def doubtful_examples(constitution: Constitution, score: Scorer) -> Iterator[tuple[Place, str]]:
    """Yield examples that a principle's own detectors rate differently than the principle does, with the reason.

    A complying example is doubtful if its utility is below 0; a violating one, if its utility reaches that of a complying one with the
    same prompt.
    """
    for number, principle in enumerate(constitution.principles):
        examples = principle.examples
        both = [*examples.complies, *examples.violates]
        scores = score([one.prompt for one in both], [one.response for one in both])
        worth = [principle.utility(dict(one)) for one in scores]
        good, bad = worth[: len(examples.complies)], worth[len(examples.complies) :]
        here: Place = ("principles", number, "examples")
        for position, utility in enumerate(good):
            if utility < 0:
                yield (*here, "complies", position), f"[{principle.id}] its detectors rate it as violating (utility {utility:+.2f} < 0)"
        for position, (example, utility) in enumerate(zip(examples.violates, bad, strict=True)):
            rivals = [worth for other, worth in zip(examples.complies, good, strict=True) if other.prompt == example.prompt]
            if rivals and utility >= max(rivals):
                yield (
                    (*here, "violates", position),
                    f"[{principle.id}] its detectors prefer it (utility {utility:+.2f}) to the answer that complies ({max(rivals):+.2f})",
                )


def _parse(text: str) -> tuple[yaml.Node | None, Any, list[Problem], set[int]]:
    """Return the nodes, the data, the syntax errors, and the lines of principles dropped because of them."""
    problems: list[Problem] = []
    skipped: set[int] = set()
    for _ in range(_MOST_SYNTAX):
        loader = None
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            return node, None if node is None else loader.construct_document(node), problems, skipped
        except yaml.reader.ReaderError as error:
            return (
                None,
                None,
                [*problems, Problem(text[: error.position].count("\n") + 1, "", f"a character YAML forbids: {error.reason}")],
                skipped,
            )
        except yaml.MarkedYAMLError as error:
            problem, inside = _syntax(error, _indent(text))
            problems.append(problem)
            text, lines = _without(text, inside)
            if not lines:
                return None, None, problems, skipped
            skipped |= lines
        except RecursionError:
            return None, None, [*problems, Problem(1, "", "it is nested too deeply to be read")], skipped
        finally:
            if loader is not None:
                loader.dispose()
    return None, None, problems, skipped


def _indent(text: str) -> int:
    return min((len(found[1]) for found in re.finditer(r"^( *)- ", text, re.M)), default=0)


def _syntax(error: yaml.MarkedYAMLError, indent: int) -> tuple[Problem, int]:
    """Return a syntax error and a line of the list item that contains it."""
    begun, met = error.context_mark, error.problem_mark or error.context_mark
    words = error.problem or error.context or "no YAML"
    line = met.line + 1 if met else 1
    if begun is None or error.context is None:
        return Problem(line, "", words), line
    told = Problem(line, "", f"{words} {error.context} that begins in line {begun.line + 1}")
    if error.context.startswith("while scanning"):  # an open quote is noticed at the end of the file
        told = told._replace(line=begun.line + 1, message=f"{words} (line {line}) {error.context}")
    # A context that contains the whole list starts at its indentation, or before it.
    return told, begun.line + 1 if begun.column > indent else line


def _without(text: str, line: int) -> tuple[str, set[int]]:
    """Blank the list item around `line`; return the text, with as many lines, and the item's lines (empty if there is no such item)."""
    lines = text.split("\n")
    indent = " " * _indent(text)
    items = [number for number, each in enumerate(lines, 1) if each.startswith(f"{indent}- ")]
    begin = max((number for number in items if number <= line), default=0)
    end = min((number for number in items if number > line), default=len(lines) + 1)
    if not begin or lines[begin - 1].strip() == "- {}":
        return text, set()
    lines[begin - 1 : end - 1] = [f"{indent}- {{}}", *[""] * (end - begin - 1)]
    return "\n".join(lines), set(range(begin, end))


def _line(node: yaml.Node | None, place: Place, *, key: bool = False) -> int:
    """Return the line of the value at `place`, or of its nearest enclosing node; with `key`, of its key."""
    line = node.start_mark.line + 1 if node is not None else 1
    for depth, part in enumerate(place):
        if isinstance(node, yaml.MappingNode):
            pair = next(((name, value) for name, value in node.value if name.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            pair = (node.value[part], node.value[part])
        else:
            pair = None
        if pair is None:
            break
        node = pair[1]
        line = pair[0 if key and depth == len(place) - 1 else 1].start_mark.line + 1
    return line


def _repeated(node: yaml.Node | None) -> Iterator[Problem]:
    """Yield keys that occur twice in a mapping; YAML would silently keep the last."""
    waiting, seen = [node], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:  # an alias
            continue
        seen.add(id(one))
        if isinstance(one, yaml.SequenceNode):
            waiting += one.value
        if isinstance(one, yaml.MappingNode):
            names: dict[str, int] = {}
            for name, value in one.value:
                waiting.append(value)
                if isinstance(name, yaml.ScalarNode):
                    line = name.start_mark.line + 1
                    if name.value in names:
                        yield Problem(line, name.value, f"the key repeats that of line {names[name.value]}")
                    names.setdefault(name.value, line)


def _told_better(error: dict[str, Any]) -> bool:
    """Say whether `_across`, or the errors of a list's items, report this error with its line."""
    return error["type"] == "value_error" or (error["type"] == "too_short" and bool(error["input"]))


def _explain(error: dict[str, Any], node: yaml.Node | None) -> Problem:
    place: Place = tuple(part for part in error["loc"] if part != "[key]")
    named = ".".join(map(str, place))
    if error["type"] == "missing":
        return Problem(_line(node, place), named, "is missing")
    if error["type"] == "extra_forbidden":
        return Problem(_line(node, place, key=True), named, f"unknown key; {_nearest(place)}")
    return Problem(
        _line(node, place, key=len(error["loc"]) != len(place)), named, f"{error['msg']} (found {cap(repr(error['input']), _SHOWN)})"
    )


def _nearest(place: Place) -> str:
    kinds: Mapping[int, type[BaseModel]] = {1: Constitution, 3: Principle, 4: Examples, 6: Example}
    known = list(kinds.get(len(place), Principle).model_fields)
    close = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"


def _across(data: Any, *, whole: bool) -> Iterator[tuple[Place, str]]:
    """Yield problems that no single field shows. Unless the file was parsed `whole`, do not report what a dropped principle may provide."""
    rows = data.get("principles") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        return
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            continue
        here: Place = ("principles", number)
        if (name := str(row.get("id"))) in seen and "id" in row:
            yield (*here, "id"), f"principle ids repeat: {name} is also that of principles.{seen[name]}"
        seen.setdefault(name, number)
        if row.get("side") == Side.HARM and not row.get("safe_completions"):
            yield here, "a harm principle needs at least one of safe_completions"
        for position, category in enumerate(found if isinstance(found := row.get("categories"), list) else []):
            if isinstance(category, str) and category not in CATEGORIES:
                yield (*here, "categories", position), f"unknown category {category!r}; {_known(category)}"
    locale = str(data.get("locale", "en"))
    # For an invalid locale, report only that.
    spoken = [
        row for row in rows if isinstance(row, dict) and (row.get("locale", "en") in applying(locale) or not LOCALE.fullmatch(locale))
    ]
    for side in Side:
        if whole and rows and not any(row.get("side") == side for row in spoken):
            yield ("principles",), NO_SIDE.format(side=side.value, locale=locale)


def _known(category: str) -> str:
    close = difflib.get_close_matches(category, CATEGORIES, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(CATEGORIES)}"
