"""Fences: where a service keeps how each of its steps ended, so that a repeated message repeats no effect.

A fence is chosen when the service is started: `memory`, or `sqlite:PATH`. All fences decide by the same table, which is
in the core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from sagacore.errors import FenceError
from sagacore.fences.calls import Call
from sagacore.fences.memory import MemoryFence
from sagacore.fences.sqlite import SqliteFence

__all__ = ["RETENTION_MS_DEFAULT", "Fence", "MemoryFence", "SqliteFence", "make_fence"]

RETENTION_MS_DEFAULT: Final = 600_000
"""How long a row outlives its saga's deadline, counted while the service is connected to its broker."""


class Fence(Protocol):
    """What a service's process asks of its fence."""

    @property
    def in_memory(self) -> bool:
        """The rows are in the core: nothing is transactional, and a second process is refused."""

    @property
    def retention_ms(self) -> int:
        """How long a row outlives its saga's deadline."""

    def open(self, service: str, answered: Callable[[Sequence[Call]], None]) -> None:
        """Begin, in the running loop. `answered` gets the calls back there, in any order, durable where that matters.

        Raises FenceError: SAGA-E404, SAGA-E405.
        """

    def submit(self, call: Call) -> None:
        """Do for a call what its `stage` says, and give it back.

        WHOLE and OUTCOME set `ended`. INTENT sets it where nothing is to be called; else the call may begin, with
        `was_tried` and the result for a compensation filled in.
        """

    def keep(self) -> None:
        """The service is connected: time passes, and rows expire. Called every second."""

    @property
    def failure(self) -> BaseException | None:
        """What has made the fence useless for good."""

    def close(self) -> None:
        """End after what is under way. What was submitted and not answered has not happened, or is in its row."""


def make_fence(text: str, *, retention_ms: int = RETENTION_MS_DEFAULT) -> Fence:
    """The fence that `memory` or `sqlite:PATH` names, not opened yet. Raises FenceError (SAGA-E404) for other texts."""
    kind, _, path = text.partition(":")
    if text == "memory":
        return MemoryFence(retention_ms=retention_ms)
    if kind == "sqlite" and path and path != ":memory:":
        return SqliteFence(path, retention_ms=retention_ms)
    raise FenceError(
        "SAGA-E404", f"{text!r} names no fence", "write memory, or sqlite:PATH with the path of a database file"
    )
