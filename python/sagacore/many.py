"""Many sagas of one kind: started in batches, so many at a time, and handed out as they end.

There is no task and no future for each saga. Inputs are encoded and started a chunk at a time, in one call of the
core; a frame with hundreds of outcomes wakes the reader once.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from sagacore.answers import Event, Reader
from sagacore.codes import Kind, OutcomeCode, StatusCode
from sagacore.endpoints import shard_of_key
from sagacore.errors import SagacoreError, UsageError
from sagacore.identity import key_bytes
from sagacore.outcomes import Ended
from sagacore.saga import Saga
from sagacore.session import PAUSE_FIRST_S, PAUSE_LAST_S, Session

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")

OnError: TypeAlias = Callable[[str, SagacoreError], object]
"""What is called with the key of a saga that could not be started or followed, and the reason."""

CHUNK: Final = 256
"""Sagas that are started, or handed out, in one go: between two of these everybody else has a turn."""
_RESULT: Final = int(Kind.RESULT)
_COMPLETED: Final = int(OutcomeCode.COMPLETED)


_Entry: TypeAlias = tuple[str, float, In]
"""A saga that runs: its key, when it was started, and its input."""


class _Lane(Generic[In]):
    """What of one call of `start_many` goes to one broker."""

    def __init__(self, session: Session, definition: bytes, hear: Callable[[_Lane[In], list[Event]], None]) -> None:
        self.session: Final = session
        self.plan: Final = session.core.define(definition)
        self.first: Final = session.stream(lambda events: hear(self, events))
        self.next = self.first
        self.running: dict[int, _Entry[In]] = {}

    def start(self, keys: list[bytes], data: list[bytes], entries: list[_Entry[In]]) -> None:
        first, self.next = self.next, self.next + len(keys)
        self.running.update(zip(range(first, self.next), entries, strict=True))
        self.session.core.start(self.plan, keys, data, first, True)  # noqa: FBT003 - quiet
        self.session.flush_soon()


class Many(Generic[In, Out]):
    """One call of `start_many`. Used by turns: give it inputs, get what has ended."""

    def __init__(
        self,
        sessions: Sequence[Session],
        saga: Saga[In, Out],
        *,
        in_flight: int,
        key: Callable[[In], str] | None,
        on_error: OnError | None,
    ) -> None:
        if in_flight < 1:
            raise UsageError("SAGA-E111", f"in_flight is {in_flight}", "let at least one saga run at a time")
        self._saga = saga
        self._reader = Reader(saga)
        self._in_flight = in_flight
        self._key_of = key or _RandomKeys()
        self._on_error = on_error
        self._lanes = [_Lane(session, saga.definition, self._hear) for session in sessions]
        self._refused: list[_Entry[In]] = []
        """Those that the broker was too full for. They are started again after a pause."""
        self._pause_s = PAUSE_FIRST_S
        self._full_since_s: float | None = None
        self._again: asyncio.TimerHandle | None = None
        self._ended: deque[Ended[Out]] = deque()
        self._failed: deque[tuple[str, SagacoreError]] = deque()
        self._waiting: asyncio.Future[Any] | None = None

    @property
    def room(self) -> int:
        """How many inputs it takes now."""
        if self._refused or self._is_full:
            return 0
        return max(0, min(self._in_flight - sum(len(lane.running) for lane in self._lanes), CHUNK))

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing is left to hand out."""
        is_running = any(lane.running for lane in self._lanes)
        return not (is_running or self._refused or self._ended or self._failed)

    async def exchange(self, inputs: Iterable[In], *, ready: bool) -> list[Ended[Out]]:
        """Start these, no more than there is room for, and give what has ended, a chunk at most.

        With nothing to give it waits: for an end, for room, or to be woken; not if it has room and inputs are `ready`.
        Raises the reason why a saga could not be started or followed, unless there is an `on_error`; and
        BrokerUnavailable if the broker is silent for too long.
        """
        self._start(inputs)
        if not self._ended and not self._failed:
            if ready and self.room:
                await asyncio.sleep(0)  # what was started is sent, and what came is read
            else:
                for lane in self._lanes:
                    lane.session.flush()
                await self._news()
        while self._failed:
            name, error = self._failed.popleft()
            if self._on_error is None:
                error.add_note(f"the saga's key is {name!r}")
                raise error
            self._on_error(name, error)
        ended = self._ended
        return [ended.popleft() for _ in range(min(CHUNK, len(ended)))]

    def wake(self) -> None:
        """Something has changed for whoever waits in `exchange`."""
        waiting = self._waiting
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def close(self) -> None:
        """Nobody wants to know any more. What runs goes on."""
        if self._again is not None:
            self._again.cancel()
        for lane in self._lanes:
            lane.session.end_stream(lane.first, list(lane.running))
            lane.running.clear()

    @property
    def _is_full(self) -> bool:
        return any(lane.session.core.is_full for lane in self._lanes)

    async def _news(self) -> None:
        # A broker that nothing is awaited of may be silent.
        lanes = [lane for lane in self._lanes if lane.running or lane.session.core.is_full] or self._lanes[:1]
        waiting: asyncio.Future[Any] | None = None
        for lane in lanes:
            waiting = lane.session.waiter(waiting)
            if lane.session.core.is_full:
                lane.session.when_room(waiting)
        assert waiting is not None
        self._waiting = waiting
        await waiting

    def _start(self, inputs: Iterable[In]) -> None:
        values = list(inputs)
        started_s = Session.now_s()
        entries = [(name, started_s, value) for name, value in zip(map(self._key_of, values), values, strict=True)]
        try:
            keys = [key_bytes(name) for name, _, _ in entries]
            data = self._saga.encode_inputs(values)
        except SagacoreError:
            keys, data, entries = self._sorted_out(entries)
        self._send(keys, data, entries)

    def _sorted_out(self, entries: list[_Entry[In]]) -> tuple[list[bytes], list[bytes], list[_Entry[In]]]:
        """Keys and data of those that can be started; the others have failed."""
        keys: list[bytes] = []
        data: list[bytes] = []
        good: list[_Entry[In]] = []
        for entry in entries:
            name, _, value = entry
            try:
                key, encoded = key_bytes(name), self._saga.encode_input(value)
            except SagacoreError as error:
                self._failed.append((name, error))
                continue
            keys.append(key)
            data.append(encoded)
            good.append(entry)
        return keys, data, good

    def _send(self, keys: list[bytes], data: list[bytes], entries: list[_Entry[In]]) -> None:
        if len(self._lanes) == 1:
            if keys:
                self._lanes[0].start(keys, data, entries)
            return
        shards = [shard_of_key(key, len(self._lanes)) for key in keys]
        for number, lane in enumerate(self._lanes):
            of_lane = [at for at, shard in enumerate(shards) if shard == number]
            if of_lane:
                lane.start([keys[at] for at in of_lane], [data[at] for at in of_lane], [entries[at] for at in of_lane])

    def _start_again(self) -> None:
        self._again = None
        entries, self._refused = self._refused, []
        self._send(
            [key_bytes(name) for name, _, _ in entries],
            [self._saga.encode_input(value) for *_, value in entries],
            entries,
        )
        self.wake()

    def _hear(self, lane: _Lane[In], events: list[Event]) -> None:
        completed: list[tuple[_Entry[In], Event]] = []
        for event in events:
            if event[1] != _RESULT:
                self._hear_other(lane, event)
            elif (entry := lane.running.pop(event[0], None)) is not None:
                if event[2] == _COMPLETED:
                    completed.append((entry, event))
                else:
                    self._hear_outcome(lane, entry, event)
        if completed:
            self._hear_completed(lane, completed)
        self.wake()

    def _hear_completed(self, lane: _Lane[In], ended: list[tuple[_Entry[In], Event]]) -> None:
        outcomes = self._reader.completed([event[5] for _, event in ended])
        if outcomes is None:
            for entry, event in ended:
                self._hear_outcome(lane, entry, event)
            return
        heard_s = lane.session.heard_s
        self._full_since_s = None
        self._ended.extend(
            [
                Ended(name, outcome, (heard_s - started_s) * 1000.0)
                for ((name, started_s, _), _), outcome in zip(ended, outcomes, strict=True)
            ]
        )

    def _hear_outcome(self, lane: _Lane[In], entry: _Entry[In], event: Event) -> None:
        name, started_s, _ = entry
        try:
            outcome = self._reader.outcome(event[2], event[5])
        except SagacoreError as error:
            self._failed.append((name, error))
        else:
            self._full_since_s = None
            self._ended.append(Ended(name, outcome, (lane.session.heard_s - started_s) * 1000.0))

    def _hear_other(self, lane: _Lane[In], event: Event) -> None:
        correlation, kind, code, _, _, _ = event
        if kind == Kind.STATUS and code != StatusCode.UNKNOWN:
            return
        entry = lane.running.pop(correlation, None)
        if entry is None:
            return
        if lane.session.may_retry(event, lane.plan) and self._is_patient():
            self._refused.append(entry)
            if self._again is None:
                self._again = lane.session.call_later(self._pause_s, self._start_again)
                self._pause_s = min(2 * self._pause_s, PAUSE_LAST_S)
            return
        name = entry[0]
        self._failed.append((name, lane.session.refusal(event, lane.plan, saga_named(name))))
        self.wake()

    def _is_patient(self) -> bool:
        """Whether the broker has not been full for too long. Any saga that ends begins the wait anew."""
        now_s = Session.now_s()
        if self._full_since_s is None:
            self._full_since_s = now_s
            self._pause_s = PAUSE_FIRST_S
        return now_s - self._full_since_s < self._lanes[0].session.timeout_s


