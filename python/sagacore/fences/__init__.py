"""Fences: where a service keeps how each of its steps ended, so that a repeated message repeats no effect.

A fence is chosen when the service is started: `memory`, or `sqlite:PATH`. All fences decide by the same table, which is
in the core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from sagacore.errors import FenceError
from sagacore.fences.calls import Call
from sagacore.fences.memory import MemoryFence
from sagacore.fences.rows import Watermark
from sagacore.fences.sqlite import SqliteFence

__all__ = ["Fence", "MemoryFence", "SqliteFence", "Watermark", "make_fence"]


class Fence(Protocol):
    """What a service's process asks of its fence."""

    @property
    def in_memory(self) -> bool:
        """The rows are in the core: nothing is transactional, and a second process is refused."""

    def open(self, service: str, answered: Callable[[Sequence[Call]], None]) -> None:
        """Begin, in the running loop. `answered` gets the calls back there, in any order, durable where that matters.

        Raises FenceError: SAGA-E404, SAGA-E405.
        """

    def submit(self, calls: Sequence[Call]) -> None:
        """Do for each call what its `stage` says, and give it back.

        WHOLE and OUTCOME set `ended`. INTENT sets it where nothing is to be called; else the call may begin, with
        `was_tried` and the result for a compensation filled in.
        """

    def learn(self, told: Watermark) -> None:
        """Store up to where all sagas have ended, and forget their rows. What comes for them later is passed over."""

    @property
    def failure(self) -> BaseException | None:
        """What has made the fence useless for good."""

    def close(self) -> None:
        """End after what is under way. What was submitted and not answered has not happened, or is in its row."""


def make_fence(text: str) -> Fence:
    """The fence that `memory` or `sqlite:PATH` names, not opened yet. Raises FenceError (SAGA-E404) for other texts."""
    kind, _, path = text.partition(":")
    if text == "memory":
        return MemoryFence()
    if kind == "sqlite" and path and path != ":memory:":
        return SqliteFence(path)
    raise FenceError(
        "SAGA-E404", f"{text!r} names no fence", "write memory, or sqlite:PATH with the path of a database file"
    )
