"""The command line of the measurements."""

import asyncio
import json
import sys
from collections.abc import Coroutine
from typing import Annotated, Any, Literal

import cyclopts
import uvloop
from cyclopts import Parameter
from rich.console import Console

from .contention import contention
from .gate import gate
from .growth import growth
from .hot_spots import hot_spots
from .instructions import instructions
from .latency import latency
from .limit import limit
from .memory import memory
from .parked import parked
from .peers.report import peers
from .plant import SLOTS, Durability, Visibility
from .recovery import recovery
from .report import QUICK, report
from .throughput import throughput

WIDTH = 150
"""Columns of the tables, wherever they are printed."""

Part = Literal[
    "throughput", "profile", "latency", "memory", "memory-10m", "parked", "parked-10m", "growth", "contention", "peers"
]

Durable = Annotated[Durability, Parameter(help="What the broker's confirmation promises.")]
Visible = Annotated[Visibility, Parameter(help="Whether everything waits for the broker's log, or only what decides.")]
Seconds = Annotated[float, Parameter(help="About how many seconds each row takes.")]
Rounds = Annotated[int, Parameter(help="How often the sides that are compared take turns.")]
Json = Annotated[bool, Parameter(help="Print the figures as one JSON object on the last line.")]

app = cyclopts.App(name="python -m bench", help="Measure sagacore on real processes.")


@app.command(name="throughput")
def run_throughput(
    *,
    durability: Durable = "sync",
    visibility: Visible = "relaxed",
    row_s: Seconds = 2.0,
    rounds: Rounds = 3,
    json: Json = False,
) -> None:
    """Sagas a second, completed and compensated, at several numbers in flight, beside the bare pipeline."""
    _run(
        throughput(Console(width=WIDTH), durability=durability, visibility=visibility, row_s=row_s, rounds=rounds),
        as_json=json,
    )


@app.command(name="bare")
def run_bare(*, row_s: Seconds = 2.0, json: Json = False) -> None:
    """The limit: the same processes, hops, frames and syncs without any saga."""
    _run(limit(Console(width=WIDTH), row_s=row_s), as_json=json)


@app.command(name="profile")
def run_profile(
    *, durability: Durable = "sync", visibility: Visible = "relaxed", row_s: Seconds = 4.0, json: Json = False
) -> None:
    """Where the CPU of a saga goes at full load, by what runs in each process; it needs Linux' perf."""
    try:
        _run(hot_spots(Console(width=WIDTH), durability=durability, visibility=visibility, row_s=row_s), as_json=json)
    except RuntimeError as error:
        sys.exit(str(error))


@app.command(name="latency")
def run_latency(
    *, durability: Durable = "sync", visibility: Visible = "relaxed", row_s: Seconds = 4.0, json: Json = False
) -> None:
    """From start to outcome, one saga at a time and at half load, beside the bare pipeline."""
    _run(latency(Console(width=WIDTH), durability=durability, visibility=visibility, row_s=row_s), as_json=json)


@app.command(name="memory")
def run_memory(
    *, durability: Durable = "sync", in_flight: int = 1_000_000, slots: int = SLOTS, json: Json = False
) -> None:
    """What the coordinator and the broker take with few and with many sagas in flight.

    Parameters
    ----------
    in_flight
        Sagas to park: half-way through a diamond, and half-way through its compensation.
    slots
        Slots of the coordinator's table.
    """
    _run(memory(Console(width=WIDTH), durability=durability, in_flight=in_flight, slots=slots), as_json=json)


@app.command(name="parked")
def run_parked(
    *,
    durability: Durable = "sync",
    visibility: Visible = "relaxed",
    sagas: int = 1_000_000,
    row_s: Seconds = 2.0,
    rounds: Rounds = 5,
    json: Json = False,
) -> None:
    """Throughput beside so many sagas that wait, against none.

    Parameters
    ----------
    sagas
        Sagas that wait.
    """
    measurement = parked(
        Console(width=WIDTH), durability=durability, visibility=visibility, sagas=sagas, row_s=row_s, rounds=rounds
    )
    _run(measurement, as_json=json)


