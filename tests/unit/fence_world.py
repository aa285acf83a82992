"""A small service and its fence, for the tests of fences: a ledger in the database, works as the core makes them."""

import sqlite3
from pathlib import Path

import msgspec

from sagacore import Context, Rejected, Retry, Service
from sagacore.fences import SqliteFence, Watermark
from sagacore.fences.calls import Call, Ended, Handler, Stage, Verdict
from sagacore.fences.work import Work

LOG, CLASS, CLASSES = 9, 5, 21


def told(as_of_lsn: int, mark: int, *exceptions: int, log: int = LOG, boot: int = 1) -> Watermark:
    """All sagas below a sequence have ended, save these."""
    marks = [mark if at == CLASS else 1 for at in range(CLASSES)]
    return Watermark(log, boot, as_of_lsn, marks, exceptions)


class Amount(msgspec.Struct, frozen=True):
    cents: int


class Booked(msgspec.Struct, frozen=True):
    number: int


class World:
    """The service `books`: `book` writes to the ledger, `pay` calls outside. What they do is told by the amount."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.cancelled: list[str] = []
        books = Service("books")

        @books.action(retry=Retry(tries=3, first_ms=10, last_ms=1_000), result_bytes=64)
        def book(amount: Amount, ctx: Context) -> Booked:
            self.called.append(f"book {amount.cents}")
            ctx.db.execute("insert into ledger values (?, ?)", (ctx.idempotency_key, amount.cents))
            if amount.cents < 0:
                raise Rejected("negative")
            if amount.cents == 13:
                raise ValueError("unlucky")
            if amount.cents == 14:
                ctx.db.execute("insert or rollback into ledger values (?, ?)", (ctx.idempotency_key, 0))
            if amount.cents == 15:
                ctx.db.commit()
            if amount.cents == 16:
                return Booked(2**63)
            return Booked(len(self.called))

        @book.compensation(retry=Retry(tries=3, first_ms=10, last_ms=1_000))
        def unbook(amount: Amount, booked: Booked | None, ctx: Context) -> None:
            self.called.append(f"unbook {amount.cents} {booked and booked.number}")
            ctx.db.execute("delete from ledger where key = ?", (ctx.idempotency_key,))
            if amount.cents == 17:
                raise ValueError("cannot")

        @books.action(timeout=2, retry=Retry(tries=3, first_ms=10, last_ms=1_000))
        async def pay(amount: Amount, ctx: Context) -> Booked:
            return Booked(amount.cents)

        @pay.compensation(timeout=2)
        async def repay(amount: Amount, booked: Booked | None, ctx: Context) -> None: ...

        self.service = books
        self.handlers = {
            name: Handler(step, implementation)
            for name, step, implementation in (
                ("book", book, book.implementation),
                ("unbook", book, book.undo),
                ("pay", pay, pay.implementation),
                ("repay", pay, pay.undo),
            )
            if implementation is not None
        }
        assert unbook is book
        assert repay is pay

    def call(
        self,
        name: str,
        cents: int = 100,
        *,
        sequence: int = 1,
        attempt: int = 0,
        deliveries: int = 0,
        deadline_ms: int = 0,
        phase: int = 0,
        log: int = LOG,
        place: int = 0,
        freed: tuple[tuple[bytes, int], ...] = (),
    ) -> Call:
        """A delivery, on its way to the fence."""
        handler = self.handlers[name]
        saga = sequence.to_bytes(8, "little") + bytes(8)
        amount = msgspec.msgpack.encode(Amount(cents))
        key = f"{sequence}-{attempt}-{handler.step_name}"
        judged_by = (phase, log, CLASS)
        call = (0, handler.is_undo, 0, saga, attempt, deliveries, deadline_ms, key, amount, (), 64)
        work: Work = (*call, judged_by, (place, sequence, freed, False))
        return Call(handler, work, Stage.INTENT if handler.is_external else Stage.WHOLE)


class Fenced:
    """A fence on a file, without its thread: batch by batch, at a time that the test says."""

    def __init__(self, path: Path, world: World | None = None) -> None:
        self.now_ms = 1_000_000
        self.world = world or World()
        self.fence = SqliteFence(str(path), clock=lambda: self.now_ms)
        self.fence.connect("books")
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("create table if not exists ledger (key text primary key, cents integer)")

    def do(self, *calls: Call) -> list[Ended | None]:
        """Give calls to the fence, and say how they ended; None: to be called now."""
        left = list(calls)
        while left:
            del left[: self.fence.batch(left)]
        return [call.ended for call in calls]

    def end(self, call: Call, verdict: Verdict, payload: bytes = b"", error: Exception | None = None) -> Ended:
        """Store how an external call ended."""
        call.stage, call.proposed, call.error = Stage.OUTCOME, (verdict, payload), error
        self.do(call)
        assert call.ended is not None
        return call.ended

    def ledger(self) -> list[int]:
        """What is booked."""
        return [cents for (cents,) in self.db.execute("select cents from ledger order by key")]

    def states(self) -> list[int]:
        """The rows."""
        return [state for (state,) in self.db.execute("select state from sagacore_fence order by sequence, step")]

    def close(self) -> None:
        self.db.close()
        self.fence.disconnect()
