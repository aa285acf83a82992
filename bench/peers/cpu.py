"""CPU time of processes with all that they have started, by role."""

import os
from collections.abc import Mapping
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def used_s(roots: Mapping[str, list[int]]) -> dict[str, float]:
    """Seconds of CPU that the processes of each role and their descendants have used so far, ended ones included."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended: what it used is its parent's now
            continue
        pid = int(path.parent.name)
        children.setdefault(int(fields[1]), []).append(pid)
        ticks[pid] = sum(map(int, fields[11:15]))

    def tree(pid: int) -> int:
        return ticks.get(pid, 0) + sum(map(tree, children.get(pid, ())))

    return {role: sum(map(tree, pids)) * TICK_S for role, pids in roots.items()}
