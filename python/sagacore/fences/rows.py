"""A fence's rows in SQLite: the schema, the statements, and the fence's clock.

```text
sagacore_fence         one row for each (saga, attempt, step) that was asked for
  saga                 16 bytes, its sequence big-endian: rows of one age lie side by side
  state                a `RowState`
  verdict, answer      how it ended: what repetitions are answered with
  tries                how often the action was called; only external ones can get beyond 1
  busy_until_ms        a call may run until then; 0: none does
  expires_ms           the row is forgotten then
sagacore_fence_state   one row: whose database it is, and the clock
```

Times in rows are the fence's own. Its clock runs only while a process of the service is connected, as the broker's
stands still while the broker is down: no outage of either lets a row expire. Several processes of one machine share the
database, and so the clock.
"""

from __future__ import annotations

import enum
import sqlite3
from typing import Final, NamedTuple

from sagacore.errors import FenceError
from sagacore.fences.calls import Ended, Verdict

VERSION: Final = 1
CLOCK_GAP_MS: Final = 5_000
"""A longer silence counts as time in which nobody was connected."""
CLOCK_STEP_MS: Final = 1_000
"""How far the clock may run ahead of what the database says."""
FORGET_MAX: Final = 500
"""Rows forgotten in one transaction: more would hold up what is on its way."""

_SCHEMA: Final = (
    """create table if not exists sagacore_fence_state (
        only integer primary key check (only = 1),
        service text not null,
        version integer not null,
        clock_ms integer not null,
        seen_ms integer not null
    )""",
    """create table if not exists sagacore_fence (
        saga blob not null,
        attempt integer not null,
        step text not null,
        state integer not null,
        verdict integer not null,
        answer blob,
        tries integer not null,
        busy_until_ms integer not null,
        expires_ms integer not null,
        primary key (saga, attempt, step)
    ) without rowid""",
    "create index if not exists sagacore_fence_expiry on sagacore_fence (expires_ms)",
)


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


class RowKey(NamedTuple):
    """Names a row."""

    saga: bytes
    attempt: int
    step: str


class Row(NamedTuple):
    """What a row says."""

    state: int
    verdict: int
    answer: bytes
    tries: int
    busy_until_ms: int

    @property
    def ended(self) -> Ended:
        """What a repetition is answered with."""
        return Verdict(self.verdict), self.answer


def row_key(saga: bytes, attempt: int, step: str) -> RowKey:
    """The key of a row, from the saga's id as it is on the wire."""
    return RowKey(saga[7::-1] + saga[8:], attempt, step)


