"""A service's process: takes work from the core, calls handlers, and gives the core how they ended.

```text
batch -> fence in memory -> plain function -> on the loop, many in a row, while it is quick; else in a thread
                         -> coroutine      -> a task, with its timeout
      -> fence in SQLite -> transactional  -> the fence's thread calls it within its transaction
                         -> external       -> intent -> thread or task -> outcome
ended -> finish, many at a time -> the link sends the transactions
```
What runs at a time is bounded by the credit that the core gives the broker. A coroutine is cancelled at its timeout; a
plain function cannot be interrupted, so its work goes on until it returns, and an UNDO of its step waits for that.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sagacore._core import Worker as WorkerCore
from sagacore.endpoints import split_endpoints
from sagacore.errors import FenceError
from sagacore.fences import Fence, MemoryFence, Watermark, make_fence
from sagacore.fences.batch import Batch, Columns
from sagacore.fences.calls import (
    Call,
    Ended,
    Handler,
    Raised,
    Stage,
    Verdict,
    attempt,
    attempt_async,
    note_failure,
    stopped,
)
from sagacore.fences.holding import Holding
from sagacore.fences.work import Work
from sagacore.isolation import AccessFile, Recorder
from sagacore.processes.lines import Connect, Line, ServiceCore, carry, check_shards
from sagacore.processes.load import load
from sagacore.processes.run import run
from sagacore.rejection import Rejected
from sagacore.service import Service
from sagacore.transport import Link, now_ms, now_ns

LEASE_QUEUE_MS: Final = 10_000
"""A delivered message may wait so long beyond its step's timeout before it is delivered again."""
SLICE_S: Final = 0.005
"""Plain functions are called for so long before the loop does something else."""
WATCH_S: Final = 0.1
REPORT_MS: Final = 1_000
"""Of one handler at most one error in this time is logged with its traceback; the others are counted."""
CONFIRM_S: Final = 1.0
NO_COMPENSATION: Final = b"5000 this process has no compensation for the step: the saga's plan is of another version"

log = logging.getLogger("sagacore.service")


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """The settings of a service's process."""

    endpoint: str
    """Of the broker; of several, with commas between them, in the order of their shards."""
    fence: str = "memory"
    """`memory`, or `sqlite:PATH`."""
    credit: int = 2_048
    """Messages that it may hold unanswered, and so coroutines that run at a time."""
    threads: int = 16
    """Threads for plain functions that are not quick, or external."""
    drain_s: float = 10.0
    """How long what runs may take to end when the process is asked to."""
    isolation: Path | None = None
    """A file to append to what handlers say that they read and write: see `sagacore.isolation`."""


