"""Peers that ask for too much: what they make the broker keep is bounded, and honest sagas go on beside them.

Each test prints the broker's memory and the latency of honest sagas, which `pytest -rP` shows."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest

from sagacore import Saga, Service
from sagacore.processes.descriptors import CONNECTIONS_MIN, KEPT, OWN
from sagacore.transport import FRAME_BYTES_MAX, TOLD_FRAMES_MAX
from tests.hostile import wire
from tests.hostile.conftest import Plant, free_endpoint
from tests.hostile.peers import Raw, greet, long_frame, stream
from tests.hostile.wire import CLIENT, SERVICE, Message

MIB: Final = 1 << 20
ATTACK_S: Final = 2.0
LATENCY_MAX_MS: Final = 3_000
"""On a machine with two busy cores; alone a saga takes some milliseconds."""
NUMBERS: Final = itertools.count(1)
LEAST: Final = OWN + CONNECTIONS_MIN + KEPT


class Lead(msgspec.Struct):
    """Something heavy."""

    mass: bytes


sink_service = Service("sink")
sink = sink_service.step("sink", input=Lead, output=None)
fill_sink = Saga("fill-sink", Lead, deadline=3_600, input_bytes=4_096).then(sink)
PLAN: Final = wire.fingerprint(fill_sink.definition)
LEAD: Final = msgspec.msgpack.encode(Lead(bytes(4_000)))
KEPT_BY_SAGA: Final = 2_048


def measured(
    plant: Plant,
    name: str,
    attack: Callable[[], object],
    *,
    grown_max: int,
    sagas: int = 50,
    latency_max_ms: float = LATENCY_MAX_MS,
) -> int:
    """Honest sagas run while the attack goes on, in a thread of its own and again and again.

    Gives the bytes by which the broker grew.
    """
    plant.honest(20)
    before, over = plant.memory(), threading.Event()
    rounds = 0

    def go_on() -> None:
        nonlocal rounds
        until_s = time.monotonic() + ATTACK_S
        while time.monotonic() < until_s or not over.is_set():
            attack()
            rounds += 1

    attacker = threading.Thread(target=go_on)
    attacker.start()
    time.sleep(0.3)
    try:
        latencies = plant.honest(sagas)
        grown = plant.memory() - before
    finally:
        over.set()
        attacker.join()
    grown = max(grown, plant.memory() - before)
    said = f"p50 {latencies.p50_ms:.1f} ms, max {latencies.max_ms:.0f} ms, broker grew by {grown / MIB:.0f} MiB"
    print(f"{name}: {rounds} rounds, honest sagas {said}")
    assert rounds > 0
    assert latencies.max_ms < latency_max_ms
    assert grown < grown_max
    return grown


def starts(count: int) -> bytes:
    """A frame of STARTs, each of a new saga."""
    frames = []
    for _ in range(count):
        body = wire.body({wire.INPUT: LEAD, wire.USER_KEY: b"lead-%d" % next(NUMBERS)})
        frames.append(wire.transaction([Message(wire.START, 32, plan=PLAN, amount=next(NUMBERS), body=body)]))
    return b"".join(frames)


def define(peer: Raw) -> None:
    peer.say(Message(wire.DEFINE, plan=PLAN, body=wire.body({wire.DATA: fill_sink.definition})))


def by_key(kind: int, key: bytes, amount: int = 0) -> bytes:
    return wire.transaction([Message(kind, wire.BY_KEY, amount=amount, body=wire.body({wire.USER_KEY: key}))])


def test_a_flood_of_garbage(plant: Plant) -> None:
    garbage = os.urandom(FRAME_BYTES_MAX)
    with Raw(plant.endpoint, queued=1) as flooder:
        measured(plant, "garbage", lambda: flooder.flood(garbage), grown_max=300 * MIB)


def test_a_flood_of_pings_and_subscriptions(plant: Plant) -> None:
    pings = wire.PING_FRAME * (FRAME_BYTES_MAX // len(wire.PING_FRAME))
    names = [wire.subscribe(SERVICE, f"stranger-{number}") for number in range(2_000)]
    frames = itertools.cycle([pings, b"".join(names)])
    with Raw(plant.endpoint) as flooder:
        measured(plant, "pings and subscriptions", lambda: flooder.flood(next(frames)), grown_max=300 * MIB)


def test_a_flood_of_starts(plant: Plant) -> None:
    """Each is a saga that the broker takes and keeps, with little beside its body."""
    with Raw(plant.endpoint).join(CLIENT) as flooder:
        define(flooder)
        before = plant.stats()["started"]
        grown = measured(
            plant, "starts", lambda: flooder.frame(starts(50)), grown_max=4_096 * MIB, sagas=10, latency_max_ms=20_000
        )
        started = plant.stats()["started"] - before
        print(f"starts: {started} sagas")
        assert started > 1_000
        assert grown < 200 * MIB + started * (len(LEAD) + KEPT_BY_SAGA)


def test_a_client_that_attaches_without_end(plant: Plant) -> None:
    with Raw(plant.endpoint).join(CLIENT) as client:
        define(client)
        body = wire.body({wire.INPUT: LEAD, wire.USER_KEY: b"wanted"})
        client.say(Message(wire.START, plan=PLAN, amount=1, body=body))
        client.token(wire.STATUS)
        asks = (
            b"".join(by_key(wire.ATTACH, b"wanted", next(NUMBERS)) for _ in range(1_000)) for _ in itertools.count()
        )
        measured(plant, "attaching", lambda: client.frame(next(asks)), grown_max=300 * MIB)
        assert client.hear(lambda told: told.kind == wire.REFUSED).place == wire.FULL


@contextlib.contextmanager
def deaf(plant: Plant, said: bytes) -> Iterator[Callable[[bytes], None]]:
    """A session of a peer that says that it is alive and never reads. Gives what sends a frame for it."""
    with stream(plant.endpoint) as connection:

        def send(frame: bytes) -> None:
            with contextlib.suppress(TimeoutError, ConnectionError):
                connection.sendall(long_frame(len(frame)) + frame)

        connection.settimeout(1)
        send(said)
        yield send


def test_a_service_that_takes_everything_and_reads_nothing(plant: Plant) -> None:
    with (
        deaf(plant, wire.subscribe(SERVICE, "sink", credit=65_536)) as send,
        Raw(plant.endpoint).join(CLIENT) as client,
    ):
        define(client)

        def attack() -> None:
            client.frame(starts(20))
            send(wire.PING_FRAME)
            time.sleep(0.01)

        measured(plant, "a deaf service", attack, grown_max=1_000 * MIB)


def test_a_client_that_asks_and_reads_nothing(plant: Plant) -> None:
    asks = b"".join(wire.transaction([Message(wire.STATS)]) for _ in range(6_000))
    with deaf(plant, wire.subscribe(CLIENT)) as send:
        most = TOLD_FRAMES_MAX * FRAME_BYTES_MAX + 300 * MIB
        measured(plant, "a deaf client", lambda: send(asks), grown_max=most)


def test_ten_thousand_connections_that_do_nothing(plant: Plant) -> None:
    wanted = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted + 1_000:
        pytest.skip(f"this process may open {hard} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted + 1_000), hard))
    before, begin_s = plant.memory(), time.monotonic()
    with contextlib.ExitStack() as stack:
        for _ in range(wanted // 500):
            some = [stack.enter_context(stream(plant.endpoint, greets=False)) for _ in range(500)]
            for connection in some:
                greet(connection)
        connected_s = time.monotonic() - begin_s
        print(f"{wanted} connections in {connected_s:.1f} s")
        measured(plant, "idle connections", lambda: time.sleep(0.05), grown_max=100 * MIB)
        each = (plant.memory() - before) / wanted
        print(f"{each / 1024:.1f} KiB each")
        assert each < 64 * 1024
    plant.honest()


def broker(limit: int, endpoint: str, *more: str) -> subprocess.Popen[str]:
    """A broker whose process may open so many files."""
    arguments = (sys.executable, "-m", "sagacore", "broker", "--endpoint", endpoint, *more)
    limited = ("prlimit", f"--nofile={limit}:{limit}", *arguments)
    return subprocess.Popen(limited, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_a_broker_that_may_open_too_few_files_says_so() -> None:
    process = broker(LEAST - 1, free_endpoint(), "--durability", "memory")
    _, said = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "SAGA-E507" in said


def test_more_connections_than_fit_wait_and_the_log_goes_on(tmp_path: Path) -> None:
    endpoint = free_endpoint()
    process = broker(
        LEAST, endpoint, "--data", str(tmp_path / "log"), "--segment-bytes", str(MIB), "--durability", "os"
    )
    try:
        with Raw(endpoint).join(CLIENT) as client:
            define(client)
            with contextlib.ExitStack() as stack:
                for _ in range(OWN + CONNECTIONS_MIN + KEPT):
                    stack.enter_context(stream(endpoint, greets=False))
                for _ in range(40):  # some segments of a MiB
                    client.frame(starts(50))
                client.say(Message(wire.STATS))
                client.token(wire.STATS)
                segments = len(list((tmp_path / "log").glob("*.seg")))
                assert segments > 4
            is_let_in(endpoint)
        assert process.poll() is None
    finally:
        process.terminate()
        print(process.communicate(timeout=10)[1])


def is_let_in(endpoint: str) -> None:
    """Who is cut because the log took the last descriptor comes again, as ZeroMQ's own sockets do."""
    until_s = time.monotonic() + 10
    while True:
        try:
            with stream(endpoint):
                return
        except OSError:
            assert time.monotonic() < until_s
            time.sleep(0.05)
