"""The fence in memory: its rows are in the core, and die with the process.

It is for tests, benches, and effects that die with the process too. The core answers repetitions before they get
here, so what is left to do is to keep what sagas hold. Only one process of a service may have it; the broker refuses a
second one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sagacore._core import HoldMisuse, Holds
from sagacore.errors import FenceError, UsageError
from sagacore.fences.calls import Call, Handler, Stage, Verdict
from sagacore.fences.holding import Holder, Holding, holder
from sagacore.fences.rows import Watermark
from sagacore.fences.work import Work
from sagacore.holds import Hold


class MemoryFence:
    """See the module's text."""

    in_memory: Final = True

    def __init__(self) -> None:
        self._answered: Callable[[Sequence[Call]], None] | None = None
        self._holds = Holds()
        self._logs: dict[int, int] = {}
        """By shard, the log that its sagas are in."""

    def open(self, service: str, answered: Callable[[Sequence[Call]], None]) -> None:
        """Begin. `answered` gets each call back at once. Nothing is opened that could fail."""
        del service
        self._answered = answered

    def submit(self, calls: Sequence[Call]) -> None:
        """Let calls begin, or take their ends as they are."""
        for call in calls:
            if call.stage is not Stage.OUTCOME:
                call.holding = self.begin(call.handler, call.work)
                continue
            call.ended = call.proposed
            if call.ended is not None:
                self.end(call.handler, call.work, call.holding, call.ended[0])
        if self._answered is not None:
            self._answered(calls)

    def begin(self, handler: Handler, work: Work) -> Holding | None:
        """What a call that is about to be made may hold: what it waited for is over."""
        if not handler.may_hold:
            return None
        for saga, attempt in work[12][2]:
            self._holds.free(saga, attempt)
        return Holding(self, work, handler.title, handler.waiting)

    def end(self, handler: Handler, work: Work, holding: Holding | None, verdict: int) -> None:
        """A call has ended: what it took is held, or nothing of it is. A step that is undone holds nothing.

        Memory takes nothing back: who fails may have left half of an effect, and holds what it held until it is undone.
        """
        is_over = handler.is_undo and verdict == Verdict.UNDONE
        if holding is not None and holding.is_used:
            is_over |= verdict in (Verdict.REJECTED, Verdict.VICTIM)
            if not is_over and verdict != Verdict.BLOCKED:
                self._holds.keep(*holder(work))
        if is_over:
            self._holds.drop(*holder(work))

    def take(self, hold: Hold, work: Work, *, waits: bool) -> Sequence[Holder]:
        """See `HoldStore`. Raises UsageError (SAGA-E410) and FenceError (SAGA-E412)."""
        try:
            asked = hold.resource, int(hold.mode), hold.amount, hold.of
            return self._holds.take(*asked, *holder(work), work[12][1], waits)
        except HoldMisuse as misuse:
            name, _, why = str(misuse).partition(": ")
            if name != "hold.full":
                raise UsageError(
                    "SAGA-E410", f"{hold.resource!r} cannot be held: {why}", "waiting makes no more of it: ask for less"
                ) from misuse
            raise FenceError(
                "SAGA-E412", "the table of holds in memory is full", "start fewer sagas, or use --fence sqlite:PATH"
            ) from misuse

    @property
    def holds_nothing(self) -> bool:
        """Whether no saga holds anything: mostly so."""
        return len(self._holds) == 0

    def let_go(self, steps: Sequence[Holder]) -> None:
        """The core has answered for these steps that they are undone: they hold nothing."""
        for step in steps:
            self._holds.drop(*step)

    def learn(self, told: Watermark) -> None:
        """Forget what sagas hold that have ended. Rows are forgotten by the core itself."""
        if self._logs.get(told.shard, told.log) != told.log:
            self._holds.clear(told.shard)
        self._logs[told.shard] = told.log
        self._holds.forget(told.shard, told.marks, sorted(told.exceptions))

    @property
    def failure(self) -> BaseException | None:
        """Nothing here can fail."""
        return None

    def close(self) -> None:
        """End."""
        self._answered = None
