"""The transport: ZeroMQ sockets in an asyncio loop. Nothing else in sagacore imports zmq.

A socket's descriptor is edge-triggered and says only that something may have changed, and a send can eat the edge
that a receive waits for. So after every round of sends and receives the socket itself is asked again.
"""

from __future__ import annotations

import asyncio
import logging
import socket as socketlib
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import zmq

from sagacore.errors import ProtocolError, UsageError

FRAME_BYTES_MAX: Final = 1 << 20
FRAMES_A_WAKE: Final = 256
BYTES_A_WAKE: Final = 1 << 20
"""Frames taken from a socket before other things of the loop get their turn, and their bytes. ZeroMQ takes them from
all peers in turn, so one that fills its frames holds up the others for one of them, not for hundreds."""
TICK_S: Final = 0.05
HELD_S: Final = 0.001
"""So long frames wait that cannot be judged yet."""
HANDSHAKE_MS: Final = 2_000
RECONNECT_MS: Final = 50
RECONNECT_MAX_MS: Final = 500
PORT_MAX: Final = 65_535
QUEUED_FRAMES_MAX: Final = 4_096
"""Frames that ZeroMQ keeps in a peer, each way. What they carry is bounded by credit."""
HEARD_FRAMES_MAX: Final = 64
TOLD_FRAMES_MAX: Final = 512
"""Frames that ZeroMQ keeps in the broker for each connection: from it, and to it. Peers do not mean well."""
UNREAD_MS: Final = 10_000
"""A peer behind tcp that takes nothing for so long is cut off by the system, and what is kept for it is freed."""
BACKLOG: Final = 1_024
"""Connections that wait to be accepted: all peers come at once when a broker starts again."""

# As plain numbers: pyzmq's own are members of enumerations, and to combine or look up those costs microseconds a call.
_NOBLOCK: Final = int(zmq.NOBLOCK)
_NOBLOCK_AND_MORE: Final = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
_RCVMORE: Final = int(zmq.RCVMORE)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)

log = logging.getLogger("sagacore.transport")


def now_ms() -> int:
    """Monotonic time in milliseconds: the only clock that the cores are given."""
    return time.monotonic_ns() // 1_000_000


def now_ns() -> int:
    """The same clock in nanoseconds: to put in order what several processes of a machine have done."""
    return time.monotonic_ns()


class PeerCore(Protocol):
    """What a link drives: the core of a client, a service or a coordinator."""

    def connect(self, now_ms: int) -> None:
        """A fresh socket is there."""

    def tick(self, now_ms: int) -> bool:
        """Time has passed. True: the broker was silent for too long, a new socket is wanted."""

    def frame(self, now_ms: int) -> bytes | None:
        """What to send now; asked until there is nothing."""


