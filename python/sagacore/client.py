"""The client: starts sagas, follows them, and asks the broker about them."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, Literal, Self, TypeAlias, TypeVar, overload

from sagacore.answers import (
    Deadlock,
    Event,
    Reader,
    StuckSaga,
    deadlocks_of,
    refusal,
    stats_of,
    status_of,
    stuck_of,
    text_of,
)
from sagacore.codes import Action, Kind, Refusal
from sagacore.errors import OutcomeTimeout, SagacoreError, UnknownSaga, UsageError
from sagacore.identity import key_bytes, saga_id_bytes, saga_id_text
from sagacore.limits import STEPS_MAX
from sagacore.many import Items, Many, Pump, Source, saga_named
from sagacore.outcomes import Compensated, Completed, Ended, Status
from sagacore.saga import Saga, check_saga
from sagacore.session import Following, Session, closed
from sagacore.sessions import Sessions, added_up

In = TypeVar("In")
Out = TypeVar("Out")

TIMEOUT_S_DEFAULT: Final = 10.0

Resolution: TypeAlias = Literal["retry", "skip", "done"]
"""What to do with a step that is stuck: try again now, go on as if it were undone, or take it as done by hand."""
_ACTIONS: Final[Mapping[Resolution, Action]] = {"retry": Action.RETRY, "skip": Action.SKIP, "done": Action.DONE}


class Client:
    """A connection to a broker: `async with Client("ipc:///run/sagacore.sock") as client:`.

    With several brokers, the shards, `endpoint` names them all with commas between them, in the order of their numbers,
    and the same for every client: a saga's key says which of them runs it.

    `timeout` is in seconds: how long a call waits for a broker that does not answer, before it raises
    BrokerUnavailable (SAGA-E301). An outage that is shorter goes unnoticed: what was sent is sent again, and what ended
    meanwhile is told. Raises UsageError for an endpoint that cannot be one (SAGA-E505, SAGA-E508) when it is
    entered, for a call outside of the `with` (SAGA-E306), and for brokers in another order than their numbers
    (SAGA-E508).
    """

    def __init__(self, endpoint: str, timeout: float = TIMEOUT_S_DEFAULT) -> None:
        if not timeout > 0:
            raise UsageError("SAGA-E111", f"timeout is {timeout} s", "give the broker some time to answer")
        self.endpoint: Final = endpoint
        self.timeout: Final = timeout
        self._sessions: Sessions | None = None

    async def __aenter__(self) -> Self:
        if self._sessions is not None:
            raise UsageError("SAGA-E306", "the client is open already", "make one Client for each `async with`")
        sessions = Sessions(self.endpoint, self.timeout)
        await sessions.open()
        self._sessions = sessions
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sessions, self._sessions = self._sessions, None
        if sessions is not None:
            await sessions.close()

    async def start(self, saga: Saga[In, Out], input: In, *, key: str | None = None) -> Handle[In, Out]:
        """Start a saga, and return once it is sure to run whatever happens to this process.

        `key` names the business event, in 1 to 200 bytes of UTF-8: the same key with the same input is the same saga,
        started once however often this is called while the broker remembers it. Without a key one is drawn.

        Raises StartRefused while the broker is full (SAGA-E302, SAGA-E309, after retries until the timeout) or if it
        refuses the plan (SAGA-E308), DefinitionError for what is no saga (SAGA-E125), KeyConflict for a key used with
        another saga or input, PayloadError for a wrong input, and BrokerUnavailable if there is no answer in time: then
        the saga may have begun; starting it again is safe.
        """
        check_saga(saga)
        sessions = self._open()
        name = secrets.token_hex(16) if key is None else key
        wire_key, data = key_bytes(name), saga.encode_input(input)
        session = sessions.of_key(wire_key)
        plan = session.core.define(saga.definition)
        following = await session.begin(plan, wire_key, data, saga_named(name))
        return Handle(session, following, Reader(saga), name)

    async def start_many(
        self,
        saga: Saga[In, Out],
        inputs: Iterable[In] | AsyncIterable[In],
        *,
        in_flight: int = 5_000,
        key: Callable[[In], str] | None = None,
        on_error: Callable[[str, SagacoreError], object] | None = None,
    ) -> AsyncGenerator[Ended[Out], None]:
        """Start a saga for each input, at most `in_flight` at a time, and give each one's outcome as it ends.

        The order is that of ending. `key` gives an input's key; without it keys are drawn. Inputs are read as there is
        room for them: an ordinary iterable in the loop, so it must not block.

        A saga that cannot be started or followed (PayloadError, KeyConflict, StartRefused, UnknownSaga) is given to
        `on_error` with its key; without `on_error` the error is raised, which ends the iteration. BrokerUnavailable
        does so too. Sagas in flight then go on unseen: the same keys and inputs once more find them again.
        """
        check_saga(saga)
        sessions = self._open()
        many = Many(sessions.every, saga, in_flight=in_flight, key=key, on_error=on_error)
        source: Source[In] = Pump(inputs, many.wake) if isinstance(inputs, AsyncIterable) else Items(inputs)
        try:
            while True:
                batch = source.take(many.room)
                if not batch and source.is_exhausted and many.is_idle:
                    return
                for ended in await many.exchange(batch, ready=source.is_ready):
                    yield ended
        finally:
            many.close()
            await source.close()

    @overload
    def attach(self, key: str | None = ..., *, id: str | None = ..., saga: Saga[In, Out]) -> Handle[In, Out]: ...
    @overload
    def attach(self, key: str | None = ..., *, id: str | None = ..., saga: None = ...) -> Handle[Any, Any]: ...
    def attach(
        self, key: str | None = None, *, id: str | None = None, saga: Saga[Any, Any] | None = None
    ) -> Handle[Any, Any]:
        """Follow a saga that was started elsewhere or earlier, by its key or by its id.

        With its `saga` results have their type and steps their names; without, results are plain values. That the
        broker does not know it shows when it is asked: `outcome` raises UnknownSaga (SAGA-E305).
        Raises UsageError (SAGA-E307) for what cannot be a key or an id.
        """
        sessions = self._open()
        subject = _Subject.of(key, id)
        session = sessions.of(subject.saga, subject.key)
        following = Following(session, subject.name)
        following.attach(subject.saga, subject.key)
        return Handle(session, following, Reader(saga), key, subject)

    async def status(self, key: str | None = None, *, id: str | None = None) -> Status:
        """How far a saga is, by its key or its id.

        Raises BrokerUnavailable (SAGA-E301), UsageError (SAGA-E307) for what cannot be a key or an id.
        """
        sessions, subject = self._open(), _Subject.of(key, id)
        return await _status(sessions.of(subject.saga, subject.key), subject)

    async def cancel(self, key: str | None = None, *, id: str | None = None, reason: str = "") -> bool:
        """Abort a saga, by its key or its id: its steps are compensated. See `Handle.cancel`."""
        sessions, subject = self._open(), _Subject.of(key, id)
        return await _cancel(sessions.of(subject.saga, subject.key), subject, reason)

    async def stats(self) -> dict[str, Any]:
        """What the broker counts, and under `coordinators` what each of them does. Raises BrokerUnavailable.

        Counters of several brokers are added up; under `shards` are those of each.
        """
        answers = await self._open().ask_all(lambda session: session.core.stats)
        return added_up([stats_of(_accepted(answer, "the question for its counters")) for answer in answers])

    async def stuck(self) -> list[StuckSaga]:
        """The sagas that wait for an operator. Raises BrokerUnavailable (SAGA-E301)."""
        answers = await self._open().ask_all(lambda session: session.core.stuck)
        return [saga for answer in answers for saga in stuck_of(_accepted(answer, "the question for what is stuck"))]

    async def deadlocks(self) -> list[Deadlock]:
        """The last 1,000 deadlocks that the broker has resolved, oldest first. Raises BrokerUnavailable (SAGA-E301).

        With several brokers, those of one after those of the other.
        """
        found: list[Deadlock] = []
        for session in self._open().every:
            number, more = await _deadlocks(session, 0)
            while more:
                found += more
                number, more = await _deadlocks(session, number)
        return found

    async def resolve(self, id: str, step: int, action: Resolution, *, reason: str = "", result: bytes = b"") -> None:
        """Decide about a step that is stuck, by its saga's id and its number.

        A compensation may be retried or skipped, a step past the pivot retried or said to be done: then `result` is
        the MessagePack of what it gave. `reason` is told with the outcome.
        Raises UsageError for an id (SAGA-E307), a step or an action (SAGA-E111) that cannot be, UnknownSaga
        (SAGA-E305) where the step does not run, and BrokerUnavailable (SAGA-E301).
        """
        sessions, saga = self._open(), saga_id_bytes(id)
        what = f"step {step} of the saga {id}"
        if action not in _ACTIONS or not 0 <= step < STEPS_MAX:
            raise UsageError("SAGA-E111", f"{what} cannot be resolved by {action!r}", f"say one of {[*_ACTIONS]}")
        code, session = int(_ACTIONS[action]), sessions.of_id(saga)
        answer = await session.ask(lambda at: session.core.resolve(at, saga, step, code, reason, result))
        if answer[1] == Kind.REFUSED and answer[2] == Refusal.MISMATCH:
            raise UsageError(
                "SAGA-E111",
                f"{what} cannot be resolved by {action!r}: {text_of(answer)}",
                "retry goes always; skip is for a compensation, done for a step past the pivot",
            )
        if answer[1] == Kind.REFUSED and answer[2] == Refusal.UNKNOWN:
            raise UnknownSaga(
                "SAGA-E305",
                f"{what} is neither run nor compensated now",
                "`sagacore stuck` and `sagacore status` tell which steps are; a saga that has ended has none",
            )
        _accepted(answer, what)

    def _open(self) -> Sessions:
        if self._sessions is None:
            raise closed()
        return self._sessions


class Handle(Generic[In, Out]):
    """One saga that was started or attached."""

    def __init__(
        self,
        session: Session,
        following: Following,
        reader: Reader[Out],
        key: str | None,
        subject: _Subject | None = None,
    ) -> None:
        self._session = session
        self._following = following
        self._reader = reader
        self._subject = subject
        self._outcome: Completed[Out] | Compensated | None = None
        self.key: Final = key
        """The user's key; None where it was attached by its id."""

    @property
    def id(self) -> str:
        """The broker's id of the saga; empty until the broker has answered, where it was attached by its key."""
        if self._subject is not None and self._subject.saga is not None:
            return saga_id_text(self._subject.saga)
        return saga_id_text(self._following.id) if self._following.id else ""

    async def outcome(self, timeout: float | None = None) -> Completed[Out] | Compensated:
        """Wait until the saga has ended, or for `timeout` seconds. May be called again, and by several at once.

        Raises OutcomeTimeout (SAGA-E304) if it has not ended in time, UnknownSaga (SAGA-E305), PayloadError (SAGA-E203)
        for a result that is not of its type, and BrokerUnavailable (SAGA-E301) if the broker is silent for longer than
        the client's timeout.
        """
        if self._outcome is None:
            try:
                async with asyncio.timeout(timeout):
                    _, _, code, _, _, body = await self._following.result()
            except TimeoutError:
                raise OutcomeTimeout(
                    "SAGA-E304",
                    f"{self._following.what} has not ended within {timeout:g} s",
                    "it goes on: wait again, look at status(), or cancel() it",
                ) from None
            self._outcome = self._reader.outcome(code, body)
        return self._outcome

    async def status(self) -> Status:
        """How far the saga is now. Raises BrokerUnavailable (SAGA-E301)."""
        return await _status(self._session, self._named())

    async def cancel(self, reason: str = "") -> bool:
        """Abort the saga: its steps are compensated, with this reason. False where that is too late.

        It is too late once the pivot has been asked for, and where the saga is compensated already or has ended. True
        says that it will end as compensated; wait for `outcome` to know that it has.
        Raises UnknownSaga (SAGA-E305) and BrokerUnavailable (SAGA-E301).
        """
        return await _cancel(self._session, self._named(), reason)

    def _named(self) -> _Subject:
        if self._following.id:
            return _Subject(self._following.id, None, self._following.what)
        return self._subject or _Subject(None, key_bytes(self.key or ""), self._following.what)

    def __repr__(self) -> str:
        return f"Handle(key={self.key!r}, id={self.id!r})"


