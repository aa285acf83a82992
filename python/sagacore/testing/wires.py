"""The sandbox's time, and its wires: frames go from core to core in memory, as if sent over sockets."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sagacore._core import Broker
from sagacore.transport import PeerCore

STEP_MS_MIN: Final = 10
STEP_MS_MAX: Final = 2_000
"""Peers and broker hear from each other after every step: a longer one would look like an outage."""
IDLE_SHARE: Final = 10
"""The longer nothing has happened, the longer the steps: what falls due unforeseen is late by a tenth at most."""


class Clock:
    """Virtual time. It stands still while anything is under way, and else steps on to what is due."""

    def __init__(self) -> None:
        self.now_ms = 1_000
        self._due_ms: list[int] = []
        self._idle_since_ms = self.now_ms

    def read(self) -> int:
        """The time in milliseconds."""
        return self.now_ms

    def due_in(self, delay_ms: int) -> None:
        """Something happens after this delay: no step goes beyond it."""
        heapq.heappush(self._due_ms, self.now_ms + delay_ms)

    def touch(self) -> None:
        """Something has happened: what follows from it may be soon."""
        self._idle_since_ms = self.now_ms

    def step(self, until_ms: int) -> None:
        """Go on, by a little or to what is due, and not beyond `until_ms`."""
        while self._due_ms and self._due_ms[0] <= self.now_ms:
            heapq.heappop(self._due_ms)
        little_ms = min(max((self.now_ms - self._idle_since_ms) // IDLE_SHARE, STEP_MS_MIN), STEP_MS_MAX)
        self.now_ms = min([self.now_ms + little_ms, until_ms, *self._due_ms[:1]])


@dataclass(frozen=True)
class _Peer:
    core: PeerCore
    receive: Callable[[bytes, int], object]


class Wires:
    """A broker without a log, and the peers that are connected to it."""

    def __init__(self, clock: Clock) -> None:
        self.clock: Final = clock
        self._peers: dict[bytes, _Peer] = {}
        self._broker: Final = Broker(
            directory=None,
            durability="memory",
            visibility="strict",
            segment_bytes=1 << 20,
            sync_interval_us=0,
            stuck_after_ms=60_000,
            outcomes_max=1 << 16,
            outcomes_ms=7 * 24 * 3_600_000,
            shard=0,
            secret=bytes(16),  # the same ids each time
            now_ms=clock.now_ms,
        )

    def connect(self, identity: bytes, core: PeerCore, receive: Callable[[bytes, int], object]) -> None:
        """A peer is there. `receive` gets its frames."""
        self._peers[identity] = _Peer(core, receive)
        core.connect(self.clock.now_ms)

    def disconnect(self, identity: bytes) -> None:
        """A peer is gone, and told nobody: the broker notices that it is silent."""
        self._peers.pop(identity, None)

    def pump(self) -> None:
        """Carry frames until nobody has more to say now."""
        while True:
            now_ms = self.clock.now_ms
            frames = []
            for identity, peer in self._peers.items():
                while (frame := peer.core.frame(now_ms)) is not None:
                    frames.append((identity, frame))
            if not frames:
                return
            while frames:
                answers, heard = self._broker.receive(frames, now_ms)
                frames = frames[heard:]
                self._route(answers)

    def tick(self) -> None:
        """Time has passed: first the peers are heard, then the broker looks for what is due."""
        now_ms = self.clock.now_ms
        for peer in self._peers.values():
            if peer.core.tick(now_ms):
                peer.core.connect(now_ms)
        self.pump()
        self._route(self._broker.tick(now_ms))
        self.pump()

    def close(self) -> None:
        """End."""
        self._peers.clear()
        self._broker.close(self.clock.now_ms)

    def _route(self, frames: list[tuple[bytes, bytes]]) -> None:
        for identity, frame in frames:
            peer = self._peers.get(identity)
            if peer is None:
                self._broker.lost(identity, self.clock.now_ms)
            else:
                peer.receive(frame, self.clock.now_ms)
