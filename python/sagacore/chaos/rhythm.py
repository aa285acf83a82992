"""Which fault comes when: decided by the seed alone, before anything begins."""

import random
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, TypeVar

from .options import Fault

ON_S: Final = 5.0
OFF_S: Final = 5.0
KILLS_A_WINDOW: Final = 3
"""Thirty minutes have 180 windows: 540 kills, which is 77 for each of the shop's seven kinds of process."""
OTHERS_A_WINDOW: Final = 2
SHORTEST_S: Final = 1.0
"""A fault that lasts lasts for so long at least: longer than a lease."""

T = TypeVar("T")


class Injection(NamedTuple):
    """One fault: when it begins and how long it lasts, in seconds, and which kind of process it is for.

    `chance` is a number of the seed's: it picks one of several processes, or a direction.
    """

    at_s: float
    fault: Fault
    kind: str
    lasts_s: float
    chance: int


def plan_faults(
    seed: int,
    seconds: float,
    kinds: Sequence[str],
    faults: Sequence[Fault],
    targets: Mapping[Fault, Sequence[str]] = MappingProxyType({}),
) -> list[Injection]:
    """Faults for so many seconds, in order. Kinds of process take turns, and so do kinds of faults.

    All of a fault lies in its window of ON_S seconds. `targets` has the faults that are not for every kind.
    """
    dice = random.Random(seed)
    victims = _turns(kinds, dice)
    others = _turns([fault for fault in faults if fault not in ("kill", "unsynced")], dice)
    hit = {fault: _turns(targets.get(fault, kinds), dice) for fault in faults}
    injections = []
    for window in range(max(1, round(seconds / (ON_S + OFF_S)))):
        begin_s = window * (ON_S + OFF_S)
        if "kill" in faults:
            for _ in range(KILLS_A_WINDOW):
                at_s = begin_s + dice.uniform(0, ON_S)
                injections.append(Injection(at_s, "kill", next(victims), 0.0, dice.randrange(1 << 30)))
        for fault in (next(others, None) for _ in range(OTHERS_A_WINDOW)):
            if fault is not None:
                at_s = begin_s + dice.uniform(0, ON_S - SHORTEST_S)
                lasts_s = dice.uniform(SHORTEST_S, begin_s + ON_S - at_s)
                injections.append(Injection(at_s, fault, next(hit[fault]), lasts_s, dice.randrange(1 << 30)))
    return sorted(injections)


def _turns(items: Sequence[T], dice: random.Random) -> Iterator[T]:
    """Each item once, in an order of chance, and then again and again in another."""
    while items:
        yield from dice.sample(items, len(items))
