"""What was done, when, and how long it took until the work went on."""

import bisect
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(slots=True)
class Events:
    """The faults of a run."""

    faults: Counter[str] = field(default_factory=Counter)
    """Faults made, by kind."""
    kills: Counter[str] = field(default_factory=Counter)
    """Kills, by kind of process."""
    ends: list[tuple[str, float]] = field(default_factory=list)
    """When each fault ended, by the monotonic clock, and which it was; a kill ends when it is done."""
    full_s: list[tuple[float, float]] = field(default_factory=list)
    """When the disk was full: from, to."""
    sectors_lost: int = 0
    """Sectors of 512 bytes that killed brokers had written and not synced."""
    brokers_out_of_space: int = 0
    """Brokers that ended because the disk was full, and were started again."""


class Recovery(NamedTuple):
    """How long it took after a fault until the work went on."""

    fault: str
    ms: float


def recoveries(ends: Iterable[tuple[str, float]], orders_s: Sequence[tuple[float, float]]) -> list[Recovery]:
    """The time from each fault's end until an order that was placed after it had ended.

    `orders_s` has for each order when it was placed and when it ended. A fault that nothing was placed after is left
    out. Orders that were under way say little: some of them may have been past whatever was broken.
    """
    placed = sorted(orders_s)
    begins = [begin_s for begin_s, _ in placed]
    earliest = [math.inf] * (len(placed) + 1)
    for at in range(len(placed) - 1, -1, -1):
        earliest[at] = min(earliest[at + 1], placed[at][1])
    firsts = ((fault, end_s, earliest[bisect.bisect_left(begins, end_s)]) for fault, end_s in ends)
    return [Recovery(fault, (first_s - end_s) * 1_000) for fault, end_s, first_s in firsts if first_s < math.inf]
