"""Does the coordinator's memory depend on how many sagas are in flight? Measured where it would have to remember most.

Forward: payments has answered and inventory is not there, so each saga has one branch arrived at its join and the
other one out. Undoing: shipping has rejected, payments has refunded and inventory is dead, so each saga waits at the
join of its compensation graph. With more sagas than slots, slots are spilled.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table

from sagacore import Client, Saga
from sagacore.demo.counters import Counters
from sagacore.demo.fleet import resident_bytes
from sagacore.demo.shop.contracts import Order, charge, create, reserve, schedule

from .closed_loop import closed_loop
from .plant import DAY_S, Durability, OrderBook, Plant, key, running

FEW = 1_000
SHARE_OF_MANY = 10
"""The broker is weighed with a tenth of them, too: between the two lies what it takes for each saga."""
STARTED_AT_A_TIME = 20_000
STALL_S = 60.0
SETTLE_S = 25.0
"""The broker parks what has only waited for some seconds, and gives back what it took when no more is parked: so it is
weighed when nothing was parked for so long."""

parked_order = (
    Saga("parked-order", Order, deadline=DAY_S, input_bytes=96)
    .then(create)
    .then(charge, reserve)
    .then(schedule, pivot=True)
)
"""The diamond, with time to wait."""

Direction = Literal["forward", "undoing"]


@dataclass(frozen=True, slots=True)
class Parked:
    """What the processes take with so many sagas parked."""

    sagas: int
    in_log: int
    """Of them, those that the broker keeps in its log alone."""
    coordinator_bytes: int
    broker_bytes: int
    """Beyond what the broker took before the first saga: what it keeps of ended ones counts too."""
    log_bytes: int
    """Written while they came where they are."""
    spills: int


async def memory(console: Console, *, durability: Durability, in_flight: int, slots: int) -> dict[str, object]:
    """Park few and many sagas in both directions, print the table and return how much the processes grew."""
    rows: dict[Direction, list[Parked]] = {}
    for direction in ("forward", "undoing"):
        counts = (FEW, max(FEW, in_flight // SHARE_OF_MANY), in_flight)
        rows[direction] = await park(direction, counts, durability=durability, slots=slots)
    console.print(_table(rows, durability, slots))
    growth: dict[str, int] = {
        direction: many.coordinator_bytes - few.coordinator_bytes for direction, (few, _, many) in rows.items()
    }
    _, some, many = rows["forward"]
    each_bytes = (many.broker_bytes - some.broker_bytes) / max(1, many.sagas - some.sagas)
    return {
        "durability": durability,
        "in_flight_max": many.sagas,
        "in_log": many.in_log,
        "slots": slots,
        "coordinator": {"rss_growth_bytes": max(growth.values()), **growth},
        "broker": {
            "bytes_per_saga": round(each_bytes),
            "grown_bytes": {row.sagas: row.broker_bytes for row in rows["forward"]},
        },
        "log_bytes_per_saga": round(many.log_bytes / many.sagas),
        "spills": sum(weighed[-1].spills for weighed in rows.values()),
    }


async def park(
    direction: Direction, counts: Sequence[int], *, durability: Durability, slots: int, settle_s: float = SETTLE_S
) -> list[Parked]:
    """Run some sagas to their end, so that everything has its working size; then park so many, weigh, and go on.

    All counts are weighed in the same processes, each after the sagas of the one before have ended.
    """
    book = OrderBook()
    weighed: list[Parked] = []
    async with running(durability=durability, slots=slots) as plant:
        empty_bytes = resident_bytes(plant.fleet.pid("broker"))
        await closed_loop(plant, parked_order, book.take(STARTED_AT_A_TIME), in_flight=STARTED_AT_A_TIME)
        for sagas in counts:
            await plant.kill_service("inventory" if direction == "forward" else "shipping")
            before = await plant.client.stats()
            await _start(plant, book, before["started"], sagas)
            await _parked(plant, direction, before, sagas)
            await _settled(plant.client, settle_s)
            weighed.append(await _weigh(plant, before, empty_bytes))
            if sagas != counts[-1]:
                await plant.start_service("inventory")
                await _until(plant.client, "compensated", before["compensated"] + sagas)
    return weighed


async def _parked(plant: Plant, direction: Direction, before: Mapping[str, int], sagas: int) -> None:
    """Wait until all that were started are where they have to wait."""
    if direction == "forward":
        await _until(plant.client, "done", before["done"] + sagas)
        return
    await _until(plant.client, "done", before["done"] + 2 * sagas)
    await plant.kill_service("inventory")
    await plant.start_service("shipping")
    await _until(plant.client, "undone", before["undone"] + sagas)


async def _start(plant: Plant, book: OrderBook, started: int, sagas: int) -> None:
    """Start sagas and follow none of them: the client that knows ten million would need more memory than the broker."""

    async def follow(orders: Sequence[Order]) -> None:
        async for _ in plant.client.start_many(parked_order, orders, in_flight=len(orders), key=key):
            pass

    for first in range(0, sagas, STARTED_AT_A_TIME):
        count = min(STARTED_AT_A_TIME, sagas - first)
        following = asyncio.create_task(follow(book.take(count, rejected=1.0)))
        try:
            await _until(plant.client, "started", started + first + count)
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following


async def _until(client: Client, kind: str, count: int) -> None:
    """Wait until the broker has accepted so many messages of a kind. Raises `TimeoutError` if none comes any more."""
    seen, seen_s = -1, time.monotonic()
    while (accepted := (await client.stats())[kind]) < count:
        if accepted > seen:
            seen, seen_s = accepted, time.monotonic()
        elif time.monotonic() - seen_s > STALL_S:
            raise TimeoutError(f"{accepted:,} of {count:,} {kind} messages after {STALL_S:.0f} s without a new one")
        await asyncio.sleep(0.05)


async def _settled(client: Client, settle_s: float) -> None:
    seen, seen_s = -1, time.monotonic()
    while time.monotonic() - seen_s < settle_s:
        parked = (await client.stats())["parked"]
        if parked != seen:
            seen, seen_s = parked, time.monotonic()
        await asyncio.sleep(min(1.0, settle_s))


async def _weigh(plant: Plant, before: Mapping[str, int], empty_bytes: int) -> Parked:
    stats = await plant.client.stats()
    counters = Counters()
    counters.observe(stats)
    return Parked(
        sagas=stats["running"],
        in_log=stats["parked"],
        coordinator_bytes=resident_bytes(plant.fleet.pid("coordinator")),
        broker_bytes=resident_bytes(plant.fleet.pid("broker")) - empty_bytes,
        log_bytes=stats["log_bytes"] - before["log_bytes"],
        spills=counters.coordinator.spills,
    )


def _table(rows: Mapping[Direction, Sequence[Parked]], durability: Durability, slots: int) -> Table:
    title = f"memory with sagas parked, {slots:,} slots, durability {durability}"
    table = Table(title=title, title_justify="left")
    for column in ("parked", "sagas", "in the log", "coordinator MiB", "broker grew MiB", "log MiB", "spills"):
        table.add_column(column, justify="left" if column == "parked" else "right")
    for direction, weighed in rows.items():
        for parked in weighed:
            sizes = (parked.coordinator_bytes, parked.broker_bytes, parked.log_bytes)
            shown = (f"{size / 2**20:,.2f}" for size in sizes)
            table.add_row(direction, f"{parked.sagas:,}", f"{parked.in_log:,}", *shown, f"{parked.spills:,}")
    return table