@app.command(name="growth")
def run_growth(
    *, durability: Durable = "sync", visibility: Visible = "relaxed", sagas: int = 50_000, json: Json = False
) -> None:
    """What grows with steps, with definitions and with services.

    Parameters
    ----------
    sagas
        Sagas of four steps for each row, or as many steps in longer ones.
    """
    _run(growth(Console(width=WIDTH), durability=durability, visibility=visibility, sagas=sagas), as_json=json)


@app.command(name="recovery")
def run_recovery(
    *,
    durability: Durable = "sync",
    live: int = 1_000_000,
    in_flight: int = 100_000,
    load_s: float = 60.0,
    json: Json = False,
) -> None:
    """How long a killed broker is away, and what its restart takes.

    Parameters
    ----------
    live
        Running sagas in the log that is read alone; 0 to leave it out.
    in_flight
        Sagas in flight when the broker is killed under load; 0 to leave it out.
    load_s
        Seconds at full load before.
    """
    measurement = recovery(Console(width=WIDTH), live=live, in_flight=in_flight, load_s=load_s, durability=durability)
    _run(measurement, as_json=json)


@app.command(name="all")
def run_all(*parts: Part) -> None:
    """Measurements into bench/results: some ten minutes. Status 1 if one of them fails.

    Parameters
    ----------
    parts
        What to measure; what is not named stays as it was measured before. Without any: those that are quick, and
        need nothing but this project.
    """
    try:
        report(Console(width=WIDTH), parts or QUICK)
    except RuntimeError as error:
        sys.exit(str(error))


@app.command(name="contention")
def run_contention(*, durability: Durable = "sync", sagas: int = 300, in_flight: int = 60, json: Json = False) -> None:
    """What sagas that contend for things make of it, by what a service's holds do.

    Parameters
    ----------
    sagas
        Sagas for each row.
    in_flight
        Sagas at a time.
    """
    measurement = contention(Console(width=WIDTH), durability=durability, count=sagas, in_flight=in_flight)
    _run(measurement, as_json=json)


@app.command(name="gate")
def run_gate(*, json: Json = False) -> None:
    """Fail with status 1 if throughput, messages or memory have become worse."""
    if _run(gate(Console(width=WIDTH)), as_json=json)["problems"]:
        sys.exit(1)


@app.command(name="instructions")
def run_instructions(*, write: bool = False, json: Json = False) -> None:
    """Fail with status 1 if a hot path of the cores takes more instructions than it did.

    Parameters
    ----------
    write
        Make what was counted the baseline, in bench/instructions.json.
    """
    try:
        figures = instructions(Console(width=WIDTH), write=write)
    except RuntimeError as error:
        sys.exit(str(error))
    _tell(figures, as_json=json)
    if figures["problems"]:
        sys.exit(1)


@app.command(name="peers")
def run_peers(*, only: tuple[str, ...] = (), seconds: float = 5.0, json: Json = False) -> None:
    """The same saga on other engines, beside sagacore in the same run; `bench/peers/install` brings them.

    The exit status is 1 if a peer is missing or fails.

    Parameters
    ----------
    only
        Peers to measure: rabbitmq, restate, dbos, temporal. All of them if none is named.
    seconds
        Seconds for each row.
    """
    figures = _run(peers(Console(width=WIDTH), only=only, seconds=seconds), as_json=json)
    if any("missing" in row or "failed" in row for row in figures["peers"]):
        sys.exit(1)


def _run(measurement: Coroutine[Any, Any, dict[str, Any]], *, as_json: bool) -> dict[str, Any]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(measurement)
    _tell(figures, as_json=as_json)
    return figures


def _tell(figures: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(figures) + "\n")


app()
