"""The pieces of chaos: the rhythm follows from the seed, and what must not be is seen."""

import os
from collections import Counter
from pathlib import Path

import pytest

from sagacore.chaos.disk import Pages
from sagacore.chaos.events import recoveries
from sagacore.chaos.journal import Journal, read_journal
from sagacore.chaos.options import FAULTS, ChaosOptions
from sagacore.chaos.outside import Counters, read_target
from sagacore.chaos.placing import BLOCK, not_told, orders_below
from sagacore.chaos.rhythm import OFF_S, ON_S, plan_faults
from sagacore.chaos.shop import KINDS, TARGETS
from sagacore.demo.ledger import Told, audit
from sagacore.demo.shop.tables import open_shop
from sagacore.errors import UsageError


def test_a_seed_gives_one_plan() -> None:
    plan = plan_faults(7, 120, KINDS, FAULTS, TARGETS)
    assert plan == plan_faults(7, 120, KINDS, FAULTS, TARGETS)
    assert plan != plan_faults(8, 120, KINDS, FAULTS, TARGETS)


@pytest.mark.parametrize("seed", range(20))
def test_faults_are_on_for_five_seconds_and_off_for_five(seed: int) -> None:
    for injection in plan_faults(seed, 200, KINDS, FAULTS, TARGETS):
        in_window_s = injection.at_s % (ON_S + OFF_S)
        assert in_window_s >= 0
        assert in_window_s + injection.lasts_s <= ON_S + 1e-6


def test_half_an_hour_kills_each_kind_fifty_times_and_makes_each_fault() -> None:
    plan = plan_faults(1, 1_800, KINDS, FAULTS, TARGETS)
    kills = Counter(injection.kind for injection in plan if injection.fault == "kill")
    assert set(kills) == set(KINDS)
    assert min(kills.values()) >= 70
    assert {injection.fault for injection in plan} == set(FAULTS) - {"unsynced"}
    assert {injection.kind for injection in plan if injection.fault == "full-disk"} == {"broker"}


def test_no_fault_is_made_that_was_not_chosen() -> None:
    assert {injection.fault for injection in plan_faults(1, 60, ["a"], ["pause"])} == {"pause"}
    assert plan_faults(1, 60, ["a"], ["unsynced"]) == []
    with pytest.raises(UsageError, match="no fault 'flood'"):
        ChaosOptions(faults="kill,flood")


def test_the_journal_outlives_its_writer_and_a_line_that_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "told"
    assert read_journal(path).placed == 0
    journal = Journal(path)
    journal.placed(3)
    journal.told("order-0000001", completed=True, step=None, times_s=(1.0, 2.0))
    journal.close()
    with path.open("ab") as file:
        file.write(b'["told","order-00000')
    journal = Journal(path)
    journal.told("order-0000002", completed=False, step="charge", times_s=(1.5, 2.5))
    journal.refused(1.0, 5)
    journal.refused(2.0, 9)
    journal.refused(3.0, 2)  # another broker, which counts from 0
    story = read_journal(path)
    assert (story.placed, story.violations) == (3, [])
    rejected = Told(completed=False, rejected_step="charge")
    assert story.told == {"order-0000001": Told(completed=True), "order-0000002": rejected}
    assert story.orders_s == [(1.0, 2.0), (1.5, 2.5)]
    assert story.refused_between(0, 10) == 4


def test_an_outcome_that_changes_and_a_saga_that_is_lost_are_violations(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "told")
    for completed in (True, True, False):
        journal.told("order-0000001", completed=completed, step=None, times_s=(1.0, 2.0))
    journal.failed("order-0000002", "the broker does not know it")
    rules = [violation.rule for violation in read_journal(tmp_path / "told").violations]
    assert rules == ["outcome-changed", "lost"]


def test_a_new_client_places_what_the_last_one_was_not_told_of(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "told")
    journal.placed(BLOCK + 5)
    orders = orders_below(BLOCK + 5, seed=1)
    assert len({order.order_id for order in orders}) == BLOCK + 5
    missing = {orders[7].order_id, orders[BLOCK + 3].order_id}
    for order in orders:
        if order.order_id not in missing:
            journal.told(order.order_id, completed=True, step=None, times_s=(1.0, 2.0))
    again = list(not_told(read_journal(tmp_path / "told"), seed=1))
    assert again == [orders[7], orders[BLOCK + 3]]


def test_an_effect_that_is_missing_is_found_by_the_audit(tmp_path: Path) -> None:
    open_shop(tmp_path, pieces_per_sku=10, cents_per_customer=10)
    order = orders_below(1, seed=1)[0]
    violations = audit(tmp_path, [order], {order.order_id: Told(completed=True)})
    assert [violation.rule for violation in violations] == ["effect-missing"] * 4


def test_recovery_is_until_something_ended_that_began_after_the_fault() -> None:
    orders_s = [(0.0, 9.0), (1.0, 5.0), (2.0, 3.0), (4.0, 4.5)]
    found = recoveries([("kill", 0.5), ("cut", 3.5), ("late", 4.1)], orders_s)
    assert [(recovery.fault, round(recovery.ms)) for recovery in found] == [("kill", 2_500), ("cut", 1_000)]


def test_a_page_says_what_was_lost_and_moves_a_clock(tmp_path: Path) -> None:
    pages = Pages(tmp_path / "pages", Path("library.so"))
    environment = pages.environment("broker", tmp_path / "log")
    assert environment["LD_PRELOAD"] == "library.so"
    page = Path(environment["SAGACORE_CHAOS_PAGE"])
    pages.set_clock("broker", -1)
    assert page.read_bytes() == b"\xff" * 8 + bytes(8)
    with page.open("r+b") as file:
        os.pwrite(file.fileno(), b"\x05", 8)
    assert pages.unsynced_sectors("broker") == 5


def test_counters_are_added_over_the_boots_of_a_broker() -> None:
    counters = Counters()
    for now_s, (boot, started, completed) in enumerate([(1, 10, 5), (1, 12, 7), (2, 3, 0), (2, 3, 2)]):
        stats = {"boot_epoch": boot, "started": started, "completed": completed, "compensated": 0, "running": 1}
        counters.observe(stats, float(now_s))
    assert (counters.started, counters.completed, counters.progress_s) == (5, 4, [1.0, 3.0])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "missing required field"),
        ("[processes]", "has no processes"),
        ("[processes.a]\nstart = 'x'\npid_file = 'y'", "needs one of start and pid_file"),
        ("[processes.a]\nstrat = 'x'", "unknown field"),
    ],
)
def test_a_target_that_cannot_be_one_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "target.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=why):
        read_target(path)
