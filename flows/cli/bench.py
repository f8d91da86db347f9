"""`align bench`: measure the project's claims on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.cli.base import Json, app, command, print_json, print_rows, start

benches = typer.Typer(no_args_is_help=True, help="Measure the project's claims on this machine.")
app.add_typer(benches, name="bench")
ROLLBACK_SECONDS = 5.0


@command(benches, "ingest")
def bench_ingest(
    rows: Annotated[int, typer.Option(min=1000, help="log lines to write and read")] = 1_000_000,
    repeat: Annotated[int, typer.Option(min=1, help="rounds; medians are shown")] = 3,
    objects: Annotated[int, typer.Option(min=0, help="instead read this many one-line objects from an S3 server on loopback")] = 0,
    as_json: Json = False,
) -> None:
    """Compare ingestion with DuckDB's bare reader and a loop over lines. Needs about 2 GB of disk per million rows and round."""
    if objects:
        from bench.objects import run as read_objects

        print_rows(read_objects(objects, repeat), as_json=as_json)
        return
    from bench.ingest import run

    print_rows(run(rows, repeat), as_json=as_json)


@command(benches, "gateway")
def bench_gateway(
    seconds: Annotated[float, typer.Option(min=1, help="seconds of load per variant, per number of clients, whole and streamed")] = 10,
    clients: Annotated[list[int] | None, typer.Option(min=1, max=2000, help="clients at the same time; 1 and 100 if not given")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="rounds in which the variants take turns")] = 2,
    as_json: Json = False,
) -> None:
    """Measure what the gateway adds to a bare upstream on loopback: latency, requests a second, first token, memory."""
    from bench.gateway import run

    start()
    print_rows(run(seconds, tuple(clients or (1, 100)), rounds), as_json=as_json)


@command(benches, "layers")
def bench_layers(
    suites: Annotated[list[str], typer.Option("--suite", help="name of a bundled suite, or a suite file; may be repeated")],
    releases: Annotated[
        list[str] | None, typer.Option("--release", help="'base', 'champion' or an id; base and champion if not given")
    ] = None,
    max_prompts: Annotated[int, typer.Option("--max-prompts", min=0, help="size of a fixed sample of each suite; 0 is all")] = 0,
    as_json: Json = False,
) -> None:
    """Ask the same prompts with and without the gateway: how many failing answers it stops, and how many right ones it spoils."""
    settings = start()
    from bench.layers import run

    rows = run(settings, suites, releases or ["base", "champion"], max_prompts)
    print_rows([row._asdict() for row in rows], as_json=as_json)


@command(benches, "disguises")
def bench_disguises(
    suite: Annotated[str, typer.Option("--suite", help="name of a bundled suite of harmful requests, or a suite file")] = "harm_neutral",
    max_prompts: Annotated[int, typer.Option("--max-prompts", min=0, help="size of a fixed sample of the suite; 0 is all")] = 0,
    as_json: Json = False,
) -> None:
    """Count how many disguised harmful requests the gateway's detector finds, with and without undoing the disguise."""
    start()
    from bench.disguises import run

    print_rows([row._asdict() for row in run(suite, max_prompts)], as_json=as_json)


@command(benches, "kill")
def bench_kill(
    runs: Annotated[int, typer.Option(min=1, help="runs to kill")] = 50,
    as_json: Json = False,
) -> None:
    """Kill ingestion at random moments and count what was lost or stored twice. Exit status 1 if anything was."""
    from bench.kill import run

    start()
    with tempfile.TemporaryDirectory() as folder:
        kills = run(Path(folder) / "kills", runs)
    print_rows([kills._asdict()], as_json=as_json)
    if kills.lost or kills.twice or kills.unaccounted:
        raise typer.Exit(1)


