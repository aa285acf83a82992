"""What a broker tells a client, as the outcomes, states and errors that a user sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, Literal, TypeAlias, TypedDict, TypeVar, cast, get_args

import msgspec

from sagacore.codes import Kind, OutcomeCode, Refusal, Section, StatusCode
from sagacore.errors import KeyConflict, PayloadError, ProtocolError, SagacoreError, StartRefused, UnknownSaga
from sagacore.identity import saga_id_text
from sagacore.limits import STEPS_MAX
from sagacore.outcomes import Cause, Compensated, Completed, State, Status
from sagacore.saga import Saga

Out = TypeVar("Out")

Event: TypeAlias = tuple[int, int, int, bytes, int, bytes]
"""What the core tells: correlation, kind, code, the saga's id, one more number, and the body."""

CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
"""By code, from 1."""
STATES: Final[tuple[State, ...]] = get_args(State)
"""By code, from 0."""
NO_STEP: Final = STEPS_MAX
"""In a cause: no step of the saga's."""

_COMPLETED: Final = int(OutcomeCode.COMPLETED)
_CAUSE: Final = int(Section.CAUSE)
_SKIPPED: Final = int(Section.SKIPPED)
_NO_NAMES: Final = b"\x90"
_MALFORMED: Final = (msgspec.MsgspecError, UnicodeDecodeError)

_sections = msgspec.msgpack.Decoder(dict[int, bytes]).decode
_cause = msgspec.msgpack.Decoder(tuple[int, int, str]).decode
_skipped = msgspec.msgpack.Decoder(list[tuple[int, str]]).decode
_names = msgspec.msgpack.Decoder(tuple[str, ...]).decode
_counters = msgspec.msgpack.Decoder(dict[str, Any]).decode
_stuck = msgspec.msgpack.Decoder(list[tuple[str, str, Literal["forward", "compensating"], list[str], int]]).decode
_deadlocks = msgspec.msgpack.Decoder(
    tuple[int, list[tuple[int, int, int | None, str, bool, list[tuple[str, str, str]]]]]
).decode
_anything = msgspec.msgpack.Decoder().decode


class Reader(Generic[Out]):
    """Reads what sagas of one plan end with. Without a saga, results are plain dicts, lists and values."""

    def __init__(self, saga: Saga[Any, Out] | None) -> None:
        self._saga = saga
        untyped = cast("Callable[[Mapping[int, bytes]], Out]", _untyped)
        self._decode: Callable[[Mapping[int, bytes]], Out] = untyped if saga is None else saga.decode_result
        self._decode_all = None if saga is None else saga.decode_results

    def outcome(self, code: int, body: bytes) -> Completed[Out] | Compensated:
        """The outcome in a RESULT. Raises PayloadError or ProtocolError for a body that cannot be read."""
        try:
            sections = _sections(body) if body else {}
            if code == _COMPLETED:
                return Completed(self._decode(sections))
            return self._compensated(sections)
        except _MALFORMED as error:
            raise broken("the outcome of a saga cannot be read") from error

    def completed(self, bodies: list[bytes]) -> list[Completed[Out]] | None:
        """The outcomes of many sagas that completed; None where one by one must say what is wrong with which."""
        if self._decode_all is None:
            return None
        try:
            return list(map(Completed, self._decode_all(list(map(_sections, bodies)))))
        except (SagacoreError, *_MALFORMED):
            return None

    def step(self, index: int) -> str:
        """The name of a step, or its number where the saga is not known here."""
        steps = () if self._saga is None else self._saga.steps
        return steps[index].name if index < len(steps) else f"step {index}"

    def _compensated(self, sections: dict[int, bytes]) -> Compensated:
        code, index, reason = _cause(sections.get(_CAUSE, b""))
        if not 0 < code <= len(CAUSES):
            raise broken(f"a saga was aborted for a cause of the unknown number {code}")
        skipped = _skipped(sections[_SKIPPED]) if _SKIPPED in sections else ()
        return Compensated(
            step=None if index == NO_STEP else self.step(index),
            reason=reason,
            cause=CAUSES[code - 1],
            skipped=tuple(self.step(index) for index, _ in skipped),
        )


def _untyped(sections: Mapping[int, bytes]) -> Any:
    results = {index: _anything(data) for index, data in sections.items() if index < STEPS_MAX}
    return next(iter(results.values()), None) if len(results) <= 1 else results


def status_of(event: Event) -> Status:
    """The state in a STATUS, with the names of the steps that run. Raises ProtocolError for what cannot be read."""
    _, _, code, saga, _, _ = event
    if code == StatusCode.UNKNOWN:
        return Status("unknown")
    try:
        steps = _names(_section(event, Section.DATA) or _NO_NAMES)
    except _MALFORMED as error:
        raise broken("the state of a saga cannot be read") from error
    return Status(STATES[code], steps, saga_id_text(saga))


def stats_of(event: Event) -> dict[str, Any]:
    """The counters in a STATS. Raises ProtocolError for what cannot be read."""
    try:
        found = _counters(_section(event, Section.DATA))
        # What each coordinator says of itself is wrapped, so that a broken one breaks nothing else.
        found["coordinators"] = [_anything(report) for report in found.get("coordinators", ())]
    except _MALFORMED as error:
        raise broken("the broker's counters cannot be read") from error
    return found


