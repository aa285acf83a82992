"""One call of an action or a compensation: what it gets, and how its end is judged."""

from __future__ import annotations

import asyncio
import enum
import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from sagacore import payloads
from sagacore.context import Context
from sagacore.fences.holding import Holding
from sagacore.fences.work import Phase, Work
from sagacore.isolation import Journal, Recorder
from sagacore.rejection import Rejected
from sagacore.steps import Action, Compensation, Step

Ended: TypeAlias = tuple["Verdict", bytes]
"""How a call ended, and the payload that goes with it."""

REASON_CHARACTERS_MAX: Final = 500
"""The core cuts reasons to their limit in bytes. A text of megabytes need not get there."""
QUICK_S: Final = 0.001
"""A plain function that takes longer on average is called in a thread: the loop has heartbeats to keep."""
QUICK_AGAIN_S: Final = QUICK_S / 4
SLOW_S: Final = QUICK_S * 8
"""No call counts as longer: several in a row decide."""
TOGETHER_MAX: Final = 64
TOGETHER_S: Final = 0.002
"""Plain functions are called so many in a row, or for so long, before anybody looks at the clock."""


class Verdict(enum.IntEnum):
    """How work ended, in the core's codes."""

    DONE = 1
    REJECTED = 2
    GAVE_UP = 3
    RETRY = 4
    UNDONE = 5
    DROP = 6
    REJECTED_UNCERTAIN = 7
    GAVE_UP_CLEAN = 8
    BLOCKED = 9
    VICTIM = 10


class Stage(enum.Enum):
    """What a fence is asked for."""

    WHOLE = enum.auto()
    """Decide, call and store the outcome in one transaction."""
    INTENT = enum.auto()
    """Decide, and store that the action is about to be called."""
    OUTCOME = enum.auto()
    """Store how the call ended."""


