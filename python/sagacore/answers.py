"""What a broker tells a client: its codes, and the outcomes, states and errors that a user sees instead."""

from __future__ import annotations

from typing import Any, Final, Generic, TypeAlias, TypeVar, cast, get_args

import msgspec

from sagacore.errors import (
    KeyConflict,
    PayloadError,
    ProtocolError,
    SagacoreError,
    StartRefused,
    UnknownSaga,
)
from sagacore.identity import saga_id_text
from sagacore.outcomes import Cause, Compensated, Completed, State, Status
from sagacore.saga import Saga

Out = TypeVar("Out")

Event: TypeAlias = tuple[int, int, int, bytes, int, bytes]
"""What the core tells: correlation, kind, code, the saga's id, one more number, and the body."""

# Kinds, outcomes, states and refusals as rust/core/src/wire/kind.rs numbers them; a test compares the two.
RESULT: Final = 8
CANCEL: Final = 10
RESOLVE: Final = 16
STATUS: Final = 17
REFUSED: Final = 23
STATS: Final = 24
STUCK: Final = 26

COMPLETED: Final = 1
COMPENSATED: Final = 2

UNKNOWN: Final = 0
STATES: Final[tuple[State, ...]] = (
    "unknown", "running", "deciding", "completed", "compensating", "compensated", "stuck",
)  # fmt: skip

NO_PLAN: Final = 5
FULL: Final = 6
KEY_CONFLICT: Final = 7
TOO_LATE: Final = 8
UNKNOWN_SAGA: Final = 9
TOO_LARGE: Final = 12
BAD_PLAN: Final = 13

CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)

INPUT_SECTION: Final = 64
CAUSE_SECTION: Final = 65
SKIPPED_SECTION: Final = 67
TEXT_SECTION: Final = 69
DATA_SECTION: Final = 70
NO_STEP: Final = 64

_MALFORMED: Final = (msgspec.MsgspecError, IndexError, UnicodeDecodeError)
_sections = msgspec.msgpack.Decoder(dict[int, bytes]).decode
_cause = msgspec.msgpack.Decoder(tuple[int, int, str]).decode
_skipped = msgspec.msgpack.Decoder(list[tuple[int, str]]).decode
_anything = msgspec.msgpack.Decoder().decode


class Reader(Generic[Out]):
    """Reads what a saga of one plan ended with. Without a saga, results are plain dicts, lists and values."""

    def __init__(self, saga: Saga[Any, Out] | None) -> None:
        self._steps: list[str] = [] if saga is None else saga.plan.steps
        self._decode = _untyped if saga is None else saga.decode_result

    def outcome(self, code: int, body: bytes) -> Completed[Out] | Compensated:
        """The outcome in a RESULT. Raises PayloadError or ProtocolError for a body that cannot be read."""
        try:
            sections = _sections(body)
            if code == COMPLETED:
                return Completed(cast("Out", self._decode(sections)))
            return self._compensated(sections)
        except _MALFORMED as error:
            raise broken("the outcome of a saga cannot be read") from error

    def status(self, event: Event) -> Status:
        """The state in a STATUS."""
        _, _, code, saga, active, _ = event
        if code == UNKNOWN:
            return Status("unknown")
        steps = tuple(self.step(index) for index in range(active.bit_length()) if active >> index & 1)
        return Status(STATES[code], steps, saga_id_text(saga))

    def step(self, index: int) -> str:
        """The name of a step, or its number where the saga is not known here."""
        return self._steps[index] if index < len(self._steps) else f"step {index}"

    def _compensated(self, sections: dict[int, bytes]) -> Compensated:
        code, index, reason = _cause(sections.get(CAUSE_SECTION, b""))
        if not 0 < code <= len(CAUSES):
            raise broken(f"a saga was aborted for a cause of the unknown number {code}")
        skipped = _skipped(sections[SKIPPED_SECTION]) if SKIPPED_SECTION in sections else ()
        return Compensated(
            step=None if index == NO_STEP else self.step(index),
            reason=reason,
            cause=CAUSES[code - 1],
            skipped=tuple(self.step(index) for index, _ in skipped),
        )


def _untyped(sections: dict[int, bytes]) -> Any:
    results = {index: _anything(data) for index, data in sections.items() if index < INPUT_SECTION}
    return next(iter(results.values()), None) if len(results) <= 1 else results


def text_of(event: Event) -> str:
    """What the broker says in words."""
    return _section(event, TEXT_SECTION).decode("utf-8", "replace")


def data_of(event: Event) -> Any:
    """The value that a STATS or a STUCK carries. Raises ProtocolError for one that cannot be read."""
    try:
        return _anything(_section(event, DATA_SECTION))
    except _MALFORMED as error:
        raise broken("an answer of the broker cannot be read") from error


def _section(event: Event, section: int) -> bytes:
    body = event[5]
    try:
        return _sections(body).get(section, b"") if body else b""
    except _MALFORMED as error:
        raise broken("an answer of the broker cannot be read") from error


def broken(message: str) -> ProtocolError:
    """The broker said what it should not."""
    return ProtocolError("SAGA-E501", message, "are client and broker of the same version? If so, please report it")


def refusal(event: Event, what: str) -> SagacoreError:
    """The error that a REFUSED, or a STATUS of an unknown saga, means for the caller; `what` names the saga."""
    if event[1] == STATUS:
        return unknown(what)
    code, text = event[2], text_of(event)
    words = f": {text}" if text else ""
    match code:
        case Refusals.FULL:
            return StartRefused(
                "SAGA-E302", f"the broker takes no new saga now{words}", "try again later, or give it more disk"
            )
        case 7:
            return KeyConflict(
                "SAGA-E303",
                f"the key of {what} was used with another saga or another input",
                "use a key for one business event only; to start the same one again, give the same input",
            )
        case 9:
            return unknown(what)
        case 12:
            return PayloadError(
                "SAGA-E204", f"{what} is too large{words}", "declare more (input_bytes= of the saga), or pass a reference"
            )
        case 5 | 13:
            return bad_plan(text)
        case _:
            return ProtocolError(
                "SAGA-E501", f"the broker refuses {what} with code {code}{words}", "are client and broker of one version?"
            )


def unknown(what: str) -> UnknownSaga:
    """The broker has never heard of a saga, or has forgotten it."""
    return UnknownSaga(
        "SAGA-E305",
        f"the broker does not know {what}",
        "it never began, or it ended longer ago than the broker remembers (10 minutes, unless set otherwise)",
    )


def bad_plan(text: str) -> StartRefused:
    """The broker cannot run a saga's plan."""
    words = f": {text}" if text else ""
    return StartRefused("SAGA-E308", f"the broker refuses the saga's plan{words}", "are client and broker of one version?")