class StuckSaga(TypedDict):
    """A saga that waits for an operator: its id, the saga's name, which way it goes, and the steps that do not end.

    `steps` gives the number of each by its name: the number is what `resolve` takes.
    """

    id: str
    saga: str
    phase: Literal["forward", "compensating"]
    steps: dict[str, int]


def stuck_of(event: Event) -> list[StuckSaga]:
    """The sagas in a STUCK. Raises ProtocolError for what cannot be read."""
    try:
        rows = _stuck(_section(event, Section.DATA))
    except _MALFORMED as error:
        raise broken("the list of stuck sagas cannot be read") from error
    found = []
    for saga_id, saga, phase, names, members in rows:
        numbers = (number for number in range(STEPS_MAX) if members >> number & 1)
        steps = dict(zip(names, numbers, strict=False))
        found.append(StuckSaga(id=saga_id, saga=saga, phase=phase, steps=steps))
    return found


class Wait(TypedDict):
    """What a saga of a circle waits for: the next saga of the circle has it, and what the last waits for the first."""

    saga: str
    service: str
    resource: str


class Deadlock(TypedDict):
    """Sagas that waited for each other, and which of them gave way.

    `closed_ms` is the broker's time at which the circle closed, `detection_ms` how long after that the abort of the
    victim was durable; None until it is. `is_wound`: no circle, but an older saga that did not wait for a younger one.
    """

    number: int
    closed_ms: int
    detection_ms: int | None
    victim: str
    is_wound: bool
    cycle: list[Wait]


def deadlocks_of(event: Event) -> tuple[int, list[Deadlock]]:
    """The deadlocks in a DEADLOCKS, and the number to go on with. Raises ProtocolError for what cannot be read."""
    try:
        goes_on, rows = _deadlocks(_section(event, Section.DATA))
    except _MALFORMED as error:
        raise broken("the list of deadlocks cannot be read") from error
    found = []
    for number, closed_ms, detection_ms, victim, is_wound, hops in rows:
        cycle = [Wait(saga=saga, service=service, resource=resource) for saga, service, resource in hops]
        found.append(
            Deadlock(
                number=number,
                closed_ms=closed_ms,
                detection_ms=detection_ms,
                victim=victim,
                is_wound=is_wound,
                cycle=cycle,
            )
        )
    return goes_on, found


def text_of(event: Event) -> str:
    """What the broker says in words."""
    return _section(event, Section.TEXT).decode("utf-8", "replace")


def _section(event: Event, section: Section) -> bytes:
    body = event[5]
    try:
        return _sections(body).get(section, b"") if body else b""
    except _MALFORMED as error:
        raise broken("an answer of the broker cannot be read") from error


def broken(message: str) -> ProtocolError:
    """The broker said what it should not."""
    return ProtocolError("SAGA-E501", message, "are client and broker of the same version? If so, please report it")


def refusal(event: Event, what: str) -> SagacoreError:
    """The error that a REFUSED, or the STATUS of an unknown saga, means for the caller; `what` names the saga."""
    if event[1] == Kind.STATUS:
        return unknown(what)
    code, text = event[2], text_of(event)
    words = f": {text}" if text else ""
    match code:
        case Refusal.FULL:
            return StartRefused(
                "SAGA-E302",
                f"the broker takes no new saga now, so it did not start {what}{words}",
                "try again later; a broker that stays full needs more disk, or its services do not keep up",
            )
        case Refusal.CLASS_FULL:
            return StartRefused(
                "SAGA-E309",
                f"the broker takes no new saga of such a deadline now, so it did not start {what}{words}",
                "see `sagacore stuck` for sagas that do not end; services must keep what they know of all later ones",
            )
        case Refusal.KEY_CONFLICT:
            return KeyConflict(
                "SAGA-E303",
                f"{what} was started before, as another saga or with another input",
                "one key is for one business event; to start the same one again, give the same saga and input",
            )
        case Refusal.UNKNOWN:
            return unknown(what, words)
        case Refusal.TOO_LARGE:
            return PayloadError(
                "SAGA-E204",
                f"{what} is larger than its plan allows{words}",
                "declare more (input_bytes= of the saga), or pass a reference, not the data",
            )
        case Refusal.NO_PLAN | Refusal.BAD_PLAN:
            return bad_plan(text)
    return broken(f"the broker refuses {what} (number {code}){words}")


def unknown(what: str, words: str = "") -> UnknownSaga:
    """The broker has never heard of a saga, or has forgotten it."""
    return UnknownSaga(
        "SAGA-E305",
        f"the broker does not know {what}{words}",
        "it never began, or it ended longer ago than the broker remembers (10 minutes, unless set otherwise)",
    )


def bad_plan(text: str) -> StartRefused:
    """The broker cannot run a saga's plan."""
    words = f": {text}" if text else ""
    return StartRefused(
        "SAGA-E308", f"the broker refuses the saga's plan{words}", "are client and broker of the same version?"
    )
