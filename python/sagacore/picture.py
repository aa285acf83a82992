"""Sagas as text: what runs after what, what is undone after what, how many messages that takes, who waits for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sagacore.answers import Deadlock


class Order:
    """Which steps come before which, by number, over a set of steps. Small graphs only: a saga has 64 steps at most."""

    def __init__(self, before: Mapping[int, set[int]], members: set[int] | None = None) -> None:
        """`before[step]` are steps that come before it, directly or not; only `members` are drawn and counted."""
        closed: dict[int, set[int]] = {}
        for step in before:
            _close(step, before, closed)
        kept = set(before) if members is None else members
        self.ancestors = {step: closed[step] & kept for step in before if step in kept}
        self.parents = {
            step: {parent for parent in above if not any(parent in self.ancestors[other] for other in above)}
            for step, above in self.ancestors.items()
        }

    @property
    def messages(self) -> int:
        """One for each step, one for each arrival at a join, and one for each step that nothing follows."""
        joins = sum(len(parents) for parents in self.parents.values() if len(parents) > 1)
        followed = set[int]().union(*self.parents.values())
        return len(self.parents) + joins + len(self.parents.keys() - followed)

    def levels(self) -> list[list[int]]:
        """The steps by the longest way to them."""
        depth: dict[int, int] = {}
        for step in sorted(self.ancestors, key=lambda step: len(self.ancestors[step])):
            depth[step] = 1 + max((depth[parent] for parent in self.parents[step]), default=-1)
        deepest = max(depth.values(), default=-1)
        return [sorted(step for step in depth if depth[step] == level) for level in range(deepest + 1)]

    def draw(self, titles: Sequence[str]) -> list[str]:
        """One line for each level. Where not all of a level follow all of the one above, it says what they follow."""
        lines: list[str] = []
        above: set[int] = set()
        for level in self.levels():
            if lines:
                lines.append("    |")
            regular = all(self.parents[step] == above for step in level)
            lines.append("  " + "  ||  ".join(self._title(step, titles, plain=regular) for step in level))
            above = set(level)
        return lines

    def _title(self, step: int, titles: Sequence[str], *, plain: bool) -> str:
        parents = sorted(self.parents[step])
        if plain or not parents:
            return titles[step]
        return f"{titles[step]} (after {', '.join(titles[parent].split(' ')[0] for parent in parents)})"


def _close(step: int, before: Mapping[int, set[int]], closed: dict[int, set[int]]) -> set[int]:
    if step not in closed:
        direct = before[step]
        closed[step] = direct.union(*(_close(parent, before, closed) for parent in direct))
    return closed[step]


def counted(count: int, thing: str) -> str:
    """A number with its noun: `1 message`, `7 messages`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def deadlock_text(found: Deadlock) -> str:
    """Who waited for what that the next one had, and who gave way."""
    cycle = found["cycle"]
    took = "" if found["detection_ms"] is None else f" after {found['detection_ms']} ms"
    what = "wound" if found["is_wound"] else "deadlock"
    lines = [f"{what} {found['number']}: {found['victim']} gave way{took}"]
    for at, wait in enumerate(cycle):
        has = cycle[(at + 1) % len(cycle)]["saga"]
        if not (found["is_wound"] and at == len(cycle) - 1):
            lines.append(f"  {wait['saga']} --- {wait['service']} {wait['resource']} --> {has}")
    return "\n".join(lines)
