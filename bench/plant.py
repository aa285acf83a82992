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
from sagacore.demo.plant import SERVICES, local_endpoint, ready, start_broker, start_coordinators
from sagacore.demo.shop.contracts import PARCEL_QUANTITY_MAX, Order
from sagacore.demo.shop.customers import incoming_orders

Durability = Literal["sync", "os", "memory"]
Visibility = Literal["strict", "relaxed"]
PATIENCE_S = 60.0
NOTICED_S = 10.0
SLOTS = 65_536
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
async def running(
    *,
    durability: Durability,
    visibility: Visibility = "strict",
    slots: int = SLOTS,
    modules: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Plant]:
    """Start everything, and stop it afterwards. The broker's log is in a temporary folder.

    `modules` names what implements a service where it is not the shop in memory.
    """
    with (
        tempfile.TemporaryDirectory(prefix="sagacore-bench-") as folder,
        local_endpoint() as endpoint,
        Fleet(Path(folder)) as fleet,
    ):
        start_broker(fleet, endpoint, durability=durability, visibility=visibility)
        start_coordinators(fleet, endpoint, count=1, slots=slots)
        async with Client(endpoint, timeout=PATIENCE_S) as client:
            for service in SERVICES:
                start_in_memory(fleet, endpoint, service, modules.get(service, SHOP))
            await ready(client, fleet)
            yield Plant(fleet, client, endpoint)


def start_in_memory(fleet: Fleet, endpoint: str, service: str, module: str = SHOP) -> None:
    """Start one process of a service, as a module implements it, with its fence in memory."""
    arguments = ("service", f"{module}:{service}", "--endpoint", endpoint, "--fence", "memory")
    fleet.start(service, arguments, {"PYTHONPATH": str(ROOT)})


class OrderBook:
    """Orders that nobody has placed before, so that no key is used twice."""

    def __init__(self) -> None:
        self._next = 0

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
