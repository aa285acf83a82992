"""Sagas a second in a closed loop: four steps in a chain, all of them completed, or rejected at the last step.

A rejected one undoes its three steps, two of them side by side.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from sagacore.demo.shop.saga import place_order

from .closed_loop import Figures, closed_loop
from .plant import Durability, OrderBook, Plant, Visibility, running

IN_FLIGHT = (64, 512, 2_048, 4_096, 8_192)
WARM_UP = 5_000


async def throughput(
    console: Console, *, durability: Durability, visibility: Visibility, sagas: int
) -> dict[str, object]:
    """Run both workloads at every level, print the tables and return the best of each."""
    book = OrderBook()
    async with running(durability=durability, visibility=visibility) as plant:
        await closed_loop(plant, place_order, book.take(WARM_UP), in_flight=512)
        success = await _levels(plant, book, sagas, compensated=False)
        promises = f"durability {durability}, visibility {visibility}, effects and fences in memory"
        console.print(_table(f"completed, {promises}", success))
        rollback = await _levels(plant, book, sagas, compensated=True)
        console.print(_table(f"rejected at the last step, {promises}", rollback))
    best, best_rollback = _best(success), _best(rollback)
    return {
        "durability": durability,
        "visibility": visibility,
        "fences": "memory",
        "success": best.as_json(),
        "rollback": best_rollback.as_json(),
        "cpu_us_per_saga": best.cpu_us_per_saga,
    }


async def _levels(plant: Plant, book: OrderBook, sagas: int, *, compensated: bool) -> list[Figures]:
    rows = []
    for in_flight in IN_FLIGHT:
        orders = book.take(sagas, rejected=compensated)
        rows.append(await closed_loop(plant, place_order, orders, in_flight=in_flight, compensated=compensated))
    return rows


def _best(rows: Sequence[Figures]) -> Figures:
    return max(rows, key=lambda row: row.sagas_per_s)


def _table(title: str, rows: Sequence[Figures]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("in flight", "sagas/s", "p50 ms", "p99 ms", "CPU us a saga:", *rows[0].cpu_us_per_saga):
        table.add_column(column, justify="right")
    best = _best(rows)
    for row in rows:
        roles = [f"{used:.1f}" for used in row.cpu_us_per_saga.values()]
        total = f"{sum(row.cpu_us_per_saga.values()):.1f}"
        figures = (f"{row.in_flight:,}", f"{row.sagas_per_s:,.0f}", f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}")
        table.add_row(*figures, total, *roles, style="bold" if row is best else None)
    return table
