"""Holds in SQLite and the core's table in memory agree, whatever sagas ask for, whoever fails, is undone or ends."""

import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from sagacore import Hold
from sagacore._core import Holds
from sagacore.fences.calls import Verdict
from tests.unit.holding_world import Holders, saga

SAGAS = 5
PLACES = {"reserve": 0, "declared": 1}
UNDOS = {"reserve": "release", "declared": "redeclared"}
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 (a folder of its own is made there)

resource = st.sampled_from(("a", "b"))
hold = st.one_of(
    resource.map(Hold),
    resource.map(Hold.shared),
    st.builds(lambda name, amount: Hold.counted(name, amount, of=4), resource, st.integers(1, 3)),
)
step = st.tuples(st.integers(0, SAGAS - 1), st.sampled_from(tuple(PLACES)))
asked = st.lists(hold, min_size=1, max_size=3)
may_wait, must_fail = st.sampled_from((True, True, False)), st.sampled_from((False, False, True))
operation = st.one_of(
    st.tuples(st.just("ask"), step, asked, may_wait, must_fail),
    st.tuples(st.just("ask"), step, asked, may_wait, must_fail),
    st.tuples(st.just("undo"), step),
    st.tuples(st.just("restart"), st.integers(0, SAGAS - 1)),
    st.tuples(st.just("end"), st.integers(0, SAGAS - 1)),
)


class Both:
    """The two tables, and what is known of the sagas: a step that is done asks no more, an attempt that is undone."""

    def __init__(self, path: Path) -> None:
        self.rows = Holders(path)
        self.core = Holds()
        self.attempts = [0] * SAGAS
        self.over: set[tuple[int, int, int]] = set()
        self.ended: dict[int, int] = {}

    def ask(self, at: tuple[int, str], holds: list[Hold], wait: bool, fail: bool) -> None:  # noqa: FBT001
        sequence, name = at
        place, attempt = PLACES[name], self.attempts[sequence]
        if (sequence, attempt, place) in self.over or sequence in self.ended:
            return
        wait |= name == "declared"
        fail &= name == "reserve"
        freed = tuple((saga(other), last) for other, last in self.ended.items())
        options = {"attempt": attempt, "place": place, "freed": freed}
        verdict, payload = self.rows.run(sequence, *holds, name=name, wait=wait, fail=fail, **options)
        for other, last in freed:
            self.core.free(other, last)
        holder = (saga(sequence), attempt, place)
        for held in holds:
            asked = held.resource, int(held.mode), held.amount, held.of
            try:
                in_the_way = self.core.take(*asked, *holder, sequence, wait)
            except ValueError:
                assert b"SAGA-E410" in payload
                self.core.drop(*holder)
                return
            if in_the_way:
                if wait:
                    # Of two claims of one saga either may be named: they are as old as each other.
                    named = {(one[0], one[1]) for one in msgspec.msgpack.decode(payload)[3]}
                    assert (verdict, named) == (Verdict.BLOCKED, {(one[0], one[1]) for one in in_the_way})
                else:
                    assert verdict is Verdict.REJECTED
                    self.over.add((sequence, attempt, place))
                    self.core.drop(*holder)
                return
        if fail:
            assert verdict is Verdict.RETRY
            self.core.drop(*holder)
        else:
            assert verdict is Verdict.DONE
            self.core.keep(*holder)
            self.over.add((sequence, attempt, place))

    def undo(self, at: tuple[int, str]) -> None:
        sequence, name = at
        place, attempt = PLACES[name], self.attempts[sequence]
        if sequence in self.ended:
            return
        self.rows.run(sequence, name=UNDOS[name], attempt=attempt, place=place)
        self.core.drop(saga(sequence), attempt, place)
        self.over.add((sequence, attempt, place))

    def restart(self, sequence: int) -> None:
        self.attempts[sequence] += 1

    def end(self, sequence: int) -> None:
        self.ended[sequence] = self.attempts[sequence]

    def check(self) -> None:
        find = "select saga, attempt, place, age, mode, amount, granted from sagacore_hold where resource = ?"
        for name in ("a", "b"):
            there = sorted(self.rows.db.execute(find, (name,)))
            held = [(*row[:6], int(row[6] > 0)) for row in self.core.rows(name)]
            assert there == sorted(held), name


@settings(max_examples=150)
@given(st.lists(operation, min_size=10, max_size=40))
def test_both_tables_say_the_same(operations: list[Any]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        both = Both(Path(folder) / "stock.db")
        for name, *arguments in operations:
            getattr(both, name)(*arguments)
            both.check()
        both.rows.close()
