"""The fence in the service's own SQLite database: effect and outcome are one transaction.

One thread has the connection. It takes all that is asked for at the moment, does it in one transaction and commits
once: under load a batch shares the sync, alone nobody waits. Within the batch each call that may use the database has
its savepoint, so a handler that fails takes back its own effects and nobody else's. Rows are made before, and settled
after, a few dozen calls at once, where none of them is a repetition; else one by one.

Nothing is answered before the commit. Where the database itself fails, the whole batch is done again, from the rows,
until it works. Several processes of the service may share the file: they take turns by a lock on a file beside it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import fcntl
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from sagacore import _core
from sagacore.errors import FenceError
from sagacore.fences.calls import Call, Ended, Stage, Verdict, attempt, judge, note_failure
from sagacore.fences.hold_rows import HoldRows
from sagacore.fences.holding import Holding
from sagacore.fences.rows import FORGET_MAX, OnRun, OnUndo, Row, RowKey, Rows, RowState, Watermark, row_key
from sagacore.rejection import Rejected
from sagacore.transport import now_ms

BATCH_MAX: Final = 512
BATCH_S: Final = 0.02
"""A batch takes nothing more after this, so that other processes get their turn."""
TOGETHER_FIRST: Final = 8
"""So many calls share the statements for their rows; twice as many the next time in a batch, and so on."""
BUSY_TIMEOUT_S: Final = 5.0
RETRY_FIRST_S: Final = 0.05
RETRY_LAST_S: Final = 1.0
CLOSE_S: Final = 10.0
BUSY_SLACK_MS: Final = 500
"""A call that has timed out needs a moment to say so."""
STATEMENTS_KEPT: Final = 512
WAL_PAGES: Final = 4_096
"""Pages in the write-ahead log from which on they are copied into the database: a page that every batch changes is
copied the more often, the fewer these are."""

_ON_RUN: Final = tuple(OnRun(_core.fence_on_run(state)) for state in RowState)
_ON_UNDO: Final = tuple(OnUndo(_core.fence_on_undo(state)) for state in RowState)
# Not the handler's fault, whatever it was doing: nothing is judged until the database works again.
_DATABASE_FAILURES: Final = frozenset((sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM))
# Texts of their own: a handler that writes "commit" must not find them among the prepared statements.
_BEGIN: Final = "begin immediate /* fence */"
_COMMIT: Final = "commit /* fence */"
_ROLLBACK: Final = "rollback /* fence */"
_SAVEPOINT: Final = "savepoint sagacore_call"
_ROLLBACK_TO: Final = "rollback to sagacore_call"
_RELEASE: Final = "release sagacore_call"

log = logging.getLogger("sagacore.fence")


class TransactionLost(Exception):
    """A handler made the database roll back the whole transaction."""


class SqliteFence:
    """See the module's text. `path` is of a file that is made where it is not there."""

    in_memory: Final = False
    _synchronous = "full"

    def __init__(self, path: str, *, clock: Callable[[], int] = now_ms) -> None:
        self.path: Final = path
        self.failure: BaseException | None = None
        self._clock = clock
        self._asked: queue.SimpleQueue[Sequence[Call] | Watermark | None] = queue.SimpleQueue()
        self._waiting: collections.deque[Call] = collections.deque()
        self._told: dict[int, Watermark] = {}
        """By log. To be stored, or stored, and rows that it has passed may be left."""
        self._closing = threading.Event()
        self._alone = 0
        """So many of those that wait get a transaction each."""
        self._in_handler = False
        self._denied = False
        self._settled: list[tuple[RowKey, Ended, None]] = []
        self._undone: list[RowKey] = []
        """Actions that have taken effect, and compensations; their rows do not say so yet."""
        self._thread: threading.Thread | None = None

    def open(self, service: str, answered: Callable[[Sequence[Call]], None]) -> None:
        """Open the database and start the thread. Raises FenceError: SAGA-E404, SAGA-E405."""
        loop = asyncio.get_running_loop()
        try:
            self.connect(service)
        except (sqlite3.Error, OSError) as error:
            raise FenceError(
                "SAGA-E404",
                f"cannot open the fence in {self.path}: {error}",
                "check the path, its folder and its rights",
            ) from error

        def answer(calls: Sequence[Call]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the rows answer the next process
                loop.call_soon_threadsafe(answered, calls)

        self._thread = threading.Thread(target=self._run, args=(answer,), name="sagacore-fence", daemon=True)
        self._thread.start()

    def submit(self, calls: Sequence[Call]) -> None:
        """Ask for what each call's `stage` says."""
        self._asked.put(calls)

    def learn(self, told: Watermark) -> None:
        """Store a watermark, and forget rows that it has passed."""
        self._asked.put(told)

    def close(self) -> None:
        """End after the batch that is under way."""
        self._closing.set()
        self._asked.put(None)
        if self._thread is not None:
            self._thread.join(CLOSE_S)
            self._thread = None

    def connect(self, service: str) -> None:
        """Open the database: what `open` does before it starts the thread."""
        self._lock = os.open(f"{self.path}-fence-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._db = sqlite3.connect(
                self.path,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=STATEMENTS_KEPT,
            )
        except sqlite3.Error:
            os.close(self._lock)
            raise
        try:
            self._db.execute("pragma journal_mode = wal")
            self._db.execute(f"pragma synchronous = {self._synchronous}")
            self._db.execute(f"pragma wal_autocheckpoint = {WAL_PAGES}")
            self._db.set_authorizer(self._authorize)
            self._cursor = self._db.cursor()
            self._rows = Rows(self._db)
            self._holds = HoldRows(self._db, self._rows)
            with self._transaction():
                self._rows.create(service, self.path)
                self._holds.create()
        except BaseException:
            self.disconnect()
            raise

    def disconnect(self) -> None:
        """Close the database: what `close` does after the thread has ended."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        os.close(self._lock)

    def batch(self, calls: Sequence[Call]) -> int:
        """Do as many of the calls as one transaction takes, and say how many. Until then nothing has happened.

        Raises sqlite3.Error where the database fails, TransactionLost where a handler broke the transaction.
        """
        done = 0
        with self._transaction():
            self._rows.begin(self._clock())
            self._holds.begin()
            until_s = time.perf_counter() + BATCH_S
            together = TOGETHER_FIRST
            while done < len(calls) and (done == 0 or time.perf_counter() < until_s):
                self._together(calls[done : done + together])
                done = min(done + together, len(calls))
                together *= 2
        return done

    def forget(self, told: Watermark) -> bool:
        """Store a watermark, delete some rows that it has passed, and say whether more may be left.

        Raises sqlite3.Error.
        """
        with self._transaction():
            self._rows.begin(self._clock())
            stored = self._rows.learn(told)
            return max(self._rows.forget(stored), self._holds.forget(stored)) == FORGET_MAX

    def _run(self, answer: Callable[[Sequence[Call]], None]) -> None:
        try:
            while not self._closing.is_set():
                self._take()
                if self._waiting:
                    answer(self._work())
                for told in list(self._told.values()):
                    self._forget(told)
        except BaseException as error:
            log.critical("the fence in %s has failed", self.path, exc_info=error)
            self.failure = error
        finally:
            self.disconnect()

    def _take(self) -> None:
        """Wait until something is asked for, unless there is something to do, and take all that is."""
        if not self._waiting and not self._told:
            self._put(self._asked.get())
        with contextlib.suppress(queue.Empty):
            while len(self._waiting) < BATCH_MAX:
                self._put(self._asked.get_nowait())

    def _put(self, asked: Sequence[Call] | Watermark | None) -> None:
        if isinstance(asked, Watermark):
            self._told[asked.log] = asked
        elif asked is not None:
            self._waiting.extend(asked)

    def _work(self) -> list[Call]:
        """Do a batch until it is committed, and give its calls."""
        delay_s = RETRY_FIRST_S
        while not self._closing.is_set():
            calls = list(self._waiting) if self._alone == 0 else [self._waiting[0]]
            try:
                done = self.batch(calls)
            except TransactionLost as lost:
                if len(calls) > 1:
                    # One of them did it. Each gets a transaction of its own, so that it hits no other.
                    self._alone = len(calls)
                    continue
                if not self._refuse(calls[0], lost):
                    continue
                done = 1
            except sqlite3.Error as error:
                log.warning("the fence in %s cannot commit, and tries again in %.2f s: %s", self.path, delay_s, error)
                self._closing.wait(delay_s)
                delay_s = min(2 * delay_s, RETRY_LAST_S)
                continue
            self._alone = max(self._alone - 1, 0)
            return [self._waiting.popleft() for _ in range(done)]
        return []

    def _forget(self, told: Watermark) -> None:
        try:
            # If there may be more, what was asked for meanwhile comes first.
            if not self.forget(told):
                del self._told[told.log]
        except sqlite3.Error as error:
            del self._told[told.log]
            log.warning("the fence in %s cannot forget rows until it is told again: %s", self.path, error)

    def _refuse(self, call: Call, lost: TransactionLost) -> bool:
        """Judge a call whose handler makes the database roll back. False: the verdict needs a row, and comes again."""
        note_failure(call, lost, takes_back=True)
        if call.proposed is not None and call.proposed[0] is Verdict.GAVE_UP_CLEAN:
            call.stage = Stage.OUTCOME
            return False
        call.ended = call.proposed
        return True

    def _together(self, calls: Sequence[Call]) -> None:
        """Do some calls, with as few statements as there can be."""
        asked: list[tuple[Call, RowKey]] = []
        for call in calls:
            key = row_key(call.work, call.handler.step_name)
            if self._rows.has_passed(key):
                # Its row is forgotten, or soon will be: whatever was done for it would be done for ever.
                call.ended = Verdict.DROP, b""
            else:
                asked.append((call, key))
        actions = [(key, self._busy_ms(call)) for call, key in asked if _is_to_act(call)]
        are_apart = len({key for _, key in asked}) == len(asked)
        are_new = len(actions) > 0 and are_apart and self._rows.intend_all(actions)
        self._settled, self._undone = [], []
        for call, key in asked:
            if _is_to_act(call) and call.handler.may_hold:
                self._holds.begin_try(call.work)
            if are_new and _is_to_act(call):
                self._first_try(call, key)
            else:
                self._one(call, key)
            if not are_apart:
                self._store_ends()
        self._store_ends()

    def _store_ends(self) -> None:
        if self._settled:
            self._rows.settle_all(self._settled)
        if self._undone:
            self._rows.undone(self._undone)
        self._settled, self._undone = [], []

    def _first_try(self, call: Call, key: RowKey) -> None:
        """Do an action whose row was just made."""
        call.ended = call.error = None
        call.was_tried = False
        call.try_mark = 1
        if call.stage is Stage.INTENT:
            return
        if not call.handler.uses_database:
            self._call(call, key, row_is_outside=True)
            return
        self._cursor.execute(_SAVEPOINT)
        self._call(call, key, row_is_outside=True)
        self._cursor.execute(_RELEASE)

    def _one(self, call: Call, key: RowKey) -> None:
        if call.stage is Stage.OUTCOME:
            self._outcome(call, key)
            return
        call.ended = call.error = None
        if call.stage is Stage.WHOLE:
            self._cursor.execute(_SAVEPOINT)
        may_call = self._may_compensate(call, key) if call.handler.is_undo else self._may_act(call, key)
        if call.stage is Stage.WHOLE:
            if may_call:
                self._call(call, key)
            self._cursor.execute(_RELEASE)

    def _may_act(self, call: Call, key: RowKey) -> bool:
        """Decide on a RUN: whether the action is to be called. Else the call has ended."""
        busy_ms = self._busy_ms(call)
        call.was_tried = False
        call.try_mark = 1
        if self._rows.insert(key, RowState.INTENT, busy_ms=busy_ms):
            return True
        row = self._row(key)
        decision = _ON_RUN[row.state]
        if decision in (OnRun.CALL, OnRun.CALL_AGAIN):
            self._rows.try_again(key, row, busy_ms=busy_ms)
            call.was_tried = True
            call.try_mark = row.tries + 1
            return True
        call.ended = _answer(row)
        return False

    def _may_compensate(self, call: Call, key: RowKey) -> bool:
        """Decide on an UNDO: whether the compensation is to be called. Else the call has ended."""
        is_new = self._rows.insert(key, RowState.TOMBSTONE)
        row = Row.tombstone() if is_new else self._row(key)
        decision = _ON_UNDO[row.state]
        if decision is OnUndo.ANSWER_UNDONE:
            self._holds.undone(call.work)
            call.ended = Verdict.UNDONE, b""
            return False
        # The core knows what runs in this process. Another one that shares the database may be at the action.
        busy_ms = row.busy_ms(self._rows.now_ms)
        if row.state == RowState.INTENT and busy_ms > 0:
            call.ended = Verdict.RETRY, b"%d its action may still be running" % busy_ms
            return False
        if row.state == RowState.INTENT:
            self._rows.begin_undo(key)
        call.give_result(row.answer if decision is OnUndo.COMPENSATE else None)
        return True

    def _call(self, call: Call, key: RowKey, *, row_is_outside: bool = False) -> None:
        """Call a handler between its savepoint and its outcome. The row may have been made before the savepoint."""
        if call.handler.may_hold:
            call.holding = Holding(self._holds, call.work, call.handler.title, call.handler.waiting)
        self._in_handler, self._denied = True, False
        try:
            attempt(call, self._db)
        finally:
            self._in_handler = False
        error = call.error
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _DATABASE_FAILURES:
            raise error
        if not self._db.in_transaction:
            raise TransactionLost("the database rolled back the transaction that the handler was in") from error
        if call.is_stopped:
            self._stopped(call, key, row_is_outside=row_is_outside)
            return
        if error is None:
            self._succeeded(call, key)
            return
        if self._denied and isinstance(error, sqlite3.DatabaseError):
            call.error = error = _ended_transaction(call, error)
        if call.handler.uses_database or not row_is_outside:
            self._cursor.execute(_ROLLBACK_TO)
        call.ended = judge(call, error, takes_back=True)
        if row_is_outside:
            self._rows.forget_intent(key)
        if call.handler.is_undo:
            self._rows.begin_undo(key)
        elif call.ended[0] in (Verdict.REJECTED, Verdict.GAVE_UP_CLEAN):
            self._rows.insert_ended(key, call.ended)

    def _stopped(self, call: Call, key: RowKey, *, row_is_outside: bool) -> None:
        """Take back all that a call did which has to wait, and note what it waits for, or that it never will act."""
        assert call.holding is not None
        assert call.proposed is not None
        self._cursor.execute(_ROLLBACK_TO)
        if row_is_outside:
            self._rows.forget_intent(key)
        if call.holding.claim is not None:
            self._holds.claim(call.holding.claim, call.work)
        else:
            self._rows.insert_ended(key, call.proposed)
        call.ended = call.proposed

    def _succeeded(self, call: Call, key: RowKey) -> None:
        assert call.proposed is not None
        call.ended = call.proposed
        if call.handler.is_undo:
            self._undone.append(key)
            self._holds.undone(call.work)
        else:
            self._settled.append((key, call.proposed, None))

    def _outcome(self, call: Call, key: RowKey) -> None:
        """Store how an external call ended. The row may say otherwise meanwhile, and is right."""
        assert call.proposed is not None
        call.ended = call.proposed
        verdict = call.proposed[0]
        if call.handler.is_undo:
            if verdict is Verdict.UNDONE:
                self._rows.undone([key])
                self._holds.undone(call.work)
            return
        if verdict not in (Verdict.DONE, Verdict.REJECTED, Verdict.GAVE_UP_CLEAN):
            self._rows.stop_trying(key, call.try_mark)
            return
        only_try = None if verdict is Verdict.DONE else call.try_mark
        if self._rows.settle(key, call.proposed, only_try=only_try):
            return
        row = self._rows.read(key)
        if row is None:
            # The database rolled back the transaction that the row was in.
            self._rows.insert_ended(key, call.proposed)
        elif row.state == RowState.INTENT:
            # Another process has begun the next try: who can tell whether that one takes effect?
            call.was_tried = True
            call.ended = judge(call, call.error or Rejected())
        else:
            call.ended = _answer(row)

    def _row(self, key: RowKey) -> Row:
        row = self._rows.read(key)
        if row is None:
            raise sqlite3.IntegrityError(f"row {key} cannot be inserted and is not there")
        return row

    def _busy_ms(self, call: Call) -> int:
        return 0 if call.stage is Stage.WHOLE else round(call.handler.timeout_s * 1000) + BUSY_SLACK_MS

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """One transaction, in this process's turn; rolled back unless it ends well."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            self._db.execute(_BEGIN)
            yield
            self._db.execute(_COMMIT)
        finally:
            try:
                if self._db.in_transaction:
                    self._db.execute(_ROLLBACK)
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _authorize(self, action: int, _operation: str | None, name: str | None, *_: str | None) -> int:
        """Keep handlers from ending the transaction, or the savepoint, that they are in."""
        is_ours = action == sqlite3.SQLITE_TRANSACTION or (
            action == sqlite3.SQLITE_SAVEPOINT and name == "sagacore_call"
        )
        if self._in_handler and is_ours:
            self._denied = True
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK


def _is_to_act(call: Call) -> bool:
    return call.stage is not Stage.OUTCOME and not call.handler.is_undo


def _answer(row: Row) -> Ended:
    """What a repeated RUN is answered with."""
    return (Verdict.DROP, b"") if _ON_RUN[row.state] is OnRun.DROP else row.ended


def _ended_transaction(call: Call, error: Exception) -> FenceError:
    ended = FenceError(
        "SAGA-E406",
        f"{call.handler.title} tried to begin or end a transaction on ctx.db",
        "leave commit(), rollback() and `with ctx.db:` out: effect and outcome are committed together, after the call",
    )
    ended.__cause__ = error
    return ended
