"""A broker, a coordinator and the shop's services as processes, over tcp, for all tests of a file."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sagacore import Client, Completed
from sagacore.demo.fleet import Fleet, resident_bytes
from sagacore.demo.plant import SERVICES, ready, start_broker, start_coordinators, start_service
from sagacore.demo.shop.customers import incoming_orders
from sagacore.demo.shop.saga import place_order

NUMBERS = itertools.count(1)


@dataclass
class Latencies:
    """How long honest sagas took, one after the other."""

    seconds: list[float] = field(default_factory=list)

    @property
    def p50_ms(self) -> float:
        return sorted(self.seconds)[len(self.seconds) // 2] * 1e3

    @property
    def max_ms(self) -> float:
        return max(self.seconds) * 1e3


@dataclass(frozen=True)
class Plant:
    """The processes, and what honest clients see of them."""

    fleet: Fleet
    endpoint: str

    def memory(self) -> int:
        """Resident bytes of the broker."""
        return resident_bytes(self.fleet.pid("broker"))

    async def place(self, count: int) -> Latencies:
        """Place orders one after the other, all of which complete."""
        latencies = Latencies()
        first = next(NUMBERS) * 1_000_000
        async with Client(self.endpoint, timeout=20) as client:
            for order in incoming_orders(count, reject=0, seed=first, first=first):
                begin_s = time.monotonic()
                saga = await client.start(place_order, order, key=order.order_id)
                assert isinstance(await saga.outcome(timeout=20), Completed)
                latencies.seconds.append(time.monotonic() - begin_s)
        return latencies

    def honest(self, count: int = 50) -> Latencies:
        """The same from a test that is not in a loop; and nobody has died."""
        latencies = asyncio.run(self.place(count))
        assert list(self.fleet.died()) == []
        return latencies

    def stats(self) -> dict[str, int]:
        async def ask() -> dict[str, int]:
            async with Client(self.endpoint, timeout=20) as client:
                found = await client.stats()
                return {name: value for name, value in found.items() if isinstance(value, int)}

        return asyncio.run(ask())


def free_endpoint() -> str:
    """A port on this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


async def start(fleet: Fleet, endpoint: str) -> None:
    start_broker(fleet, endpoint, durability="os")
    start_coordinators(fleet, endpoint, count=1, slots=1_024)
    for service in SERVICES:
        start_service(fleet, endpoint, service, effects="memory")
    async with Client(endpoint, timeout=30) as client:
        await ready(client, fleet)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    folder: Path = tmp_path_factory.mktemp("hostile")
    endpoint = free_endpoint()
    with Fleet(folder) as fleet:
        asyncio.run(start(fleet, endpoint))
        yield Plant(fleet, endpoint)
        assert list(fleet.died()) == []
