"""Chaos for a deployment of one's own: kills, pauses and restarts, in the same rhythm.

A TOML file says which kinds of process there are, and how a killed one comes back: see docs/chaos.md.
"""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console

from sagacore import Client, SagacoreError
from sagacore.demo.fleet import Fleet
from sagacore.demo.ledger import Violation
from sagacore.errors import UsageError

from .events import Events, Recovery
from .injector import Injector, is_gone
from .options import ChaosOptions, Fault
from .result import Result, print_result
from .rhythm import plan_faults

MAKEABLE: Final[tuple[Fault, ...]] = ("kill", "pause", "rolling-restart")
TARGETS: Final[dict[Fault, Sequence[str]]] = {"rolling-restart": ("everything",)}
HEAL_S: Final = 60.0
"""So long after the faults no saga runs any more, or that is a violation: a saga's deadline is 30 s unless it says."""
SAMPLE_S: Final = 0.05
COMMAND_S: Final = 300.0


class Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of process: one that is started here, or one that runs already and is known by its process id."""

    start: str | None = None
    """A command line: it is started here, started again after a kill, and ended at the end."""
    pid_file: str | None = None
    """A file with the id of the process, read before each fault."""
    restart: str | None = None
    """A command line to be run after a kill; without it, whoever watches the process is expected to start it again."""


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A deployment."""

    processes: dict[str, Kind]
    endpoint: str | None = None
    """Where the broker listens: its counters show the sagas, and whether the work goes on."""
    check: str | None = None
    """A command line to be run at the end, which audits the books: a status that is not 0 is a violation."""


def read_target(path: Path) -> Target:
    """Read a TOML file. Raises UsageError (SAGA-E506) for one that cannot be used."""
    try:
        target = msgspec.convert(tomllib.loads(path.read_text()), Target)
    except (OSError, ValueError) as error:
        raise UsageError("SAGA-E506", f"{path} describes no deployment: {error}", "see docs/chaos.md") from error
    for name, kind in target.processes.items():
        if (kind.start is None) == (kind.pid_file is None):
            raise UsageError("SAGA-E506", f"the process {name} needs one of start and pid_file", "see docs/chaos.md")
    if not target.processes:
        raise UsageError("SAGA-E506", f"{path} has no processes", "see docs/chaos.md")
    return target


class Outside:
    """The processes of a target."""

    def __init__(self, target: Target, folder: Path) -> None:
        self._target = target
        self._fleet = Fleet(folder)
        self._directory = Path.cwd()
        self._restarts: list[tuple[str, subprocess.Popen[bytes]]] = []

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Start what is to be started, and end that afterwards. What ran before goes on running."""
        try:
            for name, kind in self._target.processes.items():
                if kind.start is not None:
                    self._fleet.start_program(name, in_directory(kind.start, self._directory))
            yield
        finally:
            self._fleet.stop()

    def names(self) -> Sequence[str]:
        """See `Processes`."""
        return list(self._target.processes)

    def named(self, kind: str) -> Sequence[str]:
        """See `Processes`."""
        return [kind]

    def signal(self, name: str, number: signal.Signals) -> None:
        """See `Processes`."""
        pid = self.pid(name)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def pid(self, name: str) -> int | None:
        """See `Processes`."""
        path = self._target.processes[name].pid_file
        if path is None:
            return self._fleet.pid(name) if self._fleet.status(name) is None else None
        try:
            pid = int(Path(path).read_text())
        except (OSError, ValueError):
            return None
        return None if is_gone(pid) else pid

    def start_again(self, name: str) -> None:
        """See `Processes`."""
        restart = self._target.processes[name].restart
        if name in self._fleet.names():
            self._fleet.start_again(name)
        elif restart is not None:
            with (self._fleet.logs / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(
                    shlex.split(restart), start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            self._restarts.append((name, process))

    def died(self) -> Iterator[Violation]:
        """Processes started here that have ended by themselves, and commands that could not start one again."""
        for name, status, tail in self._fleet.died():
            yield Violation("died", name, f"status {status}: {tail[-300:]}")
        for name, process in self._restarts:
            status = process.poll() or 0
            if status > 0:
                tail = self._fleet.tail(name)[-300:]
                yield Violation("died", name, f"its restart command ended with status {status}: {tail}")


def in_directory(command: str, directory: Path) -> Sequence[str]:
    """A command line that runs in a directory: the fleet's own processes run in its folder."""
    return ("env", f"--chdir={directory}", *shlex.split(command))