@dataclass(frozen=True, slots=True)
class _Subject:
    """A saga as the core wants it named: by id or by key; and as errors name it."""

    saga: bytes | None
    key: bytes | None
    name: str

    @classmethod
    def of(cls, key: str | None, saga_id: str | None) -> _Subject:
        if (key is None) == (saga_id is None):
            raise UsageError("SAGA-E307", "a saga is named by its key or by its id", "give one of the two")
        if saga_id is not None:
            return cls(saga_id_bytes(saga_id), None, f"the saga {saga_id}")
        return cls(None, key_bytes(key or ""), saga_named(key or ""))


async def _status(session: Session, subject: _Subject) -> Status:
    answer = await session.ask(lambda at: session.core.status(at, saga=subject.saga, key=subject.key))
    if answer[1] == Kind.REFUSED and answer[2] == Refusal.UNKNOWN:
        return Status("unknown")
    return status_of(_accepted(answer, subject.name))


async def _deadlocks(session: Session, from_number: int) -> tuple[int, list[Deadlock]]:
    ask = functools.partial(session.core.deadlocks, from_number=from_number)
    return deadlocks_of(_accepted(await session.ask(ask), "the question for deadlocks"))


async def _cancel(session: Session, subject: _Subject, reason: str) -> bool:
    answer = await session.ask(lambda at: session.core.cancel(at, saga=subject.saga, key=subject.key, reason=reason))
    if answer[1] == Kind.REFUSED and answer[2] == Refusal.TOO_LATE:
        return False
    _accepted(answer, subject.name)
    return True


def _accepted(answer: Event, what: str) -> Event:
    if answer[1] == Kind.REFUSED:
        raise refusal(answer, what)
    return answer
