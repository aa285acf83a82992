"""Work of one handler, in columns: what is done for each call by itself is done for many of them at once."""

from __future__ import annotations

from typing import TypeAlias

Columns: TypeAlias = tuple[bool, int, int, list[int], list[bytes], tuple[list[bytes | None], ...]]
"""What the core hands out: `sagacore._core` describes its parts."""


class Batch:
    """What the core handed out, by name. `take` takes off its beginning."""

    __slots__ = ("bytes_max", "inputs", "results", "step", "tickets", "undo")

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

    def take(self, count: int) -> Batch:
        """The first so many, which are gone from this batch; the batch itself where there are no more."""
        if count >= len(self.tickets):
            return self
        results = tuple([column[:count] for column in self.results])
        taken = Batch((self.undo, self.step, self.bytes_max, self.tickets[:count], self.inputs[:count], results))
        self.tickets, self.inputs = self.tickets[count:], self.inputs[count:]
        self.results = tuple([column[count:] for column in self.results])
        return taken
