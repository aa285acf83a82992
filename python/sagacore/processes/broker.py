"""The broker's process: one socket, one loop, one call into the core a drain, and the log's own thread."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sagacore._core import Broker as BrokerCore
from sagacore._core import LogError
from sagacore.endpoints import check_one_endpoint
from sagacore.errors import UsageError
from sagacore.limits import SHARDS_MAX
from sagacore.processes.descriptors import allow_connections
from sagacore.processes.log_tools import log_refused
from sagacore.processes.run import run
from sagacore.processes.settings import check_range
from sagacore.transport import Hub, now_ms

TICK_S: Final = 0.01
TICK_AT_LEAST_S: Final = 0.1
SEGMENT_BYTES_MIN: Final = 1 << 20
"""The largest transaction must fit, with what was gathered before it."""
SEGMENT_BYTES_MAX: Final = 4 << 30
SLOW_SYNC_US: Final = 1_000_000
"""A write and sync of the log that takes longer is told: disks that are about to fail are often slow first."""
log = logging.getLogger("sagacore.broker")


@dataclass(frozen=True, kw_only=True)
class BrokerOptions:
    """The settings of a broker."""

    endpoint: str
    data: Path | None = None
    """Folder of the log; without it, or with durability "memory", nothing is kept."""
    durability: Literal["sync", "os", "memory"] = "sync"
    """When a transaction counts as durable: synced to the disk, written to the system, or at once."""
    visibility: Literal["strict", "relaxed"] = "strict"
    """Whether all that a transaction publishes waits until it is durable, or only what decides."""
    segment_bytes: int = 64 << 20
    sync_interval_us: int = 250
    """Under load, syncs begin at least so far apart; alone, at once."""
    stuck_after_ms: int = 60_000
    outcomes_max: int = 1 << 20
    outcomes_ms: int = 600_000
    shard: int = 0
    """Its number among several brokers."""
    detect_deadlocks: bool = True
    """Whether sagas that wait for each other are found and resolved; else they wait for their deadlines."""

    def __post_init__(self) -> None:
        """Raise UsageError (SAGA-E111) for what makes no sense, or (SAGA-E508) for a list of endpoints."""
        check_range("segment-bytes", self.segment_bytes, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
        check_one_endpoint(self.endpoint, "broker")
        check_range("shard", self.shard, 0, SHARDS_MAX - 1)
        check_range("sync-interval-us", self.sync_interval_us, 0, 1_000_000)
        for name in ("stuck_after_ms", "outcomes_max", "outcomes_ms"):
            check_range(name.replace("_", "-"), getattr(self, name), 0, 1 << 62)


class Broker:
    """A broker in the running loop."""

    def __init__(self, options: BrokerOptions) -> None:
        self.options = options
        self._core: BrokerCore | None = None
        self._hub = Hub(options.endpoint, self._receive)
        self._ticker: asyncio.TimerHandle | None = None
        self._ticked_ms = 0
        self._is_slow = False
        self.failed: asyncio.Future[str] | None = None

    def open(self) -> None:
        """Read the log and begin to serve.

        Raises LogRefused (SAGA-E504) for a log that is damaged or taken, UsageError for a bad endpoint, for a log of
        another shard (SAGA-E508), or where the process may open too few files.
        """
        options = self.options
        loop = asyncio.get_running_loop()
        self.failed = loop.create_future()
        allow_connections()
        started_ms = now_ms()
        try:
            core = BrokerCore(
                directory=None if options.durability == "memory" or options.data is None else str(options.data),
                durability=options.durability,
                visibility=options.visibility,
                segment_bytes=options.segment_bytes,
                sync_interval_us=options.sync_interval_us,
                stuck_after_ms=options.stuck_after_ms,
                outcomes_max=options.outcomes_max,
                outcomes_ms=options.outcomes_ms,
                shard=options.shard,
                secret=secrets.token_bytes(16),
                now_ms=started_ms,
                detect_deadlocks=options.detect_deadlocks,
            )
        except LogError as error:
            raise log_refused(error) from error
        if core.shard() != options.shard:
            core.close(now_ms())
            raise UsageError(
                "SAGA-E508",
                f"the log in {options.data} is of shard {core.shard()}, and the broker was started as {options.shard}",
                f"start it with --shard {core.shard()}, or with another folder",
            )
        self._core = core
        self._hub.open()
        if core.fileno() >= 0:
            loop.add_reader(core.fileno(), self._synced)
        name = f"{options.endpoint} as shard {options.shard}" if options.shard else options.endpoint
        log.info("serving %s after %d ms: %s", name, now_ms() - started_ms, core.recovered())
        self._tick()

    def close(self) -> None:
        """End cleanly: the log gets its seal."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._core is not None:
            if self._core.fileno() >= 0:
                asyncio.get_running_loop().remove_reader(self._core.fileno())
            self._core.close(now_ms())
        self._hub.close()

    def _receive(self, frames: list[tuple[bytes, bytes]], time_ms: int) -> int:
        assert self._core is not None
        answers, heard = self._core.receive(frames, time_ms)
        self._send(answers)
        return heard

    def _synced(self) -> None:
        assert self._core is not None
        self._send(self._core.synced(now_ms()))
        self._check()

    def _send(self, frames: list[tuple[bytes, bytes]]) -> None:
        assert self._core is not None
        for identity in self._hub.send(frames):
            self._core.lost(identity, now_ms())

    def _tick(self) -> None:
        assert self._core is not None
        time_ms = now_ms()
        self._ticker = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        # Silence is judged only when everything that was said has been heard, or after a while all the same.
        if self._hub.is_drained or time_ms - self._ticked_ms > TICK_AT_LEAST_S * 1_000:
            self._ticked_ms = time_ms
            self._send(self._core.tick(time_ms))
            self._check()
            if self._core.has_parked():
                give_memory_back()
        self._watch_disk()

    def _check(self) -> None:
        assert self._core is not None
        assert self.failed is not None
        poisoned = self._core.poisoned()
        if poisoned is not None and not self.failed.done():
            self.failed.set_result(poisoned)

    def _watch_disk(self) -> None:
        """Warn once while the log waits for its disk, and say when it has got over it."""
        assert self._core is not None
        figures = dict(self._core.log_figures())
        is_slow = figures.get("commit_under_way_us", 0) > SLOW_SYNC_US
        if is_slow and not self._is_slow:
            log.warning(
                "the disk of %s is slow: a write has taken over %.0f s, and everybody waits for it",
                self.options.data,
                SLOW_SYNC_US / 1e6,
            )
        elif self._is_slow and not is_slow:
            log.warning("the disk goes on: its slowest write took %.1f s", figures["slowest_commit_us"] / 1e6)
        self._is_slow = is_slow


def _find_trim() -> Callable[[int], int] | None:
    """The C library's `malloc_trim`, where it has one: glibc keeps what was freed between what is in use."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim


_trim: Final = _find_trim()


def give_memory_back() -> None:
    """Give the system back what sagas took that are in the log alone now."""
    if _trim is not None:
        _trim(0)


def run_broker(options: BrokerOptions) -> int:
    """Run a broker until it is asked to end. Gives the exit status."""

    async def main(stop: asyncio.Event) -> int:
        broker = Broker(options)
        broker.open()
        assert broker.failed is not None
        broker.failed.add_done_callback(lambda _: stop.set())
        await stop.wait()
        if broker.failed.done():
            # What the log could not write was confirmed to nobody. The disk is not to be touched again.
            log.critical("the log failed and nothing more is accepted: %s", broker.failed.result())
            os._exit(74)
        broker.close()
        return 0

    return run(main, "broker")
