"""The bare pipeline by itself, in each of its shapes: alone, with few and with many orders on their way."""

import asyncio

from rich.console import Console

from .bare import pipeline
from .figures import Figures
from .load import IN_FLIGHT, Load
from .plant import OrderBook
from .tables import figures_table

ALONE_ORDERS = 500
SHAPES = {
    "as the product": {"waits": True, "via_coordinator": False},
    "never waits": {"waits": False, "via_coordinator": False},
    "via coordinator": {"waits": True, "via_coordinator": True},
}
"""What waits for the log (what starts, asks for the pivot and ends, or nothing) and whether the coordinator starts
and ends."""


async def limit(console: Console, *, row_s: float) -> dict[str, object]:
    """Measure each shape, print the table and return the rows."""
    load = Load(OrderBook(), row_s)
    rows: dict[str, list[Figures]] = {}
    for name, shape in SHAPES.items():
        with pipeline.running(**shape) as through:
            orders = load.book.take(ALONE_ORDERS)
            alone = await asyncio.to_thread(through.measure, orders, in_flight=1)
            rows[name] = [alone, *[await load.bare(through, in_flight) for in_flight in IN_FLIGHT]]
    console.print(figures_table("bare pipeline", [(name, row) for name, found in rows.items() for row in found]))
    return {name: [row.as_json() for row in found] for name, found in rows.items()}
