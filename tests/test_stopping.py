"""What is told to stop ends in time and keeps its work, and nothing outlives the process that started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from alignment.models.identity import folder_id
from alignment.train.job import TrainJob, finished, write_job
from bench.tiny import make_tiny_model
from tests.conftest import child_environment
from tests.test_train import make_pairs, run, settings, steps


def child(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=child_environment(), **options)  # type: ignore[call-overload,no-any-return]


def alive(pid: int) -> bool:
    """Say whether a process runs; one that has ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(true: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


STUCK = """
    import ctypes, signal, sys, time
    from flows.stopping import ends_in_time
    signal.signal(signal.SIGTERM, lambda *_: None)
    with ends_in_time(lambda: print("told", flush=True), seconds=0.5):
        print("ready", flush=True)
        # A library that computes on: Python's handlers do not run meanwhile.
        ctypes.CDLL(None).sleep(100)
        ctypes.CDLL(None).sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_does_not_return_to_python_ends_in_time(number: signal.Signals) -> None:
    with child(STUCK) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
    # The second sleep is interrupted for SIGINT only by its handler's exception, which a library may swallow: here it ends the process.
    assert process.returncode in (128 + number, -number, 1)
    assert out == "told\n" or number == signal.SIGINT


def test_a_process_that_ends_by_itself_is_left_alone() -> None:
    code = """
        import signal, sys, time
        from flows.stopping import ends_in_time
        signal.signal(signal.SIGTERM, lambda *_: None)
        for _ in range(3):
            with ends_in_time(seconds=0.1):
                pass
        import os
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        sys.exit(7)
    """
    with child(code) as process:
        assert process.wait(timeout=30) == 7


SPAWNS = """
    import multiprocessing, sys, time

    def work():
        import signal
        from flows.stopping import ends_in_time
        signal.signal(signal.SIGTERM, lambda *_: None)
        with ends_in_time(seconds=0.2):
            print("ready", flush=True)
            time.sleep(100)

    if __name__ == "__main__":
        process = multiprocessing.get_context("spawn").Process(target=work)
        process.start()
        print(process.pid, flush=True)
        time.sleep(100)
"""


def test_a_run_ends_with_the_runner_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "spawns.py"
    script.write_text(textwrap.dedent(SPAWNS))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=child_environment()) as process:
        assert process.stdout
        told = [process.stdout.readline().strip() for _ in range(2)]
        pid = int(next(line for line in told if line != "ready"))
        process.kill()
        until(lambda: not alive(pid), 20)


def test_a_process_ends_with_the_one_that_started_it() -> None:
    code = """
        import os, subprocess, sys, time
        inner = "import time; from alignment.parent import end_with; end_with(%d); print('ready', flush=True); time.sleep(100)"
        process = subprocess.Popen([sys.executable, "-c", inner % os.getpid()], start_new_session=True)
        print(process.pid, flush=True)
        time.sleep(100)
    """
    with child(code) as starter:
        assert starter.stdout
        told = [starter.stdout.readline().strip() for _ in range(2)]
        pid = int(next(line for line in told if line != "ready"))
        assert alive(pid)
        starter.kill()
        until(lambda: not alive(pid), 20)


def test_what_libraries_print_is_no_row() -> None:
    code = """
        import os
        from alignment.train.events import keep_stdout, tell
        keep_stdout()
        print("{'loss': 1.0}", flush=True)
        os.write(1, b"from C\\n")
        tell(step=1)
    """
    with child(code, stderr=subprocess.PIPE) as process:
        assert process.communicate(timeout=30) == ('{"step": 1}\n', "{'loss': 1.0}\nfrom C\n")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


TRAINS = """
    import os, subprocess, sys, time
    command = [sys.executable, "-m", "alignment.train", sys.argv[1], "--parent", str(os.getpid())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    print(process.pid, flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("way", ["told to stop after its flow has gone", "its flow is killed"])
def test_training_that_is_stopped_saves_its_step_and_ends_as_if_it_was_not(tiny: Path, tmp_path: Path, way: str) -> None:
    """The interval of checkpoints is the default one; the flow's end of the pipe is closed, as it is when the flow is stopped."""
    whole, stopped = (
        write_job(
            tmp_path / name, tiny, folder_id(tiny), tmp_path / f"{name}.parquet", make_pairs(24), settings(epochs=14, checkpoint_steps=20)
        )
        for name in "ab"
    )
    with child(TRAINS, stopped.folder / "run.json") as flow:
        assert flow.stdout
        pid = int(flow.stdout.readline())
        until(lambda: max(steps(stopped.folder), default=0) >= 23, 300)
        flow.kill()
    if way != "its flow is killed":
        os.kill(pid, signal.SIGTERM)
    until(lambda: not alive(pid), 20)
    assert not finished(stopped.folder)
    saved = max(int(path.parent.name.split("-")[1]) for path in stopped.folder.glob("checkpoints/*/trainer_state.json"))
    assert saved >= 23
    assert saved == max(steps(stopped.folder))
    run(stopped)
    run(whole)
    one, other = (job.folder / "adapter" / "adapter_model.safetensors" for job in (whole, stopped))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.filterwarnings("default")
def test_a_run_that_is_stopped_after_its_last_step_measures_again(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at the end may take long on many held-out pairs: it is not waited for, and costs no step."""
    from alignment.errors import TrainingError
    from alignment.train.run import train
    from alignment.train.trainer import SharedPrefixDPOTrainer

    def trained(name: str) -> tuple[TrainJob, dict[str, object]]:
        job = write_job(tmp_path / name, tiny, folder_id(tiny), tmp_path / f"{name}.parquet", make_pairs(12), settings(epochs=1))
        return job, train(job)

    whole, one = trained("a")
    looks = SharedPrefixDPOTrainer.prediction_step

    def asked(*arguments: object, **options: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return looks(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(SharedPrefixDPOTrainer, "prediction_step", asked)
        with pytest.raises(TrainingError, match="stopped after its last step: it was asked to; run it again to resume"):
            trained("b")
    resumed, other = trained("b")
    files = [job.folder / "adapter" / "adapter_model.safetensors" for job in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert one["kl"] == other["kl"]
    assert json.loads((resumed.folder / "result.json").read_text())["steps"] == one["steps"]


SERVES = """
    import sys, time
    from flows.cli.base import start
    from flows import serve
    launch = serve._launch
    def told(*arguments):
        process, url = launch(*arguments)
        print(process.pid, flush=True)
        return process, url
    serve._launch = told
    start(runs_flows=True)
    print("ready", flush=True)
    time.sleep(1000)
"""


@pytest.mark.flow
@pytest.mark.parametrize("way", ["SIGTERM to the group", "SIGKILL", "SIGINT to the group"])
def test_the_server_of_a_command_outlives_the_signal_and_not_the_command(way: str) -> None:
    ways: dict[str, Callable[[int], None]] = {
        "SIGTERM": lambda pid: os.killpg(pid, signal.SIGTERM),
        "SIGINT": lambda pid: os.killpg(pid, signal.SIGINT),
        "SIGKILL": lambda pid: os.kill(pid, signal.SIGKILL),
    }
    with child(SERVES, start_new_session=True, stderr=subprocess.PIPE) as process:
        assert process.stdout
        server = int(process.stdout.readline())
        assert process.stdout.readline() == "ready\n"
        assert os.getpgid(server) != process.pid
        # A service manager tells it as well: it goes on answering until its starter has gone.
        os.kill(server, signal.SIGTERM)
        time.sleep(1)
        assert alive(server)
        ways[way.split()[0]](process.pid)
        process.wait(timeout=20)
        until(lambda: not alive(server), 20)
