"""Sagas kept in flight at a constant number: the measurement that the others are made of."""

import math
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from sagacore import Compensated, Saga
from sagacore.demo.shop.contracts import Order, Scheduled

from .plant import Plant, key
from .usage import CpuMeter


@dataclass(frozen=True, slots=True)
class Figures:
    """What one closed loop has shown."""

    in_flight: int
    sagas: int
    sagas_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_saga: dict[str, float]

    def as_json(self) -> dict[str, object]:
        """The three figures that every row has."""
        return {
            "sagas_per_s": round(self.sagas_per_s),
            "p50_ms": round(self.p50_ms, 3),
            "p99_ms": round(self.p99_ms, 3),
            "in_flight": self.in_flight,
        }


async def closed_loop(
    plant: Plant, saga: Saga[Order, Scheduled], orders: Sequence[Order], *, in_flight: int, compensated: bool = False
) -> Figures:
    """Place all orders with so many in flight, and wait for them.

    Raises `AssertionError` if one of them ends otherwise than `compensated` says: then the figures mean nothing.
    """
    latencies_ms = array("d")
    cpu = CpuMeter(plant)
    started_s = time.perf_counter()
    async for ended in plant.client.start_many(saga, orders, in_flight=in_flight, key=key):
        if isinstance(ended.outcome, Compensated) is not compensated:
            raise AssertionError(f"{ended.key} ended with {ended.outcome}")
        latencies_ms.append(ended.latency_ms)
    elapsed_s = time.perf_counter() - started_s
    return Figures(
        in_flight=in_flight,
        sagas=len(orders),
        sagas_per_s=len(orders) / elapsed_s,
        p50_ms=share_of(latencies_ms, 0.5),
        p99_ms=share_of(latencies_ms, 0.99),
        cpu_us_per_saga=cpu.us_per_saga(len(orders)),
    )


def share_of(values: Sequence[float], share: float) -> float:
    """The value that this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