def saga_named(key: str) -> str:
    """A saga as errors name it."""
    return f"the saga with the key {key!r}"


class _RandomKeys:
    """A key for each input that the user gave none for."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(12)
        self._count = 0

    def __call__(self, _input: object) -> str:
        self._count += 1
        return f"{self._prefix}-{self._count}"


class Source(Protocol[T]):
    """Where inputs come from."""

    @property
    def is_ready(self) -> bool:
        """Whether the next one is there without waiting."""

    @property
    def is_exhausted(self) -> bool:
        """Whether there are no more."""

    def take(self, count: int) -> list[T]:
        """So many at most, those that are there; none for a count of 0. Raises what the user's iterable raised."""

    async def close(self) -> None:
        """Read no further."""


class Items(Generic[In]):
    """The inputs of an ordinary iterable, which is read in the loop."""

    def __init__(self, inputs: Iterable[In]) -> None:
        self.is_exhausted = False
        self._iterator = iter(inputs)

    @property
    def is_ready(self) -> bool:
        """See `Source`."""
        return not self.is_exhausted

    def take(self, count: int) -> list[In]:
        """See `Source`."""
        taken = list(islice(self._iterator, count))
        self.is_exhausted = self.is_exhausted or len(taken) < count
        return taken

    async def close(self) -> None:
        """See `Source`."""


