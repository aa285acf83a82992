"""From start to outcome: one saga at a time, and at half of what a closed loop achieves.

Alone, nothing waits for anything but its own wake-ups and syncs; product and bare pipeline take turns. At half load
sagas are started when they are due, and their latencies count from then. For a compensation what counts is the time
from the rejection to the outcome, under a load of which every order is rejected.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from hdrh.histogram import HdrHistogram
from rich.console import Console

from sagacore import Compensated
from sagacore.demo.shop.saga import place_order

from . import telling_shop
from .bare import pipeline
from .closed_loop import closed_loop
from .load import Load
from .open_loop import open_loop
from .plant import Durability, OrderBook, Plant, Visibility, key, running
from .tables import table

TURNS = 10
TURN_SAGAS = 100
FULL_LOAD = 16_384
"""Sagas in flight where half of the throughput is asked for."""
SHARE_OF_FULL = 0.5
MODULES = {"shipping": telling_shop.__name__}
HIGHEST_US = 600_000_000
DIGITS = 3


async def latency(console: Console, *, durability: Durability, visibility: Visibility, row_s: float) -> dict[str, Any]:
    """Measure everything, print the table and return the figures."""
    load = Load(OrderBook(), row_s)
    figures: dict[str, Any] = {}
    with pipeline.running(waits=visibility == "relaxed") as waiting, pipeline.running(waits=False) as through:
        async with running(durability=durability, visibility=visibility, modules=MODULES) as plant:
            figures |= await _alone(plant, {"bare_alone": waiting, "bare_alone_never_waits": through}, load.book)
    async with running(durability=durability, visibility=visibility, modules=MODULES) as plant:
        figures |= await _loaded(plant, load)
    async with running(durability=durability, visibility="strict", modules=MODULES) as plant:
        strict = {**await _alone(plant, {}, load.book), **await _loaded(plant, load)}
    promises = f"durability {durability}, fences and effects in memory, visibility"
    console.print(_table(f"{promises} {visibility}", figures))
    console.print(_table(f"{promises} strict", strict))
    ratio = figures["alone"]["p50_ms"] / figures["bare_alone"]["p50_ms"]
    console.print(f"alone: {ratio:.2f} times the bare pipeline's p50")
    return {
        "durability": durability,
        "visibility": visibility,
        "fences": "memory",
        **figures,
        "alone_to_bare": round(ratio, 3),
        "strict": strict,
    }


async def _alone(plant: Plant, limits: dict[str, pipeline.Pipeline], book: OrderBook) -> dict[str, Any]:
    """One saga at a time, in turns with what has nothing in it but messages."""
    latencies_ms: dict[str, list[float]] = {name: [] for name in ("alone", *limits)}
    await closed_loop(plant, place_order, book.take(TURN_SAGAS), in_flight=1)
    for _ in range(TURNS):
        for order in book.take(TURN_SAGAS):
            started_s = time.perf_counter()
            saga = await plant.client.start(place_order, order, key=key(order))
            await saga.outcome()
            latencies_ms["alone"].append((time.perf_counter() - started_s) * 1_000)
        for name, limit in limits.items():
            latencies_ms[name] += await asyncio.to_thread(limit.latencies_ms, book.take(TURN_SAGAS), in_flight=1)
    return {name: quantiles(found) for name, found in latencies_ms.items()}


async def _loaded(plant: Plant, load: Load) -> dict[str, Any]:
    """At half of the throughput of completed sagas, and of compensated ones."""

    def failed_s(outcome: Compensated) -> float:
        return telling_shop.rejected_s(outcome.reason)

    await load.warm_up(plant)
    rate = SHARE_OF_FULL * (await load.sagas(plant, FULL_LOAD)).sagas_per_s
    completed_ms = await open_loop(plant, load.orders(rate), rate=rate)
    undone_rate = SHARE_OF_FULL * (await load.sagas(plant, FULL_LOAD, 1.0)).sagas_per_s
    undone_ms = await open_loop(plant, load.orders(undone_rate, 1.0), rate=undone_rate, failed_s=failed_s)
    return {
        "half_load": {**quantiles(completed_ms), "sagas_per_s": round(rate)},
        "compensation": {**quantiles(undone_ms), "sagas_per_s": round(undone_rate)},
    }


def quantiles(latencies_ms: Sequence[float]) -> dict[str, float]:
    """The median, the slowest hundredth and thousandth, and the slowest."""
    histogram = HdrHistogram(1, HIGHEST_US, DIGITS)
    for latency_ms in latencies_ms:
        histogram.record_value(max(1, round(latency_ms * 1_000)))
    shares = {"p50_ms": 50, "p99_ms": 99, "p999_ms": 99.9, "slowest_ms": 100}
    return {name: histogram.get_value_at_percentile(share) / 1_000 for name, share in shares.items()}


def _table(title: str, figures: dict[str, Any]) -> Any:
    columns = ("", "p50 ms", "p99 ms", "p99.9 ms", "slowest ms", "sagas/s")
    rows = []
    for name, row in figures.items():
        cells = [f"{row[share]:,.3f}" for share in ("p50_ms", "p99_ms", "p999_ms", "slowest_ms")]
        rows.append((name.replace("_", " "), *cells, f"{row['sagas_per_s']:,}" if "sagas_per_s" in row else "one"))
    return table(title, columns, rows)
