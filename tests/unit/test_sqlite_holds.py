"""Holds beside a fence in SQLite: who gets them, what the broker is told, and what is left after each end."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from sagacore import Hold
from sagacore.fences import SqliteFence
from sagacore.fences.calls import Verdict
from tests.unit.holding_world import Ask, Holders, blocked_by, saga


@pytest.fixture
def holders(tmp_path: Path) -> Iterator[Holders]:
    world = Holders(tmp_path / "stock.db")
    yield world
    world.close()


def test_a_hold_is_committed_with_its_effect(holders: Holders) -> None:
    assert holders.run(1, "sku:1", "sku:2")[0] is Verdict.DONE
    assert holders.rows() == [("sku:1", 1, 0, 1), ("sku:2", 1, 0, 1)]
    assert holders.effects() == 1


def test_a_blocked_call_leaves_its_claim_and_nothing_else(holders: Holders) -> None:
    holders.run(1, "b")
    ended = holders.run(2, "a", "b")
    assert msgspec.msgpack.decode(ended[1]) == [0, 0, b"b", [[saga(1), 0, 0]]]
    assert holders.rows() == [("b", 1, 0, 1), ("b", 2, 0, 0)]
    assert holders.effects() == 1
    assert holders.db.execute("select count(*) from sagacore_fence").fetchone() == (1,)


def test_in_a_batch_only_the_blocked_call_is_taken_back(holders: Holders) -> None:
    calls = [holders.call("reserve", n, Ask([Hold(f"r{n % 2}")])) for n in (1, 2, 3)]
    assert [verdict for verdict, _ in holders.do(*calls)] == [Verdict.DONE, Verdict.DONE, Verdict.BLOCKED]
    assert holders.effects() == 2


def test_what_a_saga_that_is_over_left_behind_is_taken_over(holders: Holders) -> None:
    holders.run(1, "a", "z")
    assert blocked_by(holders.run(2, "a")) == [1]
    assert holders.run(2, "a", freed=((saga(1), 0),))[0] is Verdict.DONE
    assert holders.rows() == [("a", 2, 0, 1)]


def test_only_attempts_that_are_over_are_freed(holders: Holders) -> None:
    holders.run(1, "a", attempt=3)
    assert blocked_by(holders.run(2, "a", freed=((saga(1), 2),))) == [1]


def test_freed_rows_go_even_where_the_call_blocks_again(holders: Holders) -> None:
    holders.run(1, "a")
    holders.run(3, "b")
    assert blocked_by(holders.run(2, "a", "b")) == [1]
    assert blocked_by(holders.run(2, "a", "b", freed=((saga(1), 0),))) == [3]
    assert holders.rows() == [("b", 2, 0, 0), ("b", 3, 0, 1)]


def test_nobody_overtakes_an_older_saga_that_waits(holders: Holders) -> None:
    holders.run(1, Hold.shared("a"))
    assert blocked_by(holders.run(2, "a")) == [1]
    assert blocked_by(holders.run(3, Hold.shared("a"))) == [2]
    assert holders.run(0, Hold.shared("a"))[0] is Verdict.DONE


def test_a_try_drops_the_claim_of_the_one_before(holders: Holders) -> None:
    holders.run(1, "a")
    holders.run(2, "a")
    assert holders.run(2, "b")[0] is Verdict.DONE
    assert holders.rows() == [("a", 1, 0, 1), ("b", 2, 0, 1)]


def test_its_own_saga_is_never_in_the_way(holders: Holders) -> None:
    holders.run(1, Hold.shared("a"), "a", "a")
    assert holders.run(1, "a", name="declared", place=1)[0] is Verdict.DONE
    assert holders.rows() == [("a", 1, 0, 1), ("a", 1, 1, 1)]
    assert blocked_by(holders.run(2, Hold.shared("a"))) == [1, 1]


def test_a_pool_is_shared_up_to_its_size(holders: Holders) -> None:
    assert holders.run(1, Hold.counted("pool", 2, of=5))[0] is Verdict.DONE
    assert holders.run(2, Hold.counted("pool", 3, of=5))[0] is Verdict.DONE
    assert blocked_by(holders.run(3, Hold.counted("pool", of=5))) == [1, 2]
    assert blocked_by(holders.run(4, "pool")) == [1, 2, 3]
    assert blocked_by(holders.run(5, Hold.counted("pool", of=5))) == [1, 2, 4]


def test_parts_of_a_pool_add_up_over_steps_and_not_within_one(holders: Holders) -> None:
    part = Hold.counted("pool", 3, of=5)
    assert holders.run(1, part, part)[0] is Verdict.DONE
    verdict, text = holders.run(1, part, name="declared", place=1)
    assert verdict is Verdict.RETRY
    assert b"SAGA-E410" in text
    assert holders.run(1, Hold.counted("pool", 2, of=5), name="declared", place=1)[0] is Verdict.DONE


def test_the_attempts_before_are_over(holders: Holders) -> None:
    holders.run(1, "a", "b")
    assert holders.run(1, "c", attempt=1)[0] is Verdict.DONE
    assert holders.rows() == [("c", 1, 0, 1)]


def test_without_waiting_it_is_a_rejection_unless_caught(holders: Holders) -> None:
    holders.run(1, "a")
    assert holders.run(2, "a", wait=False) == (Verdict.REJECTED, b"a is held by another saga")
    assert holders.run(3, "a", "b", wait=False, catch=True)[0] is Verdict.DONE
    assert holders.rows() == [("a", 1, 0, 1), ("b", 3, 0, 1)]


def test_a_service_may_say_that_nobody_waits(tmp_path: Path) -> None:
    holders = Holders(tmp_path / "stock.db", waiting="fail")
    holders.run(1, "a")
    assert holders.run(2, "a")[0] is Verdict.REJECTED
    holders.close()


def test_wound_wait_is_told_to_the_broker(tmp_path: Path) -> None:
    holders = Holders(tmp_path / "stock.db", waiting="wound-wait")
    holders.run(2, Hold.shared("a"))
    assert msgspec.msgpack.decode(holders.run(1, "a")[1])[:2] == [1, 0]
    holders.close()


@pytest.mark.parametrize("name", ["reserve", "declared"])
def test_a_call_that_fails_holds_nothing(holders: Holders, name: str) -> None:
    holders.run(1, "x")
    assert blocked_by(holders.run(2, "a", "x", name=name)) == [1]
    assert holders.run(2, "a", *[f"r{n}" for n in range(64)], name=name, fail=True)[0] is Verdict.RETRY
    assert holders.rows() == [("x", 1, 0, 1)]


def test_a_compensation_frees_what_its_step_holds(holders: Holders) -> None:
    holders.run(1, "a", "b")
    holders.run(1, "c", name="declared", place=1)
    assert holders.run(1, name="release")[0] is Verdict.UNDONE
    assert holders.rows() == [("c", 1, 1, 1)]


def test_an_undo_that_comes_to_a_waiting_step_takes_its_claim(holders: Holders) -> None:
    holders.run(1, "a")
    holders.run(2, "a")
    assert holders.run(2, name="release")[0] is Verdict.UNDONE
    assert holders.rows() == [("a", 1, 0, 1)]
    assert holders.run(2, "a")[0] is Verdict.DROP


def test_declared_holds_are_taken_without_a_context(holders: Holders) -> None:
    assert holders.run(1, "a", "b", name="declared")[0] is Verdict.DONE
    assert blocked_by(holders.run(2, "c", "b", name="declared")) == [1]
    assert holders.rows() == [("a", 1, 0, 1), ("b", 1, 0, 1), ("b", 2, 0, 0)]


def test_a_watermark_frees_and_forgets(holders: Holders) -> None:
    for sequence in (1, 2, 3):
        holders.run(sequence, f"r{sequence}")
    holders.end(3, 1)
    assert holders.rows() == [("r1", 1, 0, 1), ("r3", 3, 0, 1)]


def test_rows_below_the_watermark_are_in_nobodys_way(holders: Holders) -> None:
    holders.run(1, "a")
    holders.db.execute("create table kept as select * from sagacore_hold")
    holders.end(2)
    holders.db.execute("insert into sagacore_hold select * from kept")
    assert holders.run(2, "a")[0] is Verdict.DONE


def test_no_more_than_sixteen_are_named(holders: Holders) -> None:
    for sequence in range(20):
        holders.run(sequence, Hold.shared("a"))
    assert blocked_by(holders.run(30, "a")) == list(range(16))


def test_who_lost_a_deadlock_at_its_pivot_does_not_wait_again(holders: Holders) -> None:
    holders.run(1, "a")
    assert blocked_by(holders.run(2, "a", phase=1)) == [1]
    lost = Verdict.VICTIM, b"it gave way to an older saga"
    assert holders.run(2, "a", phase=1, wounded=True) == lost
    assert (holders.rows(), holders.effects()) == ([("a", 1, 0, 1)], 1)
    assert holders.run(2, "a", phase=1, freed=((saga(1), 0),)) == lost, "it is answered from its row"
    assert holders.run(3, "b", phase=1, wounded=True)[0] is Verdict.DONE


def test_past_the_pivot_nothing_is_held(holders: Holders) -> None:
    verdict, text = holders.run(1, "a", phase=2)
    assert verdict is Verdict.RETRY
    assert b"SAGA-E407" in text
    assert holders.run(1, "a", phase=1)[0] is Verdict.DONE


def test_a_call_holds_a_bounded_number(holders: Holders) -> None:
    verdict, text = holders.run(1, *[f"r{n}" for n in range(65)])
    assert verdict is Verdict.RETRY
    assert b"SAGA-E411" in text
    assert holders.run(1, *[f"r{n}" for n in range(64)])[0] is Verdict.DONE


def test_a_file_of_the_version_before_gets_its_table(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    Holders(path).close()
    with sqlite3.connect(path) as db:
        db.execute("drop table sagacore_hold")
        db.execute("update sagacore_fence_state set version = 2")
    holders = Holders(path)
    assert holders.run(1, "a")[0] is Verdict.DONE
    assert holders.db.execute("select version from sagacore_fence_state").fetchone() == (3,)
    holders.close()
    SqliteFence(str(path)).connect("stock")
