"""Makes the faults of a plan, one task each, and ends them all."""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from sagacore.demo.failure import DemoFailed

from .disk import Pages, SmallDisk
from .events import Events
from .network import Lan
from .options import Fault
from .rhythm import Injection

STOP_S: Final = 5.0
"""A process that was asked to end has this long before it is killed."""
CLOCK_MS_MAX: Final = 3_600_000
POLL_S: Final = 0.002
ROLL_S: Final = 0.2
"""Between two processes of a rolling restart."""


class Processes(Protocol):
    """What faults are made on: processes by name, several of a kind."""

    def names(self) -> Sequence[str]:
        """All processes."""

    def named(self, kind: str) -> Sequence[str]:
        """The processes of a kind."""

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal. To a process that has ended it does nothing."""

    def pid(self, name: str) -> int | None:
        """The process's id; None while it does not run."""

    def start_again(self, name: str) -> None:
        """Start a process that has ended, or see to it that somebody does."""


class Injector:
    """Faults on processes, and on network and disk where there are such that can be hurt."""

    def __init__(
        self,
        processes: Processes,
        events: Events,
        tell: Callable[[str], None],
        *,
        lan: Lan | None = None,
        disk: SmallDisk | None = None,
        pages: Pages | None = None,
    ) -> None:
        self._processes = processes
        self._events = events
        self._tell = tell
        self._lan = lan
        self._disk = disk
        self._pages = pages
        self._stopping: set[str] = set()
        self._held: dict[tuple[Fault, str], int] = {}
        self._do: dict[Fault, Callable[[Injection], Coroutine[Any, Any, None]]] = {
            "kill": self._kill,
            "pause": self._pause,
            "cut": self._cut,
            "half-open": self._half_open,
            "delay": self._delay,
            "full-disk": self._fill,
            "clock": self._clock,
            "rolling-restart": self._roll,
        }

    def is_stopping(self, name: str) -> bool:
        """Whether a process is away because it was asked to be."""
        return name in self._stopping

    @property
    def is_full(self) -> bool:
        """Whether the disk is full now."""
        return bool(self._held.get(("full-disk", "disk")))

    async def run(self, plan: Iterable[Injection]) -> None:
        """Make all faults in their time, and come back when the last one has ended.

        Raises DemoFailed where the system's tools did not do what they were asked.
        """
        began_s = time.monotonic()
        errors: tuple[Exception, ...] = ()
        try:
            async with asyncio.TaskGroup() as tasks:
                for injection in plan:
                    await asyncio.sleep(max(0.0, began_s + injection.at_s - time.monotonic()))
                    tasks.create_task(self._do[injection.fault](injection))
        except* OSError as group:
            errors = tuple(leaf for leaf in group.exceptions if isinstance(leaf, OSError))
        if errors:
            raise DemoFailed(f"a fault could not be made: {errors[0]}", hint="leave it out with --faults")

    def _count(self, injection: Injection) -> None:
        self._events.faults[injection.fault] += 1
        self._events.ends.append((f"{injection.fault} {injection.kind}", time.monotonic()))

    async def _kill(self, injection: Injection) -> None:
        name = self._pick(injection)
        if not await self._end(name, signal.SIGKILL):
            self._tell(f"{name} does not run: not killed")
            return
        self._count(injection)
        self._events.kills[injection.kind] += 1
        self._tell(f"kill -9 of {name}")

    async def _end(self, name: str, number: signal.Signals) -> bool:
        """End a process and start it again. False if it does not run, or is being restarted."""
        pid = self._processes.pid(name)
        if pid is None or name in self._stopping:
            return False
        self._stopping.add(name)
        try:
            self._processes.signal(name, number)
            give_up_s = time.monotonic() + STOP_S
            while not is_gone(pid):
                await asyncio.sleep(POLL_S)
                if time.monotonic() > give_up_s:
                    self._processes.signal(name, signal.SIGKILL)
            if self._pages is not None and name == "broker":
                self._events.sectors_lost += self._pages.unsynced_sectors(name)
            self._processes.start_again(name)
        finally:
            self._stopping.discard(name)
        return True

    async def _pause(self, injection: Injection) -> None:
        name = self._pick(injection)
        self._tell(f"pause of {name} for {injection.lasts_s:.1f} s")
        await self._for_a_while(
            injection,
            name,
            lambda: self._processes.signal(name, signal.SIGSTOP),
            lambda: self._processes.signal(name, signal.SIGCONT),
        )

    async def _cut(self, injection: Injection) -> None:
        lan, kind = self._lan, injection.kind
        assert lan is not None
        self._tell(f"cut of {kind} for {injection.lasts_s:.1f} s")
        await self._for_a_while(injection, kind, lambda: lan.cut(kind), lambda: lan.join(kind))

    async def _half_open(self, injection: Injection) -> None:
        lan, kind, from_broker = self._lan, injection.kind, bool(injection.chance & 1)
        assert lan is not None
        way = f"from the broker to {kind}" if from_broker else f"from {kind} to the broker"
        self._tell(f"loss of all that goes {way} for {injection.lasts_s:.1f} s")
        await self._for_a_while(
            injection,
            way,
            lambda: lan.lose_one_way(kind, from_broker=from_broker),
            lambda: lan.find_one_way(kind, from_broker=from_broker),
        )

    async def _delay(self, injection: Injection) -> None:
        lan, kind = self._lan, injection.kind
        assert lan is not None
        self._tell(f"delay of {kind} for {injection.lasts_s:.1f} s")
        await self._for_a_while(injection, kind, lambda: lan.slow(kind), lambda: lan.hasten(kind))

    async def _fill(self, injection: Injection) -> None:
        disk = self._disk
        assert disk is not None
        self._tell(f"full disk for {injection.lasts_s:.1f} s")
        began_s = time.monotonic()
        await self._for_a_while(injection, "disk", disk.fill, disk.free)
        self._events.full_s.append((began_s, time.monotonic()))

    async def _clock(self, injection: Injection) -> None:
        pages, name = self._pages, self._pick(injection)
        assert pages is not None
        later_ms = injection.chance % (2 * CLOCK_MS_MAX) - CLOCK_MS_MAX
        self._tell(f"clock of {name} moved by {later_ms / 1_000:.0f} s for {injection.lasts_s:.1f} s")
        await self._for_a_while(
            injection, name, lambda: pages.set_clock(name, later_ms), lambda: pages.set_clock(name, 0)
        )

    async def _roll(self, injection: Injection) -> None:
        """Ask every process to end, as an operator does, and start it again: one after another."""
        self._tell("restart of everything, one after another")
        for name in self._processes.names():
            await self._end(name, signal.SIGTERM)
            await asyncio.sleep(ROLL_S)
        self._count(injection)

    async def _for_a_while(
        self, injection: Injection, subject: str, begin: Callable[[], None], end: Callable[[], None]
    ) -> None:
        """Two faults of a kind on the same thing may overlap: the last one to end ends it."""
        key = (injection.fault, subject)
        if not self._held.get(key):
            begin()
        self._held[key] = self._held.get(key, 0) + 1
        try:
            await asyncio.sleep(injection.lasts_s)
        finally:
            self._held[key] -= 1
            if not self._held[key]:
                end()
        self._count(injection)

    def _pick(self, injection: Injection) -> str:
        names = self._processes.named(injection.kind)
        free = [name for name in names if name not in self._stopping] or names
        return free[injection.chance % len(free)]


def is_gone(pid: int) -> bool:
    """Whether a process has ended, even if its parent has not looked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return True
