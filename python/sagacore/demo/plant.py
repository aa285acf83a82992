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
from sagacore.endpoints import split_endpoints

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


def start_brokers(
    fleet: Fleet, endpoint: str, *, durability: str, visibility: str, options: Sequence[str] = ()
) -> list[str]:
    """Start a broker at each endpoint, with its log in the fleet's folder, under its name."""
    endpoints = split_endpoints(endpoint)
    names = _names("broker", len(endpoints))
    for number, (name, each) in enumerate(zip(names, endpoints, strict=True)):
        promises = ("--durability", durability, "--visibility", visibility)
        fleet.start(name, ("broker", "--endpoint", each, "--data", name, "--shard", str(number), *promises, *options))
    return names


def start_coordinators(fleet: Fleet, endpoint: str, *, count: int, slots: int) -> list[str]:
    """Start so many coordinators for each broker, each with a table of so many slots."""
    endpoints = split_endpoints(endpoint)
    names = _names("coordinator", count * len(endpoints))
    for at, name in enumerate(names):
        each = endpoints[at % len(endpoints)]
        fleet.start(name, ("coordinator", "--endpoint", each, "--slots", str(slots)))
    return names


def start_service(
    fleet: Fleet,
    endpoint: str,
    service: str,
    *,
    count: int = 1,
    effects: Literal["sqlite", "memory"],
    module: str | None = None,
) -> list[str]:
    """Start processes of one service, with stores in the fleet's folder or with everything in memory.

    `module` has another implementation than the shop's.
    """
    names = _names(service, count)
    module = module or f"sagacore.demo.shop.{'memory' if effects == 'memory' else service}"
    fence = "memory" if effects == "memory" else f"sqlite:{fleet.folder / service}.db"
    arguments = ("service", f"{module}:{service}", "--endpoint", endpoint, "--fence", fence)
    for name in names:
        fleet.start(name, arguments, {FILE_VARIABLE: str(fleet.folder / "gateway.db")})
    return names


def start_shop(
    fleet: Fleet, endpoint: str, *, durability: str, visibility: str, coordinators: int, slots: int, workers: int
) -> list[Sequence[str]]:
    """Start everything. Returns the names of the processes of each role."""
    roles: list[Sequence[str]] = [
        start_brokers(fleet, endpoint, durability=durability, visibility=visibility),
        start_coordinators(fleet, endpoint, count=coordinators, slots=slots),
    ]
    roles += [start_service(fleet, endpoint, service, count=workers, effects="sqlite") for service in SERVICES]
    return roles


def role_of(name: str) -> str:
    """The kind of a process: `orders` for `orders-2`."""
    return name.partition("-")[0]


@contextlib.contextmanager
def local_endpoint(brokers: int = 1) -> Iterator[str]:
    """Addresses for brokers on this machine, gone afterwards. Their paths are short, as the system wants it."""
    folder = Path(tempfile.mkdtemp(prefix="sagacore-"))
    if len(str(folder / "broker-64")) > SOCKET_PATH_BYTES_MAX:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="sagacore-", dir="/tmp"))
    try:
        yield ",".join(f"ipc://{folder}/{name}" for name in _names("broker", brokers))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _names(role: str, count: int) -> list[str]:
    return [role] if count == 1 else [f"{role}-{number}" for number in range(1, count + 1)]


async def ready(client: Client, fleet: Fleet, within_s: float = START_S) -> None:
    """Wait until every process has its session with the broker. Raises `DemoFailed` if one does not come."""
    roles = [role_of(name) for name in fleet.names()]
    brokers = roles.count("broker")
    # A coordinator has a session with its broker, this client and a service with each.
    expected = sum(1 if role in ("broker", "coordinator") else brokers for role in roles)
    give_up_s = time.monotonic() + within_s
    while (await client.stats())["sessions"] < expected:
        for name, status, tail in fleet.died():
            raise DemoFailed(
                f"{name} ended with status {status} at its start", hint="its last lines are above", tail=tail
            )
        if time.monotonic() > give_up_s:
            raise DemoFailed(
                f"not all processes are ready after {within_s:.0f} s", hint=f"their logs are in {fleet.folder / 'logs'}"
            )
        await asyncio.sleep(0.02)
