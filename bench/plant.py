"""A fresh set of processes for one measurement."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from sagacore import Client
from sagacore.demo.fleet import Fleet
from sagacore.demo.plant import SERVICES, local_endpoint, ready, start_broker, start_coordinators, start_service
from sagacore.demo.shop.contracts import PARCEL_QUANTITY_MAX, Order
from sagacore.demo.shop.customers import incoming_orders
from sagacore.demo.shop.tables import open_shop

Durability = Literal["sync", "os", "memory"]
Visibility = Literal["strict", "relaxed"]
Effects = Literal["memory", "sqlite"]
"""Where services keep their fences and what they do; SQLite syncs every commit."""
PLENTY = 1 << 40
"""Of what is on the shelves and in the accounts: nothing runs out."""
PATIENCE_S = 120.0
NOTICED_S = 10.0
READY_S = 120.0
"""Sixty-four processes take their time to start, and so does a log of ten million sagas."""
SLOTS = 65_536
DAY_S = 24 * 3_600
"""A deadline that no measurement reaches."""
SHOP = "sagacore.demo.shop.memory"
ROOT = Path(__file__).parents[1]
"""Processes that are started elsewhere find this package there."""


@dataclass(frozen=True, slots=True)
class Plant:
    """Broker, coordinator and services, and a client that is connected to them."""

    fleet: Fleet
    client: Client
    endpoint: str

    async def start_service(self, service: str) -> None:
        """Start one of the services, with everything in memory, and wait until it serves."""
        start_in_memory(self.fleet, self.endpoint, service)
        await ready(self.client, self.fleet)

    async def has_sessions(self, count: int) -> None:
        """Wait until so many processes and services have their session with the broker.

        Raises `TimeoutError` if they do not come.
        """
        async with asyncio.timeout(READY_S):
            while (await self.client.stats())["sessions"] < count:  # noqa: ASYNC110 (counters have no event)
                await asyncio.sleep(0.05)

    async def kill_service(self, service: str) -> None:
        """Kill a service, and wait until the broker has noticed: it accepts no second process before.

        Raises `TimeoutError` if it does not.
        """
        sessions = (await self.client.stats())["sessions"]
        self.fleet.kill(service)
        give_up_s = time.monotonic() + NOTICED_S
        while (await self.client.stats())["sessions"] >= sessions:
            if time.monotonic() > give_up_s:
                raise TimeoutError(f"the broker has not noticed in {NOTICED_S:.0f} s that {service} is gone")
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def without_services(
    *, durability: Durability, visibility: Visibility, slots: int = SLOTS, log: Path | None = None
) -> AsyncIterator[Plant]:
    """Start a broker and a coordinator, and stop everything afterwards.

    The broker's log is in a temporary folder, unless there is a `log`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="sagacore-bench-") as folder,
        local_endpoint() as endpoint,
        Fleet(Path(folder)) as fleet,
    ):
        start_broker(fleet, endpoint, durability=durability, visibility=visibility, data=str(log or "broker"))
        start_coordinators(fleet, endpoint, count=1, slots=slots)
        async with Client(endpoint, timeout=PATIENCE_S) as client:
            yield Plant(fleet, client, endpoint)


@contextlib.asynccontextmanager
async def running(
    *,
    durability: Durability,
    visibility: Visibility = "strict",
    slots: int = SLOTS,
    modules: Mapping[str, str] = MappingProxyType({}),
    log: Path | None = None,
    effects: Effects = "memory",
) -> AsyncIterator[Plant]:
    """The same with the four services, and with their fences and effects in memory or in SQLite.

    `modules` names what implements a service where it is not the shop in memory.
    """
    async with without_services(durability=durability, visibility=visibility, slots=slots, log=log) as plant:
        if effects == "sqlite":
            open_shop(plant.fleet.folder, pieces_per_sku=PLENTY, cents_per_customer=PLENTY)
        for service in SERVICES:
            if effects == "sqlite":
                start_service(plant.fleet, plant.endpoint, service, effects=effects)
            else:
                start_in_memory(plant.fleet, plant.endpoint, service, modules.get(service, SHOP))
        await ready(plant.client, plant.fleet, READY_S)
        yield plant


def start_in_memory(fleet: Fleet, endpoint: str, service: str, module: str = SHOP) -> None:
    """Start one process of a service, as a module implements it, with its fence in memory."""
    arguments = ("service", f"{module}:{service}", "--endpoint", endpoint, "--fence", "memory")
    fleet.start(service, arguments, {"PYTHONPATH": str(ROOT)})


class OrderBook:
    """Orders that nobody has placed before, so that no key is used twice."""

    def __init__(self, first: int = 0) -> None:
        self._next = first

    def take(self, count: int, *, rejected: float = 0.0) -> list[Order]:
        """So many orders; this share of them, from 0 to 1 and spread evenly, is rejected by shipping as the last step.

        Exactly `int(count * rejected)` are.
        """
        first, self._next = self._next, self._next + count
        orders = incoming_orders(count, reject=0, seed=first, first=first)
        if not rejected:
            return list(orders)
        return [
            _too_heavy(order) if int((place + 1) * rejected) > int(place * rejected) else order
            for place, order in enumerate(orders)
        ]


def _too_heavy(order: Order) -> Order:
    return Order(order.order_id, order.customer, order.sku, order.quantity + PARCEL_QUANTITY_MAX, order.cents)


def key(order: Order) -> str:
    """The key of an order's saga."""
    return order.order_id
