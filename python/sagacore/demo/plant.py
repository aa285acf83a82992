"""The processes of the shop: broker, coordinators and services, and what each of them is started with."""

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from sagacore import Client

from .failure import DemoFailed
from .fleet import Fleet
from .shop.gateway import FILE_VARIABLE

SERVICES = ("orders", "payments", "inventory", "shipping")
START_S = 20.0
"""All processes are there after so long, on a slow machine too."""
SOCKET_PATH_BYTES_MAX = 107
"""What the system allows for the path of a local socket."""


def start_broker(
    fleet: Fleet,
    endpoint: str,
    *,
    durability: str,
    visibility: str = "strict",
    data: str = "broker",
    options: Sequence[str] = (),
) -> list[str]:
    """Start the broker, with its log in `data` in the fleet's folder. Returns its name, as the others do theirs."""
    promises = ("--durability", durability, "--visibility", visibility)
    fleet.start("broker", ("broker", "--endpoint", endpoint, "--data", data, *promises, *options))
    return ["broker"]


def start_coordinators(fleet: Fleet, endpoint: str, *, count: int, slots: int) -> list[str]:
    """Start coordinators, each with a table of so many slots."""
    names = _names("coordinator", count)
    for name in names:
        fleet.start(name, ("coordinator", "--endpoint", endpoint, "--slots", str(slots)))
    return names


def start_service(
    fleet: Fleet, endpoint: str, service: str, *, count: int = 1, effects: Literal["sqlite", "memory"]
) -> list[str]:
    """Start processes of one service, with stores in the fleet's folder or with everything in memory."""
    names = _names(service, count)
    module = "memory" if effects == "memory" else service
    fence = "memory" if effects == "memory" else f"sqlite:{fleet.folder / service}.db"
    arguments = ("service", f"sagacore.demo.shop.{module}:{service}", "--endpoint", endpoint, "--fence", fence)
    for name in names:
        fleet.start(name, arguments, {FILE_VARIABLE: str(fleet.folder / "gateway.db")})
    return names


def start_shop(
    fleet: Fleet, endpoint: str, *, durability: str, visibility: str, coordinators: int, slots: int, workers: int
) -> list[Sequence[str]]:
    """Start everything. Returns the names of the processes of each role."""
    roles: list[Sequence[str]] = [
        start_broker(fleet, endpoint, durability=durability, visibility=visibility),
        start_coordinators(fleet, endpoint, count=coordinators, slots=slots),
    ]
    roles += [start_service(fleet, endpoint, service, count=workers, effects="sqlite") for service in SERVICES]
    return roles


def role_of(name: str) -> str:
    """The kind of a process: `orders` for `orders-2`."""
    return name.partition("-")[0]


@contextlib.contextmanager
def local_endpoint() -> Iterator[str]:
    """An address for a broker on this machine, gone afterwards. Its path is short, as the system wants it."""
    folder = Path(tempfile.mkdtemp(prefix="sagacore-"))
    if len(str(folder / "broker")) > SOCKET_PATH_BYTES_MAX:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="sagacore-", dir="/tmp"))
    try:
        yield f"ipc://{folder}/broker"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _names(role: str, count: int) -> list[str]:
    return [role] if count == 1 else [f"{role}-{number}" for number in range(1, count + 1)]


async def ready(client: Client, fleet: Fleet) -> None:
    """Wait until every process has its session with the broker. Raises `DemoFailed` if one does not come."""
    expected = len(fleet.names())  # the broker has no session, but this client has one
    give_up_s = time.monotonic() + START_S
    while (await client.stats())["sessions"] < expected:
        for name, status, tail in fleet.died():
            raise DemoFailed(
                f"{name} ended with status {status} at its start", hint="its last lines are above", tail=tail
            )
        if time.monotonic() > give_up_s:
            raise DemoFailed(
                f"not all processes are ready after {START_S:.0f} s", hint=f"their logs are in {fleet.folder / 'logs'}"
            )
        await asyncio.sleep(0.02)
