"""Which process is killed when."""

from collections.abc import Sequence
from typing import NamedTuple


class Kill(NamedTuple):
    """Kill this process once so many orders have ended."""

    after_ended: int
    process: str


def plan_kills(count: int, orders: int, roles: Sequence[Sequence[str]]) -> list[Kill]:
    """Spread `count` kills evenly over the run of `orders` orders.

    `roles` has the process names of each role. The roles take turns, and so do the processes of a role: as many kills
    as there are roles hit each role once.
    """
    kills = []
    for number in range(count):
        lap, role = divmod(number, len(roles))
        processes = roles[role]
        after_ended = orders * (number + 1) // (count + 1)
        kills.append(Kill(after_ended, processes[lap % len(processes)]))
    return kills
