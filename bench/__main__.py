"""The command line of the measurements."""

import asyncio
import json
import sys
from collections.abc import Coroutine
from typing import Any, Literal

import cyclopts
import uvloop
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

Part = Literal["throughput", "profile", "latency", "memory", "parked", "growth", "contention", "peers"]

app = cyclopts.App(name="python -m bench", help="Measure sagacore on real processes.")


@app.command(name="throughput")
def run_throughput(
    *,
    durability: Durability = "sync",
    visibility: Visibility = "relaxed",
    row_s: float = 2.0,
    rounds: int = 3,
    json: bool = False,
) -> None:
    """Sagas a second, completed and compensated, at several numbers in flight, beside the bare pipeline.

    Parameters
    ----------
    durability
        What the broker's confirmation promises.
    visibility
        Whether everything waits for the broker's log, or only what decides.
    row_s
        About how many seconds each row takes.
    rounds
        How often product and bare pipeline take turns.
    json
        Print the best rows as one JSON object on the last line.
    """
    _run(
        throughput(Console(width=WIDTH), durability=durability, visibility=visibility, row_s=row_s, rounds=rounds),
        as_json=json,
    )


@app.command(name="bare")
def run_bare(*, row_s: float = 2.0, json: bool = False) -> None:
    """The limit: the same processes, hops, frames and syncs without any saga.

    Parameters
    ----------
    row_s
        About how many seconds each row takes.
    json
        Print the rows as one JSON object on the last line.
    """
    _run(limit(Console(width=WIDTH), row_s=row_s), as_json=json)


@app.command(name="profile")
def run_profile(
    *, durability: Durability = "sync", visibility: Visibility = "relaxed", row_s: float = 4.0, json: bool = False
) -> None:
    """Where the CPU of a saga goes at full load, by what runs in each process; it needs Linux' perf.

    Parameters
    ----------
    durability
        What the broker's confirmation promises.
    visibility
        Whether everything waits for the broker's log, or only what decides.
    row_s
        About how many seconds each workload takes.
    json
        Print the shares as one JSON object on the last line.
    """
    _run(hot_spots(Console(width=WIDTH), durability=durability, visibility=visibility, row_s=row_s), as_json=json)


@app.command(name="latency")
def run_latency(
    *, durability: Durability = "sync", visibility: Visibility = "relaxed", row_s: float = 4.0, json: bool = False
) -> None:
    """From start to outcome, one saga at a time and at half load, beside the bare pipeline.

    Parameters
    ----------
    durability
        What the broker's confirmation promises.
    visibility
        Whether everything waits for the broker's log, or only what decides.
    row_s
        About how many seconds each row at half load takes.
    json
        Print the figures as one JSON object on the last line.
    """
    _run(latency(Console(width=WIDTH), durability=durability, visibility=visibility, row_s=row_s), as_json=json)


@app.command(name="memory")
def run_memory(
    *, durability: Durability = "sync", in_flight: int = 1_000_000, slots: int = SLOTS, json: bool = False
) -> None:
    """What the coordinator and the broker take with few and with many sagas in flight.

    Parameters
    ----------
    durability
        What the broker's confirmation promises.
    in_flight
        Sagas to park: half-way through a diamond, and half-way through its compensation.
    slots
        Slots of the coordinator's table.
    json
        Print the growth as one JSON object on the last line.
    """
    _run(memory(Console(width=WIDTH), durability=durability, in_flight=in_flight, slots=slots), as_json=json)


@app.command(name="parked")
def run_parked(
    *,
    durability: Durability = "sync",
    visibility: Visibility = "relaxed",
    sagas: int = 1_000_000,
    row_s: float = 2.0,
    rounds: int = 5,
    json: bool = False,
) -> None:
    """Throughput beside so many sagas that wait, against none.

    Parameters
    ----------
    durability
        What the broker's confirmation promises.
    visibility
        Whether everything waits for the broker's log, or only what decides.
    sagas
        Sagas that wait.
    row_s
        About how many seconds each row takes.
    rounds
        How often both take turns.
    json
        Print the figures as one JSON object on the last line.
    """
    measurement = parked(
        Console(width=WIDTH), durability=durability, visibility=visibility, sagas=sagas, row_s=row_s, rounds=rounds
    )
    _run(measurement, as_json=json)


