"""What the placing client was told, kept across its own deaths.

One JSON array a line, appended with one write: what was written before a kill is there after it. Who comes after a
killed client reads which orders it may have placed, and places those again that it was not told of: same key, same
saga.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from sagacore.demo.ledger import Told, Violation

PLACED: Final = "placed"
TOLD: Final = "told"
FAILED: Final = "failed"
REFUSED: Final = "refused"
WAITING: Final = "waiting"


class Journal:
    """The journal, to write. A line that a killed client left unfinished is closed first, and counts for nothing."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        length = os.fstat(self._file).st_size
        if length and os.pread(self._file, 1, length - 1) != b"\n":
            os.write(self._file, b"\n")

    def placed(self, count: int) -> None:
        """The orders below this number may be placed from now on."""
        self._write([PLACED, count])

    def told(self, order_id: str, *, completed: bool, step: str | None, times_s: tuple[float, float]) -> None:
        """An order has ended: whether completed, else the step that rejected it, when placed and when ended."""
        self._write([TOLD, order_id, completed, step, *times_s])

    def failed(self, order_id: str, text: str) -> None:
        """The broker or the client says what must never be said of an order."""
        self._write([FAILED, order_id, text])

    def refused(self, at_s: float, count: int) -> None:
        """So many starts has the broker refused since it began."""
        self._write([REFUSED, at_s, count])

    def waiting(self, count: int) -> None:
        """So many steps wait for what other sagas hold."""
        self._write([WAITING, count])

    def close(self) -> None:
        """End. What was written is there already."""
        os.close(self._file)

    def _write(self, line: list[Any]) -> None:
        os.write(self._file, msgspec.json.encode(line) + b"\n")


@dataclass(slots=True)
class Story:
    """All that a journal says."""

    placed: int = 0
    told: dict[str, Told] = field(default_factory=dict)
    orders_s: list[tuple[float, float]] = field(default_factory=list)
    """For each order told: when it was placed and when it ended."""
    refused: list[tuple[float, int]] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    waiting_max: int = 0
    """Steps that waited for what other sagas held, at a time."""

    def refused_between(self, begin_s: float, end_s: float) -> int:
        """Starts that the broker refused in this time, as far as it was asked. A count that falls is a new broker's."""
        counts = [count for at_s, count in self.refused if begin_s <= at_s <= end_s]
        return sum(max(0, after - before) for before, after in itertools.pairwise(counts))

    @property
    def completed(self) -> int:
        """Orders that were told to be completed."""
        return sum(told.completed for told in self.told.values())


def read_journal(path: Path) -> Story:
    """Read what there is. An order that was told twice must have been told the same."""
    story = Story()
    for kind, *rest in _lines(path):
        if kind == PLACED:
            story.placed = max(story.placed, rest[0])
        elif kind == TOLD:
            order_id, completed, step, placed_s, ended_s = rest
            told = Told(completed=completed, rejected_step=step)
            before = story.told.setdefault(order_id, told)
            story.orders_s.append((placed_s, ended_s))
            if before != told:
                text = f"the client was told {before}, and later {told}"
                story.violations.append(Violation("outcome-changed", order_id, text))
        elif kind == FAILED:
            story.violations.append(Violation("lost", rest[0], rest[1]))
        elif kind == REFUSED:
            story.refused.append((rest[0], rest[1]))
        elif kind == WAITING:
            story.waiting_max = max(story.waiting_max, rest[0])
    return story


def _lines(path: Path) -> Iterator[list[Any]]:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            with contextlib.suppress(msgspec.DecodeError):
                yield msgspec.json.decode(line, type=list[Any])
