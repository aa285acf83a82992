"""A full disk, on real processes: only new sagas are refused, running ones end, and space that comes back is enough."""

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from sagacore import Client, Completed, StartRefused
from sagacore.demo.fleet import Fleet
from sagacore.outcomes import Ended
from sagacore.processes import log_tools
from tests.e2e.faulty import Acted, Order, plain
from tests.e2e.test_faults import HEADER_BYTES, SEGMENT_BYTES, Plant, written

DISK_SEGMENTS = 20
MANY = 5_000
"""Sagas that do not find room all at once."""


@contextlib.contextmanager
def mounted(folder: Path, size_bytes: int) -> Iterator[None]:
    """A small disk of its own. Skips the test where it cannot be mounted."""
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("there is no mount command")
    options = ("-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder))
    done = subprocess.run((mount, *options), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run((umount, "--lazy", str(folder)), check=True)


@pytest.fixture
def plant(socket_folder: Path, root: Path) -> Iterator[Plant]:
    """A plant whose log is on a small disk, and whose second service is not there."""
    plant = Plant(socket_folder, root, Fleet(socket_folder))
    with mounted(plant.log, DISK_SEGMENTS * SEGMENT_BYTES), plant.fleet:
        plant.start()
        plant.fleet.kill("second")
        yield plant


class Load:
    """Sagas that are started, and wait for the second service."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._count = 0
        self._tasks: list[asyncio.Task[list[Ended[Acted]]]] = []

    async def start(self, count: int) -> None:
        """Start so many more, and wait until their first step is done."""
        first, self._count = self._count, self._count + count
        orders = [Order("ok", f"order-{number}") for number in range(first, self._count)]
        self._tasks.append(asyncio.create_task(self._follow(orders)))
        async with Client(self._plant.endpoint, timeout=10) as client, asyncio.timeout(30):
            while (await client.stats())["running"] < self._count:  # noqa: ASYNC110 (counters have no event)
                await asyncio.sleep(0.02)

    async def end(self) -> None:
        """Start the second service, and wait until all have completed."""
        self._plant.start_service("second", "second")
        ended = [one for task in self._tasks for one in await asyncio.wait_for(task, 60)]
        assert len(ended) == self._count
        assert all(isinstance(one.outcome, Completed) for one in ended)

    async def _follow(self, orders: list[Order]) -> list[Ended[Acted]]:
        async with Client(self._plant.endpoint, timeout=60) as client:
            started = client.start_many(plain, orders, in_flight=MANY, key=lambda order: order.name)
            return [one async for one in started]


def used(log: Path) -> tuple[str, int]:
    """The segment that is written, and how much of it is."""
    segments = ((path, len(written(path))) for path in log.glob("*.seg"))
    last, size = max((path, size) for path, size in segments if size > HEADER_BYTES)
    return last.name, size


def fill(log: Path) -> Path:
    """Take all that is left of the disk."""
    path = log / "ballast"
    with path.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    return path


async def refusal(plant: Plant, name: str) -> str:
    """What a client is told that may start no saga now."""
    async with Client(plant.endpoint, timeout=1) as client:
        with pytest.raises(StartRefused) as caught:
            await client.start(plain, Order("ok", name))
    return str(caught.value)


async def completes(plant: Plant, name: str) -> None:
    """A new saga is taken within some seconds, and completes."""
    async with Client(plant.endpoint, timeout=15) as client:
        handle = await client.start(plain, Order("ok", name))
        assert isinstance(await handle.outcome(timeout=10), Completed)


async def until(condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < give_up_s
        await asyncio.sleep(0.02)


def test_a_disk_that_others_fill_refuses_new_sagas_until_they_give_it_back(plant: Plant) -> None:
    async def main() -> None:
        load = Load(plant)
        await load.start(1)
        # What runs needs more than what the segment that is written has left.
        while used(plant.log)[1] < SEGMENT_BYTES * 3 // 4:
            await load.start(100)
        before = used(plant.log)[0]
        ballast = fill(plant.log)
        await asyncio.sleep(1)
        text = await refusal(plant, "while it is full")
        assert "SAGA-E302" in text
        assert "disk is full" in text
        assert "hint: " in text

        await load.end()
        after = used(plant.log)[0]
        assert after != before, "it has gone on in the segment that was ready"
        following = f"{int(after.removesuffix('.seg'), 16) + 1:016x}"
        assert not (plant.log / f"{following}.seg").exists(), "there was no space to make another ready"
        assert "disk is full" in await refusal(plant, "still full")
        assert list(plant.fleet.died()) == []

        ballast.unlink()
        await completes(plant, "with space again")
        await until((plant.log / f"{following}.seg").exists)

    asyncio.run(main())
    plant.fleet.kill("broker")
    assert log_tools.verify(plant.log).verdict != "damaged"


def test_a_disk_that_sagas_fill_has_room_for_all_that_run(plant: Plant) -> None:
    async def main() -> None:
        async with Client(plant.endpoint, timeout=60) as client:
            started = client.start_many(
                plain, [Order("ok", f"order-{number}") for number in range(MANY)], in_flight=MANY
            )
            ended = asyncio.create_task(count_completed(started))
            running = -1
            while running < (running := (await client.stats())["running"]):  # noqa: ASYNC110 (nor has rest)
                await asyncio.sleep(1)
            assert 100 < running < MANY, "so many had room"
            assert "disk is full" in await refusal(plant, "one more")
            assert (await client.stats())["running"] == running
            plant.start_service("second", "second")
            # Those that were refused are taken as others end.
            assert await asyncio.wait_for(ended, 60) == MANY
        await completes(plant, "afterwards")

    asyncio.run(main())
    assert list(plant.fleet.died()) == []


async def count_completed(ended: AsyncIterator[Ended[Acted]]) -> int:
    return sum([isinstance(one.outcome, Completed) async for one in ended])