class Pump(Generic[In]):
    """The inputs of an asynchronous iterable: a task reads ahead, a chunk at most, and wakes who waits for them."""

    def __init__(self, inputs: AsyncIterable[In], wake: Callable[[], None]) -> None:
        self.is_exhausted = False
        self._inputs = inputs
        self._wake = wake
        self._buffer: deque[In] = deque()
        self._has_space = asyncio.Event()
        self._has_ended = False
        self._error: Exception | None = None
        self._task = asyncio.create_task(self._read())

    @property
    def is_ready(self) -> bool:
        """See `Source`."""
        return bool(self._buffer)

    def take(self, count: int) -> list[In]:
        """See `Source`."""
        taken = [self._buffer.popleft() for _ in range(min(count, len(self._buffer)))]
        self._has_space.set()
        if self._has_ended and not self._buffer:
            self.is_exhausted = True
            if self._error is not None:
                raise self._error
        return taken

    async def close(self) -> None:
        """See `Source`."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        try:
            async for value in self._inputs:
                self._buffer.append(value)
                self._wake()
                while len(self._buffer) >= CHUNK:
                    self._has_space.clear()
                    await self._has_space.wait()
        except Exception as error:  # noqa: BLE001 - the user's iterable may raise anything: who reads it gets it
            self._error = error
        finally:
            self._has_ended = True
            self._wake()
