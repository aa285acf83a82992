"""A coordinator's process: headers in, transactions out, one call into the core a frame. It holds no truth."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sagacore._core import Coordinator as CoordinatorCore
from sagacore.endpoints import check_one_endpoint
from sagacore.errors import ProtocolError
from sagacore.processes.run import run
from sagacore.processes.settings import check_range
from sagacore.transport import Link

REPORT_S: Final = 0.5
SLOTS_MIN: Final = 16
SLOTS_MAX: Final = 1 << 26
CREDIT_MAX: Final = 65_536
log = logging.getLogger("sagacore.coordinator")


@dataclass(frozen=True, kw_only=True)
class CoordinatorOptions:
    """The settings of a coordinator."""

    endpoint: str
    slots: int = 65_536
    """Slots of 64 bytes in its table, taken once: a power of two. A full table spills, it never refuses."""
    credit: int = 1_024
    """Messages that it may hold unanswered."""

    def __post_init__(self) -> None:
        """Raise UsageError (SAGA-E111) for what makes no sense, or (SAGA-E508) for a list of endpoints."""
        check_one_endpoint(self.endpoint, "coordinator")
        check_range("slots", self.slots, SLOTS_MIN, SLOTS_MAX)
        check_range("credit", self.credit, 1, CREDIT_MAX)


class Coordinator:
    """A coordinator in the running loop."""

    def __init__(self, options: CoordinatorOptions) -> None:
        self._core = CoordinatorCore(slots=options.slots, instance=secrets.randbits(63), credit=options.credit)
        self._link = Link(options.endpoint, self._core, self._receive)
        self._reporter: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Connect and begin. Raises UsageError for a bad endpoint."""
        self._link.open()
        self._report()

    async def close(self) -> None:
        """End the session: its slices go to the others."""
        if self._reporter is not None:
            self._reporter.cancel()
        await self._link.close()

    def _receive(self, frame: bytes, time_ms: int) -> None:
        try:
            self._core.receive(frame, time_ms)
        except ValueError as error:
            raise ProtocolError(
                "SAGA-E501",
                f"the broker sent a frame that breaks the format: {error}",
                "are all processes of the same version? If so, please report it",
            ) from error

    def _report(self) -> None:
        self._reporter = asyncio.get_running_loop().call_later(REPORT_S, self._report)
        self._core.report({"rss_bytes": resident_bytes(), "pid": os.getpid()})


def resident_bytes() -> int:
    """The resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def run_coordinator(options: CoordinatorOptions) -> int:
    """Run a coordinator until it is asked to end. Gives the exit status."""

    async def main(stop: asyncio.Event) -> int:
        coordinator = Coordinator(options)
        coordinator.open()
        log.info("coordinating for %s with %d slots", options.endpoint, options.slots)
        await stop.wait()
        await coordinator.close()
        return 0

    return run(main, "coordinator")
