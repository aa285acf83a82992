"""Which sagas have read or overwritten what another one had not finished with, by what handlers say that they touch.

A `Recorder` is on where somebody asked for it, and notes accesses of calls that were committed. `anomalies` is what
they mean:

- *lost update*: a saga reads, another one writes, and the first writes what it made of the old value.
- *dirty read*: a saga reads what another one wrote, and that one takes it back later.
"""

from __future__ import annotations

import bisect
import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from sagacore.errors import UsageError
from sagacore.identity import saga_id_text

AccessKind: TypeAlias = Literal["hold", "read", "write", "undo"]
AnomalyKind: TypeAlias = Literal["lost update", "dirty read"]
_NEVER: Final = 1 << 63


class Access(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that a committed call did: held, read or wrote a key, or undid its step (then there is no key)."""

    at: int
    """In order: nanoseconds of the machine's monotonic clock, or in a sandbox a count."""
    service: str
    saga: str
    attempt: int
    step: str
    kind: AccessKind
    key: str = ""


class Anomaly(msgspec.Struct, frozen=True):
    """What one saga did to another: the write of `first` was lost or taken back, `second` overwrote or read it."""

    kind: AnomalyKind
    service: str
    key: str
    first: str
    first_step: str
    second: str
    second_step: str
    held_by: tuple[str, ...]
    """Which of the two held the key."""


class Journal:
    """What one call does, until it is known whether it counts."""

    __slots__ = ("_clock", "found")

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self.found: list[tuple[int, AccessKind, str]] = []

    def note(self, kind: AccessKind, key: str = "") -> None:
        """Note that it holds, reads or writes a key, or undoes its step."""
        self.found.append((self._clock(), kind, key))


class Recorder:
    """The accesses of one process. `clock` gives the time in nanoseconds, or counts."""

    def __init__(self, service: str, clock: Callable[[], int], sink: Callable[[Sequence[Access]], None]) -> None:
        self._service: Final = service
        self._clock: Final = clock
        self._sink: Final = sink
        self._lock = threading.Lock()
        self._open: dict[tuple[bytes, int, str, bool], Journal] = {}

    def begin(self, saga: bytes, attempt: int, step: str, *, is_undo: bool) -> Journal:
        """A call begins: what an earlier try of it did was taken back."""
        journal = Journal(self._clock)
        if is_undo:
            journal.note("undo")
        with self._lock:
            self._open[saga, attempt, step, is_undo] = journal
        return journal

    def end(self, saga: bytes, attempt: int, step: str, *, is_undo: bool, counts: bool) -> None:
        """A call has ended: what it did counts, or was taken back."""
        with self._lock:
            journal = self._open.pop((saga, attempt, step, is_undo), None)
        if journal is not None and counts and journal.found:
            saga_id = saga_id_text(saga)
            self._sink(
                [Access(at, self._service, saga_id, attempt, step, kind, key) for at, kind, key in journal.found]
            )


class AccessFile:
    """A file of accesses, one JSON object a line, that several processes may append to."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises UsageError (SAGA-E506)."""
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise UsageError(
                "SAGA-E506", f"cannot write accesses to {path}: {error}", "name a file in a folder that is there"
            ) from error

    def write(self, accesses: Sequence[Access]) -> None:
        """Append them, in one write."""
        self._file.write(b"".join(msgspec.json.encode(access) + b"\n" for access in accesses))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(paths: Iterable[Path]) -> list[Access]:
    """What files of accesses say. Raises UsageError (SAGA-E506) for one that cannot be read."""
    found: list[Access] = []
    for path in paths:
        try:
            found += msgspec.json.Decoder(Access).decode_lines(path.read_bytes())
        except (OSError, msgspec.MsgspecError) as error:
            raise UsageError(
                "SAGA-E506", f"cannot read accesses from {path}: {error}", "name files of sagacore service --isolation"
            ) from error
    return found


def anomalies(accesses: Iterable[Access]) -> list[Anomaly]:
    """Lost updates and dirty reads, each pair of sagas once for a key, in order of their discovery."""
    ordered = sorted(accesses, key=lambda access: access.at)
    undone: dict[tuple[str, str, int, str], int] = {}
    by_key: dict[tuple[str, str], list[Access]] = defaultdict(list)
    holders: dict[tuple[str, str], set[str]] = defaultdict(set)
    for access in ordered:
        if access.kind == "undo":
            undone.setdefault(_step(access), access.at)
        elif access.kind == "hold":
            holders[access.service, access.key].add(access.saga)
        else:
            by_key[access.service, access.key].append(access)
    found: dict[tuple[object, ...], Anomaly] = {}
    for key, touched in by_key.items():
        for kind, first, second in itertools.chain(_lost_updates(touched, undone), _dirty_reads(touched, undone)):
            held_by = tuple(saga for saga in (first.saga, second.saga) if saga in holders[key])
            steps = (first.saga, first.step, second.saga, second.step)
            found.setdefault((kind, key, first.saga, second.saga), Anomaly(kind, *key, *steps, held_by))
    return list(found.values())


_Pair: TypeAlias = tuple[AnomalyKind, Access, Access]
_Undone: TypeAlias = dict[tuple[str, str, int, str], int]


def _lost_updates(touched: Sequence[Access], undone: _Undone) -> Iterable[_Pair]:
    """Writes of others between a saga's last read of a key and its write."""
    last_read: dict[tuple[str, int], int] = {}
    writes: list[Access] = []
    for access in touched:
        reader = access.saga, access.attempt
        if access.kind == "read":
            last_read[reader] = access.at
            continue
        if reader in last_read:
            since = bisect.bisect_right(writes, last_read[reader], key=lambda write: write.at)
            for write in writes[since:]:
                if write.saga != access.saga and not _is_undone(write, undone, access.at):
                    yield "lost update", write, access
        writes.append(access)


def _dirty_reads(touched: Sequence[Access], undone: _Undone) -> Iterable[_Pair]:
    """Reads of what another saga wrote, and took back later."""
    writes: list[Access] = []
    for access in touched:
        if access.kind == "write":
            writes.append(access)
            continue
        while writes and _is_undone(writes[-1], undone, access.at):
            writes.pop()
        if writes and writes[-1].saga != access.saga and _is_undone(writes[-1], undone, _NEVER):
            yield "dirty read", writes[-1], access


def _is_undone(write: Access, undone: _Undone, at: int) -> bool:
    """Whether a write was taken back before a time. What its compensation writes itself stands."""
    undone_at = undone.get(_step(write))
    return undone_at is not None and write.at < undone_at < at


def _step(access: Access) -> tuple[str, str, int, str]:
    return access.service, access.saga, access.attempt, access.step


def text(found: Sequence[Anomaly], accesses: int) -> str:
    """The anomalies for people."""
    lines = [_text(anomaly) for anomaly in found]
    lines.append(f"{accesses} accesses, {len(found)} anomalies")
    return "\n".join(lines)


def _text(anomaly: Anomaly) -> str:
    did = "overwrote" if anomaly.kind == "lost update" else "read"
    then = "without having read it" if anomaly.kind == "lost update" else "and it was taken back later"
    held = {0: "neither held it", 1: f"only {' '.join(anomaly.held_by)} held it", 2: "both held it"}
    return (
        f"{anomaly.kind} of {anomaly.service} {anomaly.key}: saga {anomaly.second} ({anomaly.second_step}) {did} "
        f"what saga {anomaly.first} ({anomaly.first_step}) wrote, {then}; {held[len(anomaly.held_by)]}"
    )
