"""The fence in SQLite: one transaction for effect and outcome, and what every repetition is answered."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from sagacore import FenceError, Rejected
from sagacore.fences import make_fence, sqlite
from sagacore.fences.calls import Call, Verdict, judge
from sagacore.fences.rows import FORGET_MAX, RowState
from tests.unit.fence_world import Amount, Booked, Fenced, World, told

DONE, REJECTED, TOMBSTONE, UNDONE = RowState.DONE, RowState.REJECTED, RowState.TOMBSTONE, RowState.UNDONE
INTENT, UNDOING = RowState.INTENT, RowState.UNDOING
UNDONE_ENDED = (Verdict.UNDONE, b"")
DROPPED = (Verdict.DROP, b"")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "books.db"


@pytest.fixture
def fenced(path: Path) -> Iterator[Fenced]:
    fenced = Fenced(path)
    yield fenced
    fenced.close()


def booked(number: int) -> tuple[Verdict, bytes]:
    return Verdict.DONE, msgspec.msgpack.encode(Booked(number))


def test_effect_and_outcome_are_one_and_a_repetition_gets_the_same_answer(fenced: Fenced) -> None:
    call = fenced.world.call
    assert fenced.do(call("book", 5, sequence=1), call("book", 6, sequence=2)) == [booked(1), booked(2)]
    assert fenced.do(call("book", 5, sequence=1, deliveries=1)) == [booked(1)]
    assert (fenced.ledger(), fenced.states()) == ([5, 6], [DONE, DONE])
    assert fenced.world.called == ["book 5", "book 6"]


def test_attempts_and_steps_have_rows_of_their_own(fenced: Fenced) -> None:
    call = fenced.world.call
    assert fenced.do(call("unbook"), call("book"), call("book", attempt=1)) == [UNDONE_ENDED, DROPPED, booked(1)]
    assert fenced.do(call("pay")) == [None]


def test_a_rejection_takes_its_effect_back_and_is_remembered(fenced: Fenced) -> None:
    ended = (Verdict.REJECTED, b"negative")
    assert fenced.do(fenced.world.call("book", -1), fenced.world.call("book", 3, sequence=2)) == [ended, booked(2)]
    assert fenced.do(fenced.world.call("book", -1)) == [ended]
    assert (fenced.ledger(), fenced.states()) == ([3], [REJECTED, DONE])
    assert fenced.do(fenced.world.call("unbook", -1)) == [UNDONE_ENDED]
    assert fenced.world.called == ["book -1", "book 3"]


def test_a_failing_handler_hits_no_other_of_its_batch(fenced: Fenced) -> None:
    amounts = (1, 13, 2, -1, 3)
    ended = fenced.do(*(fenced.world.call("book", cents, sequence=at) for at, cents in enumerate(amounts)))
    retry = (Verdict.RETRY, b"10 ValueError: unlucky")
    assert ended == [booked(1), retry, booked(3), (Verdict.REJECTED, b"negative"), booked(5)]
    assert (fenced.ledger(), fenced.states()) == ([1, 2, 3], [DONE, DONE, REJECTED, DONE])


def test_it_is_tried_by_policy_and_then_given_up_cleanly(fenced: Fenced) -> None:
    tries = [fenced.do(fenced.world.call("book", 13, deliveries=deliveries))[0] for deliveries in range(4)]
    gave_up = (Verdict.GAVE_UP_CLEAN, b"ValueError: unlucky")
    assert tries == [
        (Verdict.RETRY, b"10 ValueError: unlucky"),
        (Verdict.RETRY, b"20 ValueError: unlucky"),
        gave_up,
        gave_up,
    ]
    assert (fenced.ledger(), fenced.states(), len(fenced.world.called)) == ([], [REJECTED], 3)


def test_past_the_pivot_nothing_is_rejected_or_given_up(fenced: Fenced) -> None:
    ended = fenced.do(*(fenced.world.call("book", -1, deliveries=deliveries, phase=2) for deliveries in (0, 1, 9)))
    assert ended == [(Verdict.RETRY, b"%d negative" % delay) for delay in (10, 20, 1_000)]
    assert fenced.states() == []
    assert fenced.do(fenced.world.call("book", -1, phase=1)) == [(Verdict.REJECTED, b"negative")]


def test_a_result_that_is_too_large_is_not_committed(fenced: Fenced) -> None:
    call = fenced.world.call("book", 16)
    call.work = (*call.work[:10], 10, *call.work[11:])
    [ended] = fenced.do(call)
    assert ended is not None
    assert ended[0] is Verdict.RETRY
    assert b"SAGA-E204" in ended[1]
    assert (fenced.ledger(), fenced.states()) == ([], [])


def test_a_compensation_gets_the_result_from_the_row(fenced: Fenced) -> None:
    call = fenced.world.call
    fenced.do(call("book", 8))
    assert fenced.do(call("unbook", 8), call("unbook", 8)) == [UNDONE_ENDED, UNDONE_ENDED]
    assert fenced.do(call("book", 8)) == [DROPPED], "a late RUN"
    assert fenced.world.called == ["book 8", "unbook 8 1"]
    assert (fenced.ledger(), fenced.states()) == ([], [UNDONE])


def test_an_undo_without_a_row_leaves_a_tombstone(fenced: Fenced) -> None:
    call = fenced.world.call
    assert fenced.do(call("unbook"), call("book"), call("unbook")) == [UNDONE_ENDED, DROPPED, UNDONE_ENDED]
    assert (fenced.ledger(), fenced.states(), fenced.world.called) == ([], [TOMBSTONE], [])


def test_a_failing_compensation_is_tried_for_ever(fenced: Fenced) -> None:
    fenced.do(fenced.world.call("book", 17))
    ended = fenced.do(*(fenced.world.call("unbook", 17, deliveries=deliveries) for deliveries in (0, 50)))
    assert ended == [(Verdict.RETRY, b"10 ValueError: cannot"), (Verdict.RETRY, b"1000 ValueError: cannot")]
    assert (fenced.ledger(), fenced.states()) == ([17], [DONE])


def test_a_handler_cannot_end_the_transaction(fenced: Fenced) -> None:
    call = fenced.world.call("book", 15)
    ended = fenced.do(fenced.world.call("book", 1, sequence=2), call)
    assert ended[0] == booked(1)
    assert ended[1] is not None
    assert ended[1][0] is Verdict.RETRY
    assert isinstance(call.error, FenceError)
    assert call.error.code == "SAGA-E406"
    assert fenced.ledger() == [1]


def test_a_handler_that_loses_the_transaction_is_done_alone(fenced: Fenced) -> None:
    with pytest.raises(sqlite.TransactionLost):
        fenced.fence.batch([fenced.world.call("book", 1), fenced.world.call("book", 14, sequence=2)])
    assert (fenced.ledger(), fenced.states()) == ([], [])


class Threaded:
    """A fence with its thread, in a running loop."""

    def __init__(self, path: Path) -> None:
        self.fence = sqlite.SqliteFence(str(path))
        self.answers: asyncio.Queue[Call] = asyncio.Queue()
        self.fence.open("books", self.answered)

    def answered(self, calls: Sequence[Call]) -> None:
        for call in calls:
            self.answers.put_nowait(call)

    async def do(self, *calls: Call) -> list[Call]:
        for call in calls:
            self.fence.submit([call])
        return [await asyncio.wait_for(self.answers.get(), 10) for _ in calls]

    def close(self) -> None:
        self.fence.close()
        assert self.fence.failure is None


def run_thread(path: Path, *calls: Call) -> list[Call]:
    """Give calls to a fence with its thread, all at once, until each was answered."""

    async def main() -> list[Call]:
        threaded = Threaded(path)
        answered = await threaded.do(*calls)
        threaded.close()
        return answered

    return asyncio.run(main())


def test_the_thread_isolates_who_loses_the_transaction(path: Path) -> None:
    fenced = Fenced(path)
    amounts = (1, 14, 2, 3)
    calls = [fenced.world.call("book", cents, sequence=at, deliveries=2) for at, cents in enumerate(amounts)]
    answered = run_thread(path, *calls)
    verdicts = [call.ended[0] for call in calls if call.ended is not None]
    assert sorted(map(id, answered)) == sorted(map(id, calls))
    assert verdicts == [Verdict.DONE, Verdict.GAVE_UP_CLEAN, Verdict.DONE, Verdict.DONE]
    assert (fenced.ledger(), fenced.states()) == ([1, 2, 3], [DONE, REJECTED, DONE, DONE])
    fenced.close()


def test_a_locked_database_answers_nobody_until_it_works_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.02)
    fenced = Fenced(path)
    calls = [fenced.world.call("book", at, sequence=at) for at in (1, 2)]

    async def main() -> None:
        threaded = Threaded(path)
        fenced.db.execute("begin immediate")
        doing = asyncio.create_task(threaded.do(*calls))
        await asyncio.sleep(0.3)
        assert threaded.answers.empty()
        assert not doing.done()
        fenced.db.execute("commit")
        assert [call.ended for call in await doing] == [booked(1), booked(2)]
        threaded.close()

    asyncio.run(main())
    assert fenced.ledger() == [1, 2]
    fenced.close()


def test_an_external_action_has_its_intent_first_and_its_outcome_after(fenced: Fenced) -> None:
    call = fenced.world.call("pay")
    assert fenced.do(call) == [None]
    assert (fenced.states(), call.was_tried) == ([INTENT], False)
    assert fenced.end(call, *booked(4)) == booked(4)
    assert fenced.states() == [DONE]
    assert fenced.do(fenced.world.call("pay", deliveries=1)) == [booked(4)]
    undo = fenced.world.call("repay")
    assert fenced.do(undo) == [None]
    assert undo.work[9] == (booked(4)[1],)
    assert fenced.end(undo, Verdict.UNDONE) == UNDONE_ENDED
    assert fenced.do(fenced.world.call("repay"), fenced.world.call("pay")) == [UNDONE_ENDED, DROPPED]


def test_a_crash_after_the_intent_calls_again_and_makes_rejections_unclean(path: Path) -> None:
    Fenced(path).do(World().call("pay"))  # dies here
    fenced = Fenced(path)
    call = fenced.world.call("pay", deliveries=1)
    assert fenced.do(call) == [None]
    assert call.was_tried
    assert judge(call, Rejected("no")) == (Verdict.REJECTED_UNCERTAIN, b"no")
    pivot = fenced.world.call("pay", deliveries=2, phase=1)
    fenced.do(pivot)
    assert judge(pivot, Rejected("no"))[0] is Verdict.RETRY, "the pivot ends done or cleanly rejected"
    fenced.close()


def test_an_undo_waits_for_an_action_of_another_process_and_then_has_no_result(fenced: Fenced) -> None:
    fenced.do(fenced.world.call("pay"))  # in a process that may be alive
    [ended] = fenced.do(fenced.world.call("repay"))
    assert ended == (Verdict.RETRY, b"2500 its action may still be running")
    fenced.now_ms += 2_500
    undo = fenced.world.call("repay")
    assert fenced.do(undo) == [None]
    assert (undo.work[9], fenced.states()) == ((), [UNDOING])
    assert fenced.do(fenced.world.call("pay")) == [DROPPED], "not called again while it is being cancelled"
    again = fenced.world.call("repay", deliveries=1)
    assert fenced.do(again) == [None]
    assert fenced.end(again, Verdict.UNDONE) == UNDONE_ENDED
    assert fenced.states() == [UNDONE]


def test_a_try_that_failed_lets_the_undo_begin_at_once(fenced: Fenced) -> None:
    call = fenced.world.call("pay")
    fenced.do(call)
    assert fenced.end(call, Verdict.GAVE_UP, b"timeout") == (Verdict.GAVE_UP, b"timeout")
    assert fenced.do(fenced.world.call("repay")) == [None]


def test_of_two_tries_at_a_time_the_first_outcome_stands(fenced: Fenced) -> None:
    first, second = fenced.world.call("pay"), fenced.world.call("pay", deliveries=1)
    assert fenced.do(first, second) == [None, None]
    assert fenced.end(second, *booked(2)) == booked(2)
    assert fenced.end(first, *booked(1)) == booked(2)
    late = fenced.world.call("pay", sequence=2)
    fenced.do(late)
    fenced.now_ms += 2_500
    assert fenced.do(fenced.world.call("repay", sequence=2)) == [None]
    assert fenced.end(late, *booked(1)) == DROPPED, "its compensation has begun"


def test_a_rejection_is_not_clean_once_another_try_has_begun(fenced: Fenced) -> None:
    first, second = fenced.world.call("pay"), fenced.world.call("pay", deliveries=1)
    fenced.do(first, second)
    rejected = Rejected("no")
    assert fenced.end(first, Verdict.REJECTED, b"no", rejected) == (Verdict.REJECTED_UNCERTAIN, b"no")
    assert fenced.states() == [INTENT]
    assert fenced.end(second, *booked(2)) == booked(2)
    alone = fenced.world.call("pay", sequence=2)
    fenced.do(alone)
    assert fenced.end(alone, Verdict.REJECTED, b"no", rejected) == (Verdict.REJECTED, b"no")
    assert fenced.do(fenced.world.call("pay", sequence=2)) == [(Verdict.REJECTED, b"no")]


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.fence_world import Fenced, World
world = World()
fenced = Fenced(Path(sys.argv[1]), world)
where = sys.argv[2]
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
handler = world.handlers["book"]
real = handler.start
def start(work, db=None, holding=None):
    value = real(work, db, holding)
    if where == "after the effect":
        kill()
    return value
handler.start = start
calls = [world.call("book", cents, sequence=cents) for cents in (1, 2)]
fenced.fence.batch(calls)
if where == "after the commit":
    kill()
"""


