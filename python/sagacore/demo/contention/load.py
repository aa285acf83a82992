"""Starts trips that contend for things, kills processes on the way, and counts how everything ended."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sagacore import Client, Completed, Saga, SagacoreError
from sagacore.demo.failure import DemoFailed
from sagacore.demo.fleet import Fleet
from sagacore.demo.kills import Kill
from sagacore.demo.plant import role_of
from sagacore.identity import saga_id_bytes, shard_of_id

from .trips import NAMES, SCHEMA, Trip

WATCH_S = 0.1
SAMPLE_S = 0.5
COUNTED = ("resolved", "phantoms", "wounded", "restarts")
EXPECTED = ("victim", "deadline", "cancelled", "rejected")
"""Causes that are not an error of the services: `rejected` is what policy `fail` makes of a held thing."""


@dataclass
class Figures:
    """What a run has shown."""

    sagas: int
    completed: int = 0
    compensated: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    deadlocks: dict[tuple[int, int, int], dict[str, Any]] = field(default_factory=dict)
    """By shard, boot of its broker, and number."""
    counted: dict[tuple[int, int], dict[str, int]] = field(default_factory=dict)
    """What brokers count of deadlocks, by shard and boot."""
    taken: int = 0
    given_back: int = 0
    left: int = 0
    """Things that somebody has at the end."""

    @property
    def ended(self) -> int:
        """Sagas that have an outcome."""
        return self.completed + self.compensated.total()

    @property
    def violations(self) -> int:
        """Sagas that ended for no good reason, and, if all have ended, things that nobody gave back."""
        wrong = sum(count for cause, count in self.compensated.items() if cause not in EXPECTED)
        return wrong + (self.left if self.ended == self.sagas else 0)

    def sum(self, name: str) -> int:
        """A counter over all boots of all brokers."""
        return sum(counters[name] for counters in self.counted.values())

    def detection_ms(self, *, since: int = 0) -> list[int]:
        """From when a circle closed until its victim's abort was durable, sorted; of those with higher numbers."""
        circles = (one for one in self.deadlocks.values() if not one["is_wound"] and one["number"] > since)
        return sorted(one["detection_ms"] for one in circles if one["detection_ms"] is not None)


def open_stores(folder: Path) -> None:
    """Make the services' tables."""
    for name in NAMES:
        with contextlib.closing(sqlite3.connect(folder / f"{name}.db")) as db:
            db.executescript(SCHEMA)


def trips(count: int, things: int, *, keys: int, skew: float, seed: int, name: str = "t") -> list[Trip]:
    """Trips whose things are drawn from so many by Zipf's law; with skew 0 all are alike."""
    drawn = random.Random(seed)
    bounds = list(itertools.accumulate(1 / (rank + 1) ** skew for rank in range(keys)))

    def thing() -> int:
        return min(bisect.bisect_left(bounds, drawn.random() * bounds[-1]), keys - 1)

    return [Trip(f"{name}{number}", [thing() for _ in range(things)]) for number in range(count)]


class Contention:
    """One run."""

    def __init__(self, client: Client, fleet: Fleet, kills: Sequence[Kill], *, patience_s: float) -> None:
        self._client = client
        self._fleet = fleet
        self._kills_left = list(reversed(kills))
        self._patience_s = patience_s
        self._last_s = 0.0
        self.figures = Figures(0)

    async def run(self, sagas: Sequence[Saga[Trip, None]], all_trips: Sequence[Trip], *, in_flight: int) -> Figures:
        """Start all, each saga its share of them, and wait until they have ended or none has for too long."""
        figures = self.figures
        figures.sagas = len(all_trips)
        self._last_s = begun_s = time.monotonic()
        share = -(-in_flight // len(sagas))
        starting = [
            asyncio.create_task(self._start(saga, all_trips[at :: len(sagas)], share)) for at, saga in enumerate(sagas)
        ]
        everything = asyncio.gather(*starting)
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait((everything, watching), return_when=asyncio.FIRST_COMPLETED)
        finally:
            everything.cancel()
            watching.cancel()
            results = await asyncio.gather(everything, watching, return_exceptions=True)
        figures.elapsed_s = self._last_s - begun_s
        for result in results:
            if isinstance(result, Exception):
                raise result
        await asyncio.sleep(SAMPLE_S)  # what was aborted last becomes durable
        await self._sample()
        return figures

    async def _start(self, saga: Saga[Trip, None], own: Sequence[Trip], in_flight: int) -> None:
        figures = self.figures
        async for ended in self._client.start_many(saga, own, in_flight=in_flight, key=lambda trip: trip.name):
            self._last_s = time.monotonic()
            figures.latencies_ms.append(ended.latency_ms)
            if isinstance(ended.outcome, Completed):
                figures.completed += 1
            else:
                figures.compensated[ended.outcome.cause] += 1
            while self._kills_left and figures.ended >= self._kills_left[-1].after_ended:
                name = self._kills_left.pop().process
                await self._sample()
                self._fleet.kill_and_restart(name)
                figures.kills[role_of(name)] += 1

    async def _watch(self) -> None:
        sampled_s = time.monotonic()
        while time.monotonic() - self._last_s < self._patience_s:
            await asyncio.sleep(WATCH_S)
            for name, status, tail in self._fleet.died():
                raise DemoFailed(f"{name} ended with status {status}", hint="its last lines are above", tail=tail)
            if time.monotonic() - sampled_s > SAMPLE_S:
                sampled_s = time.monotonic()
                await self._sample()

    async def _sample(self) -> None:
        """Read what brokers say of deadlocks, if they answer."""
        with contextlib.suppress(SagacoreError, TimeoutError):
            stats = await asyncio.wait_for(self._client.stats(), 5)
            boots = [one["boot_epoch"] for one in stats.get("shards", (stats,))]
            for shard, one in enumerate(stats.get("shards", (stats,))):
                self.figures.counted[shard, boots[shard]] = {name: one[f"deadlocks_{name}"] for name in COUNTED}
            for found in await asyncio.wait_for(self._client.deadlocks(), 5):
                shard = shard_of_id(saga_id_bytes(found["victim"]))  # whose broker tells of it
                self.figures.deadlocks[shard, boots[shard], found["number"]] = dict(found)


def audit(folder: Path, figures: Figures) -> None:
    """Read what the services' databases say when all has ended."""
    for name in NAMES:
        with contextlib.closing(sqlite3.connect(folder / f"{name}.db")) as db:
            [(taken, given_back)] = db.execute("select taken, given_back from work")
            [(left,)] = db.execute("select count(*) from things")
        figures.taken += taken
        figures.given_back += given_back
        figures.left += left
