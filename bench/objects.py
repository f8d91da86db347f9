"""Measure ingestion of many small objects from an S3 server on loopback (moto's, in a separate process), batched and one by one.

`align bench ingest --objects N` writes N objects of one line. Three are bad: one is broken, one of a hundred kilobytes unpacks to 100 MiB,
and one is compressed data cut in the middle. Each may cost only itself.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.ingest import lines

BUCKET, WAYS = "logs", ("alone", "together")
_ALONE_AT_MOST = 300


@contextmanager
def served() -> Iterator[dict[str, str]]:
    """Run an S3 server; yield the environment variables of its clients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": url}
    finally:
        server.terminate()
        server.wait()


def fill(number: int) -> None:
    """Put `number` objects of one line into the bucket, three of them bad."""
    import s3fs

    store = s3fs.S3FileSystem()
    store.mkdir(BUCKET)
    whole = [f"{line}\n".encode() for line, _ in zip(lines(2 * number), range(number - 3), strict=False)]
    objects = {f"{BUCKET}/{place:06d}.jsonl": line for place, line in enumerate(whole)}
    objects[f"{BUCKET}/broken.jsonl"] = b"no line of a log\n"
    objects[f"{BUCKET}/bomb.jsonl.gz"] = gzip.compress(bytes(100 << 20))
    objects[f"{BUCKET}/cut.jsonl.gz"] = gzip.compress(whole[0] * 50)[:-20]
    store.pipe(objects)


def read(way: str, most: int) -> dict[str, Any]:
    """Read the first `most` objects, batched or one by one."""
    from alignment.config import load_settings
    from alignment.errors import InputError
    from alignment.ingest import make_source, unread
    from alignment.store import migrate
    from flows.read_files import read_file, read_small_files

    home = load_settings().home
    migrate(home)
    started, computed = time.perf_counter(), time.process_time()
    source = make_source("logs", [f"s3://{BUCKET}/*"], "gateway", {})
    wanted = unread(home, "logs", source.find())[:most]
    stored = apart = 0
    if way == "together":
        found = read_small_files.fn(source, wanted)
        stored, apart, wanted = found.total.batch.stored, len(found.unusable), found.alone
    for one in wanted:
        try:
            stored += read_file.fn(source, one).batch.stored
        except InputError:
            apart += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - computed}
    return {**seconds, "stored": stored, "set_aside": apart, "peak_gib": peak}


def run(number: int, repeat: int = 1) -> list[dict[str, Any]]:
    """Return one row per way and number of objects: seconds, objects per second, and what was stored; one by one reads at most 300."""
    few = min(number, _ALONE_AT_MOST)
    found = []
    with served() as environment, tempfile.TemporaryDirectory() as scratch:
        os.environ.update(environment)
        fill(number)
        wanted = [(way, few) for _ in range(repeat) for way in WAYS] + [("together", number)] * (number > few)
        for place, (way, most) in enumerate(wanted):
            home = Path(scratch) / str(place)
            home.mkdir()
            done = subprocess.run(
                [sys.executable, "-m", "bench.objects", way, str(most)],
                check=True,
                capture_output=True,
                text=True,
                env={**os.environ, "ALIGN_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            row = json.loads(done.stdout.splitlines()[-1])
            found.append({"way": way, "objects": most, "objects_per_second": round(most / row["seconds"], 1), **row})
    return found


if __name__ == "__main__":
    from flows.environment import prepare

    prepare(Path(os.environ["ALIGN_HOME"]))
    import data_checks.run

    data_checks.run._context()
    print(json.dumps(read(sys.argv[1], int(sys.argv[2]))))
