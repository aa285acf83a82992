"""A client's connection: which answer is for whom, and how long to wait for it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final, TypeAlias

from sagacore._core import ClientCore
from sagacore.answers import Event, bad_plan, refusal, text_of
from sagacore.codes import Kind, Refusal, StatusCode
from sagacore.endpoints import check_shard
from sagacore.errors import BrokerUnavailable, SagacoreError, UsageError
from sagacore.transport import Link

Hear: TypeAlias = Callable[[Event], None]
HearAll: TypeAlias = Callable[[list[Event]], None]

CREDIT: Final = 65_536
OUTBOX_BYTES: Final = 4 << 20
"""Bytes not confirmed yet from which on new sagas wait."""
STREAM_BITS: Final = 40
"""A correlation is the number of a stream of sagas and, below it, of a saga in it. Stream 0 is of single calls."""
PAUSE_FIRST_S: Final = 0.02
PAUSE_LAST_S: Final = 0.5
"""A start that was refused for now is repeated after a pause that doubles from the first to the last of these."""


class Session:
    """One client's core and link. Everything in it happens in the loop that opened it."""

    def __init__(self, endpoint: str, timeout_s: float, *, number: int = 0, count: int = 1) -> None:
        """`number` of `count`: its place among the client's."""
        self._number: Final = number
        self._count: Final = count
        self._misplaced: UsageError | None = None
        self.endpoint: Final = endpoint
        self.timeout_s: Final = timeout_s
        self.core: Final = ClientCore(instance=secrets.randbits(64), credit=CREDIT, outbox_bytes=OUTBOX_BYTES)
        self._link: Final = Link(endpoint, self.core, self._deliver)
        self._loop: Final = asyncio.get_running_loop()
        self._calls: dict[int, Hear] = {}
        self._streams: dict[int, HearAll] = {}
        self._last_call = 0
        self._last_stream = 0
        self._waiters: dict[asyncio.Future[Any], float] = {}
        """And since when each of them waits."""
        self._outside: list[asyncio.Future[Any]] = []
        self._refused_plans: dict[int, str] = {}
        self._flushing = False
        self._is_open = False
        self.heard_s = 0.0
        """When the broker last said something, by `now_s`."""
        self._watch: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Connect, in the background: what is started before the broker answers is sent when it does."""
        self._link.open()
        self._is_open = True
        self.heard_s = self.now_s()
        self._watch_silence(self.heard_s)

    async def close(self) -> None:
        """Disconnect. Who still waits gets UsageError (SAGA-E306); the sagas go on."""
        self._is_open = False
        if self._watch is not None:
            self._watch.cancel()
        self._fail_waiters(closed, self.now_s())
        await self._link.close()

    @staticmethod
    def now_s() -> float:
        """A monotonic clock finer than the loop's, which may stand still for a whole turn."""
        return perf_counter()

    def call_later(self, delay_s: float, function: Callable[[], None]) -> asyncio.TimerHandle:
        """Call a function after a delay."""
        return self._loop.call_later(delay_s, function)

    # Correlations

    def call(self, hear: Hear) -> int:
        """A new correlation; what the broker tells of it goes to `hear`, until `hang_up`."""
        self._last_call += 1
        self._calls[self._last_call] = hear
        return self._last_call

    def hang_up(self, correlation: int) -> None:
        """Nobody listens any more. What was asked of the broker may happen all the same."""
        if self._calls.pop(correlation, None) is not None:
            self.core.forget(correlation)

    def stream(self, hear: HearAll) -> int:
        """The first correlation of a new stream; what a frame tells of it and those after it goes to `hear` at once."""
        self._last_stream += 1
        self._streams[self._last_stream] = hear
        return self._last_stream << STREAM_BITS

    def end_stream(self, first: int, running: list[int]) -> None:
        """Nobody listens to the stream any more, nor to those of its sagas that still run."""
        self._streams.pop(first >> STREAM_BITS, None)
        for correlation in running:
            self.core.forget(correlation)

    # Sending

    def flush(self) -> None:
        """Send at once what was to be sent soon."""
        if self._flushing and self._is_open:
            self._link.flush()

    def flush_soon(self) -> None:
        """Send what the core has, together with all else that is started in this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._is_open:
            self._link.flush()

    async def room(self) -> None:
        """Wait until the outbox has room for more."""
        while self.core.is_full:
            future = self.waiter()
            self.when_room(future)
            await future

    def when_room(self, future: asyncio.Future[Any]) -> None:
        """Settle this future when the outbox is not full any more."""
        self._outside.append(future)

    # Hearing

    def _deliver(self, frame: bytes, now_ms: int) -> None:
        self.heard_s = perf_counter()
        events = self.core.receive(frame, now_ms)
        if self._count > 1 and not self._is_in_place():
            return
        of_streams: dict[int, list[Event]] = {}
        for event in events:
            correlation = event[0]
            if correlation >> STREAM_BITS:
                of_streams.setdefault(correlation >> STREAM_BITS, []).append(event)
            elif correlation in self._calls:
                self._calls[correlation](event)
            elif correlation == 0 and event[1] == Kind.REFUSED:
                self._refused_plans[event[4]] = text_of(event)
        for stream, events in of_streams.items():
            if stream in self._streams:
                self._streams[stream](events)
        if self._outside and not self.core.is_full:
            outside, self._outside = self._outside, []
            for future in outside:
                settle(future)

    def _is_in_place(self) -> bool:
        """Whether the broker is the shard that it should be. If not, nothing is sent to it any more."""
        try:
            check_shard(self.endpoint, self._number, self._count, self.core.shard)
        except UsageError as error:
            self._misplaced = error
            self._link.stop()
            self._fail_waiters(self._why_misplaced, self.now_s())
            return False
        return True

    def _why_misplaced(self) -> UsageError:
        assert self._misplaced is not None
        return UsageError(self._misplaced.code, self._misplaced.message, self._misplaced.hint)

    # Waiting

    def waiter(self, future: asyncio.Future[Any] | None = None) -> asyncio.Future[Any]:
        """A future that fails if from now on the broker is silent for the client's timeout, or the client is closed.

        With a `future` of another session it fails here too. Raises UsageError: where it is closed already (SAGA-E306),
        or the broker is another shard than its place says (SAGA-E508).
        """
        if not self._is_open:
            raise closed()
        if self._misplaced is not None:
            raise self._why_misplaced()
        future = future or self._loop.create_future()
        self._waiters[future] = self.now_s()
        future.add_done_callback(self._forget_waiter)
        return future

    def _forget_waiter(self, future: asyncio.Future[Any]) -> None:
        self._waiters.pop(future, None)

    async def ask(self, send: Callable[[int], None]) -> Event:
        """Send a question or an order under a new correlation and wait for the answer.

        Raises BrokerUnavailable if there is none within the client's timeout.
        """
        future = self.waiter()
        correlation = self.call(lambda event: settle(future, event))
        try:
            async with asyncio.timeout(self.timeout_s):
                send(correlation)
                self.flush_soon()
                answer: Event = await future
                return answer
        except TimeoutError:
            raise self.unavailable() from None
        finally:
            self.hang_up(correlation)

    def unavailable(self) -> BrokerUnavailable:
        """The broker has not answered in time."""
        code = self.core.refused
        why = "" if code is None else f": it takes no session of this client ({Refusal(code).name.lower()})"
        return BrokerUnavailable(
            "SAGA-E301",
            f"the broker at {self.endpoint} did not answer within {self.timeout_s:g} s{why}",
            "is `sagacore broker` running, and is this its endpoint? What was started may have begun: "
            "start it again with the same key and input, or attach to it",
        )

    def _watch_silence(self, due_s: float) -> None:
        """Looks again and again whether the broker says anything: one that lives does, several times a second."""
        now_s, every_s = self.now_s(), self.timeout_s / 8
        stood_still = now_s - due_s > every_s  # then the silence is our own: frames wait to be read
        if not stood_still and now_s - self.heard_s > self.timeout_s:
            self._fail_waiters(self.unavailable, now_s - self.timeout_s)
        self._watch = self._loop.call_later(every_s, self._watch_silence, now_s + every_s)

    def _fail_waiters(self, error: Callable[[], SagacoreError], since_s: float) -> None:
        for future, began_s in self._waiters.items():
            if began_s <= since_s and not future.done():
                future.set_exception(error())

    # Sagas

    async def begin(self, plan: int, key: bytes, data: bytes, what: str) -> Following:
        """Start a saga, and wait until that is durable; while the broker is full, try again until the timeout."""
        refused: Event | None = None
        pause_s = PAUSE_FIRST_S
        try:
            async with asyncio.timeout(self.timeout_s):
                while True:
                    await self.room()
                    following = Following(self, what)
                    refused = await following.begin(plan, key, data)
                    if refused is None:
                        return following
                    if not self.may_retry(refused, plan):
                        raise self.refusal(refused, plan, what)
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, PAUSE_LAST_S)
        except TimeoutError:
            raise self.unavailable() if refused is None else self.refusal(refused, plan, what) from None

    def may_retry(self, refused: Event, plan: int) -> bool:
        """Whether the same START may be taken later: the broker takes no more now, or has lost the plan."""
        is_lost_plan = refused[2] == Refusal.NO_PLAN and plan not in self._refused_plans
        is_full = refused[2] in (Refusal.FULL, Refusal.CLASS_FULL)
        return refused[1] == Kind.REFUSED and (is_full or is_lost_plan)

    def refusal(self, refused: Event, plan: int, what: str) -> SagacoreError:
        """The error that a refused START means for the caller."""
        if refused[2] == Refusal.NO_PLAN and plan in self._refused_plans:
            return bad_plan(self._refused_plans.pop(plan))
        return refusal(refused, what)


def settle(future: asyncio.Future[Any], value: Event | None = None) -> None:
    """Give a future its value, unless its owner has given up."""
    if not future.done():
        future.set_result(value)


def closed() -> UsageError:
    """The client is not open."""
    return UsageError("SAGA-E306", "the client is not open", "use it within `async with Client(...) as client:`")


class Following:
    """A saga whose outcome is awaited, by as many as like."""

    def __init__(self, session: Session, what: str) -> None:
        self.id = b""
        self._session = session
        self.what = what
        self._result: Event | None = None
        self._refused: Event | None = None
        self._waiting: list[asyncio.Future[Any]] = []
        self.correlation = session.call(self._hear)

    async def begin(self, plan: int, key: bytes, data: bytes) -> Event | None:
        """Start it and wait for the broker's word: None where it has begun, or the refusal."""
        try:
            self._session.core.start(plan, [key], [data], self.correlation, False)  # noqa: FBT003 - not quiet
            self._session.flush_soon()
            while not self.id and self._refused is None:
                await self._news()
        except BaseException:
            self._session.hang_up(self.correlation)
            raise
        return self._refused

    def attach(self, saga: bytes | None, key: bytes | None) -> None:
        """Follow a saga that somebody has started."""
        self._session.core.attach(self.correlation, saga=saga, key=key)
        self._session.flush_soon()

    async def result(self) -> Event:
        """Its RESULT, once it has come. Raises UnknownSaga where there is no such saga."""
        while self._result is None:
            if self._refused is not None:
                raise refusal(self._refused, self.what)
            await self._news()
        return self._result

    async def _news(self) -> None:
        future = self._session.waiter()
        self._waiting.append(future)
        try:
            await future
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    def _hear(self, event: Event) -> None:
        _, kind, code, saga, _, _ = event
        if kind == Kind.REFUSED or (kind == Kind.STATUS and code == StatusCode.UNKNOWN):
            self._refused = event
        else:
            self.id = saga
            if kind == Kind.RESULT:
                self._result = event
        if self._result is not None or self._refused is not None:
            self._session.hang_up(self.correlation)
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            settle(future)
