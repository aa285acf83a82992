"""Rows that all take about as long: each finds by a short run how many sagas that are."""

import asyncio
from dataclasses import dataclass

from sagacore.demo.shop.contracts import Order
from sagacore.demo.shop.saga import place_order

from .bare import pipeline
from .closed_loop import closed_loop
from .figures import Figures
from .plant import OrderBook, Plant

IN_FLIGHT = (64, 512, 4_096, 16_384)
PROBE_SAGAS = 2_000
ROW_SAGAS_MAX = 300_000
WARM_UP_SAGAS = 400_000
"""Until the log has as many segments as it keeps, and writes over old ones: what a broker does after some seconds."""


@dataclass(frozen=True, slots=True)
class Load:
    """Rows of about `row_s` seconds each; a short run before each warms up and tells how many sagas that are."""

    book: OrderBook
    row_s: float

    async def warm_up(self, plant: Plant) -> None:
        """Bring the processes to where they are after their first seconds at full load."""
        await closed_loop(plant, place_order, self.book.take(WARM_UP_SAGAS), in_flight=IN_FLIGHT[-1])

    async def sagas(self, plant: Plant, in_flight: int, rejected: float = 0.0) -> Figures:
        """One row of the product, with this share of orders rejected."""

        async def measure(count: int) -> Figures:
            orders = self.book.take(count, rejected=rejected)
            compensated = int(count * rejected)
            return await closed_loop(plant, place_order, orders, in_flight=in_flight, compensated=compensated)

        return await measure(self._count((await measure(PROBE_SAGAS)).sagas_per_s))

    async def bare(self, limit: pipeline.Pipeline, in_flight: int) -> Figures:
        """One row of the bare pipeline."""

        async def measure(count: int) -> Figures:
            return await asyncio.to_thread(limit.measure, self.book.take(count), in_flight=in_flight)

        return await measure(self._count((await measure(PROBE_SAGAS)).sagas_per_s))

    def orders(self, rate: float, rejected: float = 0.0) -> list[Order]:
        """Orders for a row at so many a second."""
        return self.book.take(self._count(rate), rejected=rejected)

    def _count(self, rate: float) -> int:
        return max(PROBE_SAGAS, min(ROW_SAGAS_MAX, int(rate * self.row_s)))
