"""Sagas kept in flight at a constant number: the measurement that the others are made of."""

import time
from array import array
from collections.abc import Sequence

from sagacore import Compensated, Saga
from sagacore.demo.shop.contracts import Order, Scheduled

from .figures import Figures
from .plant import Plant, key
from .usage import CpuMeter


async def closed_loop(
    plant: Plant,
    saga: Saga[Order, Scheduled],
    orders: Sequence[Order],
    *,
    in_flight: int,
    compensated: int = 0,
) -> Figures:
    """Place all orders with so many in flight, and wait for them.

    Raises `AssertionError` if not exactly so many of them are compensated: then the figures mean nothing.
    """
    latencies_ms = array("d")
    undone = 0
    before = await plant.client.stats()
    cpu = CpuMeter(plant.fleet)
    started_s = time.perf_counter()
    async for ended in plant.client.start_many(saga, orders, in_flight=in_flight, key=key):
        if isinstance(ended.outcome, Compensated):
            undone += 1
        latencies_ms.append(ended.latency_ms)
    elapsed_s = time.perf_counter() - started_s
    if undone != compensated:
        raise AssertionError(f"{undone} sagas were compensated, not {compensated}")
    figures = Figures.of(latencies_ms, in_flight=in_flight, elapsed_s=elapsed_s, cpu=cpu)
    after = await plant.client.stats()
    counted = {name: after[name] - before[name] for name in ("messages", "log_bytes")}
    return figures.with_counts(**counted)