class ServiceProcess:
    """One process of a service, in the running loop."""

    def __init__(
        self,
        service: Service,
        options: ServiceOptions,
        *,
        cores: Sequence[ServiceCore] = (),
        connect: Connect = Link,
    ) -> None:
        """Raise DefinitionError for a service that is not complete, FenceError (SAGA-E404) for an unknown fence.

        Raise UsageError (SAGA-E508) for a list of endpoints that is none. Tests give their own `cores`.
        """
        service.check()
        self._name = service.name
        self._options = options
        self._fence: Fence = make_fence(options.fence)
        self._steps = steps = service.steps
        # By whether it is to be undone, and by the step's place.
        self._handlers = tuple(
            [None if implementation is None else Handler(step, implementation) for step, implementation in both]
            for both in ([(step, step.implementation) for step in steps], [(step, step.undo) for step in steps])
        )
        self._accesses = None if options.isolation is None else AccessFile(options.isolation)
        self._recorder = None if self._accesses is None else Recorder(service.name, now_ns, self._accesses.write)
        for handler in (handler for both in self._handlers for handler in both if handler is not None):
            handler.recorder = self._recorder
        endpoints = split_endpoints(options.endpoint)
        self._lines = [
            Line(endpoint, core, connect, self._deliver, self._drained)
            for endpoint, core in zip(endpoints, cores or self._make_cores(len(endpoints)), strict=True)
        ]
        self._threads = concurrent.futures.ThreadPoolExecutor(options.threads, thread_name_prefix="sagacore-action")
        self._called: list[Call] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_due = False
        self._calls = 0
        self._stopping = False

    def open(self) -> None:
        """Open the fence and connect. Raises FenceError (SAGA-E404, SAGA-E405), or UsageError for a bad endpoint."""
        self._loop = asyncio.get_running_loop()
        self._fence.open(self._name, self._fenced)
        for line in self._lines:
            line.link.open()

    async def serve(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set.

        Raises FenceError (SAGA-E401) or ProtocolError where a broker refuses us, UsageError (SAGA-E508) where one is
        another shard than its place says.
        """
        while not stop.is_set():
            self._check()
            for line in self._lines:
                told = line.core.take_watermark()
                if told is not None:
                    self._fence.learn(Watermark(*told, line.core.shard or 0))
            try:
                async with asyncio.timeout(WATCH_S):
                    await stop.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Take no more work, let what runs end for a while, and close.

        What has not ended then is delivered again, to another process or to the next one.
        """
        self._stopping = True
        for line in self._lines:
            line.batches.clear()
        await self._wait_until(lambda: self._calls == 0 or self._fence.failure is not None, self._options.drain_s)
        if self._calls:
            log.warning("%d calls have not ended in %g s and are left", self._calls, self._options.drain_s)
        for task in list(self._tasks):
            task.cancel()
        await self._wait_until(lambda: all(line.is_settled for line in self._lines), CONFIRM_S)
        for line in self._lines:
            await line.link.close()
        self._fence.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._accesses is not None:
            self._accesses.close()

    @property
    def calls(self) -> int:
        """Calls that are under way, the quick ones on the loop aside."""
        return self._calls

    async def _wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        until_s = self._loop.time() + seconds
        while not condition() and self._loop.time() < until_s:  # noqa: ASYNC110 (the core has no events to wait for)
            await asyncio.sleep(0.01)

    def _make_cores(self, count: int) -> Sequence[ServiceCore]:
        instance, steps = secrets.randbits(63), [implemented.name for implemented in self._steps]
        return [
            WorkerCore(
                self._name,
                steps,
                instance=instance,
                memory_fence=self._fence.in_memory,
                lease_ms=self._lease_ms(),
                credit=self._options.credit,
            )
            for _ in range(count)
        ]

    def _lease_ms(self) -> int:
        timeouts_s = [handler.timeout_s for both in self._handlers for handler in both if handler is not None]
        return round(max(timeouts_s, default=0.0) * 1000) + LEASE_QUEUE_MS

    def _check(self) -> None:
        failure = self._fence.failure
        if failure is not None:
            raise FenceError(
                "SAGA-E404", f"the fence has failed: {failure}", "the log has the details; what ran is delivered again"
            ) from failure
        for line in self._lines:
            line.check(self._name, self._loop.time())
        check_shards(self._lines)

    def _deliver(self, line: Line, frame: bytes, time_ms: int) -> None:
        batches = line.core.receive(frame, time_ms)
        if isinstance(self._fence, MemoryFence):
            self._fence.let_go(line.core.take_let_go())
        self._take(line, batches)
        if len(self._lines) > 1:
            carry(self._lines, line)

    def _drained(self) -> None:
        # Not before: the frames that have arrived make one batch.
        if any(line.batches or line.has_said for line in self._lines):
            self._run()

    def _take(self, line: Line, batches: list[Columns]) -> None:
        if not self._stopping:
            line.batches.extend(map(Batch, batches))

    def _run_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        """Work off what there is, for a slice of time."""
        self._is_due = True  # what may begin meanwhile is found here
        try:
            self._finish_called()
            for line in self._lines:
                self._work_for(line)
        finally:
            self._is_due = False
        for line in self._lines:
            line.flush()
        if any(line.batches for line in self._lines):
            self._run_soon()

    def _work_for(self, line: Line) -> None:
        time_s = time.perf_counter()
        until_s = time_s + SLICE_S / len(self._lines)
        while line.batches and time_s < until_s:
            batch = line.batches[0]
            self._work_off(line, batch)
            if batch.is_empty:
                line.batches.popleft()
            time_s = time.perf_counter()

    def _work_off(self, line: Line, batch: Batch) -> None:
        """Call, or begin to call, a batch, or some of it."""
        handler = self._handlers[batch.undo][batch.step]
        if handler is None:
            tickets = batch.take(len(batch.tickets)).tickets
            self._finish(line, tickets, bytes((Verdict.RETRY,)) * len(tickets), [NO_COMPENSATION] * len(tickets))
        elif isinstance(self._fence, MemoryFence) and handler.is_quick:
            part = batch.take(handler.together)
            before_s = time.perf_counter()
            self._call_now(line, handler, part, self._fence)
            handler.measure(time.perf_counter() - before_s, len(part.tickets))
        else:
            self._begin(line, handler, batch.take(len(batch.tickets)).tickets)

    def _call_now(self, line: Line, handler: Handler, batch: Batch, fence: MemoryFence) -> None:
        """Call a quick function for all of a batch."""
        tickets = batch.tickets
        is_bare = not handler.uses_database and (not handler.is_undo or fence.holds_nothing)
        works = [] if is_bare else line.core.works(tickets)
        holdings = [fence.begin(handler, work) for work in works]
        contexts = [handler.context(work, None, holding) for work, holding in zip(works, holdings, strict=True)]
        try:
            values = [] if self._recorder else handler.start_all(batch.inputs, batch.results, contexts, holdings)
        except Exception:  # noqa: BLE001 (something cannot be decoded: the others can)
            values = []
        if not values:
            works = works or line.core.works(tickets)
            holdings = holdings or [None] * len(works)
            values = [_started(handler, *one) for one in zip(works, holdings, strict=True)]
        payloads, errors = handler.encode_all(values, batch.bytes_max)
        verdicts = bytearray((handler.success,)) * len(tickets)
        for at, holding in enumerate(holdings):
            if holding is not None and holding.is_stopped:
                errors.pop(at, None)
                verdicts[at], payloads[at] = stopped(holding)
        if errors:
            failed = line.core.works([tickets[at] for at in errors])
            for (at, error), work in zip(errors.items(), failed, strict=True):
                verdicts[at], payloads[at] = self._failed(handler, work, error)
        for work, holding, verdict in zip(works, holdings, verdicts, strict=False):
            fence.end(handler, work, holding, verdict)
        self._finish(line, tickets, bytes(verdicts), payloads)

    def _finish_called(self) -> None:
        all_called, self._called = self._called, []
        self._calls -= len(all_called)
        for number, line in enumerate(self._lines if all_called else ()):
            called = [call for call in all_called if call.line == number]
            if called:
                ended = [call.ended or (Verdict.DROP, b"") for call in called]
                verdicts = bytes([verdict for verdict, _ in ended])
                self._finish(line, [call.ticket for call in called], verdicts, [payload for _, payload in ended])

    def _finish(self, line: Line, tickets: list[int], verdicts: bytes, payloads: list[bytes]) -> None:
        line.has_said = True
        if self._recorder is not None:
            self._record(self._recorder, line.core.works(tickets), verdicts)
        self._take(line, line.core.finish(tickets, verdicts, payloads, now_ms()))

    def _record(self, recorder: Recorder, works: list[Work], verdicts: bytes) -> None:
        for work, verdict in zip(works, verdicts, strict=True):
            handler = self._handlers[work[1]][work[2]]
            if handler is not None:
                counts = verdict == handler.success
                recorder.end(*handler.named(work), is_undo=handler.is_undo, counts=counts)

    def _failed(self, handler: Handler, work: Work, error: BaseException) -> Ended:
        call = Call(handler, work, Stage.WHOLE)
        note_failure(call, error)
        self._report(call)
        assert call.proposed is not None
        return call.proposed

    def _begin(self, line: Line, handler: Handler, tickets: list[int]) -> None:
        self._calls += len(tickets)
        number = self._lines.index(line)
        is_whole = not self._fence.in_memory and not handler.is_external
        stage = Stage.WHOLE if is_whole else Stage.INTENT
        self._fence.submit([Call(handler, work, stage, number) for work in line.core.works(tickets)])

    def _fenced(self, calls: Sequence[Call]) -> None:
        """The fence has done what it was asked for."""
        for call in calls:
            if call.ended is not None:
                self._end(call)
            elif not self._stopping:
                self._call(call)
            else:
                self._calls -= 1

    def _call(self, call: Call) -> None:
        call.stage = Stage.OUTCOME
        if call.handler.is_async:
            task = self._loop.create_task(self._await(call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        future = self._loop.run_in_executor(self._threads, _timed, call)
        future.add_done_callback(lambda future: self._threaded(call, future))

    async def _await(self, call: Call) -> None:
        try:
            await attempt_async(call)
        except asyncio.CancelledError:
            if self._stopping:
                self._calls -= 1
                raise
            note_failure(call, RuntimeError("the handler cancelled itself"))
        self._fence.submit([call])

    def _threaded(self, call: Call, future: asyncio.Future[float]) -> None:
        if future.cancelled():
            self._calls -= 1
            return
        error = future.exception()
        if error is not None:
            note_failure(call, RuntimeError(f"the handler raised {type(error).__name__}"))
        else:
            call.handler.measure(future.result())
        self._fence.submit([call])

    def _end(self, call: Call) -> None:
        self._report(call)
        self._called.append(call)
        self._run_soon()

    def _report(self, call: Call) -> None:
        """Log what a handler raised, with its traceback, but not each time that it does."""
        error, handler = call.error, call.handler
        if error is None:
            return
        time_ms = now_ms()
        if isinstance(error, Rejected):
            pass
        elif time_ms - handler.reported_ms < REPORT_MS:
            handler.unreported += 1
        else:
            log.warning(
                "%s of %s failed, try %d (%d more such since the last report)",
                "compensation" if handler.is_undo else "action",
                handler.title,
                call.tries,
                handler.unreported,
                exc_info=error,
            )
            handler.reported_ms, handler.unreported = time_ms, 0
        # Its frames hold the batch that the error is in: a ring, which only the garbage collector would undo. With
        # rejections by the thousand the process stood still for tens of milliseconds, again and again.
        error.__traceback__ = None


def _started(handler: Handler, work: Work, holding: Holding | None) -> Any:
    try:
        return handler.start(work, None, holding)
    except BaseException as error:  # noqa: BLE001 (whatever a handler raises is judged, SystemExit too)
        return Raised(error)


def _timed(call: Call) -> float:
    before_s = time.perf_counter()
    attempt(call)
    return time.perf_counter() - before_s


def load_service(target: str) -> Service:
    """The service that `module:object` names. Raises UsageError (SAGA-E503) where there is none."""
    return load(target, Service)


def run_service(service: Service, endpoint: str, fence: str = "memory", isolation: Path | None = None) -> int:
    """Run one process of a service until it is asked to end. Gives the exit status.

    Raises DefinitionError for a service that is not complete, FenceError for its fence, UsageError for the endpoint.
    """
    options = ServiceOptions(endpoint=endpoint, fence=fence, isolation=isolation)

    async def main(stop: asyncio.Event) -> int:
        process = ServiceProcess(service, options)
        try:
            process.open()
            log.info("serving %s for %s with fence %s", service.name, endpoint, fence)
            await process.serve(stop)
        finally:
            await process.close()
        return 0

    return run(main, service.name)
