"""The closed loop that every peer is measured with. Runs in the peers' own environment.

So many sagas are kept in flight for so long. Those count that end after the warm-up; and because all are started at
once and may go on in waves, counting begins when so many have ended as are in flight, and ends when so many more have.
Each row is one line of JSON on the standard output, after one line when counting begins and one when it ends, at which
whoever reads them can read the CPU clocks of the processes.
"""

import argparse
import asyncio
import json
import math
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence

from bench.peers.shop import Order, Outcome, checked, orders

Place = Callable[[Order], Awaitable[Outcome]]
"""Starts the saga of an order and waits for its outcome."""


async def drive(place: Place, arguments: Sequence[str]) -> None:
    """Measure what the arguments ask for: `--in-flight 16,64 --seconds 5 --warm-up 2`, both workloads at each level.

    Raises `AssertionError` if a saga ends otherwise than its order says.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--in-flight", type=lambda text: [int(level) for level in text.split(",")], required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--warm-up", type=float, required=True)
    asked = parser.parse_args(arguments)
    for rejected in (False, True):
        for in_flight in asked.in_flight:
            row = await _level(place, in_flight, warm_up_s=asked.warm_up, seconds=asked.seconds, rejected=rejected)
            _tell(row)


class Window:
    """When sagas count, and those that did. Times are seconds of one clock."""

    def __init__(self, in_flight: int, *, now_s: float, warm_up_s: float, seconds: float) -> None:
        self._in_flight = in_flight
        self._begin_s = now_s + warm_up_s
        self._seconds = seconds
        self._warming = 0
        self._counting = False
        self.elapsed_s = 0.0
        self.over = False
        self.latencies_ms = array("d")

    def ended(self, started_s: float, now_s: float) -> None:
        """A saga has ended."""
        if self.over:
            return
        if not self._counting:
            self._warming += 1
            if now_s >= self._begin_s and self._warming >= self._in_flight:
                self._begin_s = now_s
                self._counting = True
                _tell({"mark": "begin"})
            return
        self.latencies_ms.append((now_s - started_s) * 1e3)
        self.elapsed_s = now_s - self._begin_s
        if self.elapsed_s >= self._seconds and len(self.latencies_ms) >= self._in_flight:
            self.over = True
            _tell({"mark": "end"})


async def _level(
    place: Place, in_flight: int, *, warm_up_s: float, seconds: float, rejected: bool
) -> dict[str, object]:
    """Keep so many in flight until the window is over, and wait for those that are left."""
    run = time.time_ns() // 1_000_000 % 100_000_000
    book = orders(f"{'r' if rejected else 's'}{in_flight}-{run}", rejected=rejected)
    window = Window(in_flight, now_s=time.perf_counter(), warm_up_s=warm_up_s, seconds=seconds)

    async def one_after_another() -> None:
        while not window.over:
            started_s = time.perf_counter()
            checked(await place(next(book)), rejected=rejected)
            window.ended(started_s, time.perf_counter())

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(one_after_another())
    return {
        "rejected": rejected,
        "in_flight": in_flight,
        "sagas": len(window.latencies_ms),
        "sagas_per_s": len(window.latencies_ms) / window.elapsed_s,
        "p50_ms": _share_of(window.latencies_ms, 0.5),
        "p99_ms": _share_of(window.latencies_ms, 0.99),
    }


def _share_of(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _tell(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
