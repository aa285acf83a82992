"""From start to outcome, one saga at a time: nothing waits for anything but its own wake-ups and syncs."""

import time
from array import array
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from sagacore.demo.shop.contracts import Order
from sagacore.demo.shop.saga import place_order

from .closed_loop import closed_loop
from .figures import share_of
from .plant import Durability, OrderBook, Plant, Visibility, key, running

WARM_UP = 2_000


async def latency(console: Console, *, durability: Durability, visibility: Visibility, sagas: int) -> dict[str, object]:
    """Start sagas one after another, print the table and return the figures."""
    book = OrderBook()
    async with running(durability=durability, visibility=visibility) as plant:
        await closed_loop(plant, place_order, book.take(WARM_UP), in_flight=64)
        rows = {
            "alone": await _one_at_a_time(plant, book.take(sagas)),
            "compensation": await _one_at_a_time(plant, book.take(sagas, rejected=1.0)),
        }
    table = Table(
        title=f"one at a time, durability {durability}, visibility {visibility}, effects and fences in memory",
        title_justify="left",
    )
    for column in ("", "p50 ms", "p99 ms", "slowest ms"):
        table.add_column(column, justify="right")
    for name, latencies_ms in rows.items():
        figures = (share_of(latencies_ms, share) for share in (0.5, 0.99, 1))
        table.add_row(name, *(f"{figure:.3f}" for figure in figures))
    console.print(table)
    return {
        "durability": durability,
        "visibility": visibility,
        "fences": "memory",
        **{
            name: {"p50_ms": round(share_of(row, 0.5), 3), "p99_ms": round(share_of(row, 0.99), 3)}
            for name, row in rows.items()
        },
    }


async def _one_at_a_time(plant: Plant, orders: Sequence[Order]) -> Sequence[float]:
    latencies_ms = array("d")
    for order in orders:
        started_s = time.perf_counter()
        saga = await plant.client.start(place_order, order, key=key(order))
        await saga.outcome()
        latencies_ms.append((time.perf_counter() - started_s) * 1_000)
    return latencies_ms