class Link:
    """A peer's connection to its broker, in the running loop.

    It drains the socket, gives every frame to `deliver`, sends what the core has, keeps the heartbeat, and opens a new
    socket where the broker was silent for too long.
    """

    def __init__(
        self,
        endpoint: str,
        core: PeerCore,
        deliver: Callable[[bytes, int], None],
        drained: Callable[[], None] | None = None,
    ) -> None:
        """`drained` is called when all frames that have arrived were delivered, before what the core has is sent."""
        self.endpoint = endpoint
        self._core = core
        self._deliver = deliver
        self._drained = drained
        self._context = zmq.Context(io_threads=1)
        self._socket: zmq.Socket[bytes] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._descriptor = -1
        self._ticker: asyncio.TimerHandle | None = None
        self._again: asyncio.Handle | None = None

    def open(self) -> None:
        """Connect, and begin to deliver. Raises UsageError (SAGA-E505) for an endpoint that cannot be one."""
        self._loop = asyncio.get_running_loop()
        try:
            self._connect()
        except UsageError:
            self._context.term()
            raise
        self._tick()

    def flush(self) -> None:
        """Send all that the core has."""
        socket = self._socket
        if socket is None:
            return
        time_ms = now_ms()
        has_sent = False
        while (frame := self._core.frame(time_ms)) is not None:
            try:
                socket.send(frame, _NOBLOCK)
            except zmq.Again:
                # The broker takes nothing: what the frame held is in the outbox and comes with the next session.
                self._connect()
                return
            has_sent = True
        if has_sent:
            self._look_again(socket)

    async def close(self) -> None:
        """Send what is left and end the connection. May be called twice."""
        if self._context.closed:
            return
        self.flush()
        self.stop(linger_ms=200)
        self._context.term()

    def stop(self, *, linger_ms: int = 0) -> None:
        """Send nothing more, and take nothing."""
        for handle in (self._ticker, self._again):
            if handle is not None:
                handle.cancel()
        self._disconnect(linger_ms=linger_ms)

    def _connect(self) -> None:
        self._disconnect(linger_ms=0)
        socket = self._context.socket(zmq.DEALER)
        _set_limits(socket)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        try:
            _check_port(self.endpoint)
            socket.connect(self.endpoint)
        except UsageError:
            socket.close(0)
            raise
        except zmq.ZMQError as error:
            socket.close(0)
            raise _bad_endpoint(self.endpoint, error.strerror) from error
        self._socket = socket
        self._descriptor = int(socket.getsockopt(zmq.FD))
        assert self._loop is not None
        self._loop.add_reader(self._descriptor, self._drain)
        self._core.connect(now_ms())
        self._look_again(socket)
        self.flush()

    def _disconnect(self, *, linger_ms: int) -> None:
        if self._socket is None:
            return
        assert self._loop is not None
        self._loop.remove_reader(self._descriptor)
        self._socket.close(linger_ms)
        self._socket = None

    def _drain(self) -> None:
        self._again = None
        socket = self._socket
        if socket is None:
            return
        time_ms = now_ms()
        is_first = True
        for _ in range(FRAMES_A_WAKE):
            # To ask costs less than to try in vain, which raises.
            if not is_first and not _has_arrived(socket):
                break
            try:
                frame = socket.recv(_NOBLOCK)
            except zmq.Again:
                break
            is_first = False
            try:
                self._deliver(frame, time_ms)
            except ProtocolError as error:
                log.error("%s; connecting anew", error)  # noqa: TRY400 (the text says all)
                self._connect()
            if self._socket is not socket:
                return
        else:
            self._look_again(socket)
        if self._drained is not None:
            self._drained()
        self.flush()

    def _look_again(self, socket: zmq.Socket[bytes]) -> None:
        if self._again is None and _has_arrived(socket):
            assert self._loop is not None
            self._again = self._loop.call_soon(self._drain)

    def _tick(self) -> None:
        assert self._loop is not None
        self._ticker = self._loop.call_later(TICK_S, self._tick)
        if self._core.tick(now_ms()):
            log.warning("the broker at %s is silent; connecting anew", self.endpoint)
            self._connect()
        else:
            self.flush()


