"""What sagas that contend for things make of it, by what a service's holds do: the same sagas for each policy.

Each saga takes some things one after the other, from three services in SQLite, in one of six orders. Which things, is
drawn by Zipf's law, with the same seed for each policy.
"""

import asyncio
import contextlib
import itertools
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from sagacore.demo.contention.job import share, start_services
from sagacore.demo.contention.load import Contention, Figures, audit, open_stores, trips
from sagacore.demo.contention.trips import sagas
from sagacore.demo.plant import ready
from sagacore.holds import WAITING, Waiting

from .plant import DAY_S, Durability, Plant, without_services
from .tables import table

SKEWS = (0.0, 0.8, 0.99)
HOLDS = (2, 4, 8)
KEYS = 1_000
SEED = 7
STALL_S = 60.0
COLUMNS = (
    "skew, holds, policy",
    "completed/s",
    "completed",
    "aborts",
    "wasted",
    "p50 ms",
    "p99 ms",
    "detection p99 ms",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """What is varied."""

    skew: float
    holds: int
    waiting: Waiting


async def contention(console: Console, *, durability: Durability, count: int, in_flight: int) -> dict[str, Any]:
    """Measure all policies, print the table and return its rows."""
    rows: list[dict[str, Any]] = []
    async with contextlib.AsyncExitStack() as stack:
        plants = {waiting: await _plant(stack, waiting, durability) for waiting in WAITING}
        before: dict[Waiting, dict[str, int]] = {waiting: {} for waiting in WAITING}
        # The policies take turns: what else the machine does meets all of them.
        for skew, holds, waiting in itertools.product(SKEWS, HOLDS, WAITING):
            cell = Cell(skew, holds, waiting)
            rows.append(await _measure(plants[waiting], cell, before[waiting], count=count, in_flight=in_flight))
    title = f"{count:,} sagas over {KEYS:,} things, {in_flight} in flight, durability {durability}, fences in SQLite"
    console.print(table(title, COLUMNS, map(cells, rows)))
    return {"durability": durability, "sagas": count, "things": KEYS, "in_flight": in_flight, "rows": rows}


async def _plant(stack: contextlib.AsyncExitStack, waiting: Waiting, durability: Durability) -> Plant:
    plant = await stack.enter_async_context(without_services(durability=durability, visibility="relaxed"))
    open_stores(plant.fleet.folder)
    start_services(plant.fleet, plant.endpoint, waiting=waiting)
    await ready(plant.client, plant.fleet)
    return plant


async def _measure(plant: Plant, cell: Cell, before: dict[str, int], *, count: int, in_flight: int) -> dict[str, Any]:
    name = f"{cell.skew}-{cell.holds}-"
    drawn = trips(count, cell.holds, keys=KEYS, skew=cell.skew, seed=SEED, name=name)
    run = Contention(plant.client, plant.fleet, [], patience_s=STALL_S)
    figures = await run.run(sagas(cell.holds, DAY_S), drawn, in_flight=in_flight)
    if figures.ended != count or figures.violations:
        raise AssertionError(f"{cell}: {figures.ended} of {count} ended, {figures.violations} violations")
    await asyncio.to_thread(audit, plant.fleet.folder, figures)
    return _row(cell, figures, before)


def _row(cell: Cell, figures: Figures, before: dict[str, int]) -> dict[str, Any]:
    counted = {"taken": figures.taken, "given_back": figures.given_back, "restarts": figures.sum("restarts")}
    # The processes are the same for all rows of a policy: what they count goes on.
    grown = {name: value - before.get(name, 0) for name, value in counted.items()}
    before.update(counted)
    latencies, detection = sorted(figures.latencies_ms), figures.detection_ms(since=before.get("number", 0))
    before["number"] = max((number for *_, number in figures.deadlocks), default=0)
    return {
        "skew": cell.skew,
        "holds": cell.holds,
        "waiting": cell.waiting,
        "completed_per_s": round(figures.completed / figures.elapsed_s, 1),
        "completed": figures.completed / figures.sagas,
        "aborts": (grown["restarts"] + figures.compensated.total()) / figures.sagas,
        "wasted": grown["given_back"] / max(grown["taken"], 1),
        "p50_ms": share(latencies, 0.5),
        "p99_ms": share(latencies, 0.99),
        "detection_p99_ms": share(detection, 0.99) if cell.waiting == "detect" else None,
    }


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row as texts, in the order of `COLUMNS`."""
    detected = "" if row["detection_p99_ms"] is None else f"{row['detection_p99_ms']:.0f}"
    return (
        f"{row['skew']:g}, {row['holds']}, {row['waiting']}",
        f"{row['completed_per_s']:,.0f}",
        f"{row['completed']:.0%}",
        f"{row['aborts']:.1%}",
        f"{row['wasted']:.1%}",
        f"{row['p50_ms']:,.0f}",
        f"{row['p99_ms']:,.0f}",
        detected,
    )
