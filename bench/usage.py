"""CPU time and memory of the processes of a measurement."""

import os
import time
from pathlib import Path

from sagacore.demo.plant import SERVICES, role_of

from .plant import Plant

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class CpuMeter:
    """CPU time since it was made: of this process, which is the client, and of those that the plant runs."""

    def __init__(self, plant: Plant) -> None:
        self._fleet = plant.fleet
        self._client_s = time.process_time()
        self._before_s = {name: cpu_s(self._fleet.pid(name)) for name in self._fleet.names()}

    def us_per_saga(self, sagas: int) -> dict[str, float]:
        """Microseconds a saga of client, broker and coordinator, and of all services together."""
        used_s = {"client": time.process_time() - self._client_s, "broker": 0.0, "coordinator": 0.0, "services": 0.0}
        for name, before_s in self._before_s.items():
            role = role_of(name)
            used_s["services" if role in SERVICES else role] += cpu_s(self._fleet.pid(name)) - before_s
        return {role: round(used * 1e6 / sagas, 2) for role, used in used_s.items()}


def cpu_s(pid: int) -> float:
    """CPU time of all threads of a process, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def folder_bytes(folder: Path) -> int:
    """What the files of a folder take on disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def peak_bytes(pid: int) -> int:
    """The most resident memory that a process has had so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1_024