class Raised:
    """Stands for the value of a call that raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Handler:
    """An action or a compensation of one step, ready to be called."""

    def __init__(self, step: Step[Any, Any], implementation: Action | Compensation) -> None:
        self.step_name: Final = step.name
        self.title: Final = step.title
        self.is_undo: Final = isinstance(implementation, Compensation)
        self.is_async: Final = implementation.is_async
        self.is_external: Final = implementation.external
        self.timeout_s: Final = implementation.timeout_s
        self.retry: Final = implementation.retry
        self.success: Final = Verdict.UNDONE if self.is_undo else Verdict.DONE
        self.is_quick = not implementation.is_async
        self.mean_s = 0.0
        self.together = 1
        """So many calls are made in a row before the clock is looked at."""
        self.reported_ms = 0
        self.unreported = 0
        self._implementation: Final[Any] = implementation
        self._function: Final = implementation.function
        self._arrange: Final = implementation.arrange
        self._decode_inputs: Final = implementation.input.decode_all
        self._decode_results: tuple[Callable[[Any], list[Any]], ...]
        self._encode_all: Callable[[list[Any]], list[bytes]]
        if isinstance(implementation, Compensation):
            self._decode_results = (functools.partial(_decode_some, implementation.result),)
            self._encode_all = _encode_none
        else:
            self._decode_results = tuple([need.decode_all for need in implementation.needs])
            self._encode_all = implementation.output.encode_all
        self.wants_context: Final = implementation.wants_context
        self.waiting: Final = step.waiting
        self.recorder: Recorder | None = None
        """Records what calls touch, where that was asked for."""
        self.declared: Final = None if isinstance(implementation, Compensation) else implementation.holds
        self.uses_database: Final = self.wants_context or self.declared is not None
        """Whether a call of it may change anything in the fence's database."""
        self.may_hold: Final = self.uses_database and not self.is_undo and not self.is_external

    def start(self, work: Work, db: Any = None, holding: Holding | None = None) -> Any:
        """Call the function with decoded values. What it gives is to be awaited where `is_async`.

        A compensation gets the result that stands in the work, or None where there is none.
        """
        implementation = self._implementation
        given = implementation.input.decode(work[8])
        journal = None if self.recorder is None else self.recorder.begin(*self.named(work), is_undo=self.is_undo)
        if holding is not None:
            holding.journal = journal
        if self.declared is not None and holding is not None:
            holding.take_all(self.declared, given)
        context = self.context(work, db, holding, journal) if self.wants_context else _NO_CONTEXT
        if self.is_undo:
            result = implementation.result.decode(work[9][0]) if work[9] else None
            return implementation.bind(given, result, context)
        if not work[9]:
            return implementation.bind(given, (), context)
        needs = zip(implementation.needs, work[9], strict=True)
        return implementation.bind(given, tuple([need.decode(result) for need, result in needs]), context)

    def start_all(
        self,
        inputs: Sequence[bytes],
        results: Sequence[Sequence[bytes | None]],
        contexts: Sequence[Context],
        holdings: Sequence[Holding | None] = (),
    ) -> list[Any]:
        """Call a plain function once for each input, in order. Gives what the calls gave, or `Raised`.

        `results`, `contexts` and `holdings` are by input too; contexts matter only where it `wants_context`. Raises
        what decoding raises, before anything was called.
        """
        columns = [decode(column) for decode, column in zip(self._decode_results, results, strict=True)]
        arranged = self._arrange(self._decode_inputs(inputs), columns, contexts)
        if self.declared is None:
            calls = map(self._function, *arranged)
        else:
            calls = map(self._start_holding, holdings, *arranged)
        values: list[Any] = []
        while len(values) < len(inputs):
            try:
                values.extend(calls)
                if len(values) < len(inputs):
                    values.append(Raised(RuntimeError("the handler raised StopIteration")))
            except BaseException as error:  # noqa: BLE001 (whatever a handler raises is judged, SystemExit too)
                values.append(Raised(error))
        return values

    def _start_holding(self, holding: Holding | None, given: Any, *rest: Any) -> Any:
        assert self.declared is not None
        assert holding is not None
        holding.take_all(self.declared, given)
        return self._function(given, *rest)

    def encode(self, value: Any, bytes_max: int) -> bytes:
        """The payload of a success. Raises PayloadError for a value that is not of its type, or too large."""
        if self.is_undo:
            return b""
        data: bytes = self._implementation.output.encode(value)
        return data if len(data) <= bytes_max else payloads.check_size(data, bytes_max, f"the result of {self.title!r}")

    def encode_all(self, values: list[Any], bytes_max: int) -> tuple[list[bytes], dict[int, BaseException]]:
        """The payloads of what `start_all` gave, and by place what was raised there, or is raised by encoding."""
        try:
            payloads: list[bytes] = self._encode_all(values)
            if max(map(len, payloads)) <= bytes_max:
                return payloads, {}
        except Exception:  # noqa: BLE001, S110 (what is wrong with which one is seen one by one)
            pass
        payloads, errors = [b""] * len(values), {}
        for at, value in enumerate(values):
            try:
                if type(value) is Raised:
                    errors[at] = value.error
                else:
                    payloads[at] = self.encode(value, bytes_max)
            except Exception as error:  # noqa: BLE001 (the type's own code may raise anything)
                errors[at] = error
        return payloads, errors

    def measure(self, took_s: float, calls: int = 1) -> None:
        """Learn how long calls of a plain function took. The mean decides: a busy machine may delay any one of them."""
        if took_s > TOGETHER_S:
            self.together = max(calls // 2, 1)
        elif calls == self.together:
            self.together = min(2 * calls, TOGETHER_MAX)
        # One that was held up for long must not decide alone, however long that was.
        self.mean_s += (min(took_s / calls, SLOW_S) - self.mean_s) / 16
        if self.is_quick:
            self.is_quick = self.mean_s <= QUICK_S
        else:
            self.is_quick = self.mean_s <= QUICK_AGAIN_S

    def named(self, work: Work) -> tuple[bytes, int, str]:
        """Saga, attempt and step, as a recorder knows a call."""
        return work[3], work[4] + 1, self.step_name

    def context(
        self, work: Work, db: Any = None, holding: Holding | None = None, journal: Journal | None = None
    ) -> Context:
        """What a call of the function is told."""
        return Context(
            work[3],
            self.step_name,
            work[7],
            attempt=work[4] + 1,
            tries=work[5] + 1,
            deadline_ms=work[6],
            external=self.is_external,
            db=db,
            taker=holding,
            touched=journal,
        )


_NO_CONTEXT: Final = Context(bytes(16), "", "")


class Call:
    """Work on its way: what is asked of the fence, and what is known of its end."""

    __slots__ = ("ended", "error", "handler", "holding", "line", "proposed", "stage", "try_mark", "was_tried", "work")

    def __init__(self, handler: Handler, work: Work, stage: Stage, line: int = 0) -> None:
        self.line = line
        """Whose work it is, where a process works for several brokers."""
        self.handler = handler
        self.work = work
        self.stage = stage
        self.was_tried = False
        """Something was tried before this call: a rejection is not clean."""
        self.try_mark = 0
        """Which try of its row this is: another process may begin the next one while this one runs."""
        self.proposed: Ended | None = None
        """How the call itself ended; the fence may know better."""
        self.ended: Ended | None = None
        """How the work ended."""
        self.error: BaseException | None = None
        """What the handler raised."""
        self.holding: Holding | None = None
        """What it holds: set by the fence before it is called."""

    @property
    def ticket(self) -> int:
        """The core's name of the work."""
        return self.work[0]

    @property
    def tries(self) -> int:
        """How often the call was made, this time included."""
        return self.work[5] + 1

    @property
    def phase(self) -> int:
        """Where the step stands relative to the pivot: see `Phase`."""
        return self.work[11][0]

    @property
    def is_stopped(self) -> bool:
        """Whether the call ended where another saga held what it asked for."""
        return self.holding is not None and self.holding.is_stopped

    def give_result(self, result: bytes | None) -> None:
        """Put the action's result, as the fence has it, into the work of its compensation."""
        self.work = (*self.work[:9], () if result is None else (result,), *self.work[10:])


def _decode_some(result: payloads.Codec[Any], column: list[bytes | None]) -> list[Any]:
    return [None if data is None else result.decode(data) for data in column]


def _encode_none(values: list[Any]) -> list[bytes]:
    """A compensation gives nothing. Raises what one of them has raised."""
    for value in values:
        if type(value) is Raised:
            raise value.error  # it comes again, one by one
    return [b""] * len(values)


def attempt(call: Call, db: Any = None) -> None:
    """Call a plain function, and note how that ended."""
    handler = call.handler
    call.error = None
    try:
        value = handler.start(call.work, db, call.holding)
        if not note_stopped(call):
            call.proposed = (handler.success, handler.encode(value, call.work[10]))
    except BaseException as error:  # noqa: BLE001 (whatever a handler raises is judged, SystemExit too)
        if not note_stopped(call):
            note_failure(call, error)


async def attempt_async(call: Call) -> None:
    """Call a coroutine function, wait for it no longer than its timeout, and note how that ended."""
    handler = call.handler
    call.error = None
    timeout = asyncio.timeout(handler.timeout_s)
    try:
        async with timeout:
            value = await handler.start(call.work)
        call.proposed = (handler.success, handler.encode(value, call.work[10]))
    except asyncio.CancelledError:
        raise  # by whom, its caller knows
    except BaseException as error:  # noqa: BLE001 (whatever a handler raises is judged, SystemExit too)
        note_failure(call, TimeoutError(f"no end after {handler.timeout_s:g} s") if timeout.expired() else error)


def note_stopped(call: Call) -> bool:
    """Note that the call has to wait, or that its saga gives way, whatever the handler made of that."""
    if call.holding is None or not call.holding.is_stopped:
        return False
    call.error = None
    call.proposed = stopped(call.holding)
    return True


def stopped(holding: Holding) -> Ended:
    """How a call ended that met another saga's hold."""
    return (Verdict.BLOCKED, holding.blocked) if holding.blocked is not None else (Verdict.VICTIM, holding.lost or b"")


def note_failure(call: Call, error: BaseException, *, takes_back: bool = False) -> None:
    """Note that the call raised, and what follows from that."""
    call.error = error
    call.proposed = judge(call, error, takes_back=takes_back)


def judge(call: Call, error: BaseException, *, takes_back: bool = False) -> Ended:
    """What follows from an error. `takes_back`: the fence has taken back all that this try did.

    A compensation and a step past the pivot are never given up, and there `Rejected` is an error like any other. The
    pivot ends done or without any effect.
    """
    if call.handler.is_undo or call.phase == Phase.PAST:
        return again(call, error)
    if isinstance(error, Rejected):
        if not call.was_tried:
            return Verdict.REJECTED, reason(error)
        return (Verdict.REJECTED_UNCERTAIN, reason(error)) if call.phase == Phase.BEFORE else again(call, error)
    if call.tries < call.handler.retry.tries:
        return again(call, error)
    if takes_back and not call.was_tried:
        return Verdict.GAVE_UP_CLEAN, reason(error)
    return (Verdict.GAVE_UP, reason(error)) if call.phase == Phase.BEFORE else again(call, error)


def again(call: Call, error: BaseException) -> Ended:
    """To be delivered again after the rest that the policy says."""
    return Verdict.RETRY, b"%d %b" % (call.handler.retry.delay_ms(call.tries), reason(error))


def reason(error: BaseException) -> bytes:
    """An error as the outcome of its saga shows it."""
    try:
        text = str(error.reason) if isinstance(error, Rejected) else f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 (its text is the handler's code too)
        text = type(error).__name__
    return text[:REASON_CHARACTERS_MAX].encode("utf-8", "replace")
