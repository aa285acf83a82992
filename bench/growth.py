"""What grows with a saga's steps, with the number of definitions, and with the number of services?

CPU a saga should grow with its steps alone. The load is the same everywhere: batches of one definition's sagas, some
batches at a time, definition after definition.
"""

import asyncio
import contextlib
import itertools
import sys
import time
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from rich.console import Console

from sagacore import Saga
from sagacore.demo.shop.contracts import Order

from . import growing_shop
from .figures import Figures
from .growing_shop import CHAIN_SERVICES, chain, services
from .plant import ROOT, Durability, OrderBook, Plant, Visibility, key, without_services
from .tables import table
from .usage import ROLES, CpuMeter

STEPS = (4, 8, 16, 32, 64)
DEFINITIONS = (1, 10, 100, 1_000)
SERVICES = ((4, 4), (16, 4), (64, 4), (64, 64))
"""Services, and the processes that they are in."""
STEPS_A_ROW = 4
BATCH = 256
BATCHES = 8
"""At a time: 2,048 sagas in flight."""
CLIENT_AND_COORDINATOR = 2

Row = tuple[str, dict[str, int], Figures]
"""What is varied, the numbers, and what was measured."""


async def growth(console: Console, *, durability: Durability, visibility: Visibility, sagas: int) -> dict[str, Any]:
    """Measure everything, print the table and return the rows. Each row takes `sagas` sagas of four steps, or as many
    steps in longer ones."""
    book = OrderBook()
    rows: list[Row] = []

    @contextlib.asynccontextmanager
    async def shop(count: int, processes: int) -> AsyncIterator[Plant]:
        async with without_services(durability=durability, visibility=visibility) as plant:
            await _start(plant, count, processes)
            yield plant

    async with shop(CHAIN_SERVICES, CHAIN_SERVICES) as plant:
        for steps in STEPS:
            figures = await _measure(plant, book, [chain(steps)], sagas * STEPS_A_ROW // steps)
            rows.append(("steps", {"steps": steps}, figures))
        for count in DEFINITIONS:
            definitions = [chain(STEPS_A_ROW, f"definition-{number}") for number in range(count)]
            rows.append(("definitions", {"definitions": count}, await _measure(plant, book, definitions, sagas)))
    for count, processes in SERVICES:
        async with shop(count, processes) as plant:
            definitions = [chain(STEPS_A_ROW, f"at-{first}", first) for first in range(0, count, CHAIN_SERVICES)]
            numbers = {"services": count, "processes": processes}
            rows.append(("services", numbers, await _measure(plant, book, definitions, sagas)))

    promises = f"durability {durability}, visibility {visibility}, fences and effects in memory"
    console.print(_table(promises, rows))
    return {
        "durability": durability,
        "visibility": visibility,
        "fences": "memory",
        **{
            varied: [_as_json(numbers, figures) for what, numbers, figures in rows if what == varied]
            for varied in ("steps", "definitions", "services")
        },
    }


async def _start(plant: Plant, count: int, processes: int) -> None:
    """Start so many services, dealt to so many processes."""
    for process in range(processes):
        names = [service.name for service in services[process:count:processes]]
        program = (sys.executable, "-m", growing_shop.__name__, plant.endpoint, *names)
        plant.fleet.start_program(f"process-{process}", program, {"PYTHONPATH": str(ROOT)})
    await plant.has_sessions(count + CLIENT_AND_COORDINATOR)


async def _measure(plant: Plant, book: OrderBook, definitions: Sequence[Saga[Order, Any]], sagas: int) -> Figures:
    """Run so many sagas, spread over the definitions, each of which has been used before."""
    await _run(plant, ((definition, book.take(1)) for definition in definitions))
    turns = itertools.cycle(definitions)
    batches = [(next(turns), book.take(BATCH)) for _ in range(sagas // BATCH)]
    cpu = CpuMeter(plant.fleet)
    started_s = time.perf_counter()
    latencies_ms = await _run(plant, iter(batches))
    elapsed_s = time.perf_counter() - started_s
    return Figures.of(latencies_ms, in_flight=BATCH * BATCHES, elapsed_s=elapsed_s, cpu=cpu)


async def _run(plant: Plant, batches: Iterator[tuple[Saga[Order, Any], Sequence[Order]]]) -> Sequence[float]:
    """Run batch after batch, some at a time."""
    latencies_ms = array("d")

    async def turn() -> None:
        for definition, orders in batches:
            async for ended in plant.client.start_many(definition, orders, in_flight=BATCH, key=key):
                latencies_ms.append(ended.latency_ms)

    await asyncio.gather(*(turn() for _ in range(BATCHES)))
    return latencies_ms


def _as_json(numbers: dict[str, int], figures: Figures) -> dict[str, Any]:
    steps = numbers.get("steps", STEPS_A_ROW)
    return {**numbers, **figures.as_json(), "cpu_us_per_step": round(figures.cpu_us / steps, 3)}


def _table(promises: str, rows: Sequence[Row]) -> Any:
    columns = ("", "", "sagas/s", "CPU us a saga", *ROLES, "CPU us a step")
    cells = []
    for varied, numbers, figures in rows:
        said = ", ".join(f"{number:,} {name}" for name, number in numbers.items())
        used = [f"{figures.cpu_us_per_saga[role]:.1f}" for role in ROLES]
        a_step = figures.cpu_us / numbers.get("steps", STEPS_A_ROW)
        cells.append((varied, said, f"{figures.sagas_per_s:,.0f}", f"{figures.cpu_us:.1f}", *used, f"{a_step:.2f}"))
    return table(f"growth, {promises}", columns, cells)
