"""The fence in SQLite under any order of deliveries, repetitions, failures and crashes, in two processes that share it.

The ledger stands for effects within the transaction, the gateway for effects outside. Whatever happens, an effect is
there at most once, an undo that was answered leaves nothing behind, and no action is called after its compensation.
A saga may end while one of the processes is paused: what that one still has in hand does nothing, and leaves no row.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sagacore import Rejected
from sagacore.fences.calls import Call, Ended, Verdict, judge
from sagacore.fences.work import Work
from tests.unit.fence_world import Booked, Fenced, World, told

SAGAS = (1, 2)
TIMEOUT_MS = 2_500
# A disk that syncs would take a minute; that a sync is asked for is shown elsewhere, with a process that is killed.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 (a folder of its own is made there)


class Killed(BaseException):
    """The process is gone."""


class Bank:
    """The gateway: knows keys, charges each once, and never one that was cancelled."""

    def __init__(self) -> None:
        self.charged: set[str] = set()
        self.refunded: set[str] = set()
        self.cancelled: set[str] = set()

    def charge(self, key: str) -> None:
        assert key not in self.cancelled, "the action was called after its compensation"
        self.charged.add(key)

    def refund(self, key: str) -> None:
        self.cancelled.add(key)
        if key in self.charged:
            self.refunded.add(key)


class Run:
    """Two processes on one file; what they answer is checked as it comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_ms = 1_000_000
        self.world = World()
        self.bank = Bank()
        self.processes = [self.start(), self.start()]
        self.calls: list[dict[tuple[str, int], Call]] = [{}, {}]
        self.answers: dict[tuple[str, int], Ended] = {}
        self.undone: set[tuple[str, int]] = set()
        self.ended: set[int] = set()
        handler = self.world.handlers["book"]
        self.start_book = handler.start
        self.is_killing = False
        setattr(handler, "start", self.book)  # noqa: B010 (a method is replaced)

    def start(self) -> Fenced:
        fenced = Fenced(self.path, self.world)
        fenced.now_ms = self.now_ms
        return fenced

    def book(self, work: Work, db: Any = None, holding: Any = None) -> Any:
        value = self.start_book(work, db, holding)
        if self.is_killing:
            raise Killed
        return value

    def kill(self, at: int) -> None:
        self.processes[at].close()
        self.processes[at] = self.start()
        self.calls[at].clear()

    def transact(self, at: int, name: str, saga: int, cents: int, *, is_killing: bool) -> None:
        call = self.world.call(name, cents, sequence=saga, deliveries=2 if cents == 13 else 0)
        self.is_killing = is_killing
        try:
            [ended] = self.processes[at].do(call)
        except Killed:
            self.kill(at)
            return
        assert ended is not None
        self.answered("book", saga, ended)

    def begin(self, at: int, name: str, saga: int) -> None:
        step = (name, saga)
        running = self.calls[at]
        if ("pay", saga) in running or ("repay", saga) in running:
            return  # the core of that process sees to it
        call = self.world.call(name, sequence=saga)
        [ended] = self.processes[at].do(call)
        if ended is None:
            running[step] = call
        else:
            self.answered("pay", saga, ended)

    def end(self, at: int, how: Verdict) -> None:
        if not self.calls[at]:
            return
        (name, saga), call = self.calls[at].popitem()
        fenced = self.processes[at]
        if saga in self.ended:
            ended = fenced.end(call, how, b"10 down" if how is Verdict.RETRY else b"")
        elif name == "repay":
            self.bank.refund(call.work[7])
            ended = fenced.end(call, Verdict.UNDONE)
        elif how is Verdict.DONE:
            self.bank.charge(call.work[7])
            ended = fenced.end(call, Verdict.DONE, msgspec.msgpack.encode(Booked(saga)))
        elif how is Verdict.REJECTED and call.work[7] not in self.bank.charged:
            error = Rejected("no")
            ended = fenced.end(call, *judge(call, error), error)
        else:
            ended = fenced.end(call, Verdict.RETRY, b"10 down")
        self.answered("pay", saga, ended)

    def charge_and_die(self, at: int) -> None:
        for (name, saga), call in self.calls[at].items():
            if name == "pay" and saga not in self.ended:
                self.bank.charge(call.work[7])
        self.kill(at)

    def pass_time(self) -> None:
        """Long enough for every call that runs to time out."""
        for at in (0, 1):
            while self.calls[at]:
                self.end(at, Verdict.RETRY)
        self.now_ms += TIMEOUT_MS
        for fenced in self.processes:
            fenced.now_ms = self.now_ms

    def finish(self, at: int) -> None:
        """The first saga is undone and ends, all by one process; the other one is paused."""
        saga = SAGAS[0]
        self.calls[at].clear()
        self.now_ms += TIMEOUT_MS
        self.processes[at].now_ms = self.now_ms
        self.transact(at, "unbook", saga, 5, is_killing=False)
        self.begin(at, "repay", saga)
        self.end(at, Verdict.DONE)
        if {("book", saga), ("pay", saga)} <= self.undone:
            self.ended.add(saga)
            self.processes[at].fence.forget(told(1, saga + 1))

    def answered(self, step: str, saga: int, ended: Ended) -> None:
        verdict = ended[0]
        if saga in self.ended:
            assert verdict is Verdict.DROP, "its saga has ended"
            return
        if verdict is Verdict.UNDONE:
            self.undone.add((step, saga))
        if verdict in (Verdict.DONE, Verdict.REJECTED, Verdict.GAVE_UP_CLEAN):
            assert self.answers.setdefault((step, saga), ended) == ended, "a repetition was answered otherwise"

    def check(self) -> None:
        if self.ended:
            rows = self.processes[0].db.execute("select count(*) from sagacore_fence where sequence = ?", (SAGAS[0],))
            assert rows.fetchone() == (0,), "the row of an ended saga is there again"
        booked = [key for (key,) in self.processes[0].db.execute("select key from ledger")]
        for saga in SAGAS:
            is_booked = f"{saga}-0-book" in booked
            answer = self.answers.get(("book", saga))
            if ("book", saga) in self.undone or (answer is not None and answer[0] is not Verdict.DONE):
                assert not is_booked
            elif answer is not None:
                assert is_booked
            key = f"{saga}-0-pay"
            if ("pay", saga) in self.undone:
                assert (key in self.bank.charged) == (key in self.bank.refunded)
            if self.answers.get(("pay", saga), (None,))[0] is Verdict.REJECTED:
                assert key not in self.bank.charged

    def close(self) -> None:
        for fenced in self.processes:
            fenced.close()


