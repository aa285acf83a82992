"""Peers that mean harm, over real sockets, and honest ones beside them."""

from __future__ import annotations

import contextlib
import socket as socketlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

import zmq

from tests.hostile import wire
from tests.hostile.wire import Message

PATIENCE_S: Final = 10.0
GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)
READY: Final = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"


class Raw:
    """A peer that says what a test wants, over a socket of ZeroMQ's. It says that it is alive by itself."""

    def __init__(self, endpoint: str, *, identity: bytes = b"", queued: int = 1_000) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, queued)
        if identity:
            self._socket.setsockopt(zmq.IDENTITY, identity)
        self._socket.connect(endpoint)
        self._lock = threading.Lock()
        self._numbers = 0
        self._heard: list[Message] = []
        self._beats = True
        self._pulse = threading.Thread(target=self._beat, daemon=True)
        self._pulse.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._beats = False
        self._pulse.join()
        self._socket.close(0)
        self._context.term()

    def frame(self, frame: bytes) -> None:
        """Send any bytes."""
        with self._lock:
            self._socket.send(frame)

    def try_frame(self, frame: bytes) -> bool:
        """Send any bytes if the socket takes them now."""
        with self._lock, contextlib.suppress(zmq.Again):
            self._socket.send(frame, zmq.NOBLOCK)
            return True
        return False

    def flood(self, frame: bytes) -> None:
        """Send any bytes, or wait for a moment where the socket takes none."""
        if not self.try_frame(frame):
            time.sleep(0.001)

    def say(self, *messages: Message, consumes: tuple[bytes, ...] = ()) -> bytes:
        """Send a transaction with the next number. Gives the frame."""
        self._numbers += 1
        frame = wire.transaction(messages, consumes, self._numbers)
        self.frame(frame)
        return frame

    def join(self, role: int, name: str = "", **options: Any) -> Self:
        """Subscribe and wait for the welcome."""
        self.frame(wire.subscribe(role, name, **options))
        self.hear(lambda message: message.kind == wire.SUBSCRIBE)
        return self

    def hear(self, wanted: Callable[[Message], bool], within_s: float = PATIENCE_S) -> Message:
        """The next message that is wanted; those before it are dropped. Fails if there is none in time."""
        give_up_s = time.monotonic() + within_s
        while time.monotonic() < give_up_s:
            while self._heard:
                message = self._heard.pop(0)
                if wanted(message):
                    return message
            with self._lock:
                has_arrived = self._socket.poll(0)
                if has_arrived:
                    self._heard += wire.messages(self._socket.recv())
            if not has_arrived:
                time.sleep(0.002)  # without the lock: who only listens must be alive, too
        raise AssertionError("nothing of the kind was heard")

    def token(self, kind: int) -> Message:
        return self.hear(lambda message: message.kind == kind)

    def refusal(self) -> int:
        """The code of the next refusal."""
        return self.token(wire.REFUSED).place

    def is_silent(self, kind: int, for_s: float = 0.3) -> bool:
        """Whether no message of this kind comes for a while."""
        with contextlib.suppress(AssertionError):
            self.hear(lambda message: message.kind == kind, for_s)
            return False
        return True

    def _beat(self) -> None:
        while self._beats:
            self.try_frame(wire.PING_FRAME)
            time.sleep(0.15)


@contextlib.contextmanager
def stream(endpoint: str, *, greets: bool = True) -> Iterator[socketlib.socket]:
    """A connection that speaks ZeroMQ's protocol by hand. With `greets` the handshake is done."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    with socketlib.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        if greets:
            greet(connection)
        yield connection


def greet(connection: socketlib.socket) -> None:
    """The handshake of a DEALER: greetings cross, then both say READY."""
    connection.sendall(GREETING + READY)
    got = b""
    while len(got) < len(GREETING) + 2 or len(got) < len(GREETING) + 2 + got[len(GREETING) + 1]:
        part = connection.recv(4096)
        assert part, "the broker ended the handshake"
        got += part


def long_frame(size: int, *, more: bool = False) -> bytes:
    """The head of a ZeroMQ frame that says that so many bytes follow."""
    return bytes([2 | more]) + size.to_bytes(8, "big")


def is_cut(connection: socketlib.socket, within_s: float = PATIENCE_S) -> bool:
    """Whether the other side ends the connection in time."""
    connection.settimeout(within_s)
    try:
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True
