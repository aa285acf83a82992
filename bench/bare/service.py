"""The services and the coordinator: take what is there, do it, and send it on."""

import itertools
from collections.abc import Callable

import zmq

from .message import HEADER_BYTES, LENGTHS, Body, Result, decoder, encoder, identity


class Peer:
    """A connection to the broker. It is waited for without an event loop: nothing is quicker."""

    def __init__(self, endpoint: str, name: str) -> None:
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, identity(name))
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.connect(endpoint)

    def send(self, frame: bytes | bytearray) -> None:
        """Send a frame."""
        self._socket.send(frame)

    def receive(self) -> list[bytes]:
        """Wait for frames, and give all that are there."""
        receive = self._socket.recv
        frames = [receive()]
        try:
            while True:
                frames.append(receive(zmq.NOBLOCK))
        except zmq.Again:
            return frames

    def is_silent(self, patience_s: float) -> bool:
        """Whether nothing comes for so long."""
        return not self._socket.poll(round(patience_s * 1_000))

    def close(self) -> None:
        """End the connection."""
        self._context.destroy(linger=0)


def serve(peer: Peer, act: Callable[[bytes, bytearray], None]) -> None:
    """Give each frame to `act`, which adds what is to be sent. Serves until it is killed."""
    while True:
        said = bytearray()
        for frame in peer.receive():
            act(frame, said)
        peer.send(said)


class Step:
    """What a service does with each message: one typed decode, one call, one typed encode.

    The order is passed on as it came.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def __call__(self, frame: bytes, said: bytearray) -> None:
        read, write = LENGTHS.unpack_from, LENGTHS.pack_into
        decode, encode_into, act = decoder.decode, encoder.encode_into, self._act
        at, end, first = 0, len(frame), len(said)
        while at < end:
            length, hop, result_at = read(frame, at)
            result = act(decode(frame[at + HEADER_BYTES : at + length]))
            said += frame[at : at + result_at]
            encode_into(result, said, -1)
            last = len(said)
            write(said, first, last - first, hop + 1, result_at)
            first, at = last, at + length

    def _act(self, body: Body) -> Result:
        return Result(next(self._numbers))


def pass_on(frame: bytes, said: bytearray) -> None:
    """What a coordinator does: it sees headers only."""
    read, write = LENGTHS.unpack_from, LENGTHS.pack_into
    first = len(said)
    said += frame
    while first < len(said):
        length, hop, result_at = read(said, first)
        write(said, first, length, hop + 1, result_at)
        first += length
