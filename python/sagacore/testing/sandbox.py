"""A sandbox for tests: sagas run with the cores of a real deployment, in memory and in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from sagacore._core import ClientCore, Coordinator
from sagacore.answers import Event, Reader, refusal, status_of
from sagacore.codes import Kind
from sagacore.errors import DefinitionError, OutcomeTimeout, UsageError
from sagacore.identity import key_bytes
from sagacore.isolation import Access, Anomaly, Recorder, anomalies
from sagacore.outcomes import Compensated, Completed
from sagacore.picture import counted
from sagacore.saga import Saga
from sagacore.steps import Step
from sagacore.testing.process import SandboxProcess
from sagacore.testing.script import CallKind, Place, Script
from sagacore.testing.wires import Clock, Wires

In = TypeVar("In")
Out = TypeVar("Out")

WITHIN_S: Final = 600.0
"""A saga may take so long beyond its deadline, in virtual time."""
SLOTS: Final = 4_096
CREDIT: Final = 1_024
OUTBOX_BYTES: Final = 4 << 20


class Sandbox:
    """All that the sagas need to run, in one event loop: `async with Sandbox(place_order) as box:`.

    Every service of the sagas has a process, with a SQLite database of its own. Handlers are called as in a deployment;
    time is virtual, and jumps to what is due when no handler runs. Raises DefinitionError for a step that cannot be
    called here (SAGA-E601), and for a saga that is wired wrongly. With `isolation=True` it records what handlers say
    that they read and write: see `anomalies`.
    """

    def __init__(self, *sagas: Saga[Any, Any], isolation: bool = False) -> None:
        if not sagas:
            raise UsageError("SAGA-E603", "a sandbox without sagas", "give it the sagas to run: Sandbox(place_order)")
        self._plans = {saga.definition: saga.plan for saga in sagas}
        self._services = _services(sagas)
        self._script = Script()
        self._accesses: list[Access] | None = [] if isolation else None
        self._world: _World | None = None

    async def __aenter__(self) -> Self:
        if self._world is not None:
            raise UsageError("SAGA-E603", "the sandbox is open already", "make one Sandbox for each `async with`")
        self._world = _World(self._services, self._script, self._accesses)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        world, self._world = self._world, None
        if world is not None:
            await world.close()

    @property
    def calls(self) -> list[tuple[str, CallKind]]:
        """Who was called, in order: `("charge", "action")`, `("charge", "compensation")`. May be cleared."""
        return self._script.calls

    @property
    def elapsed_s(self) -> float:
        """Virtual seconds since the sandbox was opened."""
        return self._open().elapsed_s

    @property
    def anomalies(self) -> list[Anomaly]:
        """Lost updates and dirty reads between the sagas that have run here, by `ctx.reads` and `ctx.writes`.

        Raises UsageError (SAGA-E603) where the sandbox was not made with `isolation=True`.
        """
        if self._accesses is None:
            raise UsageError(
                "SAGA-E603", "the sandbox does not record accesses", "make it with Sandbox(..., isolation=True)"
            )
        return anomalies(self._accesses)

    def fail(
        self, step: Step[Any, Any], error: Exception, *, times: int | None = None, on: CallKind = "action"
    ) -> None:
        """Let the next `times` calls of a step raise this instead of running; without `times`, all of them.

        `on="compensation"` is for the calls that take it back. What is asked for later comes when the earlier is used
        up, or instead of it where that had no `times`. Raises UsageError (SAGA-E603) for a step of no saga here.
        """
        if times is not None and times < 1:
            raise UsageError("SAGA-E111", f"times is {times}", "it is at least 1, or None for all calls")
        self._script.fail(self._place(step, on), error, times)

    def crash_before(self, step: Step[Any, Any], *, on: CallKind = "action") -> None:
        """Let the service's process die, once, when it is about to call this step, and start it again.

        All that the process was doing is lost, save what stands in its database.
        Raises UsageError (SAGA-E603) for a step of no saga here.
        """
        self._script.crash_before(self._place(step, on))

    def crash_after(self, step: Step[Any, Any], *, on: CallKind = "action") -> None:
        """Let the service's process die, once, when this step has run and nobody was told, and start it again.

        What a transactional step did is committed then. An external one is called again with the same
        `ctx.idempotency_key`. Raises UsageError (SAGA-E603) for a step of no saga here.
        """
        self._script.crash_after(self._place(step, on))

    def db(self, service: str) -> sqlite3.Connection:
        """The test's own connection to a service's database: to prepare it, and to look at effects.

        It commits every statement by itself. Raises UsageError (SAGA-E603) for a service of no saga here.
        """
        return self._open().db(service)

    async def run(
        self, saga: Saga[In, Out], input: In, *, key: str | None = None, within: float | None = None
    ) -> Completed[Out] | Compensated:
        """Run a saga, and give its outcome. The same key with the same input is the same saga.

        `within` is in virtual seconds, and 10 minutes beyond the saga's deadline unless given. Raises OutcomeTimeout
        (SAGA-E602) for a saga that has not ended then; it goes on when anything is run again. Raises UsageError
        (SAGA-E603) for a saga that was not given to the sandbox, and what `Client.start` raises for a wrong input or
        key.
        """
        world = self._open()
        if saga.definition not in self._plans:
            raise UsageError(
                "SAGA-E603", f"saga {saga.name!r} is not in this sandbox", "name it: Sandbox(place_order, this_one)"
            )
        within_s = saga.deadline + WITHIN_S if within is None else within
        return await world.run(saga, input, key, within_s)

    def _open(self) -> _World:
        if self._world is None:
            raise UsageError(
                "SAGA-E603", "the sandbox is not open", "use it within `async with Sandbox(place_order) as box:`"
            )
        return self._world

    def _place(self, step: Step[Any, Any], kind: CallKind) -> Place:
        if step not in self._services.get(step.service, ()):
            raise UsageError(
                "SAGA-E603", f"no saga of this sandbox has the step {step.title!r}", "name a step of a saga in it"
            )
        return Place(step.title, kind)


class _World:
    """What is there while a sandbox is open."""

    def __init__(
        self, services: dict[str, list[Step[Any, Any]]], script: Script, accesses: list[Access] | None
    ) -> None:
        self._services = services
        self._script = script
        self._accesses = accesses
        self._count = itertools.count()
        self._clock = Clock()
        self._began_ms = self._clock.now_ms
        self._wires = Wires(self._clock)
        self._folder = tempfile.TemporaryDirectory(prefix="sagacore-sandbox-")
        self._processes: dict[str, SandboxProcess] = {}
        self._dbs: dict[str, sqlite3.Connection] = {}
        self._events: dict[int, Event] = {}
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._instances = 0
        self._correlations = 0
        coordinator = Coordinator(slots=SLOTS, instance=self._instance(), credit=CREDIT)
        self._client = ClientCore(instance=self._instance(), credit=CREDIT, outbox_bytes=OUTBOX_BYTES)
        self._wires.connect(b"coordinator", coordinator, coordinator.receive)
        self._wires.connect(b"client", self._client, self._hear)
        for service in services:
            self._start(service)
        self._wires.pump()

    @property
    def elapsed_s(self) -> float:
        """Virtual seconds since the start."""
        return (self._clock.now_ms - self._began_ms) / 1000

    def db(self, service: str) -> sqlite3.Connection:
        """The test's connection to a service's database."""
        if service not in self._services:
            known = ", ".join(self._services)
            raise UsageError("SAGA-E603", f"no saga of this sandbox uses the service {service!r}", f"it has {known}")
        if service not in self._dbs:
            self._dbs[service] = sqlite3.connect(self._path(service), isolation_level=None)
        return self._dbs[service]

    async def run(
        self, saga: Saga[In, Out], input: In, key: str | None, within_s: float
    ) -> Completed[Out] | Compensated:
        """Start a saga, and let time go on until it has ended."""
        correlation = self._correlation()
        name = f"sandbox-{correlation}" if key is None else key
        what = f"the saga with the key {name!r}"
        wire_key, data = key_bytes(name), saga.encode_input(input)
        self._client.start(self._client.define(saga.definition), [wire_key], [data], correlation, True)  # noqa: FBT003
        self._clock.touch()
        self._clock.due_in(round(saga.deadline * 1000))
        until_ms = self._clock.now_ms + round(within_s * 1000)
        try:
            await self._until(lambda: correlation in self._events, until_ms)
        except TimeoutError:
            raise self._overdue(saga, wire_key, within_s) from None
        finally:
            self._client.forget(correlation)
        event = self._events.pop(correlation)
        if event[1] != Kind.RESULT:
            raise refusal(event, what)
        return Reader(saga).outcome(event[2], event[5])

    async def close(self) -> None:
        """End everything, and forget the databases."""
        try:
            for process in self._processes.values():
                await process.close()
            for db in self._dbs.values():
                db.close()
            self._wires.close()
        finally:
            self._folder.cleanup()

    async def _until(self, condition: Callable[[], bool], until_ms: int) -> None:
        """Let happen what happens, and time go on when nothing does. Raises TimeoutError."""
        while True:
            self._wires.pump()
            if self._failure is not None:
                raise self._failure
            if condition():
                return
            if any(process.tasks for process in self._processes.values()):
                self._changed.clear()
                await self._changed.wait()
                continue
            if self._clock.now_ms >= until_ms:
                raise TimeoutError
            self._clock.step(until_ms)
            self._wires.tick()
            await asyncio.sleep(0)

    def _hear(self, frame: bytes, now_ms: int) -> None:
        for event in self._client.receive(frame, now_ms):
            self._events[event[0]] = event
            self._clock.touch()
            self._changed.set()

    def _start(self, service: str) -> None:
        process = SandboxProcess(
            service,
            self._services[service],
            path=self._path(service),
            instance=self._instance(),
            clock=self._clock,
            script=self._script,
            recorder=self._recorder(service),
            died=self._restart,
            failed=self._fail,
            changed=self._changed.set,
        )
        self._processes[service] = process
        self._wires.connect(process.identity, process.core, process.receive)

    def _recorder(self, service: str) -> Recorder | None:
        if self._accesses is None:
            return None
        return Recorder(service, self._count.__next__, self._accesses.extend)

    def _restart(self, process: SandboxProcess) -> None:
        self._wires.disconnect(process.identity)
        self._clock.touch()
        self._start(process.service)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._changed.set()

    def _overdue(self, saga: Saga[Any, Any], key: bytes, within_s: float) -> OutcomeTimeout:
        """The error that says what a saga waits for."""
        correlation = self._correlation()
        self._client.status(correlation, key=key)
        self._wires.pump()
        event = self._events.pop(correlation, None)
        pending = ""
        if event is not None and event[1] == Kind.STATUS:
            status = status_of(event)
            pending = f": it is {status.state}" + (f" at {', '.join(status.steps)}" if status.steps else "")
        titles = {step.title for step in saga.steps}
        for place, failures in self._script.failures.items():
            if place.title in titles:
                last, times = failures.last, counted(failures.count, "time")
                pending += f"; {place.kind} of {place.title} failed {times}, at last with {type(last).__name__}: {last}"
        return OutcomeTimeout(
            "SAGA-E602",
            f"saga {saga.name!r} has not ended within {within_s:g} s of the sandbox's time{pending}",
            "compensations, and steps past the pivot, are tried until they succeed: give fail(...) a times=, or give "
            "the saga more time with within=",
        )

    def _path(self, service: str) -> str:
        return str(Path(self._folder.name, f"{service}.db"))

    def _instance(self) -> int:
        self._instances += 1
        return self._instances

    def _correlation(self) -> int:
        self._correlations += 1
        return self._correlations


def _services(sagas: tuple[Saga[Any, Any], ...]) -> dict[str, list[Step[Any, Any]]]:
    """The steps of each service. Raises DefinitionError for those that cannot be called (SAGA-E601, SAGA-E109)."""
    services: dict[str, dict[str, Step[Any, Any]]] = {}
    for step in (step for saga in sagas for step in saga.steps):
        if services.setdefault(step.service, {}).setdefault(step.name, step) is not step:
            raise DefinitionError(
                "SAGA-E109", f"the sagas have two steps {step.title!r}", "make each Service once, in one module"
            )
        lacks_undo = step.compensable and step.undo is None
        if step.implementation is None or lacks_undo:
            missing = "action" if step.implementation is None else "compensation"
            raise DefinitionError(
                "SAGA-E601",
                f"step {step.title!r} has no {missing} that the sandbox could call",
                f"import the module that implements it, or write a stand-in in the test with @{step.name}.{missing}",
            )
    return {service: list(steps.values()) for service, steps in services.items()}
