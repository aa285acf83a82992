"""How long a killed broker is away: from its start to the first message that it delivers, and what it takes then.

`parked`: a log with many running sagas, read by a broker that has nothing else to do. `loaded`: the shop at full load,
whose broker is killed and started again with its log as it is; the last service is killed just before, so that so many
sagas are in flight as there should be, and started again with the broker.
"""

import asyncio
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from sagacore._core import Worker
from sagacore.demo.fleet import Fleet, resident_bytes
from sagacore.demo.plant import SERVICES, local_endpoint, start_broker
from sagacore.demo.shop.contracts import Order
from sagacore.demo.shop.saga import place_order
from sagacore.transport import Link

from .parked_log import check, make
from .plant import Durability, OrderBook, Plant, key, running, start_in_memory
from .usage import cpu_s, folder_bytes, peak_bytes

GIVE_UP_S = 120.0
FULL_SHARE = 0.98
LAST = SERVICES[-1]
LOOK_S = 0.002
SERVING = re.compile(r"after (\d+) ms: .*?(\d+) records, (\d+) sagas running, (\d+) remembered")
LOG_LINES = 1_000


async def recovery(
    console: Console, *, live: int, in_flight: int, load_s: float, durability: Durability
) -> dict[str, object]:
    """Measure both, print the figures and return them. A count of 0 leaves one out."""
    figures: dict[str, object] = {"durability": durability}
    if live:
        figures["parked"] = await parked(live)
        console.print("parked:", figures["parked"])
    if in_flight:
        figures["loaded"] = await loaded(in_flight, load_s, durability)
        console.print("loaded:", figures["loaded"])
    return figures


async def parked(live: int) -> dict[str, int]:
    """Start a broker on a log with so many running sagas. Raises `AssertionError` if they are not all there."""
    with (
        tempfile.TemporaryDirectory(prefix="sagacore-bench-") as folder,
        local_endpoint() as endpoint,
        Fleet(Path(folder)) as fleet,
    ):
        data = Path(folder, "broker")
        await make(data, live)
        log_bytes = folder_bytes(data)
        service = FirstDelivery(endpoint)
        began_s = time.monotonic()
        start_broker(fleet, endpoint, durability="sync")
        await _until(service.is_delivered)
        found = _serving(fleet)[-1]
        if found["running"] != live:
            raise AssertionError(f"{found['running']} of {live} sagas came back")
        first_ms = round((service.delivered_s - began_s) * 1_000)
        await service.close()
        return {"log_bytes": log_bytes, **found, "first_delivery_ms": first_ms, **_usage(fleet)}


async def loaded(in_flight: int, load_s: float, durability: Durability) -> dict[str, int]:
    """Run the shop at full load for so long, kill the broker and start it again."""
    ended_s: list[float] = []
    async with running(durability=durability) as plant:
        load = asyncio.create_task(_load(plant, in_flight, ended_s))
        try:
            began_s = time.monotonic()
            await asyncio.sleep(load_s)
            ended, loaded_s = len(ended_s), time.monotonic() - began_s
            plant.fleet.kill(LAST)
            while (stats := await plant.client.stats())["running"] < FULL_SHARE * in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # counters have no event
            log_bytes = folder_bytes(plant.fleet.folder / "broker")
            killed_s = time.monotonic()
            plant.fleet.kill_and_restart("broker")
            start_in_memory(plant.fleet, plant.endpoint, LAST)
            await _until(lambda: len(_serving(plant.fleet)) > 1)
            # What the broker that was killed had told is heard by now.
            before = len(ended_s)
            await _until(lambda: len(ended_s) > before)
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        return {
            "in_flight": in_flight,
            "sagas_per_s": round(ended / loaded_s),
            "running_when_killed": stats["running"],
            "log_bytes": log_bytes,
            **_serving(plant.fleet)[-1],
            "first_outcome_ms": round((ended_s[before] - killed_s) * 1_000),
            **_usage(plant.fleet),
        }


class FirstDelivery:
    """A process of the service that the parked sagas wait for: it says when it was first asked for something."""

    def __init__(self, endpoint: str) -> None:
        self.delivered_s = 0.0
        self._core = Worker(
            check.service,
            [check.name],
            instance=secrets.randbits(63),
            memory_fence=True,
            lease_ms=30_000,
            credit=256,
        )
        self._link = Link(endpoint, self._core, self._deliver)
        self._link.open()

    def is_delivered(self) -> bool:
        """Whether anything has come."""
        return self.delivered_s > 0

    async def close(self) -> None:
        """End the session."""
        await self._link.close()

    def _deliver(self, frame: bytes, now_ms: int) -> None:
        if self._core.receive(frame, now_ms) and not self.is_delivered():
            self.delivered_s = time.monotonic()


async def _load(plant: Plant, in_flight: int, ended_s: list[float]) -> None:
    book = OrderBook()

    def orders() -> Iterator[Order]:
        while True:
            yield from book.take(10_000)

    async for _ in plant.client.start_many(place_order, orders(), in_flight=in_flight, key=key):
        ended_s.append(time.monotonic())  # noqa: PERF401 (it is read meanwhile)


def _serving(fleet: Fleet) -> list[dict[str, int]]:
    """What the brokers have said when they began to serve."""
    names = ("serving_ms", "records", "running", "remembered")
    found = SERVING.finditer(fleet.tail("broker", LOG_LINES))
    return [dict(zip(names, map(int, one.groups()), strict=True)) for one in found]


def _usage(fleet: Fleet) -> dict[str, int]:
    pid = fleet.pid("broker")
    return {
        "broker_cpu_ms": round(cpu_s(pid) * 1_000),
        "resident_bytes": resident_bytes(pid),
        "peak_bytes": peak_bytes(pid),
    }


async def _until(condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + GIVE_UP_S
    while not condition():
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"nothing has come in {GIVE_UP_S:.0f} s")
        await asyncio.sleep(LOOK_S)
