"""Sagas a second with everything durable: fences and effects of each service in its own SQLite database.

Effect and fence row of a step are one transaction, of a batch one commit, and every commit is synced.
"""

from rich.console import Console

from sagacore.demo.plant import SERVICES, ready
from sagacore.demo.shop.tables import open_shop

from .durable_shop import open_books
from .figures import best
from .load import IN_FLIGHT, Load
from .plant import ROOT, Durability, OrderBook, Plant, Visibility, without_services
from .tables import figures_table

PLENTY = 10**9
"""Pieces on each shelf."""


async def durable(
    console: Console, *, durability: Durability, visibility: Visibility, row_s: float
) -> dict[str, object]:
    """Measure sagas that complete and sagas that are compensated, print the table and return the figures."""
    load = Load(OrderBook(), row_s)
    async with without_services(durability=durability, visibility=visibility) as plant:
        await _start(plant)
        success = [await load.sagas(plant, in_flight) for in_flight in IN_FLIGHT]
        rollback = [await load.sagas(plant, in_flight, 1.0) for in_flight in IN_FLIGHT]
    rows = [*(("completed", row) for row in success), *(("compensated", row) for row in rollback)]
    title = f"durability {durability}, fences and effects in SQLite with synchronous=FULL, visibility {visibility}"
    console.print(figures_table(title, rows))
    return {
        "durability": durability,
        "visibility": visibility,
        "fences": "sqlite",
        "success": best(success).as_json(),
        "rollback": best(rollback).as_json(),
        "rows": [{"what": name, **row.as_json()} for name, row in rows],
    }


async def _start(plant: Plant) -> None:
    fleet = plant.fleet
    open_shop(fleet.folder, pieces_per_sku=PLENTY, cents_per_customer=0)
    open_books(fleet.folder / "payments.db")
    for service in SERVICES:
        module = "bench.durable_shop" if service == "payments" else f"sagacore.demo.shop.{service}"
        fence = f"sqlite:{fleet.folder / service}.db"
        arguments = ("service", f"{module}:{service}", "--endpoint", plant.endpoint, "--fence", fence)
        fleet.start(service, arguments, {"PYTHONPATH": str(ROOT)})
    await ready(plant.client, fleet)
