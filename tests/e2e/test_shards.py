"""Several brokers as real processes: sagas run on all of them, and those that wait for each other across are found."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sagacore import Client, Completed
from sagacore.demo.contention.job import start_services
from sagacore.demo.contention.load import open_stores
from sagacore.demo.contention.trips import Trip, sagas
from sagacore.demo.fleet import Fleet
from sagacore.demo.plant import local_endpoint, ready, start_brokers, start_coordinators
from sagacore.endpoints import shard_of_key

DEMO = (sys.executable, "-m", "sagacore", "demo", "--json", "--shards", "2")
HOUR_S = 3_600.0
FOUND_MS = 1_000

pytestmark = pytest.mark.timeout(120)


def run_demo(*options: str) -> dict[str, Any]:
    done = subprocess.run([*DEMO, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (figures["violations"], figures["stuck"]) == (0, 0)
    return figures


@pytest.mark.parametrize("shape", ["chain", "diamond"])
def test_orders_run_on_two_brokers_of_which_each_is_killed(shape: str) -> None:
    figures = run_demo("--orders", "3000", "--kill", "7", "--shape", shape)
    assert (figures["completed"] + figures["compensated"], figures["kills"]) == (3000, 7)


def test_trips_that_contend_across_brokers_all_end() -> None:
    figures = run_demo("--contention", "--orders", "300", "--kill", "2")
    assert figures["completed"] == 300
    deadlocks = figures["deadlocks"]
    assert deadlocks["resolved"] > 0
    assert deadlocks["phantoms"] <= deadlocks["resolved"] / 10
    assert deadlocks["detection_ms"]["p99"] < FOUND_MS


def key_of(shard: int, name: str) -> str:
    return next(key for key in (f"{name}-{n}" for n in range(100)) if shard_of_key(key.encode(), 2) == shard)


@pytest.mark.parametrize("in_memory", [False, True])
def test_opposite_orders_on_two_brokers_are_found_and_resolved(tmp_path: Path, in_memory: bool) -> None:  # noqa: FBT001
    """Of each pair, one saga goes through cars and then rooms, on one broker; the other through rooms and cars."""

    async def main() -> None:
        open_stores(tmp_path)
        with local_endpoint(2) as endpoint, Fleet(tmp_path) as fleet:
            start_brokers(fleet, endpoint, durability="sync", visibility="strict")
            start_coordinators(fleet, endpoint, count=1, slots=1_024)
            start_services(fleet, endpoint, in_memory=in_memory)
            async with Client(endpoint, timeout=30) as client:
                await ready(client, fleet)
                of = {saga.name: saga for saga in sagas(2, HOUR_S)}
                there = next(saga for name, saga in of.items() if name.startswith("trip-cars-rooms"))
                back = next(saga for name, saga in of.items() if name.startswith("trip-rooms-cars"))
                pairs = 0
                while not (found := await client.deadlocks()) and pairs < 50:
                    pairs += 1
                    both = [
                        await client.start(saga, Trip(key, [1, 1]), key=key)
                        for shard, saga in enumerate((there, back))
                        for key in [key_of(shard, f"pair-{pairs}")]
                    ]
                    for saga in both:
                        assert isinstance(await saga.outcome(timeout=20), Completed)
                assert found, "no pair has met"
                for one in found:
                    assert {wait["saga"][0] for wait in one["cycle"]} == {"0", "1"}
                    assert {wait["service"] for wait in one["cycle"]} == {"cars", "rooms"}
                    assert one["detection_ms"] is not None
                    assert one["detection_ms"] < FOUND_MS
                stats = await client.stats()
                assert stats["deadlocks_restarts"] == stats["deadlocks_resolved"] == len(found)
                assert stats["deadlocks_phantoms"] == 0

    asyncio.run(main())
