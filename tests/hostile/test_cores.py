"""The extension, given any bytes: each core takes them or refuses them, and none panics.

A panic would be a `PanicException`, which is no `Exception`: nothing here catches it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from sagacore import _core
from sagacore.demo.fleet import Fleet
from sagacore.transport import PeerCore
from tests.hostile.conftest import free_endpoint

GOLDEN = Path(__file__).parents[1] / "golden"
FRAMES = 4_000


def golden(folder: str) -> list[bytes]:
    return [bytes.fromhex(path.read_text()) for path in sorted((GOLDEN / folder).glob("*.hex"))]


def mutants(seeds: list[bytes], count: int) -> Iterator[bytes]:
    """Bytes that were valid or nearly so, with some of them changed, and bytes that never were."""
    draw = random.Random(1)
    for _ in range(count):
        frame = bytearray(draw.choice(seeds))
        for _ in range(draw.randrange(6) if frame else 0):
            frame[draw.randrange(len(frame))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        yield draw.randbytes(draw.randrange(300)) if draw.random() < 0.1 else bytes(frame)


def cores() -> list[PeerCore]:
    client = _core.ClientCore(instance=1, credit=8, outbox_bytes=1 << 20)
    client.attach(7, key=b"k")
    worker = _core.Worker("service", ["s0"], instance=2, memory_fence=True, lease_ms=1_000, credit=8)
    return [client, worker, _core.Coordinator(slots=16, instance=3, credit=8)]


def test_peers_take_any_frame() -> None:
    for core in cores():
        core.connect(0)
        for frame in mutants(golden("wire"), FRAMES):
            with contextlib.suppress(ValueError):  # a coordinator's: its process connects anew
                core.receive(frame, 1)  # type: ignore[attr-defined]
            if core.tick(1):
                core.connect(1)
            while core.frame(1) is not None:
                pass


def test_a_client_with_a_broken_frame_says_which_rule_it_breaks_and_connects_anew() -> None:
    core = _core.ClientCore(instance=1, credit=8, outbox_bytes=1 << 20)
    core.connect(0)
    assert core.receive(b"\xff" * 64, 0) == []
    assert core.fault is not None
    assert core.tick(0)


def test_a_broker_takes_any_frame_from_anybody() -> None:
    broker = _core.Broker(
        directory=None,
        durability="memory",
        visibility="strict",
        segment_bytes=1 << 20,
        sync_interval_us=0,
        stuck_after_ms=1_000,
        outcomes_max=10,
        outcomes_ms=1_000,
        shard=0,
        secret=bytes(16),
        now_ms=0,
    )
    for number, frame in enumerate(mutants(golden("wire"), FRAMES)):
        _, heard = broker.receive([(bytes([1 + number % 3]), frame)], number)
        assert heard == 1
        broker.tick(number)


def test_a_definition_compiles_or_is_refused_with_a_reason() -> None:
    refused = 0
    for definition in mutants(golden("plans"), FRAMES):
        try:
            assert _core.compile_plan(definition).fingerprint == _core.fingerprint(definition)
        except _core.PlanError:
            refused += 1
    assert FRAMES // 10 < refused < FRAMES


def test_a_coordinator_that_gets_a_broken_frame_connects_anew(tmp_path: Path) -> None:
    endpoint = free_endpoint()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as broker, Fleet(tmp_path) as fleet:
        broker.setsockopt(zmq.LINGER, 0)
        broker.bind(endpoint)
        fleet.start("coordinator", ("coordinator", "--endpoint", endpoint))
        assert broker.poll(20_000)
        first, _ = broker.recv_multipart()
        broker.send_multipart([first, b"\xff" * 100])
        second = first
        while second == first:
            assert broker.poll(5_000)
            second, _ = broker.recv_multipart()
        assert list(fleet.died()) == []
        assert "SAGA-E501" in fleet.tail("coordinator")


@pytest.mark.parametrize("ending", [b"", b"\x00", b"\xff" * 9])
def test_arguments_of_the_wrong_size_are_refused(ending: bytes) -> None:
    core = _core.ClientCore(instance=1, credit=8, outbox_bytes=1 << 20)
    with pytest.raises(ValueError, match="saga"):
        core.attach(1, saga=ending)