@dataclass(slots=True)
class Counters:
    """What the brokers counted, over their restarts, and when."""

    started: int = 0
    completed: int = 0
    compensated: int = 0
    running: int = 0
    progress_s: list[float] = field(default_factory=list)
    """When more sagas had ended than before."""
    _before: Mapping[str, int] | None = None

    def observe(self, stats: Mapping[str, Any], now_s: float) -> None:
        """Take in an answer. A broker counts from its start: what a killed one had counted last is lost."""
        before = self._before
        is_new = before is None or before["boot_epoch"] != stats["boot_epoch"]
        for name in ("started", "completed", "compensated"):
            # What was counted before the run is not of the run.
            grown = 0 if before is None else stats[name] - (0 if is_new else before[name])
            setattr(self, name, getattr(self, name) + grown)
            if grown and name != "started":
                self.progress_s.append(now_s)
        self.running = stats["running"]
        self._before = stats

    def recoveries(self, ends: Sequence[tuple[str, float]]) -> list[Recovery]:
        """From each fault's end until a saga ended."""
        firsts = ((fault, end_s, next((s for s in self.progress_s if s >= end_s), None)) for fault, end_s in ends)
        return [Recovery(fault, (first_s - end_s) * 1_000) for fault, end_s, first_s in firsts if first_s is not None]


def run(options: ChaosOptions, path: Path) -> int:
    """Run the chaos against a deployment and return its exit status: 0 if nothing was wrong."""
    console = Console(quiet=options.json)
    target = read_target(path)
    with tempfile.TemporaryDirectory(prefix="sagacore-chaos-") as folder:
        result = asyncio.run(_run_in(Path(folder), options, target, console))
    print_result(result, console)
    print(json.dumps(result.as_json()))  # noqa: T201 (it is what the command is for)
    return 0 if result.passed else 1


async def _run_in(folder: Path, options: ChaosOptions, target: Target, console: Console) -> Result:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    outside, events, counters = Outside(target, folder), Events(), Counters()
    began_s = time.monotonic()
    violations: list[Violation] = []

    def tell(text: str) -> None:
        console.print(f"{time.monotonic() - began_s:7.1f} s  {text}", highlight=False, markup=False)

    faults = [fault for fault in options.chosen if fault in MAKEABLE]
    with outside.open():
        sampling = asyncio.create_task(_sample(target.endpoint, counters))
        try:
            injector = Injector(outside, events, tell)
            await injector.run(plan_faults(options.seed, options.seconds, outside.names(), faults, TARGETS))
            await asyncio.sleep(max(0.0, began_s + options.seconds - time.monotonic()))
            tell("healing: no more faults")
            seconds, healing_s = time.monotonic() - began_s, time.monotonic()
            if target.endpoint is not None:
                violations += await _heal(counters)
            healed_s = time.monotonic() - healing_s
            violations += outside.died()
            violations += await _check(target.check)
        finally:
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
    return Result(
        seed=options.seed,
        seconds=seconds,
        events=events,
        started=counters.started,
        completed=counters.completed,
        compensated=counters.compensated,
        not_ended=counters.running,
        violations=violations,
        recoveries=counters.recoveries(events.ends),
        healed_s=healed_s,
        left_out={fault: "only for the shop" for fault in options.chosen if fault not in MAKEABLE},
    )


async def _sample(endpoint: str | None, counters: Counters) -> None:
    if endpoint is None:
        return
    async with Client(endpoint, timeout=1.0) as client:
        while True:
            with contextlib.suppress(SagacoreError):
                counters.observe(await client.stats(), time.monotonic())
            await asyncio.sleep(SAMPLE_S)


async def _heal(counters: Counters) -> list[Violation]:
    """Wait until no saga runs. Whoever starts them must have stopped by then, or start few."""
    give_up_s = time.monotonic() + HEAL_S
    await asyncio.sleep(10 * SAMPLE_S)
    while counters.running:
        if time.monotonic() > give_up_s:
            return [Violation("not-ended", "healing", f"{counters.running} sagas still run after {HEAL_S:.0f} s")]
        await asyncio.sleep(SAMPLE_S)
    return []


async def _check(command: str | None) -> list[Violation]:
    if command is None:
        return []
    process = await asyncio.create_subprocess_exec(
        *shlex.split(command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(COMMAND_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode == 0:
        return []
    text = f"{command} ended with status {process.returncode}: {output.decode(errors='replace')[-300:]}"
    return [Violation("check-failed", "check", text)]
