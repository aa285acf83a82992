"""The broker: routes each message to whom it is for, and logs what it passes on."""

import os
from collections import deque
from collections.abc import Sequence

import zmq

from .disk import Log
from .message import HOP_AT, LENGTHS, ROUTE, identity


class Broker:
    """Serves until it is killed.

    With `waits` nothing is passed on that decides before the log is synced past it, as the product does with relaxed
    visibility: what starts a saga, what asks for its pivot, and what ends it.
    """

    def __init__(self, endpoint: str, log: Log, route: Sequence[str], *, waits: bool) -> None:
        self._log = log
        self._held: deque[tuple[int, list[tuple[bytes, bytes]]]] = deque()
        self._identities = [identity(peer) for peer in route]
        last = len(route) - 1
        self._waits = {0, route.index(ROUTE[-2]), last} if waits else set()
        self._socket = zmq.Context(io_threads=1).socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.bind(endpoint)

    def serve(self) -> None:
        """Take all that is there, pass it on, and wait."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._log.descriptor, zmq.POLLIN)
        while True:
            for ready, _ in poller.poll():
                if ready is self._socket:
                    self._drain()
                else:
                    os.eventfd_read(self._log.descriptor)
                    self._release()

    def _drain(self) -> None:
        receive = self._socket.recv
        by_hop: list[list[bytes]] = [[] for _ in self._identities]
        try:
            while True:
                receive(zmq.NOBLOCK)  # who says it does not matter
                _sort(receive(), by_hop)
        except zmq.Again:
            pass
        at_once: list[tuple[bytes, bytes]] = []
        later: list[tuple[bytes, bytes]] = []
        for hop, parts in enumerate(by_hop):
            if parts:
                frame = parts[0] if len(parts) == 1 else b"".join(parts)
                (later if hop in self._waits else at_once).append((self._identities[hop], frame))
        self._send(at_once)
        self._log.append([frame for _, frame in at_once + later])
        if later:
            self._held.append((self._log.appended, later))

    def _release(self) -> None:
        durable = self._log.durable
        while self._held and self._held[0][0] <= durable:
            self._send(self._held.popleft()[1])

    def _send(self, frames: list[tuple[bytes, bytes]]) -> None:
        for peer, frame in frames:
            self._socket.send_multipart((peer, frame), zmq.NOBLOCK)


def _sort(frame: bytes, by_hop: list[list[bytes]]) -> None:
    """Cut a frame where the next message is for another hop than the one before."""
    read, at, end = LENGTHS.unpack_from, 0, len(frame)
    first, before = 0, frame[HOP_AT]
    while at < end:
        length, hop, _ = read(frame, at)
        if hop != before:
            by_hop[before].append(frame[first:at])
            first, before = at, hop
        at += length
    by_hop[before].append(frame[first:])
