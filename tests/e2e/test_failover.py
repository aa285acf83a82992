"""When a process dies, another takes its work over within a second; a broker's restart is survived by every peer."""

import asyncio
import itertools
import time

import pytest

from bench.plant import OrderBook, Plant, running
from sagacore import Client, Completed
from sagacore.demo.plant import start_coordinators
from sagacore.demo.shop.saga import place_order

TAKEN_OVER_S = 1.0
NUMBERS = itertools.count()


async def longest_pause_s(plant: Plant, kill: str, *, restart: bool, sagas: int = 150) -> float:
    """Place orders one by one, in ten streams, and kill a process half-way. Gives the longest pause."""
    book = OrderBook()
    ended = [time.monotonic()]
    orders = iter(book.take(sagas))

    async def stream() -> None:
        for order in orders:
            saga = await plant.client.start(place_order, order, key=f"failover-{next(NUMBERS)}")
            assert isinstance(await saga.outcome(timeout=20), Completed)
            ended.append(time.monotonic())
            if len(ended) == sagas // 2:
                (plant.fleet.kill_and_restart if restart else plant.fleet.kill)(kill)

    async with asyncio.timeout(40):
        await asyncio.gather(*(stream() for _ in range(10)))
    assert len(ended) == sagas + 1
    return max(after - before for before, after in itertools.pairwise(ended))


@pytest.mark.timeout(90)
def test_another_coordinator_takes_over_within_a_second() -> None:
    async def main() -> float:
        async with running(durability="sync") as plant:
            start_coordinators(plant.fleet, plant.endpoint, count=2, slots=256)
            await settled(plant.client, coordinators=3)
            pauses = [await longest_pause_s(plant, name, restart=False) for name in ("coordinator", "coordinator-1")]
            return max(pauses)

    assert asyncio.run(main()) < TAKEN_OVER_S


@pytest.mark.timeout(90)
def test_a_broker_that_is_killed_comes_back_to_all_its_peers() -> None:
    async def main() -> float:
        async with running(durability="sync") as plant:
            return await longest_pause_s(plant, "broker", restart=True)

    # Most of it is the start of an interpreter, and the next attempt of each peer to connect.
    assert asyncio.run(main()) < 5.0


async def settled(client: Client, *, coordinators: int) -> None:
    """Wait until so many coordinators have said how they are."""
    async with asyncio.timeout(20):
        while len((await client.stats())["coordinators"]) < coordinators:  # noqa: ASYNC110 (counters have no event)
            await asyncio.sleep(0.05)
