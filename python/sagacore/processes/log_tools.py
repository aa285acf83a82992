"""A broker's log while no broker holds it: whether it is whole, what is in it, and cutting it where it is damaged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from sagacore import _core
from sagacore.errors import LogRefused

Verdict: TypeAlias = Literal["healthy", "torn", "damaged"]
Record: TypeAlias = dict[str, Any]

EXIT_STATUS: Final[dict[Verdict, int]] = {"healthy": 0, "damaged": 1, "torn": 3}
"""Of `sagacore log verify` and `dump`. 2 is an error's."""
MEANS: Final[dict[str, str]] = {
    "sealed": "the broker was stopped",
    "unclean": "the broker was killed, or still runs; a start loses nothing",
    "torn": "the last write was cut off; a start cuts it. With durability sync, nothing in it was confirmed",
    "damaged": "a start refuses it: what is missing, or wrong, was confirmed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a log is like."""

    verdict: Verdict
    means: str
    place: str
    """Where it is torn or damaged, and how; empty for a healthy one."""
    hint: str
    segments: int
    frames: int
    """With the log's own notes."""
    payload_bytes: int
    last_lsn: int
    last_time_ms: int
    """Broker time."""
    boot_epoch: int
    stray_frames: int
    """Whole frames behind the place where the log ends."""

    @property
    def exit_status(self) -> int:
        """What a command that found this ends with."""
        return EXIT_STATUS[self.verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What a repair cuts, or has cut."""

    place: str
    next_lsn: int
    """The first record that is lost."""
    lost_records: int
    """Whole records that follow the damage. The damaged ones are not counted."""


def log_refused(error: _core.LogError) -> LogRefused:
    """The error that a log's refusal means for an operator."""
    what, _, hint = str(error).partition("\nhint: ")
    return LogRefused("SAGA-E504", what, hint or "sagacore log verify shows where")


def verify(data: Path) -> Found:
    """What the log in a folder is like. Nothing is changed. Raises LogRefused (SAGA-E504) where there is none."""
    with _opened(data):
        return _found(_core.log_verify(str(data)))


def dump(
    data: Path, sink: Callable[[Record], None], *, from_lsn: int = 0, saga: str | None = None, bodies: bool = False
) -> Found:
    """Give `sink` the records of the log in a folder, from an LSN on, and of one saga only if its id is given.

    Sections of bodies are given by their size, with `bodies` by their bytes. Gives what the log is like: after the
    place where it is torn or damaged there are no records. Raises LogRefused (SAGA-E504) where there is none.
    """
    with _opened(data):
        return _found(_core.log_dump(str(data), from_lsn, saga, bodies, sink))


def repair(data: Path, *, confirmed: bool) -> Cut | None:
    """Say where the log in a folder is to be cut and, if that is `confirmed`, cut it; None where nothing is to be done.

    Raises LogRefused (SAGA-E504) where there is none, where a broker holds it, and for damage that no cut repairs.
    """
    with _opened(data):
        cut = _core.log_repair(str(data), confirmed)
    return None if cut is None else Cut(place=cut[0], **dict(cut[1]))


def _found(verified: tuple[str, str, list[tuple[str, int]]]) -> Found:
    state, reason, numbers = verified
    place, _, hint = reason.partition("\nhint: ")
    verdict: Verdict = "torn" if state == "torn" else "damaged" if state == "damaged" else "healthy"
    return Found(verdict=verdict, means=MEANS[state], place=place, hint=hint, **dict(numbers))


@contextlib.contextmanager
def _opened(data: Path) -> Iterator[None]:
    if not data.is_dir():
        raise LogRefused("SAGA-E504", f"there is no log in {data}: it is not a folder", "name the broker's --data")
    try:
        yield
    except _core.LogError as error:
        raise log_refused(error) from error
