"""Bytes that are no frames, or too large, or never end: the sender is told or cut off, and nobody else notices."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import pytest

from sagacore.demo.shop.saga import place_order
from sagacore.transport import FRAME_BYTES_MAX, HANDSHAKE_MS
from tests.hostile import wire
from tests.hostile.conftest import Plant
from tests.hostile.peers import Raw, is_cut, long_frame, stream
from tests.hostile.wire import Message

GOLDEN = Path(__file__).parents[1] / "golden" / "wire"
MEMORY_GROWN_MAX = 64 << 20


def broken_frames() -> list[bytes]:
    """Frames that no peer may send: random, truncated, nested, absurd."""
    draw = random.Random(1)
    good = wire.transaction([Message(wire.STATUS, wire.BY_KEY, body=wire.body({wire.USER_KEY: b"k"}))])
    bombs = [b"\x91" * 60_000, b"\x81\x40" + b"\x91" * 60_000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"]
    bombs += [b"\x81\x40\xc6\xff\xff\xff\xff", b"\xde\xff\xff" + b"\x40\xc4\x00" * 100]
    frames = [draw.randbytes(draw.randrange(1, 400)) for _ in range(200)]
    frames += [good[:cut] for cut in range(1, len(good), 7)]
    frames += [wire.transaction([Message(wire.STATUS, body=bomb)]) for bomb in bombs]
    frames += [b"\xff" * FRAME_BYTES_MAX]
    return frames


def test_frames_that_break_the_format_are_told_counted_and_change_nothing(plant: Plant) -> None:
    before = plant.stats()
    frames = broken_frames()
    with Raw(plant.endpoint).join(wire.CLIENT) as stranger:
        for frame in frames:
            stranger.frame(frame)
        codes = [stranger.refusal() for _ in frames]
        assert set(codes) == {10}
        after = plant.stats()
    assert after["refused"] - before["refused"] == len(frames)
    assert (after["started"], after["running"]) == (before["started"], 0)
    plant.honest()


def test_a_stranger_that_never_subscribes_is_told_so_and_nothing_is_kept_of_it(plant: Plant) -> None:
    before = plant.stats()["sessions"]
    with Raw(plant.endpoint) as stranger:
        stranger.frame(wire.transaction([Message(wire.STATS)]))
        assert stranger.refusal() == wire.NO_SESSION
    assert plant.stats()["sessions"] <= before + 1


@pytest.mark.parametrize("size", [FRAME_BYTES_MAX + 1, 1 << 40, (1 << 63) - 1])
def test_a_frame_that_is_announced_as_too_large_ends_its_connection_and_no_other(plant: Plant, size: int) -> None:
    before = plant.memory()
    with Raw(plant.endpoint).join(wire.CLIENT) as other, stream(plant.endpoint) as sender:
        with contextlib.suppress(OSError):
            sender.sendall(long_frame(size) + bytes(1 << 16))
        assert is_cut(sender)
        other.say(Message(wire.STATS))
        other.token(wire.STATS)
    plant.honest()
    assert plant.memory() - before < MEMORY_GROWN_MAX


def test_a_frame_of_the_largest_size_is_heard(plant: Plant) -> None:
    one = wire.transaction([Message(wire.STATUS, wire.BY_KEY, body=wire.body({wire.USER_KEY: b"nobody"}))])
    with Raw(plant.endpoint).join(wire.CLIENT) as client:
        client.frame(one * (FRAME_BYTES_MAX // len(one)))
        for _ in range(FRAME_BYTES_MAX // len(one)):
            assert client.token(wire.STATUS).place == 0
    plant.honest()


def test_connections_that_begin_and_do_not_go_on_are_cut_or_cost_next_to_nothing(plant: Plant) -> None:
    before = plant.memory()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(stream(plant.endpoint, greets=False)) for _ in range(200)]
        for connection in silent[:100]:
            connection.sendall(b"\xff\x00")
        halves = [stack.enter_context(stream(plant.endpoint)) for _ in range(200)]
        for connection in halves:
            connection.sendall(long_frame(FRAME_BYTES_MAX) + b"\x18")
        plant.honest()
        assert plant.memory() - before < MEMORY_GROWN_MAX
        assert all(is_cut(connection, 4 * HANDSHAKE_MS / 1e3) for connection in silent)


def test_a_nested_input_is_the_business_of_its_saga_alone(plant: Plant) -> None:
    """Neither action nor compensation can read it: the saga waits for an operator, and nobody else waits for it."""
    definition = place_order.definition
    plan = wire.fingerprint(definition)
    bomb = b"\x91" * 95 + b"\xc0"
    with Raw(plant.endpoint).join(wire.CLIENT) as client:
        client.say(Message(wire.DEFINE, plan=plan, body=wire.body({wire.DATA: definition})))
        start = wire.body({wire.INPUT: bomb, wire.USER_KEY: b"bomb"})
        client.say(Message(wire.START, plan=plan, amount=7, body=start))
        plant.honest()
        named = wire.body({wire.USER_KEY: b"bomb"})
        client.say(Message(wire.CANCEL, wire.BY_KEY, amount=8, body=named))
        client.token(wire.CANCEL)
        status = Message(wire.STATUS, wire.BY_KEY, amount=9, body=named)
        client.say(status)
        saga = client.hear(lambda told: (told.kind, told.amount, told.place) == (wire.STATUS, 9, 4)).saga
        plant.honest()
        reason = wire.body({wire.TEXT: b"no order"})
        client.say(Message(wire.RESOLVE, saga=saga, active=2, place=0, amount=10, body=reason))
        result = client.token(wire.RESULT)
        assert msgpack.unpackb(result.sections()[wire.SKIPPED]) == [[0, "no order"]]
    plant.honest()
