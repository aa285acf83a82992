"""The whole run of `sagacore demo --contention`: set up, start, contend, stop, audit, report."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from sagacore import Client, SagacoreError
from sagacore.demo.failure import DemoFailed
from sagacore.demo.fleet import Fleet
from sagacore.demo.kills import plan_kills
from sagacore.demo.options import DemoOptions
from sagacore.demo.plant import local_endpoint, ready, start_brokers, start_coordinators
from sagacore.holds import Waiting

from .load import COUNTED, Contention, Figures, audit, open_stores, trips
from .trips import NAMES, STORE_VARIABLE, WAITING_VARIABLE, sagas

THINGS: Final = 3
KEYS: Final = 60
"""Things that all trips draw from."""
IN_FLIGHT_MAX: Final = 100
"""More trips at a time would only wait for the same things."""
DEADLINE_S: Final = 3_600.0
PATIENCE_S: Final = 10.0
"""No saga has ended for so long: those that are left wait for each other."""
CLIENT_PATIENCE_S: Final = 60.0


async def contend(folder: Path, options: DemoOptions, console: Console) -> Figures:
    """Run it. Raises `DemoFailed`."""
    all_trips = trips(options.orders, THINGS, keys=KEYS, skew=0.0, seed=options.seed)
    plural = f"{options.orders:,} trips of {THINGS} things each, out of {KEYS}, in every order, from three services"
    console.print(f"{plural}, in {folder}", highlight=False, soft_wrap=True)
    await asyncio.to_thread(open_stores, folder)
    with local_endpoint(options.shards) as endpoint, Fleet(folder) as fleet:
        detect = () if options.detect_deadlocks else ("--no-detect-deadlocks",)
        promises = {"durability": options.durability, "visibility": options.visibility}
        roles: list[Sequence[str]] = [
            start_brokers(fleet, endpoint, **promises, options=detect),
            start_coordinators(fleet, endpoint, count=options.coordinators, slots=options.slots),
            *start_services(fleet, endpoint, workers=options.workers),
        ]
        kills = plan_kills(options.kill, options.orders, roles)
        try:
            async with Client(endpoint, timeout=CLIENT_PATIENCE_S) as client:
                await ready(client, fleet)
                contention = Contention(client, fleet, kills, patience_s=PATIENCE_S)
                in_flight = min(options.in_flight, IN_FLIGHT_MAX)
                figures = await contention.run(sagas(THINGS, DEADLINE_S), all_trips, in_flight=in_flight)
        except SagacoreError as error:
            raise DemoFailed(error.message, hint=error.hint, tail=fleet.tail(fleet.names()[0])) from error
    await asyncio.to_thread(audit, folder, figures)
    return figures


def start_services(
    fleet: Fleet, endpoint: str, *, waiting: Waiting = "detect", in_memory: bool = False, workers: int = 1
) -> list[list[str]]:
    """Start the three services. Gives the names of the processes of each."""
    environment = {WAITING_VARIABLE: waiting, STORE_VARIABLE: "memory" if in_memory else "sqlite"}
    started = []
    for service in NAMES:
        names = [service] if workers == 1 else [f"{service}-{number}" for number in range(1, workers + 1)]
        fence = "memory" if in_memory else f"sqlite:{fleet.folder / service}.db"
        target = f"sagacore.demo.contention.trips:{service}"
        for name in names:
            fleet.start(name, ("service", target, "--endpoint", endpoint, "--fence", fence), environment)
        started.append(names)
    return started


def share(values: Sequence[float], part: float) -> float:
    """What this part of sorted values does not exceed: 0.5 is the median."""
    return values[max(0, math.ceil(part * len(values)) - 1)] if values else 0.0


def as_json(figures: Figures) -> dict[str, Any]:
    """The object that `--json` prints."""
    latencies = sorted(figures.latencies_ms)
    detection = figures.detection_ms()
    return {
        "orders": figures.sagas,
        "completed": figures.completed,
        "compensated": figures.compensated.total(),
        "stuck": figures.sagas - figures.ended,
        "violations": figures.violations,
        "sagas_per_s": round(figures.ended / figures.elapsed_s, 1) if figures.elapsed_s > 0 else 0.0,
        "latency_ms": {"p50": round(share(latencies, 0.5), 3), "p99": round(share(latencies, 0.99), 3)},
        "kills": figures.kills.total(),
        "steps": {"taken": figures.taken, "given_back": figures.given_back},
        "deadlocks": {
            **{name: figures.sum(name) for name in COUNTED},
            "detection_ms": {"p50": share(detection, 0.5), "p99": share(detection, 0.99)},
        },
    }


def passed(figures: Figures) -> bool:
    """Whether every saga has ended, and the books are right."""
    return figures.ended == figures.sagas and figures.violations == 0


def report(figures: Figures, console: Console) -> None:
    """Print what was seen, for people."""
    found = as_json(figures)
    deadlocks, latency = found["deadlocks"], found["latency_ms"]
    causes = ", ".join(f"{count:,} {cause}" for cause, count in figures.compensated.most_common()) or "none"
    taken, back = figures.taken, figures.given_back
    wasted = f"{back / taken:.1%} of the steps were undone" if taken else "no step was done"
    lines = [
        f"completed: {figures.completed:,}; compensated: {causes}; not ended: {found['stuck']:,}",
        "deadlocks: " + ", ".join(f"{deadlocks[name]:,} {name}" for name in COUNTED),
        f"detection: p50 {deadlocks['detection_ms']['p50']} ms, p99 {deadlocks['detection_ms']['p99']} ms",
        f"speed: {found['sagas_per_s']:,} sagas a second; p50 {latency['p50']} ms, p99 {latency['p99']} ms; {wasted}",
    ]
    if figures.kills:
        lines.append("kills: " + ", ".join(f"{count} {role}" for role, count in figures.kills.items()))
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    if passed(figures):
        console.print("every saga has ended, and nobody has anything left", style="green")
    elif found["stuck"]:
        console.print(f"{found['stuck']:,} sagas have not ended, and none does: they wait for each other", style="red")
    else:
        console.print(f"{figures.violations:,} violations", style="bold red")