class Rows:
    """The rows of one connection. Every method runs within the transaction that the caller began."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._cursor = db.cursor()
        # A handler may set how its own rows look: these are plain tuples all the same.
        self._cursor.row_factory = None
        self.clock_ms = 0

    def create(self, service: str, path: str) -> None:
        """Make the tables, or check that they are this service's. Raises FenceError (SAGA-E405)."""
        for statement in _SCHEMA:
            self._cursor.execute(statement)
        self._cursor.execute(
            "insert into sagacore_fence_state (only, service, version, clock_ms, seen_ms) values (1, ?, ?, 1, 0) "
            "on conflict do nothing",
            (service, VERSION),
        )
        found = self._cursor.execute("select service, version from sagacore_fence_state").fetchone()
        if found != (service, VERSION):
            raise FenceError(
                "SAGA-E405",
                f"the fence in {path} is of {found[0]!r}, version {found[1]}; this is {service!r}, version {VERSION}",
                "give each service a database of its own; after an upgrade see CHANGELOG.md",
            )

    def read_clock(self, now_ms: int) -> None:
        """Take the time of this transaction, and let the clock run on."""
        clock_ms, seen_ms = self._cursor.execute("select clock_ms, seen_ms from sagacore_fence_state").fetchone()
        passed_ms = now_ms - seen_ms
        is_gap = not 0 <= passed_ms <= CLOCK_GAP_MS
        self.clock_ms = clock_ms if is_gap else clock_ms + passed_ms
        if is_gap or passed_ms >= CLOCK_STEP_MS:
            self._cursor.execute("update sagacore_fence_state set clock_ms = ?, seen_ms = ?", (self.clock_ms, now_ms))

    def insert(self, key: RowKey, state: RowState, *, lives_ms: int, busy_ms: int = 0) -> bool:
        """Make the row, and say whether it is new: that is how a repetition is noticed, without reading first."""
        self._cursor.execute(
            "insert into sagacore_fence (saga, attempt, step, state, verdict, tries, busy_until_ms, expires_ms) "
            "values (?, ?, ?, ?, 0, 1, ?, ?) on conflict do nothing",
            (*key, state, self.clock_ms + busy_ms if busy_ms else 0, self.clock_ms + lives_ms),
        )
        return self._cursor.rowcount == 1

    def insert_ended(self, key: RowKey, ended: Ended, *, lives_ms: int) -> None:
        """Make the row of an action that has ended, where there is none."""
        verdict, answer = ended
        self._cursor.execute(
            "insert into sagacore_fence "
            "(saga, attempt, step, state, verdict, answer, tries, busy_until_ms, expires_ms) "
            "values (?, ?, ?, ?, ?, ?, 1, 0, ?) on conflict do nothing",
            (*key, _state_of(verdict), verdict, answer, self.clock_ms + lives_ms),
        )

    def read(self, key: RowKey) -> Row | None:
        """The row, if there is one."""
        found = self._cursor.execute(
            "select state, verdict, answer, tries, busy_until_ms from sagacore_fence "
            "where saga = ? and attempt = ? and step = ?",
            key,
        ).fetchone()
        return None if found is None else Row(found[0], found[1], found[2] or b"", found[3], found[4])

    def try_again(self, key: RowKey, *, busy_ms: int, lives_ms: int) -> None:
        """Note that the action is called once more."""
        self._cursor.execute(
            "update sagacore_fence set tries = tries + 1, busy_until_ms = max(busy_until_ms, ?), "
            "expires_ms = max(expires_ms, ?) where saga = ? and attempt = ? and step = ?",
            (self.clock_ms + busy_ms, self.clock_ms + lives_ms, *key),
        )

    def settle(self, key: RowKey, ended: Ended, *, only_try: int | None = None) -> bool:
        """Store how the action ended, unless the row says already. `only_try`: only if no other try began since."""
        verdict, answer = ended
        self._cursor.execute(
            "update sagacore_fence set state = ?, verdict = ?, answer = ?, busy_until_ms = 0 "
            "where saga = ? and attempt = ? and step = ? and state = ? and coalesce(tries = ?, true)",
            (_state_of(verdict), verdict, answer, *key, RowState.INTENT, only_try),
        )
        return self._cursor.rowcount == 1

    def stop_trying(self, key: RowKey, try_mark: int) -> None:
        """Note that this try runs no more, and that nobody knows what it did."""
        self._cursor.execute(
            "update sagacore_fence set busy_until_ms = 0 "
            "where saga = ? and attempt = ? and step = ? and state = ? and tries = ?",
            (*key, RowState.INTENT, try_mark),
        )

    def begin_undo(self, key: RowKey, *, lives_ms: int) -> None:
        """Note that the compensation has begun: the action is not called again, and the row lives on."""
        self._cursor.execute(
            "update sagacore_fence set state = case state when ? then ? else state end, "
            "expires_ms = max(expires_ms, ?) where saga = ? and attempt = ? and step = ?",
            (RowState.INTENT, RowState.UNDOING, self.clock_ms + lives_ms, *key),
        )

    def undone(self, key: RowKey) -> None:
        """Note that the compensation has succeeded."""
        self._cursor.execute(
            "update sagacore_fence set state = ?, verdict = 0, answer = null "
            "where saga = ? and attempt = ? and step = ? and state in (?, ?)",
            (RowState.UNDONE, *key, RowState.DONE, RowState.UNDOING),
        )

    def forget(self) -> int:
        """Delete rows that have expired, at most so many at a time, and say how many."""
        self._cursor.execute(
            "delete from sagacore_fence where (saga, attempt, step) in "
            "(select saga, attempt, step from sagacore_fence where expires_ms < ? order by expires_ms limit ?)",
            (self.clock_ms, FORGET_MAX),
        )
        return self._cursor.rowcount


def _state_of(verdict: Verdict) -> RowState:
    return RowState.DONE if verdict is Verdict.DONE else RowState.REJECTED
