"""The broker's process watches its disk."""

import asyncio
import logging
from pathlib import Path

import pytest

from sagacore import UsageError
from sagacore.processes.broker import Broker, BrokerOptions
from sagacore.processes.coordinator import CoordinatorOptions


class Core:
    """A core whose log is as slow as a test says."""

    def __init__(self) -> None:
        self.figures = {"commit_under_way_us": 0, "slowest_commit_us": 0}

    def log_figures(self) -> list[tuple[str, int]]:
        return list(self.figures.items())


def test_a_slow_disk_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture, endpoint: str) -> None:
    broker, core = Broker(BrokerOptions(endpoint=endpoint, data=Path("/var/log-of-it"))), Core()
    broker._core = core  # type: ignore[assignment]
    caplog.set_level(logging.INFO)
    for under_way_us in (0, 900_000, 1_100_000, 2_000_000, 2_400_000):
        core.figures["commit_under_way_us"] = under_way_us
        broker._watch_disk()
    assert [record.getMessage() for record in caplog.records] == [
        "the disk of /var/log-of-it is slow: a write has taken over 1 s, and everybody waits for it"
    ]
    core.figures = {"commit_under_way_us": 0, "slowest_commit_us": 2_500_000}
    for _ in range(3):
        broker._watch_disk()
    assert [record.getMessage() for record in caplog.records][1:] == ["the disk goes on: its slowest write took 2.5 s"]
    broker._hub.close()


def test_a_log_stays_of_its_shard(tmp_path: Path, endpoint: str) -> None:
    async def start(shard: int) -> None:
        broker = Broker(BrokerOptions(endpoint=endpoint, data=tmp_path / "log", shard=shard))
        try:
            broker.open()
        finally:
            broker.close()

    asyncio.run(start(1))
    with pytest.raises(UsageError, match=r"is of shard 1.*started as 0") as refused:
        asyncio.run(start(0))
    assert (refused.value.code, refused.value.hint) == ("SAGA-E508", "start it with --shard 1, or with another folder")
    asyncio.run(start(1))


@pytest.mark.parametrize("options", [BrokerOptions, CoordinatorOptions])
def test_a_list_of_endpoints_is_for_clients_and_services(options: type[BrokerOptions | CoordinatorOptions]) -> None:
    with pytest.raises(UsageError) as refused:
        options(endpoint="ipc:///a,ipc:///b")
    assert refused.value.code == "SAGA-E508"
