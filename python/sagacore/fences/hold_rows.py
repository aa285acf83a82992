"""What sagas hold, in SQLite, beside the fence's rows: the schema, the rules and the statements.

```text
sagacore_hold             one row for each thing that a step of a saga holds, or waits for
  resource                its name
  age, saga, attempt      whose it is; the lower the age, the older the saga
  place                   the number of the step in its plan
  log, class, sequence    which watermark it is judged by, and the saga's place in the order of age
  mode, amount            a `Mode`; of a counted resource so many, else 1
  granted                 1: it is held. 0: a claim, of a call that was made to wait
```

The core's table in memory keeps the same rules: a hold is granted if it is compatible with all that other sagas hold,
and with the claims of older ones; of these the last is named, since the others stand before it. What a saga has it is
given again, whoever waits for it. What a saga that has ended left behind is in the way until somebody asks: the broker
then says that the saga is over, and the call that tries again deletes what it left.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from sagacore.errors import UsageError
from sagacore.fences.holding import Holder, holder
from sagacore.fences.rows import Rows, Watermark, forget_passed
from sagacore.fences.work import Work
from sagacore.holds import Hold, Mode
from sagacore.limits import HOLDERS_NAMED_MAX

_SCHEMA: Final = (
    """create table if not exists sagacore_hold (
        resource text not null,
        age integer not null,
        saga blob not null,
        attempt integer not null,
        place integer not null,
        log integer not null,
        class integer not null,
        sequence integer not null,
        mode integer not null,
        amount integer not null,
        granted integer not null,
        primary key (resource, age, saga, attempt, place)
    ) without rowid""",
    "create index if not exists sagacore_hold_saga on sagacore_hold (sequence, saga)",
    "create index if not exists sagacore_hold_granted on sagacore_hold (resource) where granted = 1",
)
_ROW: Final = "select age, saga, attempt, place, log, class, sequence, mode, amount, granted from sagacore_hold"
_FIND: Final = f"{_ROW} where resource = ? and (granted = 1 or (age, saga) < (?, ?)) order by age, saga, attempt, place"
# Where thousands wait for one thing, who asks for all of it need not read them: only the last one is in its way.
_LAST_CLAIMS: Final = 4
_FIND_GRANTED: Final = f"{_ROW} where resource = ? and granted = 1"
_FIND_LAST: Final = (
    f"{_ROW} where resource = ? and granted = 0 and (age, saga) < (?, ?) "
    f"order by age desc, saga desc, attempt desc, place desc limit {_LAST_CLAIMS}"
)
_COLUMNS: Final = "(resource, age, saga, attempt, place, log, class, sequence, mode, amount, granted)"
_VALUES: Final = "values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
# Asked for again in the same call: it is not less than it was.
_GRANT: Final = (
    f"insert into sagacore_hold {_COLUMNS} {_VALUES} on conflict do update set "
    "mode = iif(mode = 0, 0, excluded.mode), amount = max(amount, excluded.amount)"
)
_CLAIM: Final = f"insert or replace into sagacore_hold {_COLUMNS} {_VALUES}"
_OF_STEP: Final = "delete from sagacore_hold where sequence = ? and saga = ? and attempt = ? and place = ?"


class Row(NamedTuple):
    """What a step holds, or waits for."""

    age: int
    saga: bytes
    attempt: int
    place: int
    log: int
    deadline_class: int
    sequence: int
    mode: int
    amount: int
    granted: int

    @property
    def holder(self) -> Holder:
        """Whose it is, as the broker is told."""
        return self.saga, self.attempt, self.place

    def covers(self, hold: Hold, own: Holder) -> bool:
        """Whether who has this is given a hold again, whoever waits for it."""
        if self.mode == Mode.COUNTED:
            return hold.mode is Mode.COUNTED and self.holder == own and self.amount >= hold.amount
        return self.mode == Mode.EXCLUSIVE or hold.mode is Mode.SHARED


class HoldRows:
    """The holds of one connection. Every method runs within the transaction that the caller began."""

    def __init__(self, db: sqlite3.Connection, rows: Rows) -> None:
        self._cursor = db.cursor()
        # A handler may set how its own rows look: these are plain tuples all the same.
        self._cursor.row_factory = None
        self._rows = rows
        self._is_empty = True

    def create(self) -> None:
        """Make the table where it is not there."""
        for statement in _SCHEMA:
            self._cursor.execute(statement)

    def begin(self) -> None:
        """A transaction has begun: note whether there is anything, since mostly there is not."""
        self._is_empty = self._cursor.execute("select 1 from sagacore_hold limit 1").fetchone() is None

    def begin_try(self, work: Work) -> None:
        """A call is about to be made: what it waited for is over, and so are its saga's earlier attempts.

        What this step claims is claimed anew if it must be.
        """
        if self._is_empty:
            return
        for saga, attempt in (*work[12][2], (work[3], work[4] - 1)):
            of_saga = "delete from sagacore_hold where sequence = ? and saga = ? and attempt <= ?"
            self._cursor.execute(of_saga, (_sequence(saga), saga, attempt))
        self._cursor.execute(f"{_OF_STEP} and granted = 0", _step(work))

    def take(self, hold: Hold, work: Work, *, waits: bool) -> Sequence[Holder]:
        """See `HoldStore`. A claim is made with `claim`, when all that the call did was taken back.

        Raises UsageError (SAGA-E410) where the saga would hold more of a pool than there is.
        """
        del waits
        in_the_way = _in_the_way(hold, holder(work), self._find(hold, work))
        if not in_the_way:
            self._cursor.execute(_GRANT, _values(hold, work, granted=1))
            self._is_empty = False
        return [row.holder for row in in_the_way[:HOLDERS_NAMED_MAX]]

    def _find(self, hold: Hold, work: Work) -> list[Row]:
        """What others hold of it, and the claims of older ones that matter; not what a watermark has passed."""
        asked = (hold.resource, work[12][1], work[3])
        if hold.mode is Mode.EXCLUSIVE:
            granted = list(map(Row._make, self._cursor.execute(_FIND_GRANTED, asked[:1])))
            last = list(map(Row._make, self._cursor.execute(_FIND_LAST, asked)))
            live = [row for row in last if not self._has_passed(row)]
            if live or len(last) < _LAST_CLAIMS:
                return [row for row in granted if not self._has_passed(row)] + live[:1]
        return [row for row in map(Row._make, self._cursor.execute(_FIND, asked)) if not self._has_passed(row)]

    def claim(self, hold: Hold, work: Work) -> None:
        """Note what a call waits for: younger sagas do not get it before."""
        self._cursor.execute(_CLAIM, _values(hold, work, granted=0))
        self._is_empty = False

    def undone(self, work: Work) -> None:
        """Delete what a step holds that is compensated in this transaction, or will never act."""
        if not self._is_empty:
            self._cursor.execute(_OF_STEP, _step(work))

    def forget(self, told: Watermark) -> int:
        """Delete rows of sagas that a watermark has passed, at most so many, and say how many."""
        return forget_passed(self._cursor, "sagacore_hold", "resource, age, saga, attempt, place", told)

    def _has_passed(self, row: Row) -> bool:
        return self._rows.has_passed((row.log, row.deadline_class, row.sequence, b"", 0, ""))


def _in_the_way(hold: Hold, own: Holder, rows: Sequence[Row]) -> list[Row]:
    """Those that hold what a hold is not compatible with, and the last one of the older claims that it is not.

    The other claims stand before that one. Raises UsageError (SAGA-E410) for more of a pool than there is.
    """
    if any(row.saga == own[0] and row.granted and row.covers(hold, own) for row in rows):
        return []
    others = [row for row in rows if row.saga != own[0]]
    not_beside = [row for row in others if row.mode != hold.mode]
    if hold.mode is Mode.EXCLUSIVE:
        not_beside = others
    elif hold.mode is Mode.COUNTED:
        at_other_steps = (row for row in rows if row.saga == own[0] and row.granted and row.holder != own)
        wanted = hold.amount + sum(row.amount for row in at_other_steps if row.mode == Mode.COUNTED)
        if wanted > hold.of:
            raise UsageError(
                "SAGA-E410",
                f"with what it holds already, a saga would have {wanted} of {hold.of} of {hold.resource!r}",
                "waiting makes no more of it: ask for less, or say a larger of=",
            )
        if wanted + sum(row.amount for row in others if row.mode == Mode.COUNTED) > hold.of:
            not_beside = others
    claims = [row for row in not_beside if not row.granted]
    return [row for row in not_beside if row.granted] + claims[-1:]


def _sequence(saga: bytes) -> int:
    return int.from_bytes(saga[:8], "little")


def _step(work: Work) -> tuple[int, bytes, int, int]:
    return _sequence(work[3]), *holder(work)


def _values(hold: Hold, work: Work, *, granted: int) -> tuple[object, ...]:
    saga, (_, log, deadline_class) = work[3], work[11]
    whose = (work[12][1], *holder(work), log, deadline_class, _sequence(saga))
    return (hold.resource, *whose, int(hold.mode), hold.amount, granted)
