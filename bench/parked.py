"""Do sagas that wait slow down those that move? Throughput beside many parked ones, and with none, in the same run."""

import asyncio
import statistics
import tempfile
from pathlib import Path

from rich.console import Console

from sagacore.demo.fleet import resident_bytes

from . import parked_log
from .figures import Figures, median
from .load import Load
from .plant import Durability, OrderBook, Plant, Visibility, running
from .tables import figures_table

IN_FLIGHT = 4_096
PARKING_S = 300.0
PARKED_SHARE = 0.99
TRIM_S = 5.0
"""The broker gives memory back some seconds after it has parked the last ones."""


async def parked(
    console: Console, *, durability: Durability, visibility: Visibility, sagas: int, row_s: float, rounds: int
) -> dict[str, object]:
    """Measure both in turns, print the table and return the figures. Raises `AssertionError` if sagas are missing."""
    load = Load(OrderBook(first=sagas), row_s)
    none: list[Figures] = []
    beside: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="sagacore-bench-") as folder:
        log = Path(folder, "log")
        await parked_log.make(log, sagas)
        async with (
            running(durability=durability, visibility=visibility, log=log) as full,
            running(durability=durability, visibility=visibility) as empty,
        ):
            await _settled(full, sagas)
            more, less = (resident_bytes(plant.fleet.pid("broker")) for plant in (full, empty))
            broker_bytes = round((more - less) / sagas)
            for _ in range(rounds):
                none.append(await load.sagas(empty, IN_FLIGHT))
                beside.append(await load.sagas(full, IN_FLIGHT))
            waiting = (await full.client.stats())["running"]
    if waiting != sagas:
        raise AssertionError(f"{waiting} sagas wait, not {sagas}")
    ratio = statistics.median(more.sagas_per_s / less.sagas_per_s for more, less in zip(beside, none, strict=True))
    rows = {"none": median(none), f"{sagas:,}": median(beside)}
    console.print(figures_table(f"sagas parked, durability {durability}, visibility {visibility}", rows.items()))
    console.print(f"{ratio:.2f} of the throughput without; the broker takes {broker_bytes} bytes for each that waits")
    return {
        "durability": durability,
        "visibility": visibility,
        "fences": "memory",
        "parked": sagas,
        "beside": median(beside).as_json(),
        "none": median(none).as_json(),
        "ratio": round(ratio, 3),
        "broker": {"bytes_per_saga": broker_bytes},
    }


async def _settled(plant: Plant, sagas: int) -> None:
    """Wait until the broker has those that wait in its log alone, as it has after a while.

    Raises `TimeoutError` if that takes too long.
    """
    async with asyncio.timeout(PARKING_S):
        while (await plant.client.stats())["parked"] < PARKED_SHARE * sagas:  # noqa: ASYNC110 (counters have no event)
            await asyncio.sleep(0.2)
    await asyncio.sleep(TRIM_S)
