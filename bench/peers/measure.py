"""One setting of one peer: its processes started, the closed loop run against them, and what came of it."""

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sagacore.demo.fleet import Fleet
from sagacore.demo.plant import SERVICES

from .cpu import used_s
from .installed import python

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
"""What a slow machine may take for one level, or one start, beyond what it should."""

Durability = Literal["sync", "memory"]
"""`sync`: every commit is synced to the disk before it counts. `memory`: what a crash of the machine would lose."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run the order saga with a peer.

    `start` starts its servers and services in a fleet, and returns the environment in which its `module` drives them.
    """

    peer: str
    name: str
    durability: Durability
    in_flight: tuple[int, ...]
    module: str
    start: Callable[[Fleet, Durability], Mapping[str, str]]
    warm_up_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Level:
    """What one closed loop against a peer has shown."""

    rejected: bool
    in_flight: int
    sagas: int
    sagas_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_saga: dict[str, float]


def start_module(
    fleet: Fleet, name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> None:
    """Start a process of a peer: a module of this package, in the peers' own environment."""
    fleet.start_program(name, (python(), "-m", module, *arguments), {**environment, "PYTHONPATH": str(ROOT)})


def run_module(fleet: Fleet, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a module of this package in the peers' own environment to its end. Raises `RuntimeError` if it fails."""
    done = subprocess.run(
        (python(), "-m", module, *arguments),
        cwd=fleet.folder,
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{module} {' '.join(arguments)} ended with status {done.returncode}\n{done.stderr[-2000:]}")


def measure(setting: Setting, *, seconds: float) -> Iterator[Level]:
    """Start everything, and yield a level after another. Everything is stopped afterwards.

    Raises `NotInstalled`; and `RuntimeError` if the peer fails, or a saga ends otherwise than it should.
    """
    with (
        tempfile.TemporaryDirectory(prefix="sagacore-peer-", ignore_cleanup_errors=True) as folder,
        Fleet(Path(folder, "fleet")) as fleet,
    ):
        environment = setting.start(fleet, setting.durability)
        yield from _drive(setting, fleet, environment, seconds)


def _drive(setting: Setting, fleet: Fleet, environment: Mapping[str, str], seconds: float) -> Iterator[Level]:
    levels = ",".join(map(str, setting.in_flight))
    options = ("--in-flight", levels, "--seconds", str(seconds), "--warm-up", str(setting.warm_up_s))
    errors = fleet.logs / "client.log"
    with (
        errors.open("wb") as log,
        subprocess.Popen(
            (python(), "-m", setting.module, "drive", *options),
            cwd=fleet.folder,
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as client,
    ):
        give_up_s = 2 * len(setting.in_flight) * (setting.warm_up_s + seconds + PATIENCE_S)
        watchdog = threading.Timer(give_up_s, client.kill)
        watchdog.start()
        try:
            assert client.stdout is not None
            yield from parsed(client.stdout, lambda: used_s(_roles(fleet, client.pid)))
            status = client.wait()
        finally:
            watchdog.cancel()
            client.kill()
    if status != 0:
        told = "\n".join(errors.read_text(errors="replace").splitlines()[-15:])
        dead = "\n".join(f"{died.name} ended with status {died.status}:\n{died.tail}" for died in fleet.died())
        raise RuntimeError(f"{setting.peer}, {setting.name}: the client ended with status {status}\n{told}\n{dead}")


def parsed(lines: Iterator[str], cpu_s: Callable[[], Mapping[str, float]]) -> Iterator[Level]:
    """The levels that a client tells of. `cpu_s` is asked when counting begins and ends."""
    before_s: Mapping[str, float] = {}
    after_s: Mapping[str, float] = {}
    for line in lines:
        match json.loads(line):
            case {"mark": "begin"}:
                before_s = cpu_s()
            case {"mark": "end"}:
                after_s = cpu_s()
            case row:
                used = {role: round((after_s[role] - before_s[role]) * 1e6 / row["sagas"], 1) for role in after_s}
                yield Level(**row, cpu_us_per_saga=used)


def _roles(fleet: Fleet, client: int) -> dict[str, list[int]]:
    roles = {"client": [client]}
    for name in fleet.names():
        roles.setdefault("services" if name in SERVICES else name, []).append(fleet.pid(name))
    return roles
