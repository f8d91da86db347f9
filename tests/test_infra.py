"""The units and the image give the service nothing that it does not need."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.fast

UNITS = ("align.service", "align-dashboard.service", "align-gateway.service")
NEEDED = {
    "UMask": "0077",
    "StateDirectoryMode": "0700",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "CapabilityBoundingSet": "",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "ReadWritePaths": "/var/lib/align",
}


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_locked_down(unit: str) -> None:
    lines = (ROOT / "infra" / unit).read_text().splitlines()
    said = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert {name: said.get(name) for name in NEEDED} == NEEDED


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_thinks_so_too(unit: str, tmp_path: Path) -> None:
    text = (ROOT / "infra" / unit).read_text()
    for place in ("ExecStart=/opt/continuous-alignment/.venv/bin/align", "WorkingDirectory=/opt/continuous-alignment"):
        text = text.replace(place, {"E": "ExecStart=/bin/true", "W": "WorkingDirectory=/"}[place[0]])
    (tmp_path / unit).write_text(text)
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=25", str(tmp_path / unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "nrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot look at a file")
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


def test_the_image_runs_as_nobody_special_and_holds_no_secret() -> None:
    steps = [line.split(maxsplit=1) for line in (ROOT / "infra" / "Dockerfile").read_text().splitlines() if line and line[0].isupper()]
    kinds = [kind for kind, *_ in steps]
    user = kinds.index("USER")
    assert steps[user][1] not in ("root", "0")
    assert not {"RUN", "COPY", "ADD"} & set(kinds[user:])
    assert "ADD" not in kinds
    copied = [rest for kind, rest in steps if kind == "COPY"]
    assert not any(rest.startswith(". ") for rest in copied)
    assert not [rest for kind, rest in steps if kind in ("ENV", "ARG") and any(word in rest.upper() for word in ("SECRET", "KEY", "TOKEN"))]


def test_the_containers_gain_nothing() -> None:
    services = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())["services"]
    for service in services.values():
        assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
        # Secrets are passed on from the environment, never written down.
        assert not any("=" in one for one in service["environment"])
