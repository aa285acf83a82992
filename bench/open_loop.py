"""Sagas that are started when their time has come, whether those before have ended or not.

A latency counts from the time at which the saga was to start, so what a system that is behind does to those that it
has not even started is not omitted.
"""

import asyncio
import contextlib
import gc
import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from sagacore import Compensated
from sagacore.demo.shop.contracts import Order
from sagacore.demo.shop.saga import place_order

from .plant import Plant, key

TURN_S = 0.001
"""Orders that have become due are started in turns, so far apart."""
IN_FLIGHT_MAX = 1_000_000
"""None waits for others to end."""


async def open_loop(
    plant: Plant,
    orders: Sequence[Order],
    *,
    rate: float,
    failed_s: Callable[[Compensated], float] | None = None,
) -> Sequence[float]:
    """Start orders at `rate` a second, and give their latencies in milliseconds.

    They count from when the saga was to start; or with `failed_s` from when it failed, as that tells of its outcome.
    Raises `AssertionError` if a saga is compensated and there is no `failed_s`, or is not and there is.
    """
    latencies_ms = array("d")
    places = {key(order): place for place, order in enumerate(orders)}
    with _not_collected():
        began_s = time.monotonic()
        starting = _when_due(orders, began_s, rate)
        async for ended in plant.client.start_many(place_order, starting, in_flight=IN_FLIGHT_MAX, key=key):
            now_s = time.monotonic()
            outcome, since_s = ended.outcome, began_s + places[ended.key] / rate
            if isinstance(outcome, Compensated) is (failed_s is None):
                raise AssertionError(f"{ended.key} ended with {outcome}")
            if failed_s is not None and isinstance(outcome, Compensated):
                since_s = failed_s(outcome)
            latencies_ms.append((now_s - since_s) * 1_000)
    return latencies_ms


@contextlib.contextmanager
def _not_collected() -> Iterator[None]:
    """The orders of a measurement are not the client's: its garbage collector need not look at all of them."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _when_due(orders: Sequence[Order], began_s: float, rate: float) -> AsyncIterator[Order]:
    started = 0
    while started < len(orders):
        are_due = min(len(orders), int((time.monotonic() - began_s) * rate) + 1)
        for order in orders[started:are_due]:
            yield order
        started = are_due
        await asyncio.sleep(TURN_S)