@app.command(name="growth")
def run_growth(
    *, durability: Durability = "sync", visibility: Visibility = "relaxed", sagas: int = 50_000, json: bool = False
) -> None:
    """What grows with steps, with definitions and with services.

    Parameters
    ----------
    durability
        What the broker's confirmation promises.
    visibility
        Whether everything waits for the broker's log, or only what decides.
    sagas
        Sagas of four steps for each row, or as many steps in longer ones.
    json
        Print the rows as one JSON object on the last line.
    """
    _run(growth(Console(width=WIDTH), durability=durability, visibility=visibility, sagas=sagas), as_json=json)


@app.command(name="recovery")
def run_recovery(
    *,
    durability: Durability = "sync",
    live: int = 1_000_000,
    in_flight: int = 100_000,
    load_s: float = 60.0,
    json: bool = False,
) -> None:
    """How long a killed broker is away, and what its restart takes.

    Parameters
    ----------
    durability
        What the broker's confirmation promises.
    live
        Running sagas in the log that is read alone; 0 to leave it out.
    in_flight
        Sagas in flight when the broker is killed under load; 0 to leave it out.
    load_s
        Seconds at full load before.
    json
        Print the figures as one JSON object on the last line.
    """
    measurement = recovery(Console(width=WIDTH), live=live, in_flight=in_flight, load_s=load_s, durability=durability)
    _run(measurement, as_json=json)


@app.command(name="all")
def run_all(*parts: Part) -> None:
    """All measurements into bench/results: some ten minutes. Status 1 if one of them fails.

    Parameters
    ----------
    parts
        What to measure; what is not named stays as it was measured before. Without any: all but peers.
    """
    try:
        report(Console(width=WIDTH), parts or QUICK)
    except RuntimeError as error:
        sys.exit(str(error))


@app.command(name="contention")
def run_contention(
    *, durability: Durability = "sync", sagas: int = 300, in_flight: int = 60, json: bool = False
) -> None:
    """What sagas that contend for things make of it, by what a service's holds do.

    Parameters
    ----------
    durability
        What the broker's confirmation promises.
    sagas
        Sagas for each row.
    in_flight
        Sagas at a time.
    json
        Print the rows as one JSON object on the last line.
    """
    measurement = contention(Console(width=WIDTH), durability=durability, count=sagas, in_flight=in_flight)
    _run(measurement, as_json=json)


@app.command(name="gate")
def run_gate(*, json: bool = False) -> None:
    """Fail with status 1 if throughput, messages or memory have become worse.

    Parameters
    ----------
    json
        Print what was measured as one JSON object on the last line.
    """
    if _run(gate(Console(width=WIDTH)), as_json=json)["problems"]:
        sys.exit(1)


@app.command(name="instructions")
def run_instructions(*, write: bool = False, json: bool = False) -> None:
    """Fail with status 1 if a hot path of the cores takes more instructions than it did.

    Parameters
    ----------
    write
        Make what was counted the baseline, in bench/instructions.json.
    json
        Print what was counted as one JSON object on the last line.
    """
    try:
        figures = instructions(Console(width=WIDTH), write=write)
    except RuntimeError as error:
        sys.exit(str(error))
    _tell(figures, as_json=json)
    if figures["problems"]:
        sys.exit(1)


@app.command(name="peers")
def run_peers(*, only: tuple[str, ...] = (), seconds: float = 5.0, json: bool = False) -> None:
    """The same saga on other engines, beside sagacore in the same run; `bench/peers/install` brings them.

    The exit status is 1 if a peer is missing or fails.

    Parameters
    ----------
    only
        Peers to measure: rabbitmq, restate, dbos, temporal. All of them if none is named.
    seconds
        Seconds for each row.
    json
        Print the rows as one JSON object on the last line.
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