@command(benches, "stop")
def bench_stop(
    runs: Annotated[int, typer.Option(min=1, help="nights to stop in each of the four ways")] = 10,
    seed: Annotated[int, typer.Option(help="random seed of the moments")] = 0,
    as_json: Json = False,
) -> None:
    """Stop nights of a tiny model at random moments by SIGTERM, SIGKILL, Ctrl-C or a group signal. Exit status 1 if anything is lost."""
    from bench.stop import MOST_SECONDS, prepare, run
    from bench.tiny import make_tiny_model

    with tempfile.TemporaryDirectory() as folder:
        found = run(prepare(Path(folder) / "nights", make_tiny_model), runs, seed=seed)
    rows: list[dict[str, Any]] = [row._asdict() for row in found.stops]
    if as_json:
        print_json({**found._asdict(), "stops": rows})
    else:
        print_rows(rows, as_json=False)
        print(f"{found.nights} nights of {found.steps} steps ended, {found.differing} of them otherwise than the undisturbed one")
    held = all(row.left_running == 0 and row.lost_steps <= 1 and row.longest_s <= MOST_SECONDS for row in found.stops)
    if found.differing or not held:
        raise typer.Exit(1)


@command(benches, "concurrency")
def bench_concurrency(
    seconds: Annotated[float, typer.Option(min=1, help="how long each of the two runs lasts")] = 60,
    rows: Annotated[int, typer.Option(min=1000, help="log lines to read during the second run")] = 1_000_000,
    as_json: Json = False,
) -> None:
    """Measure how long a writer, four readers and a reviewer wait, alone and while a large log is read."""
    from bench.concurrency import run

    print_rows(run(seconds, rows), as_json=as_json)


@command(benches, "reviewers")
def bench_reviewers(
    seconds: Annotated[float, typer.Option(min=5, help="how long both reviewers work")] = 60,
    items: Annotated[int, typer.Option(min=10, help="items in their queue")] = 400,
    as_json: Json = False,
) -> None:
    """Let two reviewers work on one queue in real browsers, and count verdicts. Exit status 1 if a verdict is lost or overwritten."""
    from bench.reviewers import run

    start()
    *rows, counted = run(seconds, items)
    print_rows([*rows, counted] if as_json else rows, as_json=as_json)
    if not as_json:
        print_rows([{"what": name, "found": value} for name, value in counted.items()], as_json=False)
    if not counted["taken"] or any(counted[name] for name in ("lost", "double", "overwritten", "another button", "nobody's")):
        raise typer.Exit(1)


@command(benches, "label")
def bench_label(
    pairs: Annotated[int, typer.Option(min=8, help="pairs to label")] = 256,
    concurrency: Annotated[int, typer.Option(min=2, max=256, help="concurrent calls")] = 32,
    embedded: Annotated[bool, typer.Option("--embedded", help="also measure the embedded model as a judge")] = False,
    as_json: Json = False,
) -> None:
    """Measure pairs per second, and calls and tokens per accepted pair, by source. Calls to a configured teacher cost money."""
    settings = start()
    from bench.label import run

    print_rows(run(pairs, concurrency, settings.teacher, embedded=settings.home if embedded else None), as_json=as_json)


@command(benches, "poison")
def bench_poison(
    clean: Annotated[int, typer.Option(min=100, help="clean exchanges of the sample traffic")] = 800,
    as_json: Json = False,
) -> None:
    """Plant trigger pairs and label flips, from one user and from many, and show what is kept out and at what cost."""
    start()
    from bench.poison import run

    print_rows(run(clean), as_json=as_json)


@command(benches, "conversations")
def bench_conversations(
    half: Annotated[Literal["held_out", "development", "all"], typer.Option(help="which half of the written conversations")] = "held_out",
    as_json: Json = False,
) -> None:
    """Show what each detector finds in written multi-turn conversations, by kind, with 95% intervals."""
    settings = start()
    from bench.conversations import run
    from flows.night import embedder
    from flows.second_look import asks_for_harm

    rows = run("" if half == "all" else half, embedder=embedder(), harm=asks_for_harm(settings))
    print_rows(rows, as_json=as_json)


