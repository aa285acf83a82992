"""The client that places orders, as a process of its own that may be killed: `python -m sagacore.chaos.placing`.

It places orders at a rate until the file `finish` is there, then waits for those under way and ends with status 0. Its
journal tells the next one where it was.
"""

import argparse
import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from sagacore import Client, Compensated, Completed, Ended, SagacoreError
from sagacore.demo.shop.contracts import Order, Scheduled
from sagacore.demo.shop.customers import incoming_orders
from sagacore.demo.shop.saga import place_order
from sagacore.errors import StartRefused
from sagacore.processes.run import run

from .journal import Journal, Story, read_journal

BLOCK: Final = 1_000
"""Orders come in blocks of so many, each with a seed of its own: a new client need not count from 0."""
REJECT: Final = 0.05
PATIENCE_S: Final = 120.0
"""The client waits so long for a broker that is away or full: longer than any fault lasts."""
PULSE_S: Final = 0.1
PROBE_S: Final = 0.25


def orders_from(number: int, seed: int) -> Iterator[Order]:
    """The orders from this number on, always the same for the same seed."""
    block, skip = divmod(number, BLOCK)
    while True:
        orders = incoming_orders(BLOCK, reject=REJECT, seed=seed * 1_000_003 + block, first=block * BLOCK)
        yield from list(orders)[skip:]
        block, skip = block + 1, 0


def orders_below(count: int, seed: int) -> list[Order]:
    """All orders with a lower number."""
    return list(itertools.islice(orders_from(0, seed), count))


def not_told(story: Story, seed: int) -> Iterator[Order]:
    """The orders that may have been placed, and of which the client was not told how they ended."""
    told = Counter(int(order_id.rpartition("-")[2]) // BLOCK for order_id in story.told)
    for block in range(-(-story.placed // BLOCK)):
        if told[block] < BLOCK:
            first = block * BLOCK
            orders = itertools.islice(orders_from(first, seed), min(BLOCK, story.placed - first))
            yield from (order for order in orders if order.order_id not in story.told)


class Placing:
    """One life of the client."""

    def __init__(self, client: Client, journal: Journal, folder: Path, story: Story, *, seed: int, rate: float) -> None:
        self._client = client
        self._journal = journal
        self._finish = folder / "finish"
        self._seed = seed
        self._rate = rate
        self._placed = story.placed
        self._again = list(not_told(story, seed))

    async def place(self, in_flight: int) -> None:
        """Place orders, those of earlier lives first, and note how they end."""
        stream = self._client.start_many(
            place_order, self._orders(), in_flight=in_flight, key=lambda order: order.order_id, on_error=self._failed
        )
        async for ended in stream:
            self._note(ended)

    async def probe(self) -> None:
        """Ask again and again how many starts the broker has refused, and how many steps wait."""
        while True:
            await asyncio.sleep(PROBE_S)
            try:
                async with asyncio.timeout(1):
                    stats = await self._client.stats()
            except (TimeoutError, SagacoreError):
                continue
            self._journal.refused(time.monotonic(), stats["refused"])
            if stats["waiting"]:
                self._journal.waiting(stats["waiting"])

    async def _orders(self) -> AsyncIterator[Order]:
        for order in self._again:
            yield order
        began_s, began_at = time.monotonic(), self._placed
        orders = orders_from(self._placed, self._seed)
        while not self._finish.exists():
            due = began_at + int((time.monotonic() - began_s) * self._rate)
            if due > self._placed:
                batch = [next(orders) for _ in range(due - self._placed)]
                self._placed = due
                self._journal.placed(due)
                for order in batch:
                    yield order
            await asyncio.sleep(PULSE_S)

    def _note(self, ended: Ended[Scheduled]) -> None:
        outcome, now_s = ended.outcome, time.monotonic()
        step = outcome.step if isinstance(outcome, Compensated) and outcome.cause == "rejected" else None
        placed_s = now_s - ended.latency_ms / 1_000
        self._journal.told(ended.key, completed=isinstance(outcome, Completed), step=step, times_s=(placed_s, now_s))

    def _failed(self, key: str, error: SagacoreError) -> None:
        if not isinstance(error, StartRefused):  # the broker was full for very long: it is placed again, see `main`
            self._journal.failed(key, str(error))


async def place_all(options: argparse.Namespace) -> None:
    """Place orders, and none twice, until it is time to finish and every one has ended."""
    path = options.folder / "told.jsonl"
    journal = Journal(path)
    async with Client(options.endpoint, timeout=PATIENCE_S) as client:
        while True:
            story = read_journal(path)
            placing = Placing(client, journal, options.folder, story, seed=options.seed, rate=options.rate)
            probing = asyncio.create_task(placing.probe())
            try:
                await placing.place(options.in_flight)
            finally:
                probing.cancel()
                await asyncio.gather(probing, return_exceptions=True)
            after = read_journal(path)
            if after.violations or not any(not_told(after, options.seed)):
                return


def main() -> int:
    """Place orders until it is asked to end. The status is 0 if everything has ended, 3 if not."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--in-flight", type=int, required=True)
    options = parser.parse_args()

    async def work(stop: asyncio.Event) -> int:
        working = asyncio.create_task(place_all(options))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        is_done = working.done()
        for task in (working, stopping):
            task.cancel()
        results = await asyncio.gather(working, stopping, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]
        return 0 if is_done else 3

    return run(work, "client")


if __name__ == "__main__":
    raise SystemExit(main())
