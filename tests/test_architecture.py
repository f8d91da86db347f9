"""The shape of the code: who may import whom, what a plain import costs, and examples that are true."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT, child_environment

HEAVY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "prefect",
    "streamlit",
    "great_expectations",
    "sentence_transformers",
    "presidio_analyzer",
    "spacy",
)
PACKAGES = ("alignment", "data_checks", "flows", "dashboard")


def modules(*packages: str) -> list[str]:
    found = []
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=child_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_import_contracts_hold() -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(config_filename='pyproject.toml', no_cache=True))"
    output = run("-c", code)
    assert " 0 broken" in output
    assert " 0 kept" not in output


def test_the_import_contracts_cover_every_package() -> None:
    """Those of `alignment` have to be placed by `exhaustive`; what else is installed has to be named."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    installed = {name.removesuffix("*") for name in project["setuptools"]["packages"]["find"]["include"]}
    assert installed == set(project["importlinter"]["root_packages"])
    assert any(one.get("exhaustive") and one["containers"] == ["alignment"] for one in project["importlinter"]["contracts"])


@pytest.mark.parametrize(
    "start",
    [
        "alignment",
        "alignment.config",
        "alignment.store",
        "alignment.ingest",
        "alignment.evals",
        "alignment.pairs",
        "alignment.release",
        "flows.cli",
    ],
)
def test_a_plain_import_loads_no_model_library(start: str) -> None:
    heavy = HEAVY if start.startswith("alignment") else ("torch", "transformers", "trl", "streamlit", "great_expectations")
    loaded = run("-c", f"import sys, {start}; print(*sorted(sys.modules))").split()
    assert not set(loaded) & set(heavy)


def test_every_module_imports() -> None:
    """In one process of its own: an import that breaks or warns is an error, and Streamlit pages are scripts."""
    names = [
        name for name in modules(*PACKAGES) if not name.startswith(("dashboard.views", "dashboard.app")) and not name.endswith("__main__")
    ]
    assert len(names) > 50
    lines = "\n".join(f"importlib.import_module({name!r})" for name in names)
    run("-W", "error::SyntaxWarning", "-c", f"import importlib\n{lines}")


def light() -> list[str]:
    """Modules with examples."""
    return [name for name in modules("alignment", "data_checks", "dashboard") if ">>> " in source_of(name)]


def source_of(name: str) -> str:
    path = ROOT.joinpath(*name.split("."))
    return (path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", light())
def test_examples_are_true(name: str) -> None:
    importlib.import_module(name)
    result = doctest.testmod(sys.modules[name], optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


def test_there_are_examples() -> None:
    assert {"alignment.ids", "alignment.text", "alignment.evals.statistics", "alignment.ingest.redact"} <= set(light())


def test_every_package_says_what_it_is() -> None:
    for name in modules(*PACKAGES):
        text = source_of(name)
        assert text.startswith(('"""', 'r"""')), name


def statements() -> list[Path]:
    found = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("sql/*.sql"))
    assert len(found) > 100
    return found


def python_of(folder: Path) -> str:
    """The modules of a package and of the folders in it that have no statements of their own."""
    others = {path.parent.parent for path in statements()} - {folder}
    modules = [path for path in sorted(folder.rglob("*.py")) if not others & set(path.parents)]
    return "\n".join(path.read_text(encoding="utf-8") for path in modules)


def test_every_query_has_a_header() -> None:
    for path in statements():
        head = path.read_text(encoding="utf-8")[:800]
        for word in ("-- Purpose:", "-- Parameters:", "-- Grain:"):
            assert word in head, path


def test_every_query_lies_beside_those_who_use_it() -> None:
    """In the package that runs it; in the store what the store runs, or several packages."""
    store = ROOT / "alignment" / "store"
    modules = {folder: python_of(folder) for folder in {path.parent.parent for path in statements()}}
    for path in statements():
        owner = path.parent.parent
        if owner == store:
            users = {folder for folder, text in modules.items() if f'"{path.stem}"' in text}
            assert store in users or len(users) > 1, path
        else:
            assert f'"{path.stem}"' in modules[owner], path


def test_a_package_runs_its_own_queries_and_those_of_the_store() -> None:
    paths = set(statements())
    for folder in {path.parent.parent for path in paths}:
        own = ".".join(folder.relative_to(ROOT).parts)
        named = set(re.findall(r'\bsql\(\s*"([a-z_.]+)", "([a-z_]+)"', python_of(folder)))
        assert {package for package, _ in named} <= {own, "alignment.store"}
        for package, name in named:
            assert ROOT.joinpath(*package.split("."), "sql", f"{name}.sql") in paths, (package, name)


def test_long_queries_are_files() -> None:
    begins = re.compile(r"\s*(?:SELECT|WITH|INSERT|UPDATE|DELETE|CREATE|FROM)\s.*\b(?:FROM|INTO|TABLE|SET)\b", re.S)
    for name in modules(*PACKAGES):
        for node in ast.walk(ast.parse(source_of(name))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = "".join(part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "{}" for part in parts)
            if begins.match(text):
                assert (node.end_lineno or 0) - node.lineno < 3, f"{name}:{node.lineno}"


def test_errors_are_drawn_as_they_are() -> None:
    import alignment.errors as errors

    drawn = errors.__doc__ or ""
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.AlignError):
            assert name in drawn
            if kind is not errors.AlignError:
                [line] = [line for line in drawn.splitlines() if f" {name} " in line]
                assert ("Transient" if issubclass(kind, errors.Transient) else "Permanent") in line


def test_packages_are_packages() -> None:
    """setuptools installs a folder of modules only with its __init__.py."""
    for package in PACKAGES:
        folders = {path.parent for path in (ROOT / package).rglob("*.py")}
        assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []
