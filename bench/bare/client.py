"""The client: so many orders on their way at a time, each with its own latency."""

import time
from collections.abc import Sequence

from sagacore.demo.shop.contracts import Order

from .message import HEAD, HEADER_BYTES, LENGTHS, Body, Result, decoder, encoder
from .service import Peer

CHUNK = 256
"""Orders in a frame at most."""
START_S = 20.0
PROBE_S = 0.1
NO_RESULT = Result(0)
NO_RESULT_BYTES = len(encoder.encode(NO_RESULT))


def closed_loop(peer: Peer, orders: Sequence[Order], *, in_flight: int) -> list[float]:
    """Send all orders, so many at a time, and give their latencies in milliseconds. It blocks."""
    clock = time.perf_counter
    sent_s: list[float] = []
    latencies_ms: list[float] = []
    read, decode = HEAD.unpack_from, decoder.decode
    while len(latencies_ms) < len(orders):
        while (count := min(len(orders), len(latencies_ms) + in_flight) - len(sent_s)) > 0:
            chunk = orders[len(sent_s) : len(sent_s) + min(CHUNK, count)]
            peer.send(_frame(chunk, len(sent_s)))
            sent_s += [clock()] * len(chunk)
        frames = peer.receive()
        now_s = clock()
        for frame in frames:
            at, end = 0, len(frame)
            while at < end:
                length, _, _, number = read(frame, at)
                decode(frame[at + HEADER_BYTES : at + length])
                latencies_ms.append((now_s - sent_s[number]) * 1_000)
                at += length
    return latencies_ms


def wait_for_all(peer: Peer, order: Order) -> None:
    """Wait until an order comes through. Raises `TimeoutError` if none does."""
    give_up_s = time.monotonic() + START_S
    peer.send(_frame([order], 0))
    while peer.is_silent(PROBE_S):
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"nothing comes through the bare pipeline after {START_S:.0f} s")
        peer.send(_frame([order], 0))
    while not peer.is_silent(2 * PROBE_S):
        peer.receive()


def _frame(orders: Sequence[Order], first: int) -> bytearray:
    frame = bytearray()
    encode_into, head, write = encoder.encode_into, HEAD.pack, LENGTHS.pack_into
    begin = 0
    for number, order in enumerate(orders, first):
        frame += head(0, 0, 0, number)
        encode_into(Body(order, NO_RESULT), frame, -1)
        end = len(frame)
        write(frame, begin, end - begin, 0, end - begin - NO_RESULT_BYTES)
        begin = end
    return frame