process = st.sampled_from((0, 1))
saga = st.sampled_from(SAGAS)
verdict = st.sampled_from((Verdict.DONE, Verdict.REJECTED, Verdict.RETRY))
begin = st.tuples(st.just("begin"), process, st.sampled_from(("pay", "repay")), st.just(1))
end = st.tuples(st.just("end"), process, verdict)
# The races are those of two processes at one step: so there is much of that.
operation = st.one_of(
    st.tuples(st.just("transact"), process, st.sampled_from(("book", "book", "unbook")), saga, st.booleans()),
    begin,
    begin,
    begin,
    end,
    end,
    st.tuples(st.just("charge_and_die"), process),
    st.tuples(st.just("pass_time")),
    st.tuples(st.just("finish"), process),
)


# Rare by chance: the undo arrives at one process while the other is at the action.
BESIDE = [("begin", 0, "pay", 1), ("begin", 1, "repay", 1), ("end", 1, Verdict.DONE), ("end", 0, Verdict.DONE)]
# The second try begins while the first runs, and the first is rejected.
TWICE = [
    ("begin", 0, "pay", 1),
    ("begin", 1, "pay", 1),
    ("end", 0, Verdict.REJECTED),
    ("end", 1, Verdict.DONE),
    ("begin", 0, "pay", 1),
]

# The saga ends while the other process is at its action.
PAUSED = [
    ("begin", 0, "pay", 1),
    ("finish", 1),
    ("transact", 0, "book", 1, False),
    ("end", 0, Verdict.DONE),
]


@settings(max_examples=80)
@example(BESIDE, (5, 5))
@example(TWICE, (5, 5))
@example(PAUSED, (5, 5))
@given(st.lists(operation, min_size=20, max_size=40), st.tuples(*[st.sampled_from((5, -1, 13, 5))] * 2))
def test_effects_and_undos_happen_once_whatever_comes(operations: list[Any], amounts: tuple[int, int]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        run = Run(Path(folder) / "books.db")
        for name, *arguments in operations:
            if name == "transact":
                at, what, which, is_killing = arguments
                run.transact(at, what, which, amounts[which - 1], is_killing=is_killing)
            else:
                method: Callable[..., None] = getattr(run, name)
                method(*arguments)
            run.check()
        run.pass_time()
        for which in SAGAS:  # an undo that is delivered until it is answered leaves nothing behind
            run.transact(0, "unbook", which, 5, is_killing=False)
            run.begin(1, "repay", which)
            run.end(1, Verdict.DONE)
        assert run.undone == {(step, which) for step in ("book", "pay") for which in SAGAS}
        run.check()
        run.close()
