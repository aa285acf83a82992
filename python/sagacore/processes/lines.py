"""A service's lines to its brokers: one for each shard, each with a worker's core of its own.

What brokers have to tell each other of steps that wait across shards goes over these lines too: a service's process is
the only one that has a session with all of them.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from sagacore.endpoints import check_shard
from sagacore.errors import FenceError, ProtocolError
from sagacore.fences.batch import Batch, Columns
from sagacore.fences.work import Work

REFUSED_S: Final = 5.0
"""A process with fences in memory waits so long for the one before it to be known as dead."""


class ServiceCore(Protocol):
    """What the process asks of its core: see `sagacore._core.Worker`."""

    @property
    def is_ready(self) -> bool:
        """Whether the broker has welcomed it."""

    @property
    def shard(self) -> int | None:
        """The number of the broker that has."""

    @property
    def refused(self) -> str | None:
        """Why it has not."""

    def connect(self, now_ms: int) -> None:
        """A fresh socket is there."""

    def tick(self, now_ms: int) -> bool:
        """Time has passed. True: a new socket is wanted."""

    def frame(self, now_ms: int) -> bytes | None:
        """What to send now; asked until there is nothing."""

    def receive(self, frame: bytes, now_ms: int) -> list[Columns]:
        """Take a frame, and give what is to be called."""

    def works(self, tickets: list[int]) -> list[Work]:
        """All that is known of work that has not ended."""

    def finish(self, tickets: list[int], verdicts: bytes, payloads: list[bytes], now_ms: int) -> list[Columns]:
        """End work, and give what may begin now."""

    def take_let_go(self) -> list[tuple[bytes, int, int]]:
        """Steps that were undone without a call since this was asked last, as saga, attempt and place."""

    def take_carried(self) -> list[tuple[int, bytes]]:
        """What brokers of other shards are to be told, each by its number."""

    def pass_on(self, message: bytes) -> None:
        """Tell the broker what another one has said."""

    def take_watermark(self) -> tuple[int, int, int, list[int], list[int]] | None:
        """Up to where all sagas have ended, if that is another word than was taken last: see `Watermark`."""

    def stats(self) -> dict[str, int]:
        """Counters."""


class ServiceLink(Protocol):
    """What the process asks of its connection: see `sagacore.transport.Link`."""

    def open(self) -> None:
        """Connect."""

    def flush(self) -> None:
        """Send what the core has."""

    async def close(self) -> None:
        """Send what is left, and end."""


Connect: TypeAlias = Callable[[str, ServiceCore, Callable[[bytes, int], None], Callable[[], None]], ServiceLink]


class Line:
    """The line to one broker."""

    def __init__(
        self,
        endpoint: str,
        core: ServiceCore,
        connect: Connect,
        deliver: Callable[[Line, bytes, int], Any],
        drained: Callable[[], None],
    ) -> None:
        self.endpoint: Final = endpoint
        self.core: Final = core
        self.link: Final = connect(endpoint, core, lambda frame, time_ms: deliver(self, frame, time_ms), drained)
        self.batches: Final[collections.deque[Batch]] = collections.deque()
        self.has_said = False
        """Something is to be sent."""
        self._refused_since_s: float | None = None

    def flush(self) -> None:
        """Send what was said."""
        if self.has_said:
            self.has_said = False
            self.link.flush()

    @property
    def is_settled(self) -> bool:
        """Whether nothing of what was said waits for the broker's word, or can."""
        return not self.core.is_ready or self.core.stats()["unconfirmed"] == 0

    def check(self, service: str, time_s: float) -> None:
        """Raise FenceError (SAGA-E401) or ProtocolError (SAGA-E502) where the broker refuses us, for a while."""
        refused = self.core.refused
        if refused is None or refused == "full":
            self._refused_since_s = None
            return
        self._refused_since_s = self._refused_since_s or time_s
        if time_s - self._refused_since_s < REFUSED_S:
            return
        if refused == "exclusive":
            raise FenceError(
                "SAGA-E401",
                f"service {service!r} has another process, and one of the two has its fences in memory",
                "stop the other one, or start both with --fence sqlite:PATH",
            )
        raise ProtocolError(
            "SAGA-E502", f"the broker refuses service {service!r}: {refused}", "run one version everywhere"
        )


def check_shards(lines: Sequence[Line]) -> None:
    """Raise UsageError (SAGA-E508) where several brokers are not what their places say."""
    for number, line in enumerate(lines):
        check_shard(line.endpoint, number, len(lines), line.core.shard)


def carry(lines: Sequence[Line], line: Line) -> None:
    """Tell brokers of other shards what this one has to say to them."""
    for shard, message in line.core.take_carried():
        for other in lines:
            if other.core.shard == shard:
                other.core.pass_on(message)
                other.has_said = True
