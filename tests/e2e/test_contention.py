"""Holds on real processes: sagas wait, wait for each other, and are found; services and the broker die meanwhile."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sagacore import Client, Completed, Handle
from sagacore.demo.contention.job import start_services
from sagacore.demo.contention.load import Contention, open_stores, trips
from sagacore.demo.contention.trips import STORE_VARIABLE, Trip, sagas
from sagacore.demo.fleet import Fleet
from sagacore.demo.kills import Kill
from sagacore.demo.plant import local_endpoint, ready, start_broker, start_coordinators

HOUR_S = 3_600.0
DEMO = (sys.executable, "-m", "sagacore", "demo", "--contention", "--json")

pytestmark = pytest.mark.timeout(180)


def run_demo(*options: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run([*DEMO, *options], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(options[1]), done.stdout + done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert figures["violations"] == 0
    return done.returncode, figures


def test_opposite_orders_end_with_every_saga_completed() -> None:
    status, figures = run_demo("--orders", "400")
    assert (status, figures["completed"], figures["stuck"]) == (0, 400, 0)
    deadlocks = figures["deadlocks"]
    assert deadlocks["resolved"] > 0
    assert deadlocks["restarts"] == deadlocks["resolved"], "every victim began again"
    assert deadlocks["phantoms"] <= deadlocks["resolved"] / 10
    assert 0 <= deadlocks["detection_ms"]["p50"] <= deadlocks["detection_ms"]["p99"] < 1_000
    assert figures["steps"]["given_back"] < figures["steps"]["taken"] / 4


def test_without_detection_those_that_wait_for_each_other_never_end() -> None:
    status, figures = run_demo("--orders", "300", "--no-detect-deadlocks")
    assert status == 1
    assert figures["stuck"] > 0
    assert figures["completed"] + figures["stuck"] == 300
    assert figures["deadlocks"]["resolved"] == 0


def test_nothing_is_lost_when_every_kind_of_process_is_killed() -> None:
    status, figures = run_demo("--orders", "250", "--kill", "5")
    assert (status, figures["completed"] + figures["compensated"], figures["kills"]) == (0, 250, 5)


class Place:
    """A broker, a coordinator and a client; services are started by the test."""

    def __init__(self, fleet: Fleet, endpoint: str, client: Client) -> None:
        self.fleet, self.endpoint, self.client = fleet, endpoint, client

    def start(self, service: str, *, in_memory: bool) -> None:
        fence = "memory" if in_memory else f"sqlite:{self.fleet.folder / service}.db"
        target = f"sagacore.demo.contention.trips:{service}"
        environment = {STORE_VARIABLE: "memory" if in_memory else "sqlite"}
        self.fleet.start(service, ("service", target, "--endpoint", self.endpoint, "--fence", fence), environment)

    async def until_waiting(self, count: int) -> None:
        """Until so many steps wait for what others hold."""
        async with asyncio.timeout(20):
            while (await self.client.stats())["waiting"] < count:  # noqa: ASYNC110 (the broker tells when it is asked)
                await asyncio.sleep(0.02)

    async def trip(self, name: str, *things: int) -> Handle[Trip, None]:
        """Start a trip through cars, then rooms."""
        saga = next(saga for saga in sagas(len(things), HOUR_S) if saga.name.startswith("trip-cars-rooms-seats"))
        return await self.client.start(saga, Trip(name, list(things)), key=name)

    async def completes(self, *handles: Handle[Trip, None]) -> None:
        outcomes = await asyncio.gather(*(handle.outcome(timeout=60) for handle in handles))
        assert all(isinstance(outcome, Completed) for outcome in outcomes)


@asynccontextmanager
async def place(folder: Path) -> AsyncIterator[Place]:
    open_stores(folder)
    with local_endpoint() as endpoint, Fleet(folder) as fleet:
        start_broker(fleet, endpoint, durability="sync")
        start_coordinators(fleet, endpoint, count=1, slots=1_024)
        async with Client(endpoint, timeout=60) as client:
            await ready(client, fleet)
            yield Place(fleet, endpoint, client)


@pytest.mark.parametrize(
    ("killed", "in_memory"),
    [(["cars"], False), (["broker"], False), (["broker", "cars"], False), (["coordinator"], False), (["broker"], True)],
)
def test_who_waits_outlives_kills(tmp_path: Path, killed: list[str], in_memory: bool) -> None:  # noqa: FBT001
    async def main() -> None:
        async with place(tmp_path) as at:
            at.start("cars", in_memory=in_memory)
            at.start("seats", in_memory=in_memory)
            # The first has the car and asks for a room, which nobody serves yet; the others wait for the car.
            handles = [await at.trip("first", 7, 1)]
            await asyncio.sleep(1)
            handles += [await at.trip(name, 7, 2) for name in ("second", "third")]
            await at.until_waiting(2)
            for name in killed:
                at.fleet.kill_and_restart(name)
            await at.until_waiting(2)
            at.start("rooms", in_memory=in_memory)
            await at.completes(*handles)

    asyncio.run(main())


def test_in_memory_too_deadlocks_are_found_and_drawn(tmp_path: Path) -> None:
    async def main() -> None:
        async with place(tmp_path) as at:
            start_services(at.fleet, at.endpoint, in_memory=True)
            await ready(at.client, at.fleet)
            kills = [Kill(100, "broker"), Kill(200, "coordinator")]
            contention = Contention(at.client, at.fleet, kills, patience_s=60)
            figures = await contention.run(sagas(3, HOUR_S), trips(300, 3, keys=30, skew=0, seed=2), in_flight=60)
            assert (figures.completed, figures.violations) == (300, 0)
            assert figures.sum("resolved") > 0
            command = (sys.executable, "-m", "sagacore", "deadlocks", "--endpoint", at.endpoint)
            drawn = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
            listed = await asyncio.to_thread(
                subprocess.run, [*command, "--json"], capture_output=True, text=True, check=True
            )
            found = [json.loads(line) for line in listed.stdout.splitlines()]
            assert f"deadlock {found[0]['number']}: {found[0]['victim']} gave way" in drawn.stdout
            for one in found:
                members = [wait["saga"] for wait in one["cycle"]]
                assert one["victim"] in members
                assert len(members) == len(set(members)) >= 2
                if not one["is_wound"]:
                    assert one["victim"] != min(members, key=lambda saga: int(saga.split("-")[1], 16)), "the oldest"

    asyncio.run(main())


@pytest.mark.parametrize("waiting", ["wound-wait", "fail"])
def test_other_policies_end_too(tmp_path: Path, waiting: Any) -> None:
    async def main() -> None:
        async with place(tmp_path) as at:
            start_services(at.fleet, at.endpoint, waiting=waiting)
            await ready(at.client, at.fleet)
            contention = Contention(at.client, at.fleet, [], patience_s=60)
            figures = await contention.run(sagas(3, HOUR_S), trips(200, 3, keys=30, skew=0, seed=2), in_flight=60)
            assert (figures.ended, figures.violations) == (200, 0)
            if waiting == "fail":
                assert set(figures.compensated) == {"rejected"}
            else:
                assert figures.completed == 200
                assert figures.sum("wounded") > 0

    asyncio.run(main())