class Hub:
    """The broker's socket: frames with the identities that they come from and go to, in the running loop."""

    def __init__(self, endpoint: str, deliver: Callable[[list[tuple[bytes, bytes]], int], int]) -> None:
        self.endpoint = endpoint
        self._deliver = deliver
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.ROUTER)
        self._held: list[tuple[bytes, bytes]] = []
        """Frames that were received and not judged yet."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._descriptor = -1
        self._again: asyncio.Handle | None = None

    def open(self) -> None:
        """Bind, and begin to deliver. Raises UsageError (SAGA-E505) for an endpoint that cannot be bound."""
        _set_limits(self._socket)
        self._socket.setsockopt(zmq.RCVHWM, HEARD_FRAMES_MAX)
        self._socket.setsockopt(zmq.SNDHWM, TOLD_FRAMES_MAX)
        self._socket.setsockopt(zmq.TCP_MAXRT, UNREAD_MS)
        self._socket.setsockopt(zmq.BACKLOG, BACKLOG)
        # Without it a frame for a peer that is gone or takes nothing is dropped in silence.
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # Nobody takes an identity over from a peer that has it.
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
        _check_port(self.endpoint)
        if _is_listened_to(self.endpoint):  # to bind would take the socket's file away from its owner
            raise _bad_endpoint(self.endpoint, "another process listens there")
        try:
            self._socket.bind(self.endpoint)
        except zmq.ZMQError as error:
            raise _bad_endpoint(self.endpoint, error.strerror) from error
        self._loop = asyncio.get_running_loop()
        self._descriptor = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._descriptor, self._drain)
        self._look_again()

    def send(self, frames: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
        """Send frames to identities. Gives the identities that took nothing: they are gone, or far behind."""
        lost = []
        for identity, frame in frames:
            try:
                self._socket.send(identity, _NOBLOCK_AND_MORE)
                self._socket.send(frame, _NOBLOCK)
            except zmq.ZMQError as error:
                if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                    raise
                lost.append(identity)
        self._look_again()
        return lost

    @property
    def is_drained(self) -> bool:
        """Whether nothing waits to be heard."""
        return not self._held and not _has_arrived(self._socket)

    def close(self) -> None:
        """Send what is queued, for a moment, and end."""
        if self._loop is not None and not self._socket.closed:
            self._loop.remove_reader(self._descriptor)
        self._socket.close(200)
        self._context.term()

    def _drain(self) -> None:
        self._again = None
        frames, self._held = self._held, []
        left = BYTES_A_WAKE - sum(len(frame) for _, frame in frames)
        socket = self._socket
        while len(frames) < FRAMES_A_WAKE and left > 0 and _has_arrived(socket):
            identity, frame = socket.recv(_NOBLOCK), socket.recv(_NOBLOCK)
            if not socket.get(_RCVMORE):
                frames.append((identity, frame))
                left -= len(frame)
                continue
            while socket.get(_RCVMORE):  # what has more parts is no peer of ours
                socket.recv(_NOBLOCK)
        if frames:
            self._held = frames[self._deliver(frames, now_ms()) :]
        self._look_again()

    def _look_again(self) -> None:
        if self._again is not None or self._socket.closed:
            return
        assert self._loop is not None
        if self._held:  # nobody is heard until what is owed is sent
            self._again = self._loop.call_later(HELD_S, self._drain)
        elif not self.is_drained:
            self._again = self._loop.call_soon(self._drain)


def _has_arrived(socket: zmq.Socket[bytes]) -> bool:
    return bool(int(socket.get(_EVENTS)) & _POLLIN)


def _set_limits(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
    socket.setsockopt(zmq.SNDHWM, QUEUED_FRAMES_MAX)
    socket.setsockopt(zmq.RCVHWM, QUEUED_FRAMES_MAX)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)


def _check_port(endpoint: str) -> None:
    """ZeroMQ takes a port modulo 65,536."""
    port = endpoint.rpartition(":")[2]
    if endpoint.startswith("tcp://") and port.isdecimal() and int(port) > PORT_MAX:
        raise _bad_endpoint(endpoint, f"there is no port {port}")


def _is_listened_to(endpoint: str) -> bool:
    scheme, _, path = endpoint.partition("://")
    if scheme != "ipc":
        return False
    with socketlib.socket(socketlib.AF_UNIX, socketlib.SOCK_STREAM) as probe:
        try:
            probe.connect("\0" + path[1:] if path.startswith("@") else path)
        except (OSError, ValueError):
            return False
    return True


def _bad_endpoint(endpoint: str, why: str | None) -> UsageError:
    return UsageError(
        "SAGA-E505",
        f"cannot use the endpoint {endpoint!r}: {why}",
        "an endpoint looks like ipc:///run/sagacore.sock or tcp://127.0.0.1:7700; for ipc the folder must exist, "
        "the path be short (107 bytes) and no other process have it",
    )
