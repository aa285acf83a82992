"""A fence's rows in SQLite: the schema and the statements.

```text
sagacore_fence            one row for each (saga, attempt, step) that was asked for
  log, class, sequence    which watermark it is judged by, and the saga's place in the order of age
  rest                    8 bytes: the rest of the saga's id
  state                   a `RowState`
  verdict, answer         how it ended: what repetitions are answered with
  tries                   how often the action was called; only external ones can get beyond 1
  busy_from_ms, _until_ms a call may run in this time; 0: none does
sagacore_fence_watermark  for each log of a broker: up to where all sagas of a class have ended, but the exceptions
sagacore_fence_state      one row: whose database it is
```

A row is forgotten when its saga is below the watermark that is stored here. Several processes share the database, and
one may have been paused while another stored a watermark and forgot rows: so each transaction reads what is stored, and
does nothing for what is below.

A new log of the broker, after it was wiped, has another name, and its watermark begins anew. Rows of a log that is gone
stay. Times are the machine's monotonic clock, which the processes of one machine share until it starts again.
"""

from __future__ import annotations

import enum
import json
import sqlite3
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple, TypeAlias

from sagacore.errors import FenceError
from sagacore.fences.calls import Ended, Verdict
from sagacore.fences.work import Work

VERSION: Final = 3
UPGRADED: Final = 2
"""Files of this version have no table of holds yet, and get one."""
FORGET_MAX: Final = 1_000
"""Rows forgotten in one transaction: more would hold up what is on its way."""

_STATE: Final = """create table if not exists sagacore_fence_state (
        only integer primary key check (only = 1),
        service text not null,
        version integer not null
    )"""
_SCHEMA: Final = (
    """create table if not exists sagacore_fence (
        log integer not null,
        class integer not null,
        sequence integer not null,
        rest blob not null,
        attempt integer not null,
        step text not null,
        state integer not null,
        verdict integer not null,
        answer blob,
        tries integer not null,
        busy_from_ms integer not null,
        busy_until_ms integer not null,
        primary key (log, class, sequence, rest, attempt, step)
    ) without rowid""",
    """create table if not exists sagacore_fence_watermark (
        log integer primary key,
        boot integer not null,
        as_of_lsn integer not null,
        marks text not null,
        exceptions text not null
    )""",
)
_KEY: Final = "log = ? and class = ? and sequence = ? and rest = ? and attempt = ? and step = ?"
_INSERT: Final = (
    "insert into sagacore_fence (log, class, sequence, rest, attempt, step, "
    "state, verdict, tries, busy_from_ms, busy_until_ms) "
    "values (?, ?, ?, ?, ?, ?, ?, 0, 1, ?, ?) on conflict do nothing"
)
_SETTLE: Final = (
    "update sagacore_fence set state = ?, verdict = ?, answer = ?, busy_until_ms = 0 "  # noqa: S608
    f"where {_KEY} and state = ? and coalesce(tries = ?, true)"
)
_SAVEPOINT: Final = "savepoint sagacore_rows"
_ROLLBACK_TO: Final = "rollback to sagacore_rows"
_RELEASE: Final = "release sagacore_rows"
# As plain numbers: a member of an enumeration is adapted each time that it is bound.
_INTENT: Final = 1
_DONE: Final = 2
_REJECTED: Final = 3
_UNDOING: Final = 5
_UNDONE: Final = 6


class RowState(enum.IntEnum):
    """What a row says, in the core's codes. They stand in databases and never change."""

    EMPTY = 0
    INTENT = 1
    DONE = 2
    REJECTED = 3
    TOMBSTONE = 4
    UNDOING = 5
    UNDONE = 6


class OnRun(enum.IntEnum):
    """What the core says to do with a RUN."""

    CALL = 1
    CALL_AGAIN = 2
    ANSWER_DONE = 3
    ANSWER_REJECTED = 4
    DROP = 5


class OnUndo(enum.IntEnum):
    """What the core says to do with an UNDO."""

    LEAVE_TOMBSTONE = 1
    COMPENSATE_UNCERTAIN = 2
    COMPENSATE = 3
    ANSWER_UNDONE = 4


class Watermark(NamedTuple):
    """Up to where all sagas have ended, as the core tells it."""

    log: int
    boot: int
    as_of_lsn: int
    marks: Sequence[int]
    """By class: every saga with a lower sequence has ended."""
    exceptions: Collection[int]
    """Save these."""
    shard: int = 0
    """The number of the broker that the log is of."""


RowKey: TypeAlias = tuple[int, int, int, bytes, int, str]
"""Names a row: log, class of the deadline, sequence, the rest of the saga's id, attempt, step."""