@pytest.mark.parametrize(("where", "left"), [("after the effect", []), ("after the commit", [1, 2])])
def test_a_process_that_is_killed_leaves_both_or_neither(path: Path, root: Path, where: str, left: list[int]) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), where], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    fenced = Fenced(path)
    assert fenced.ledger() == left
    assert fenced.do(*(fenced.world.call("book", cents, sequence=cents) for cents in (1, 2))) == [booked(1), booked(2)]
    assert (fenced.ledger(), len(fenced.world.called)) == ([1, 2], 2 - len(left))
    fenced.close()


def test_two_processes_share_the_work_and_do_each_piece_once(path: Path) -> None:
    Fenced(path).close()
    count, worlds = 300, [World(), World()]
    calls = [[world.call("book", at, sequence=at) for at in range(100, 100 + count)] for world in worlds]
    threads = [threading.Thread(target=run_thread, args=(path, *own)) for own in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fenced = Fenced(path)
    assert fenced.ledger() == list(range(100, 100 + count))
    assert len(worlds[0].called) + len(worlds[1].called) == count
    assert [call.ended for call in calls[0]] == [call.ended for call in calls[1]]
    fenced.close()


def test_what_is_below_the_watermark_is_passed_over_and_forgotten(fenced: Fenced) -> None:
    call = fenced.world.call
    fenced.do(*(call("book", at, sequence=at) for at in (1, 2, 3)))
    assert not fenced.fence.forget(told(7, 3, 1))
    assert fenced.states() == [DONE, DONE], "the exception, and what is not below"
    dropped = (Verdict.DROP, b"")
    zombies = [call(name, 2, sequence=2) for name in ("book", "unbook", "pay", "repay")]
    assert fenced.do(*zombies) == [dropped] * 4
    assert fenced.do(call("book", 1, sequence=1), call("book", 3, sequence=3)) == [booked(1), booked(3)]
    assert (fenced.ledger(), fenced.states()) == ([1, 2, 3], [DONE, DONE])
    assert not fenced.fence.forget(told(6, 9))
    assert fenced.do(call("book", 4, sequence=4)) == [booked(4)], "an older record says nothing"
    fenced.fence.forget(told(4, 4, boot=2))
    assert (fenced.states(), fenced.do(call("book", 3, sequence=3))) == ([DONE], [dropped]), "a later boot does"
    fenced.fence.forget(told(8, 9, boot=2))
    assert fenced.states() == []


def test_a_process_that_was_paused_finds_what_another_one_stored(fenced: Fenced, path: Path) -> None:
    other = Fenced(path, fenced.world)
    pay, late = (fenced.world.call("pay", sequence=1, attempt=attempt) for attempt in (0, 1))
    assert fenced.do(pay, late) == [None, None]
    other.now_ms += 3_600_000
    assert other.do(fenced.world.call("repay", sequence=1)) == [None]
    other.fence.forget(told(7, 2))
    assert fenced.end(pay, Verdict.DONE, b"\x81\xa6number\x01") == (Verdict.DROP, b"")
    assert fenced.end(late, Verdict.RETRY, b"10 down") == (Verdict.DROP, b"")
    assert fenced.do(fenced.world.call("book", sequence=1)) == [(Verdict.DROP, b"")]
    assert (fenced.ledger(), fenced.states()) == ([], []), "nothing done, no row left"
    other.close()


def test_many_rows_are_forgotten_some_at_a_time(fenced: Fenced) -> None:
    count = FORGET_MAX + 10
    fenced.do(*(fenced.world.call("unbook", sequence=at) for at in range(count)))
    assert fenced.fence.forget(told(7, count))
    assert len(fenced.states()) == 10
    assert not fenced.fence.forget(told(7, count))
    assert fenced.states() == []


def test_the_thread_forgets_all_that_it_is_told(path: Path) -> None:
    count = 2 * FORGET_MAX + 10

    async def main() -> None:
        threaded = Threaded(path)
        world = World()
        await threaded.do(*(world.call("unbook", sequence=at) for at in range(count)))
        threaded.fence.learn(told(7, count))
        fenced = Fenced(path)
        while fenced.states():  # noqa: ASYNC110 (the thread tells nobody)
            await asyncio.sleep(0.01)
        fenced.close()
        [late] = await threaded.do(world.call("book", sequence=1))
        assert late.ended == (Verdict.DROP, b"")
        threaded.close()

    asyncio.run(main())


def test_a_broker_that_was_wiped_begins_anew(fenced: Fenced) -> None:
    call = fenced.world.call
    fenced.do(call("book", 1, sequence=1))
    fenced.fence.forget(told(700, 50))
    assert fenced.do(call("book", 1, sequence=1)) == [(Verdict.DROP, b"")]
    assert not fenced.fence.forget(told(1, 1, log=10))
    [ended] = fenced.do(call("book", 2, sequence=2, log=10))
    assert ended == booked(2)
    assert fenced.do(call("book", 1, sequence=1)) == [(Verdict.DROP, b"")], "of the old log"


def test_a_call_is_not_busy_after_the_machine_started_again(fenced: Fenced) -> None:
    pay = fenced.world.call("pay")
    assert fenced.do(pay) == [None]
    [ended] = fenced.do(fenced.world.call("repay"))
    assert ended is not None
    assert ended[0] is Verdict.RETRY
    fenced.now_ms = 5
    again = fenced.world.call("pay")
    assert fenced.do(again) == [None]
    assert again.was_tried
    fenced.now_ms += 2_600
    assert fenced.do(fenced.world.call("repay")) == [None]


def test_a_database_is_of_one_service(path: Path, tmp_path: Path) -> None:
    Fenced(path).close()
    for name, code in (("shelves", "SAGA-E405"), ("books", None)):
        fence = sqlite.SqliteFence(str(path))
        if code is None:
            fence.connect(name)
            fence.disconnect()
            continue
        with pytest.raises(FenceError) as refused:
            fence.connect(name)
        assert refused.value.code == code
    (tmp_path / "text.db").write_text("not a database, but long enough to look at it as if it were one" * 20)
    for bad in (tmp_path / "text.db", tmp_path / "no" / "folder.db"):
        with pytest.raises(FenceError) as refused:
            run_thread(bad)
        assert refused.value.code == "SAGA-E404"


@pytest.mark.parametrize("text", ["", "sqlite", "sqlite:", "sqlite::memory:", "memory:x", "redis:7"])
def test_a_fence_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(FenceError) as refused:
        make_fence(text)
    assert refused.value.code == "SAGA-E404"


def test_payloads_of_the_world_are_what_the_tests_say() -> None:
    assert msgspec.msgpack.decode(World().call("book", 7).work[8], type=Amount) == Amount(7)
