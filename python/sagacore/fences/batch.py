"""Work of one handler, in columns: what is done for each call by itself is done for many of them at once."""

from __future__ import annotations

from typing import TypeAlias

Columns: TypeAlias = tuple[bool, int, int, list[int], list[bytes], tuple[list[bytes | None], ...]]
"""What the core hands out: `sagacore._core` describes its parts."""


class Batch:
    """What the core handed out, by name. `take` gives it part by part."""

    __slots__ = ("_taken", "bytes_max", "inputs", "results", "step", "tickets", "undo")

    def __init__(self, columns: Columns) -> None:
        self.undo: bool
        """Whether the compensation is to be called, not the action."""
        self.step: int
        """The step's place among those of the process."""
        self.bytes_max: int
        """A larger result must not be committed."""
        self.tickets: list[int]
        self.inputs: list[bytes]
        self.results: tuple[list[bytes | None], ...]
        """By result that the handler gets; each is by piece of work, as tickets and inputs are."""
        self.undo, self.step, self.bytes_max, self.tickets, self.inputs, self.results = columns
        self._taken = 0

    @property
    def is_empty(self) -> bool:
        """Whether all of it was taken."""
        return self._taken == len(self.tickets)

    def take(self, count: int) -> Batch:
        """The next so many, or all that are left."""
        first, self._taken = self._taken, min(self._taken + count, len(self.tickets))
        if first == 0 and self.is_empty:
            return self
        part = slice(first, self._taken)
        results = tuple([column[part] for column in self.results])
        return Batch((self.undo, self.step, self.bytes_max, self.tickets[part], self.inputs[part], results))
