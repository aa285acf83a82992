"""All measurements, one after another, into `bench/results`: figures, with the machine and the versions, and tables.

Each part is a process of its own, so none finds what another one has left in memory. What was measured before and is
not measured now stays as it was, with its own date and machine.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zmq
from rich.console import Console

from . import markdown
from .plant import ROOT

RESULTS = ROOT / "bench" / "results"
PARTS: Mapping[str, tuple[str, ...]] = {
    "throughput": (),
    "profile": (),
    "latency": (),
    "memory": ("--in-flight", "1000000"),
    "memory-10m": ("--in-flight", "10000000"),
    "parked": ("--sagas", "1000000", "--rounds", "3"),
    "parked-10m": ("--sagas", "10000000", "--rounds", "9", "--row-s", "8"),
    "growth": ("--sagas", "40000"),
    "contention": (),
    "peers": (),
}
"""The parts, with their settings; what follows a dash tells settings of one command apart."""
QUICK = ("throughput", "latency", "memory", "parked", "growth", "contention")
"""The parts that need little but this project: ten million sagas take some minutes and much of a disk, `profile` needs
perf, and peers have to be installed first."""
LIBRARIES = ("pyzmq", "uvloop", "msgspec")


def report(console: Console, parts: Sequence[str]) -> None:
    """Measure these parts and write what was found. Raises `RuntimeError` if one of them fails, after the others."""
    failed = []
    for number, part in enumerate(parts, 1):
        command = ("bench", part.partition("-")[0], *PARTS[part])
        console.rule(f"{number} of {len(parts)}: {' '.join(command)}")
        began_s = time.monotonic()
        figures = _run(command)
        took_s = time.monotonic() - began_s
        console.print(f"{part}: {'failed' if figures is None else 'done'} after {took_s:.0f} s")
        if figures is None:
            failed.append(part)
        else:
            _store(part, command, took_s, figures)
    results = load()
    (RESULTS / "results.md").write_text(markdown.render(results))
    if failed:
        raise RuntimeError(f"failed: {', '.join(failed)}; what they said is above")


def load() -> dict[str, Any]:
    """What was measured so far, by part; nothing if there is no file."""
    path = RESULTS / "results.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _store(part: str, command: Sequence[str], took_s: float, figures: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    about = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python -m {' '.join(command)} --json",
        "took_s": round(took_s),
        "machine": machine(),
        "versions": versions(),
    }
    path = RESULTS / "results.json"
    path.write_text(json.dumps({**load(), part: {"about": about, "figures": figures}}, indent=1) + "\n")


def _run(command: Sequence[str]) -> dict[str, Any] | None:
    """Run a part, show what it prints, and give the figures of its last line; None if it fails."""
    line = ""
    with subprocess.Popen(
        (sys.executable, "-m", *command, "--json"), stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("{"):
                sys.stdout.write(line)
                sys.stdout.flush()
    if process.returncode or not line.startswith("{"):
        return None
    figures: dict[str, Any] = json.loads(line)
    return figures


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**20, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_of_15_minutes": round(os.getloadavg()[2], 1),
    }


def versions() -> dict[str, str]:
    """Of what runs."""
    libraries = {name: importlib.metadata.version(name) for name in ("sagacore", *LIBRARIES)}
    return {"python": platform.python_version(), **libraries, "libzmq": zmq.zmq_version()}


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