class Row(NamedTuple):
    """What a row says."""

    state: int
    verdict: int
    answer: bytes
    tries: int
    busy_from_ms: int
    busy_until_ms: int

    @staticmethod
    def tombstone() -> Row:
        """What an UNDO leaves where no action was."""
        return Row(RowState.TOMBSTONE, 0, b"", 1, 0, 0)

    @property
    def ended(self) -> Ended:
        """What a repetition is answered with."""
        return Verdict(self.verdict), self.answer

    def busy_ms(self, now_ms: int) -> int:
        """For how long a call may still run. One that began later than now ran before the machine's last start."""
        return max(self.busy_until_ms - now_ms, 0) if self.busy_from_ms <= now_ms else 0


def row_key(work: Work, step: str) -> RowKey:
    """The key of the row that a piece of work is about."""
    saga, (_, log, deadline_class) = work[3], work[11]
    return log, deadline_class, int.from_bytes(saga[:8], "little"), saga[8:], work[4], step


class Rows:
    """The rows of one connection. Every method runs within the transaction that the caller began."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._cursor = db.cursor()
        # A handler may set how its own rows look: these are plain tuples all the same.
        self._cursor.row_factory = None
        self._stored: dict[int, Watermark] = {}
        self.now_ms = 0

    def create(self, service: str, path: str) -> None:
        """Make the tables, or check that they are this service's. Raises FenceError (SAGA-E405)."""
        self._cursor.execute(_STATE)
        find = "select service, version from sagacore_fence_state"
        found = self._cursor.execute(find).fetchone()
        if found is None:
            found = (service, VERSION)
            self._cursor.execute("insert into sagacore_fence_state (only, service, version) values (1, ?, ?)", found)
        if found == (service, UPGRADED):
            found = (service, VERSION)
            self._cursor.execute("update sagacore_fence_state set version = ?", (VERSION,))
        if found != (service, VERSION):
            raise FenceError(
                "SAGA-E405",
                f"the fence in {path} is of {found[0]!r}, version {found[1]}; this is {service!r}, version {VERSION}",
                "give each service a database of its own; after an upgrade see CHANGELOG.md",
            )
        for statement in _SCHEMA:
            self._cursor.execute(statement)

    def begin(self, now_ms: int) -> None:
        """A transaction has begun: take its time, and the watermarks that are stored."""
        self.now_ms = now_ms
        find = "select log, boot, as_of_lsn from sagacore_fence_watermark"
        for log, *version in self._cursor.execute(find).fetchall():
            known = self._stored.get(log)
            if known is None or [known.boot, known.as_of_lsn] != version:
                self._stored[log] = self._read_watermark(log)

    def _read_watermark(self, log: int) -> Watermark:
        find = "select boot, as_of_lsn, marks, exceptions from sagacore_fence_watermark where log = ?"
        boot, as_of_lsn, marks, exceptions = self._cursor.execute(find, (log,)).fetchone()
        return Watermark(log, boot, as_of_lsn, json.loads(marks), frozenset(json.loads(exceptions)))

    def has_passed(self, key: RowKey) -> bool:
        """Whether the saga has ended for all that is stored: then nobody waits for an answer, and no row says more."""
        log, deadline_class, sequence = key[:3]
        told = self._stored.get(log)
        return told is not None and sequence < told.marks[deadline_class] and sequence not in told.exceptions

    def learn(self, told: Watermark) -> Watermark:
        """Store a watermark, unless what is stored is later, and give what is stored."""
        self._cursor.execute(
            "insert into sagacore_fence_watermark (log, boot, as_of_lsn, marks, exceptions) values (?, ?, ?, ?, ?) "
            "on conflict (log) do update set "
            "boot = excluded.boot, as_of_lsn = excluded.as_of_lsn, "
            "marks = excluded.marks, exceptions = excluded.exceptions "
            "where (excluded.boot, excluded.as_of_lsn) > (boot, as_of_lsn)",
            (*told[:3], json.dumps(list(told.marks)), json.dumps(list(told.exceptions))),
        )
        stored = self._stored[told.log] = self._read_watermark(told.log)
        return stored

    def forget(self, told: Watermark) -> int:
        """Delete rows that a stored watermark has passed, at most so many, and say how many."""
        return forget_passed(self._cursor, "sagacore_fence", "log, class, sequence, rest, attempt, step", told)

    def insert(self, key: RowKey, state: RowState, *, busy_ms: int = 0) -> bool:
        """Make the row, and say whether it is new: that is how a repetition is noticed, without reading first."""
        self._cursor.execute(_INSERT, (*key, int(state), *self._busy(busy_ms)))
        return self._cursor.rowcount == 1

    def intend_all(self, asked: Sequence[tuple[RowKey, int]]) -> bool:
        """Make rows of actions that are about to be called, by key and time that each may take.

        False, and nothing is made, unless all of them are new.
        """
        self._cursor.execute(_SAVEPOINT)
        self._cursor.executemany(_INSERT, [(*key, _INTENT, *self._busy(busy_ms)) for key, busy_ms in asked])
        are_new = self._cursor.rowcount == len(asked)
        if not are_new:
            self._cursor.execute(_ROLLBACK_TO)
        self._cursor.execute(_RELEASE)
        return are_new

    def forget_intent(self, key: RowKey) -> None:
        """Delete the row of an action whose try was taken back."""
        self._cursor.execute(f"delete from sagacore_fence where {_KEY} and state = ?", (*key, _INTENT))  # noqa: S608

    def _busy(self, busy_ms: int) -> tuple[int, int]:
        return (self.now_ms, self.now_ms + busy_ms) if busy_ms else (0, 0)

    def insert_ended(self, key: RowKey, ended: Ended) -> None:
        """Make the row of an action that has ended, where there is none."""
        verdict, answer = ended
        self._cursor.execute(
            "insert into sagacore_fence (log, class, sequence, rest, attempt, step, "
            "state, verdict, answer, tries, busy_from_ms, busy_until_ms) "
            "values (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 0, 0) on conflict do nothing",
            (*key, _state_of(verdict), int(verdict), answer),
        )

    def read(self, key: RowKey) -> Row | None:
        """The row, if there is one."""
        found = self._cursor.execute(
            "select state, verdict, answer, tries, busy_from_ms, busy_until_ms from sagacore_fence "  # noqa: S608
            f"where {_KEY}",
            key,
        ).fetchone()
        return None if found is None else Row(found[0], found[1], found[2] or b"", *found[3:])

    def try_again(self, key: RowKey, row: Row, *, busy_ms: int) -> None:
        """Note that the action is called once more."""
        busy_ms = max(busy_ms, row.busy_ms(self.now_ms)) if busy_ms else 0
        busy = self._busy(busy_ms)
        self._cursor.execute(
            "update sagacore_fence set tries = tries + 1, busy_from_ms = ?, busy_until_ms = ? "  # noqa: S608
            f"where {_KEY}",
            (*busy, *key),
        )

    def settle(self, key: RowKey, ended: Ended, *, only_try: int | None = None) -> bool:
        """Store how the action ended, unless the row says already. `only_try`: only if no other try began since."""
        self._cursor.execute(_SETTLE, _settling(key, ended, only_try))
        return self._cursor.rowcount == 1

    def settle_all(self, ended: Sequence[tuple[RowKey, Ended, int | None]]) -> bool:
        """Do `settle` for many, and say whether all were stored."""
        self._cursor.executemany(_SETTLE, [_settling(*one) for one in ended])
        return self._cursor.rowcount == len(ended)

    def stop_trying(self, key: RowKey, try_mark: int) -> None:
        """Note that this try runs no more, and that nobody knows what it did."""
        self._cursor.execute(
            f"update sagacore_fence set busy_until_ms = 0 where {_KEY} and state = ? and tries = ?",  # noqa: S608
            (*key, _INTENT, try_mark),
        )

    def begin_undo(self, key: RowKey) -> None:
        """Note that the compensation has begun: the action is not called again."""
        self._cursor.execute(
            f"update sagacore_fence set state = ? where {_KEY} and state = ?",  # noqa: S608
            (_UNDOING, *key, _INTENT),
        )

    def undone(self, keys: Sequence[RowKey]) -> None:
        """Note that these compensations have succeeded."""
        self._cursor.executemany(
            "update sagacore_fence set state = ?, verdict = 0, answer = null "  # noqa: S608
            f"where {_KEY} and state in (?, ?)",
            [(_UNDONE, *key, _DONE, _UNDOING) for key in keys],
        )


def _settling(key: RowKey, ended: Ended, only_try: int | None) -> tuple[object, ...]:
    verdict, answer = ended
    return (_state_of(verdict), int(verdict), answer, *key, _INTENT, only_try)


def _state_of(verdict: Verdict) -> int:
    return _DONE if verdict is Verdict.DONE else _REJECTED


def forget_passed(cursor: sqlite3.Cursor, table: str, key: str, told: Watermark) -> int:
    """Delete rows of a table that a watermark has passed, at most so many, and say how many.

    `key` names the columns of its primary key. It has columns log, class and sequence, too.
    """
    exceptions = json.dumps(list(told.exceptions))
    left = FORGET_MAX
    for deadline_class, mark in enumerate(told.marks):
        cursor.execute(
            f"delete from {table} where ({key}) in (select {key} from {table} "  # noqa: S608 (both are ours)
            "where log = ? and class = ? and sequence < ? "
            "and sequence not in (select value from json_each(?)) limit ?)",
            (told.log, deadline_class, mark, exceptions, left),
        )
        left -= cursor.rowcount
        if left == 0:
            break
    return FORGET_MAX - left