@command(benches, "train")
def bench_train(
    data: Annotated[
        Literal["hh", "short"], typer.Option(help="HH dialogues in ALIGN_DATA_DIR, or bundled single-turn exchanges")
    ] = "short",
    precision: Annotated[Literal["bfloat16", "float32"], typer.Option(help="precision of the base")] = "bfloat16",
    pairs: Annotated[int, typer.Option(min=8, help="pairs per way and round, after a warm-up step")] = 32,
    repeat: Annotated[int, typer.Option(min=1, help="rounds; medians are shown")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="8 pairs, one round")] = False,
    as_json: Json = False,
) -> None:
    """Compare training with stock TRL: same data, seeds, base and optimiser, in alternating separate processes."""
    from bench.train import run
    from flows.policy import base_path

    base = base_path(start())
    rows = run(base, data=data, precision=precision, pairs=8 if quick else pairs, repeat=1 if quick else repeat)
    print_rows(rows, as_json=as_json)


@command(benches, "gate")
def bench_gate(
    decisions: Annotated[int, typer.Option(min=100, help="resampled decisions per case")] = 2000,
    as_json: Json = False,
) -> None:
    """Resample real paired outcomes and count the gate's wrong decisions. Exit status 1 if a claim does not hold."""
    from bench import creep
    from bench.gate import run

    found = run(decisions) | {"creep": creep.run(decisions // 4)}
    if as_json:
        print_json(found)
    for title, rows in found.items() if not as_json else ():
        print(title.capitalize())
        print_rows(rows, as_json=False)
    if not all(row["held"] for rows in found.values() for row in rows):
        raise typer.Exit(1)


@command(benches, "release")
def bench_release(
    kills: Annotated[int, typer.Option(min=2, help="processes to kill")] = 200,
    megabytes: Annotated[float, typer.Option(min=0.1, help="size of the adapters in the rollback measurement")] = 20,
    as_json: Json = False,
) -> None:
    """Kill promotions, rollbacks and canaries at random instants; measure a rollback. Exit status 1 if anything is wrong afterwards."""
    from bench.release import kill, make_registry, measure_rollback

    start()
    with tempfile.TemporaryDirectory() as folder:
        make_registry(Path(folder) / "kills", size=2000)
        found = kill(Path(folder) / "kills", kills)
        took = measure_rollback(Path(folder) / "rollback", 9, size=int(megabytes * 1e6))
    rows: list[dict[str, Any]] = [found._asdict(), took._asdict()]
    if as_json:
        print_json({"kills": rows[0], "rollback": rows[1]})
    else:
        print_rows([{"what": name, "found": value} for row in rows for name, value in row.items()], as_json=False)
    wrong = found.pointer_wrong + found.release_wrong + found.history_wrong + found.serving_wrong
    if wrong or not took.identical or took.command_s > ROLLBACK_SECONDS:
        raise typer.Exit(1)


@command(benches, "canary")
def bench_canary(
    streams: Annotated[int, typer.Option(min=10, help="streams per truth")] = 200,
    exchanges: Annotated[int, typer.Option(min=1000, help="exchanges per stream")] = 40_000,
    as_json: Json = False,
) -> None:
    """Replay streams through the canary's monitor and a z-test repeated as often. Exit status 1 if the monitor errs too often."""
    from bench.canary import ALPHA, run

    rows = run(streams, exchanges)
    print_rows(rows, as_json=as_json)
    if any(row["wrong"] > ALPHA for row in rows):
        raise typer.Exit(1)


@command(benches, "drift")
def bench_drift(
    replays: Annotated[int, typer.Option(min=3, help="streams of 90 days per row; half for the largest")] = 10,
    as_json: Json = False,
) -> None:
    """Replay streams of real exchanges through the drift e-detectors, without and with a change. Exit status 1 at too many false alarms."""
    from bench.drift import run

    rows = run(replays)
    print_rows(rows, as_json=as_json)
    if not all(row.get("held", True) for row in rows):
        raise typer.Exit(1)
