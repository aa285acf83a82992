"""The processes of a run: started, killed, restarted, watched and stopped. None of them outlives this process."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Self

STOP_S = 5.0
"""A process that was asked to end has this long before it is killed."""
TAIL_LINES = 15
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class Died(NamedTuple):
    """A process that ended by itself, with its status and the last lines of its log."""

    name: str
    status: int
    tail: str


@dataclass(slots=True)
class _Member:
    arguments: tuple[str, ...]
    environment: dict[str, str]
    process: subprocess.Popen[bytes]


class Surroundings(NamedTuple):
    """What a process is started in: a command that runs its command, and what is added to its environment."""

    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = MappingProxyType({})


class Fleet:
    """Named processes of `python -m sagacore`, each with its log in `folder`/logs. They run in `folder`.

    `surroundings` is asked for each process by its name, whenever it is started.
    """

    def __init__(self, folder: Path, surroundings: Callable[[str], Surroundings] = lambda _: Surroundings()) -> None:
        self.folder = folder
        self._surroundings = surroundings
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._members: dict[str, _Member] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start `python -m sagacore` with these arguments under this name. Raises `OSError` if it cannot be."""
        self.start_program(name, (sys.executable, "-m", "sagacore", *arguments), environment)

    def start_program(self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start any program, by its whole command line. Raises `OSError` if it cannot be."""
        parent = os.getpid()
        around = self._surroundings(name)
        with self._log_path(name).open("ab") as log:
            process = subprocess.Popen(
                (*around.command, *arguments),
                cwd=self.folder,
                env={**os.environ, **(environment or {}), **around.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the parent alone: it stops the others in order
                preexec_fn=lambda: _die_with(parent),  # noqa: PLW1509 (it takes no lock)
            )
        self._members[name] = _Member(tuple(arguments), dict(environment or {}), process)

    def kill_and_restart(self, name: str) -> None:
        """End the process as a crash would, with no chance to say goodbye, and start it again at once."""
        member = self._members[name]
        member.process.kill()
        member.process.wait()
        self.start_program(name, member.arguments, member.environment)

    def start_again(self, name: str) -> None:
        """Start a process that has ended once more."""
        member = self._members[name]
        member.process.wait()
        self.start_program(name, member.arguments, member.environment)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal. To a process that has ended it does nothing."""
        self._members[name].process.send_signal(number)

    def status(self, name: str) -> int | None:
        """The process's exit status; None while it runs."""
        return self._members[name].process.poll()

    def kill(self, name: str) -> None:
        """End the process as a crash would, and do not start it again."""
        member = self._members.pop(name)
        member.process.kill()
        member.process.wait()

    def names(self) -> list[str]:
        """The processes in the order in which they were first started."""
        return list(self._members)

    def pid(self, name: str) -> int:
        """The process id, of the latest start."""
        return self._members[name].process.pid

    def died(self) -> Iterator[Died]:
        """The processes that have ended without having been asked to."""
        for name, member in self._members.items():
            status = member.process.poll()
            if status is not None:
                yield Died(name, status, self.tail(name))

    def tail(self, name: str, lines: int = TAIL_LINES) -> str:
        """The last lines of a process's log."""
        with contextlib.suppress(OSError):
            return "\n".join(self._log_path(name).read_text(errors="replace").splitlines()[-lines:])
        return ""

    def stop(self) -> None:
        """Ask all processes to end, the broker last, and kill those that do not. May be called twice."""
        peers = [member for name, member in self._members.items() if name.partition("-")[0] != "broker"]
        brokers = [member for member in self._members.values() if member not in peers]
        for members in (peers, brokers):
            for member in members:
                member.process.send_signal(signal.SIGTERM)
                member.process.send_signal(signal.SIGCONT)  # it may be stopped, and would not hear
            give_up_s = time.monotonic() + STOP_S
            for member in members:
                try:
                    member.process.wait(max(0.0, give_up_s - time.monotonic()))
                except subprocess.TimeoutExpired:
                    member.process.kill()
                    member.process.wait()
        self._members.clear()

    def _log_path(self, name: str) -> Path:
        return self.logs / f"{name}.log"


def _die_with(parent: int) -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has died before the line above
        os._exit(1)


def resident_bytes(pid: int) -> int:
    """The resident memory of a process. Raises `OSError` if there is none with this id."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
