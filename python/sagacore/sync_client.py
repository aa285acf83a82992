"""The client for code without asyncio: a thread with a loop of its own does the waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, overload

import uvloop

from sagacore.answers import Deadlock, StuckSaga
from sagacore.client import TIMEOUT_S_DEFAULT, Client, Handle, Resolution
from sagacore.errors import SagacoreError, UsageError
from sagacore.many import CHUNK, Many
from sagacore.outcomes import Compensated, Completed, Ended, Status
from sagacore.saga import Saga
from sagacore.session import closed
from sagacore.transport import now_ms

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")

TAKE_MS: Final = 5
"""Inputs are taken from the user's iterable for so long before what was taken is started: it may be a slow one."""


class SyncClient:
    """What `Client` is, for code that blocks: `with SyncClient("ipc:///run/sagacore.sock") as client:`.

    Every method does and raises what the one of `Client` does, and returns when it is done. It may be used by several
    threads at once.
    """

    def __init__(self, endpoint: str, timeout: float = TIMEOUT_S_DEFAULT) -> None:
        self._client: Final = Client(endpoint, timeout)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._loop is not None:
            raise UsageError("SAGA-E306", "the client is open already", "make one SyncClient for each `with`")
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sagacore-client", daemon=True)
        self._thread.start()
        try:
            self._run(self._client.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._run(self._client.__aexit__(None, None, None))
            self._run(_end_tasks())
        finally:
            self._stop()

    def start(self, saga: Saga[In, Out], input: In, *, key: str | None = None) -> SyncHandle[In, Out]:
        """See `Client.start`."""
        return SyncHandle(self, self._run(self._client.start(saga, input, key=key)))

    def start_many(
        self,
        saga: Saga[In, Out],
        inputs: Iterable[In],
        *,
        in_flight: int = 5_000,
        key: Callable[[In], str] | None = None,
        on_error: Callable[[str, SagacoreError], object] | None = None,
    ) -> Iterator[Ended[Out]]:
        """See `Client.start_many`. The inputs are read in the thread that iterates, so they may block."""
        many = self._run(self._many(saga, in_flight=in_flight, key=key, on_error=on_error))
        source = _SlowItems(inputs)
        room, is_idle = min(CHUNK, in_flight), True
        try:
            while True:
                batch = source.take(room)
                if not batch and source.is_exhausted and is_idle:
                    return
                ended, room, is_idle = self._run(_turn(many, batch, ready=not source.is_exhausted))
                yield from ended
        finally:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(many.close)

    @overload
    def attach(self, key: str | None = ..., *, id: str | None = ..., saga: Saga[In, Out]) -> SyncHandle[In, Out]: ...
    @overload
    def attach(self, key: str | None = ..., *, id: str | None = ..., saga: None = ...) -> SyncHandle[Any, Any]: ...
    def attach(
        self, key: str | None = None, *, id: str | None = None, saga: Saga[Any, Any] | None = None
    ) -> SyncHandle[Any, Any]:
        """See `Client.attach`."""

        async def attach() -> Handle[Any, Any]:
            return self._client.attach(key, id=id, saga=saga)

        return SyncHandle(self, self._run(attach()))

    def status(self, key: str | None = None, *, id: str | None = None) -> Status:
        """See `Client.status`."""
        return self._run(self._client.status(key, id=id))

    def cancel(self, key: str | None = None, *, id: str | None = None, reason: str = "") -> bool:
        """See `Client.cancel`."""
        return self._run(self._client.cancel(key, id=id, reason=reason))

    def stats(self) -> dict[str, Any]:
        """See `Client.stats`."""
        return self._run(self._client.stats())

    def stuck(self) -> list[StuckSaga]:
        """See `Client.stuck`."""
        return self._run(self._client.stuck())

    def deadlocks(self) -> list[Deadlock]:
        """See `Client.deadlocks`."""
        return self._run(self._client.deadlocks())

    def resolve(self, id: str, step: int, action: Resolution, *, reason: str = "", result: bytes = b"") -> None:
        """See `Client.resolve`."""
        self._run(self._client.resolve(id, step, action, reason=reason, result=result))

    async def _many(
        self,
        saga: Saga[In, Out],
        *,
        in_flight: int,
        key: Callable[[In], str] | None,
        on_error: Callable[[str, SagacoreError], object] | None,
    ) -> Many[In, Out]:
        sessions = self._client._open()  # noqa: SLF001 - the two are one
        return Many(sessions.every, saga, in_flight=in_flight, key=key, on_error=on_error)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it in the loop's thread and wait. An interrupt of this thread cancels it, and so does `__exit__`."""
        if self._loop is None:
            coroutine.close()
            raise closed()
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise closed() from None
        except BaseException:
            future.cancel()
            raise

    def _stop(self) -> None:
        loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


class SyncHandle(Generic[In, Out]):
    """What `Handle` is, for code that blocks."""

    def __init__(self, client: SyncClient, handle: Handle[In, Out]) -> None:
        self._client = client
        self._handle = handle
        self.key: Final = handle.key
        """The user's key; None where it was attached by its id."""

    @property
    def id(self) -> str:
        """See `Handle.id`."""
        return self._handle.id

    def outcome(self, timeout: float | None = None) -> Completed[Out] | Compensated:
        """See `Handle.outcome`."""
        return self._client._run(self._handle.outcome(timeout))  # noqa: SLF001 - the two are one

    def status(self) -> Status:
        """See `Handle.status`."""
        return self._client._run(self._handle.status())  # noqa: SLF001

    def cancel(self, reason: str = "") -> bool:
        """See `Handle.cancel`."""
        return self._client._run(self._handle.cancel(reason))  # noqa: SLF001

    def __repr__(self) -> str:
        return f"Sync{self._handle!r}"


async def _end_tasks() -> None:
    """Lets every other thread that still waits have its error before the loop is gone."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _turn(many: Many[In, Out], inputs: list[In], *, ready: bool) -> tuple[list[Ended[Out]], int, bool]:
    ended = await many.exchange(inputs, ready=ready)
    return ended, many.room, many.is_idle


class _SlowItems(Generic[In]):
    """Inputs that may take their time: those that come soon are not kept waiting by those that do not."""

    def __init__(self, inputs: Iterable[In]) -> None:
        self.is_exhausted = False
        self._iterator = iter(inputs)

    def take(self, count: int) -> list[In]:
        """So many at most, and at least one if there is one."""
        taken: list[In] = []
        until_ms = now_ms() + TAKE_MS
        while not self.is_exhausted and len(taken) < count and (not taken or now_ms() < until_ms):
            try:
                taken.append(next(self._iterator))
            except StopIteration:
                self.is_exhausted = True
        return taken
