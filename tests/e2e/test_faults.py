"""Faults of handlers, peers, operators and disks, on real processes: nothing is lost, and who errs is told."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from sagacore import BrokerUnavailable, Client, Compensated, Completed, Saga, _core
from sagacore.demo.fleet import Fleet
from tests.e2e.faulty import ERRORS, Acted, Order, coroutine, plain

SAGACORE = (sys.executable, "-m", "sagacore")
SEGMENT_BYTES = 1 << 20
HEADER_BYTES = 4096
"""Of a segment."""
SERVICES = ("first", "second")
PAIR = Saga[Order, Acted]


class Plant:
    """A broker with small segments, a coordinator and the faulty services."""

    def __init__(self, folder: Path, root: Path, fleet: Fleet) -> None:
        self.folder, self.fleet = folder, fleet
        self.endpoint = f"ipc://{folder}/broker"
        self.log = folder / "log"
        self.environment = {"PYTHONPATH": str(root)}

    def start(self, fence: str = "memory", *broker_options: str) -> None:
        """Start all of them."""
        broker = ("broker", "--data", str(self.log), "--segment-bytes", str(SEGMENT_BYTES), *broker_options)
        self.fleet.start("broker", (*broker, "--endpoint", self.endpoint))
        self.fleet.start("coordinator", ("coordinator", "--endpoint", self.endpoint))
        for name in SERVICES:
            self.start_service(name, name, fence)

    def start_service(self, process: str, service: str, fence: str = "memory") -> None:
        """Start a process of a service."""
        setting = f"sqlite:{self.folder}/{service}.db" if fence == "sqlite" else fence
        target = f"tests.e2e.faulty:{service}"
        self.fleet.start(
            process, ("service", target, "--endpoint", self.endpoint, "--fence", setting), self.environment
        )

    def cli(self, *arguments: str, timeout: float = 10) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return run(*arguments, "--endpoint", self.endpoint, timeout=timeout)

    async def place(self, count: int, prefix: str, saga: PAIR = plain) -> int:
        """Place orders, and say how many were completed."""
        orders = [Order("ok", f"{prefix}-{index}") for index in range(count)]
        async with Client(self.endpoint, timeout=15) as client:
            ended = client.start_many(saga, orders, in_flight=300, key=lambda order: order.name)
            return sum([isinstance(one.outcome, Completed) async for one in ended])


def run(*arguments: str, timeout: float = 10) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SAGACORE, *arguments], capture_output=True, text=True, timeout=timeout, check=False)


def written(segment: Path) -> bytes:
    """What was written of a segment, which is filled with zeros to its end."""
    return segment.read_bytes().rstrip(b"\0")


def assert_error(done: subprocess.CompletedProcess[str], code: str) -> None:
    """The command failed with this code and a hint, and showed no traceback."""
    assert done.returncode == 2, done.stderr
    assert code in done.stderr
    assert done.stderr.count("hint: ") == 1
    assert "Traceback" not in done.stderr


@pytest.fixture
def plant(socket_folder: Path, root: Path) -> Iterator[Plant]:
    with Fleet(socket_folder) as fleet:
        yield Plant(socket_folder, root, fleet)


@pytest.mark.parametrize("fence", ["memory", "sqlite"])
def test_whatever_a_handler_raises_compensates_its_saga_and_harms_no_process(plant: Plant, fence: str) -> None:
    plant.start(fence)

    async def main() -> None:
        async with Client(plant.endpoint, timeout=10) as client:
            for saga in (plain, coroutine):
                for mode in (*ERRORS, "wrong", "large"):
                    handle = await client.start(saga, Order(mode))
                    outcome = await handle.outcome(timeout=8)
                    assert isinstance(outcome, Compensated), (saga.name, mode)
                    assert outcome.cause == "gave-up"
            outcome = await (await client.start(coroutine, Order("never"))).outcome(timeout=8)
            assert isinstance(outcome, Compensated)
            assert "TimeoutError" in outcome.reason

    asyncio.run(main())
    assert list(plant.fleet.died()) == []


def test_a_compensation_that_always_fails_is_listed_and_skipped_by_an_operator(plant: Plant) -> None:
    plant.start("memory", "--stuck-after-ms", "200")

    async def main() -> None:
        async with Client(plant.endpoint, timeout=10) as client:
            handle = await client.start(plain, Order("stuck"), key="lost")
            while (await handle.status()).state != "stuck":  # noqa: ASYNC110 (nobody tells it)
                await asyncio.sleep(0.05)
            assert handle.id in (await asyncio.to_thread(plant.cli, "stuck")).stdout
            refused = await asyncio.to_thread(plant.cli, "resolve", handle.id, "1", "skip")
            assert refused.returncode == 2
            skipped = await asyncio.to_thread(plant.cli, "resolve", handle.id, "0", "skip", "--reason", "by hand")
            assert skipped.returncode == 0, skipped.stderr
            outcome = await handle.outcome(timeout=5)
            assert isinstance(outcome, Compensated)
            assert outcome.skipped == ("prepare",)

    asyncio.run(main())


def test_frames_that_are_none_are_refused_by_name_and_the_broker_serves_on(plant: Plant, root: Path) -> None:
    plant.start()
    assert asyncio.run(plant.place(1, "before")) == 1
    golden = [
        bytes.fromhex("".join(re.findall(r"^[0-9a-f ]+", path.read_text(), re.MULTILINE)))
        for path in sorted((root / "tests" / "golden" / "wire").glob("frame*.hex"))
    ]
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(plant.endpoint)
        for frame, rule in (
            (b"", b"frame.length"),
            (b"x", b"transaction.truncated"),
            (bytes(4096), b"transaction.version"),
            (b"\xff" * (1 << 20), b"transaction.version"),
            (b"\xf8\xff\xff\xff\x01" + bytes(19), b"transaction.length"),
        ):
            socket.send(frame)
            assert socket.poll(5_000), rule
            assert rule in socket.recv()
        socket.send_multipart([b"three", b"parts", b"here"])
        for frame in golden:
            socket.send(frame)
    assert asyncio.run(plant.place(50, "after")) == 50
    assert list(plant.fleet.died()) == []


def test_a_client_that_starts_thousands_of_sagas_and_reads_nothing_stops_nobody(plant: Plant) -> None:
    plant.start()
    assert asyncio.run(plant.place(1, "before")) == 1
    core = _core.ClientCore(instance=7, credit=65_536, outbox_bytes=64 << 20)
    core.connect(0)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, 1)
        socket.connect(plant.endpoint)
        while not core.is_ready:
            while (frame := core.frame(0)) is not None:
                socket.send(frame)
            assert socket.poll(5_000)
            core.receive(socket.recv(), 0)
        plan, order = core.define(plain.definition), msgspec.msgpack.encode(Order("ok"))
        for first in range(1, 20_000, 100):
            numbers = range(first, first + 100)
            core.start(plan, [b"flood-%d" % number for number in numbers], [order] * 100, first, quiet=False)
            while (frame := core.frame(0)) is not None:
                socket.send(frame)
        assert asyncio.run(plant.place(50, "beside")) == 50
    assert list(plant.fleet.died()) == []


def test_a_broker_that_is_killed_again_and_again_loses_nothing(plant: Plant) -> None:
    plant.start("sqlite")

    async def main() -> None:
        placing = asyncio.create_task(plant.place(2_000, "order"))
        for _ in range(5):
            await asyncio.sleep(0.6)
            plant.fleet.kill_and_restart("broker")
        assert await placing == 2_000

    asyncio.run(main())


@pytest.mark.parametrize("name", ["broker", "coordinator", "first"])
def test_a_process_that_was_away_goes_on_where_it_was(plant: Plant, name: str) -> None:
    plant.start("sqlite")

    async def main() -> None:
        assert await plant.place(1, "before") == 1
        placing = asyncio.create_task(plant.place(1_500, "order"))
        await asyncio.sleep(0.1)
        os.kill(plant.fleet.pid(name), signal.SIGSTOP)
        await asyncio.sleep(1.5)
        os.kill(plant.fleet.pid(name), signal.SIGCONT)
        assert await placing == 1_500

    asyncio.run(main())


def test_a_second_broker_takes_neither_the_log_nor_the_socket(plant: Plant) -> None:
    plant.start()
    assert asyncio.run(plant.place(1, "before")) == 1
    assert_error(plant.cli("broker", "--data", str(plant.folder / "other")), "SAGA-E505")
    other = f"ipc://{plant.folder}/other"
    assert_error(run("broker", "--data", str(plant.log), "--endpoint", other), "SAGA-E504")
    assert_error(run("log", "repair", str(plant.log)), "SAGA-E504")
    assert asyncio.run(plant.place(1, "after")) == 1


def test_a_second_process_with_fences_in_memory_is_refused(plant: Plant) -> None:
    plant.start()
    assert asyncio.run(plant.place(1, "before")) == 1
    target = ("tests.e2e.faulty:first", "--endpoint", plant.endpoint)
    command = [*SAGACORE, "service", *target]
    environment = {**os.environ, **plant.environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False, env=environment)
    assert_error(done, "SAGA-E401")


def test_every_process_ends_cleanly_on_control_c(plant: Plant) -> None:
    plant.start("sqlite")
    assert asyncio.run(plant.place(1, "before")) == 1
    for name in ("second", "first", "coordinator", "broker"):
        os.kill(plant.fleet.pid(name), signal.SIGINT)
        give_up_s = time.monotonic() + 8
        while name not in (ended := {died.name: died.status for died in plant.fleet.died()}):
            assert time.monotonic() < give_up_s, name
            time.sleep(0.01)
        assert ended[name] == 0
        assert "Traceback" not in plant.fleet.tail(name, 100)


def test_a_log_is_cut_at_a_torn_end_and_refused_where_it_is_damaged(plant: Plant) -> None:
    plant.start()
    assert asyncio.run(plant.place(2_000, "order")) == 2_000
    plant.fleet.kill("broker")
    damaged = plant.folder / "damaged"
    shutil.copytree(plant.log, damaged)
    segment = min(damaged.glob("*.seg"))
    flipped = bytearray(segment.read_bytes())
    flipped[100_000] ^= 1
    segment.write_bytes(flipped)
    other = f"ipc://{plant.folder}/other"
    assert_error(run("broker", "--data", str(damaged), "--endpoint", other), "SAGA-E504 log.damaged")
    found = run("log", "verify", str(damaged))
    assert found.returncode == 1
    assert found.stdout.startswith("damaged: ")
    assert "log.damaged" in found.stdout

    last, torn = max((path, data) for path in plant.log.glob("*.seg") if len(data := written(path)) > HEADER_BYTES)
    last.write_bytes(torn[:-20] + bytes(SEGMENT_BYTES - len(torn) + 20))
    plant.fleet.start("broker", ("broker", "--data", str(plant.log), "--endpoint", plant.endpoint))
    assert asyncio.run(plant.place(2_000, "order")) == 2_000
    assert "torn tail" in plant.fleet.tail("broker")


def test_without_a_broker_a_client_gives_up_in_time(endpoint: str) -> None:
    async def main() -> None:
        async with Client(endpoint, timeout=0.5) as client:
            began_s = time.monotonic()
            with pytest.raises(BrokerUnavailable, match="SAGA-E301"):
                await client.start(plain, Order("ok"))
            assert time.monotonic() - began_s < 3

    asyncio.run(main())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("service", "nothing:here"), "SAGA-E503"),
        (("service", "raises:here"), "SAGA-E503"),
        (("service", "../raises:here"), "SAGA-E503"),
        (("coordinator", "--slots", "-5"), "SAGA-E111"),
        (("coordinator", "--slots", "99999999999"), "SAGA-E111"),
        (("coordinator", "--endpoint", "tcp://127.0.0.1:99999"), "SAGA-E505"),
        (("coordinator", "--endpoint", "ipc:///tmp/" + "x" * 200), "SAGA-E505"),
        (("broker",), "SAGA-E506"),
        (("broker", "--data", "new", "--segment-bytes", "4096"), "SAGA-E111"),
        (("broker", "--data", "new", "--outcomes-max", "-1"), "SAGA-E111"),
        (("broker", "--data", "raises.py"), "SAGA-E504"),
        (("broker", "--data", "new", "--endpoint", "bad://x"), "SAGA-E505"),
        (("log", "verify", "nowhere"), "SAGA-E504"),
        (("log", "repair", "."), "SAGA-E504"),
        (("resolve", "0-2a-1f00c0de", "1", "done", "--result", "{bad"), "SAGA-E111"),
        (("status", ""), "SAGA-E307"),
        (("status", "x" * 300), "SAGA-E307"),
    ],
)
def test_a_wrong_command_line_is_an_error_with_a_code(arguments: tuple[str, ...], code: str, tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text("raise RuntimeError('boom')\n")
    done = subprocess.run(
        [*SAGACORE, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=10, check=False
    )
    assert_error(done, code)
