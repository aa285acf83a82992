"""Where the CPU of a saga goes: samples of every process at full load, by what was running.

Linux' perf takes them by the CPU clock, which works on virtual machines too. A sample counts for the function that ran,
not for its callers. What is inlined counts for what it was inlined into.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from rich.console import Console
from rich.table import Table

from sagacore.demo.fleet import Fleet

from .figures import Figures
from .load import IN_FLIGHT, Load
from .plant import Durability, OrderBook, Visibility, running
from .tables import table
from .usage import ROLES, counted_as

HZ = 1_999
"""No divisor of anything that the processes do by the clock."""
ATTACH_S = 1.0
TOP = 14
"""Functions of the cores that are named."""
WORKLOADS = {"completed": 0.0, "compensated": 1.0}
"""The share of orders that are rejected at the last step."""

_SAMPLE = re.compile(r"^\s*(?P<pid>\d+)\s+[0-9a-f]+ (?P<symbol>.*) \((?P<file>[^()]*(?:\([^()]*\))?)\)$")
_HASH = re.compile(r"::h[0-9a-f]{16}$")
_ALLOCATION = re.compile(r"malloc|calloc|realloc|free|_int_|unlink_chunk|sysmalloc")
_LIBRARIES = (
    ("_core.abi3", "the cores"),
    ("libzmq", "ZeroMQ"),
    ("_zmq", "pyzmq"),
    ("msgspec", "msgspec"),
    ("uvloop", "uvloop"),
    ("libpython", "Python"),
    ("python3", "Python"),
)
"""Areas by what is in a file's path; the first that fits."""
AREAS = ("kernel", "the cores", "allocation", "Python", "msgspec", "ZeroMQ", "pyzmq", "uvloop", "others")


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process was running."""

    pid: int
    symbol: str
    file: str

    @property
    def area(self) -> str:
        """One of `AREAS`."""
        if self.file.startswith("[kernel") or self.file.startswith("[guest"):
            return "kernel"
        if PurePath(self.file).name.startswith("libc") and _ALLOCATION.search(self.symbol):
            return "allocation"
        return next((area for part, area in _LIBRARIES if part in self.file), "others")


@dataclass(frozen=True, slots=True)
class HotSpots:
    """Microseconds a saga."""

    by_area: Mapping[str, Mapping[str, float]]
    """By role, by area."""
    functions: Mapping[str, float]
    """Of the cores, within the broker."""


async def hot_spots(
    console: Console, *, durability: Durability, visibility: Visibility, row_s: float
) -> dict[str, object]:
    """Sample each workload, print the tables and return them. Raises `RuntimeError` where perf is missing or fails."""
    if shutil.which("perf") is None:
        raise RuntimeError("perf is missing, which takes the samples: apt-get install linux-perf")
    load = Load(OrderBook(), row_s)
    rows = []
    async with running(durability=durability, visibility=visibility) as plant:
        await load.warm_up(plant)
        roles = roles_of(plant.fleet)
        for what, rejected in WORKLOADS.items():
            with tempfile.TemporaryDirectory(prefix="sagacore-bench-") as folder:
                with recording(roles, Path(folder, "samples")) as file:
                    figures = await load.sagas(plant, IN_FLIGHT[-1], rejected)
                found = attribute(samples(read(file)), roles, figures)
            console.print(_area_table(what, figures, found))
            console.print(_function_table(what, found))
            rows.append(
                {
                    "what": what,
                    "sagas_per_s": round(figures.sagas_per_s),
                    "cpu_us_per_saga": found.by_area,
                    "broker_functions_us_per_saga": found.functions,
                }
            )
    return {"durability": durability, "visibility": visibility, "in_flight": IN_FLIGHT[-1], "rows": rows}


def roles_of(fleet: Fleet) -> dict[int, str]:
    """The role of each process that is sampled; this one, the client, too."""
    return {os.getpid(): "client", **{fleet.pid(name): counted_as(name) for name in fleet.names()}}


@contextlib.contextmanager
def recording(pids: Iterable[int], file: Path) -> Iterator[Path]:
    """Sample processes into a file. Raises `RuntimeError` if perf cannot."""
    command = ("perf", "record", "--event", "cpu-clock", "--freq", str(HZ), "--quiet", "--output", str(file))
    with subprocess.Popen((*command, "--pid", ",".join(map(str, pids))), stderr=subprocess.PIPE, text=True) as perf:
        time.sleep(ATTACH_S)
        try:
            yield file
        finally:
            perf.send_signal(signal.SIGINT)
            _, said = perf.communicate()
    if not file.exists():
        raise RuntimeError(f"perf took no samples: {said.strip()}")


def read(file: Path) -> str:
    """The samples as text."""
    command = ("perf", "script", "--input", str(file), "--fields", "pid,ip,sym,dso")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def samples(text: str) -> Iterator[Sample]:
    """What perf has written, a sample a line. Lines of other kinds are left out."""
    for line in text.splitlines():
        if found := _SAMPLE.match(line):
            yield Sample(int(found["pid"]), _HASH.sub("", found["symbol"]), found["file"])


def attribute(taken: Iterable[Sample], roles: Mapping[int, str], figures: Figures) -> HotSpots:
    """Share out each role's measured CPU by its samples."""
    areas: dict[str, Counter[str]] = {role: Counter() for role in ROLES}
    functions: Counter[str] = Counter()
    for sample in taken:
        role = roles[sample.pid]
        areas[role][sample.area] += 1
        if role == "broker" and sample.area == "the cores":
            functions[sample.symbol] += 1
    each_us = {role: figures.cpu_us_per_saga[role] / max(1, areas[role].total()) for role in ROLES}
    return HotSpots(
        by_area={role: {area: round(areas[role][area] * each_us[role], 2) for area in AREAS} for role in ROLES},
        functions={name: round(count * each_us["broker"], 3) for name, count in functions.most_common(TOP)},
    )


def _area_table(what: str, figures: Figures, found: HotSpots) -> Table:
    title = f"CPU us a saga by what ran: {what}, {figures.sagas_per_s:,.0f} a second, {figures.in_flight:,} in flight"
    rows = [(area, *(f"{found.by_area[role][area]:.2f}" for role in ROLES)) for area in AREAS]
    sums = ("all", *(f"{sum(found.by_area[role].values()):.2f}" for role in ROLES))
    return table(title, ("", *ROLES), [*rows, sums])


def _function_table(what: str, found: HotSpots) -> Table:
    rows = [(name, f"{used:.3f}") for name, used in found.functions.items()]
    return table(f"the cores within the broker: {what}", ("function", "CPU us a saga"), rows)
