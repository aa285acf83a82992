"""CPU time and memory of the processes of a measurement."""

import time
from pathlib import Path

from sagacore.demo.fleet import Fleet
from sagacore.demo.plant import role_of

ROLES = ("client", "broker", "coordinator", "services")


class CpuMeter:
    """CPU time since it was made: of this process, which is the client, and of those that the fleet runs."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._client_s = time.process_time()
        self._before_s = {name: cpu_s(fleet.pid(name)) for name in fleet.names()}

    def us_per_saga(self, sagas: int) -> dict[str, float]:
        """Microseconds a saga of client, broker and coordinator, and of all services together."""
        used_s = dict.fromkeys(ROLES, 0.0)
        used_s["client"] = time.process_time() - self._client_s
        for name, before_s in self._before_s.items():
            used_s[counted_as(name)] += cpu_s(self._fleet.pid(name)) - before_s
        return {role: round(used * 1e6 / sagas, 2) for role, used in used_s.items()}


def counted_as(name: str) -> str:
    """The role of `ROLES` that a process of the fleet counts for."""
    role = role_of(name)
    return role if role in ROLES else "services"


def cpu_s(pid: int) -> float:
    """CPU time of all threads of a process, in user and system mode. Raises `OSError` if it is gone."""
    return time.clock_gettime(~pid << 3 | 2)  # the system's number for the clock of another process


def folder_bytes(folder: Path) -> int:
    """What the files of a folder take on disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def peak_bytes(pid: int) -> int:
    """The most resident memory that a process has had so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1_024
