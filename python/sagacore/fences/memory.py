"""The fence in memory: its rows are in the core, and die with the process.

It is for tests, benches, and effects that die with the process too. The core answers repetitions before they get
here, so what is left to do is nothing. Only one process of a service may have it; the broker refuses a second one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sagacore.fences.calls import Call, Stage
from sagacore.fences.rows import Watermark


class MemoryFence:
    """See the module's text."""

    in_memory: Final = True

    def __init__(self) -> None:
        self._answered: Callable[[Sequence[Call]], None] | None = None

    def open(self, service: str, answered: Callable[[Sequence[Call]], None]) -> None:
        """Begin. `answered` gets each call back at once. Nothing is opened that could fail."""
        del service
        self._answered = answered

    def submit(self, calls: Sequence[Call]) -> None:
        """Let calls begin, or take their ends as they are."""
        for call in calls:
            if call.stage is Stage.OUTCOME:
                call.ended = call.proposed
        if self._answered is not None:
            self._answered(calls)

    def learn(self, told: Watermark) -> None:
        """Nothing: the core forgets rows by itself."""

    @property
    def failure(self) -> BaseException | None:
        """Nothing here can fail."""
        return None

    def close(self) -> None:
        """End."""
        self._answered = None
