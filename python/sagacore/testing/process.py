"""One process of a service in the sandbox.

It does what `sagacore.processes.service` does with a fence in SQLite, and by the same parts: the worker's core, the
fence's transactions and rows, the judging of handlers. What differs: plain functions are called in the caller's
thread, one after the other, the fence has no thread and no patience, and the process can be killed.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

from sagacore._core import Worker
from sagacore.errors import FenceError
from sagacore.fences import SqliteFence, Watermark
from sagacore.fences.batch import Batch, Columns
from sagacore.fences.calls import Call, Stage, Verdict, attempt, attempt_async, note_failure
from sagacore.fences.rows import RowKey
from sagacore.fences.sqlite import TransactionLost
from sagacore.isolation import Recorder
from sagacore.rejection import Rejected
from sagacore.steps import Step
from sagacore.testing.script import Script, ScriptedHandler
from sagacore.testing.wires import Clock

CREDIT: Final = 2_048
LEASE_MS: Final = 3_600_000
"""No matter: time stands still while a handler runs, and a dead process loses its leases by its silence."""

log = logging.getLogger("sagacore.sandbox")


class _Crash(BaseException):
    """The process dies in the midst of a transaction."""


class SandboxFence(SqliteFence):
    """The fence without its thread: what it is asked for is done at once."""

    _synchronous = "off"  # a power cut would lose something, and there is none here

    def __init__(self, path: str, clock: Clock, dies_before: Callable[[Call], bool]) -> None:
        super().__init__(path, clock=clock.read)
        self._dies_before = dies_before

    def connect(self, service: str) -> None:
        """Open the database. Raises FenceError (SAGA-E604)."""
        try:
            super().connect(service)
        except sqlite3.Error as error:
            raise self._cannot_commit(error) from error

    def do(self, call: Call) -> bool:
        """Do for a call what its `stage` says. False: the process has died over it. Raises FenceError (SAGA-E604)."""
        try:
            try:
                self.batch([call])
            except TransactionLost as lost:
                if not self._refuse(call, lost):
                    self.batch([call])
        except _Crash:
            return False
        except sqlite3.Error as error:
            raise self._cannot_commit(error) from error
        return True

    def learn(self, told: Watermark) -> None:
        """Store a watermark, and forget rows that it has passed. Raises FenceError (SAGA-E604)."""
        try:
            while self.forget(told):
                pass
        except sqlite3.Error as error:
            raise self._cannot_commit(error) from error

    def _call(self, call: Call, key: RowKey, *, row_is_outside: bool = False) -> None:
        if self._dies_before(call):
            raise _Crash
        super()._call(call, key, row_is_outside=row_is_outside)

    def _cannot_commit(self, error: sqlite3.Error) -> FenceError:
        return FenceError(
            "SAGA-E604",
            f"the sandbox's database {self.path} cannot commit: {error}",
            "if the test began a transaction on box.db(...), let it commit that before it runs a saga",
        )


class SandboxProcess:
    """See the module's text. `died` is called when it has been killed, `failed` when it cannot go on."""

    def __init__(
        self,
        service: str,
        steps: Sequence[Step[Any, Any]],
        *,
        path: str,
        instance: int,
        clock: Clock,
        script: Script,
        recorder: Recorder | None,
        died: Callable[[SandboxProcess], None],
        failed: Callable[[BaseException], None],
        changed: Callable[[], None],
    ) -> None:
        self.service: Final = service
        self.identity: Final = f"{service}-{instance}".encode()
        self.core: Final = Worker(
            service,
            [step.name for step in steps],
            instance=instance,
            memory_fence=False,
            lease_ms=LEASE_MS,
            credit=CREDIT,
        )
        self.tasks: Final[set[asyncio.Task[None]]] = set()
        """Handlers that are awaited."""
        self._handlers = tuple(
            [None if handler is None else ScriptedHandler(step, handler, script) for step, handler in both]
            for both in ([(step, step.implementation) for step in steps], [(step, step.undo) for step in steps])
        )
        self._fence: Final = SandboxFence(path, clock, lambda call: script.dies_before(_handler(call).place))
        self._clock: Final = clock
        self._script: Final = script
        self._recorder: Final = recorder
        for handler in (handler for both in self._handlers for handler in both if handler is not None):
            handler.recorder = recorder
        self._died: Final = died
        self._failed: Final = failed
        self._changed: Final = changed
        self._is_dead = False
        self._fence.connect(service)

    def receive(self, frame: bytes, now_ms: int) -> None:
        """Take a frame, store what it tells of ended sagas, and begin what is to be called."""
        batches = self.core.receive(frame, now_ms)
        told = self.core.take_watermark()
        if told is not None and not self._is_dead:
            try:
                self._fence.learn(Watermark(*told))
            except FenceError as error:
                self._failed(error)
                return
        self._take(batches)

    async def close(self) -> None:
        """End, and with it what runs."""
        tasks = list(self.tasks)
        self._end_now()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _die(self) -> None:
        """Nothing that runs here has any further consequence, and nobody is told."""
        self._end_now()
        self._died(self)

    def _end_now(self) -> None:
        if self._is_dead:
            return
        self._is_dead = True
        current = asyncio.current_task()
        for task in self.tasks:
            if task is not current:
                task.cancel()
        self._fence.disconnect()

    def _take(self, batches: list[Columns]) -> None:
        for batch in map(Batch, batches):
            handler = self._handlers[batch.undo][batch.step]
            assert handler is not None, "checked before the sandbox opens"
            for work in self.core.works(batch.tickets):
                if self._is_dead:
                    return
                self._clock.touch()
                self._ask(Call(handler, work, Stage.INTENT if handler.is_external else Stage.WHOLE))

    def _ask(self, call: Call) -> None:
        """Ask the fence, which calls a transactional handler by itself; then go on."""
        try:
            lives = self._fence.do(call)
        except FenceError as error:
            self._failed(error)
            return
        was_called = call.stage is Stage.WHOLE and call.proposed is not None and not call.is_stopped
        if not lives or (was_called and self._script.dies_after(_handler(call).place)):
            self._die()
            return
        if call.ended is not None:
            self._end(call)
            return
        call.stage = Stage.OUTCOME
        task = asyncio.get_running_loop().create_task(self._run(call))
        self.tasks.add(task)
        task.add_done_callback(self._done)

    async def _run(self, call: Call) -> None:
        """Call an external handler."""
        place = _handler(call).place
        if self._script.dies_before(place):
            self._die()
            return
        try:
            await (attempt_async(call) if call.handler.is_async else asyncio.to_thread(attempt, call))
        except asyncio.CancelledError:
            if self._is_dead:
                raise
            note_failure(call, RuntimeError("the handler cancelled itself"))
        if self._is_dead:
            return
        if self._script.dies_after(place):
            self._die()
        else:
            self._ask(call)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failed(error)
        self._changed()

    def _end(self, call: Call) -> None:
        assert call.ended is not None
        self._report(call)
        verdict, payload = call.ended
        if self._recorder is not None:
            handler = call.handler
            counts = verdict == handler.success
            self._recorder.end(*handler.named(call.work), is_undo=handler.is_undo, counts=counts)
        if verdict is Verdict.RETRY:
            self._clock.due_in(int(payload.split(b" ", 1)[0]))
        self._clock.touch()
        self._take(self.core.finish([call.ticket], bytes((verdict,)), [payload], self._clock.now_ms))

    def _report(self, call: Call) -> None:
        error, place = call.error, _handler(call).place
        if error is None:
            return
        if not isinstance(error, Exception | SystemExit):
            self._failed(error)  # whoever runs the test wants to stop it
            return
        self._script.note(place, error)
        if not isinstance(error, Rejected) and not self._script.asked_for(error):
            log.warning("%s of %s failed, try %d", place.kind, place.title, call.tries, exc_info=error)


def _handler(call: Call) -> ScriptedHandler:
    assert isinstance(call.handler, ScriptedHandler)
    return call.handler
