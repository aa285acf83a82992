"""Makes a broker's log with many running sagas in it, as a broker leaves it that is killed: `FOLDER SAGAS`.

The cores run in this process, without sockets. Each saga has one pending message: its first step's, for a service
that is not there, so that those of the shop may serve others beside.
"""

import asyncio
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sagacore import Saga, Service
from sagacore._core import Broker, ClientCore
from sagacore.answers import Event, stats_of
from sagacore.demo.shop.contracts import Order, charge, create, reserve, schedule
from sagacore.transport import now_ms

from .plant import DAY_S, ROOT, OrderBook

CHUNK = 256
CLIENT = b"client"
ASKED = 1 << 62
"""The correlation of a question; sagas are numbered from 1."""
SETTLED_S = 0.25
"""The log has written all that it was handed long before it is silent for so long."""
SEGMENT_BYTES = 64 << 20


class Checked(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Somebody has looked at the order."""

    number: int


checks = Service("checks")
check = checks.step("check", input=Order, output=Checked, result_bytes=16)
checked_order = (
    Saga("checked-order", Order, deadline=DAY_S, input_bytes=96)
    .then(check)
    .then(create)
    .then(charge)
    .then(reserve)
    .then(schedule, pivot=True)
)
"""An order that somebody has to look at first, and nobody does."""


class Cores:
    """A broker with its log in a folder, and a client. The broker itself asks for a chain's first step."""

    def __init__(self, folder: Path) -> None:
        self._broker = Broker(
            directory=str(folder),
            durability="os",
            visibility="strict",
            segment_bytes=SEGMENT_BYTES,
            sync_interval_us=0,
            stuck_after_ms=60_000,
            outcomes_max=1 << 20,
            outcomes_ms=600_000,
            shard=0,
            secret=os.urandom(16),
            now_ms=now_ms(),
        )
        self.client = ClientCore(instance=1, credit=65_536, outbox_bytes=4 << 20)
        self._told: list[Event] = []
        """What the client has heard of what it asked."""
        self.client.connect(now_ms())
        self.pump()

    def pump(self) -> None:
        """Carry frames until nobody has anything to say, and the log has nothing to write."""
        is_quiet = False
        while not is_quiet:
            time_ms = now_ms()
            frames = []
            while (frame := self.client.frame(time_ms)) is not None:
                frames.append((CLIENT, frame))
            answers = []
            waiting = frames
            while waiting:
                said, heard = self._broker.receive(waiting, time_ms)
                answers += said
                waiting = waiting[heard:]
            answers += self._broker.synced(time_ms)
            self._hear(answers, time_ms)
            is_quiet = not frames and not answers

    def tick(self) -> None:
        """Time has passed: sweeps go on, and the disk's room is looked at."""
        self._hear(self._broker.tick(now_ms()), now_ms())
        self.client.tick(now_ms())

    def started(self) -> int:
        """How many sagas the broker has begun."""
        self.client.stats(ASKED)
        self.settle()
        found: int = stats_of(self._told.pop())["started"]
        return found

    def _hear(self, answers: Sequence[tuple[bytes, bytes]], time_ms: int) -> None:
        for _, answer in answers:
            self._told += [event for event in self.client.receive(answer, time_ms) if event[0] == ASKED]

    def start(self, plan: int, keys: Sequence[bytes], inputs: Sequence[bytes], first: int) -> None:
        """Start sagas, and wait until the client may start more. It follows none: two million is the most."""
        self.client.start(plan, keys, inputs, first, quiet=True)
        self.pump()
        for number in range(first, first + len(keys)):
            self.client.forget(number)
        while self.client.is_full:
            self.pump()

    def settle(self) -> None:
        """Pump until the log has written everything."""
        self.pump()
        while select.select([self._broker.fileno()], [], [], SETTLED_S)[0]:
            self.pump()


def park(folder: Path, sagas: int) -> None:
    """Start so many sagas, and wait until all are written."""
    cores, book = Cores(folder), OrderBook()
    plan = cores.client.define(checked_order.definition)
    for first in range(0, sagas, CHUNK):
        orders = book.take(min(CHUNK, sagas - first))
        keys = [order.order_id.encode() for order in orders]
        cores.start(plan, keys, [checked_order.encode_input(order) for order in orders], first + 1)
        if first % (16 * CHUNK) == 0:
            cores.tick()
    cores.settle()
    if (started := cores.started()) != sagas:
        raise AssertionError(f"{started} sagas were started, not {sagas}")


async def make(folder: Path, sagas: int) -> None:
    """The same in a process of its own, which is not there any more when the log is used."""
    making = (sys.executable, "-m", __name__, str(folder), str(sagas))
    await asyncio.to_thread(subprocess.run, making, check=True, cwd=ROOT)


if __name__ == "__main__":
    park(Path(sys.argv[1]), int(sys.argv[2]))
    os._exit(0)  # no seal: as if it had been killed
