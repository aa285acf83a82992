"""Orders are placed through the client, processes are killed at the right moments, and what was told is kept."""

import asyncio
import io
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from sagacore import Client, Compensated, Completed, Ended
from sagacore.demo import placing
from sagacore.demo.failure import DemoFailed
from sagacore.demo.fleet import Died, Fleet
from sagacore.demo.kills import Kill
from sagacore.demo.ledger import Told
from sagacore.demo.placing import Placing, in_words
from sagacore.demo.progress import PlainShow
from sagacore.demo.shop.contracts import Order, Scheduled
from sagacore.demo.shop.customers import incoming_orders
from sagacore.demo.shop.saga import place_order

ORDERS = list(incoming_orders(10, reject=0, seed=1))


Outcomes = Sequence[Completed[Scheduled] | Compensated]


class FakeClient:
    """Ends orders as it is told, then goes silent if it should."""

    def __init__(self, outcomes: Outcomes, *, hangs: bool = False) -> None:
        self._outcomes = outcomes
        self._hangs = hangs

    async def start_many(self, saga: object, orders: list[Order], **options: Any) -> AsyncIterator[Ended[Scheduled]]:
        for order, outcome in zip(orders, self._outcomes, strict=False):
            yield Ended(options["key"](order), outcome, 1.5)
            await asyncio.sleep(0)
        if self._hangs:
            await asyncio.Event().wait()

    async def stats(self) -> dict[str, Any]:
        return {"boot_epoch": 1, "messages": 55, "spills": 0, "coordinators": []}


class FakeFleet(Fleet):
    """Has no processes, but remembers which were killed."""

    def __init__(self, folder: Path, *, dies: str | None = None) -> None:
        super().__init__(folder)
        self.killed: list[str] = []
        self._dies = dies

    def pid(self, name: str) -> int:
        return 1

    def kill_and_restart(self, name: str) -> None:
        self.killed.append(name)

    def died(self) -> Iterator[Died]:
        if self._dies is not None:
            yield Died(self._dies, 3, "its last words")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "WATCH_S", 0.01)
    monkeypatch.setattr(placing, "STALL_S", 0.1)


def place(client: FakeClient, fleet: Fleet, orders: list[Order] = ORDERS, kills: Sequence[Kill] = ()) -> Placing:
    show = PlainShow(Console(file=io.StringIO()), len(orders))
    placing = Placing(fleet=fleet, client=cast("Client", client), show=show, kills=kills)
    asyncio.run(placing.place(place_order, orders, in_flight=5))
    return placing


def test_outcomes_are_counted_by_cause_and_kept_for_the_audit(tmp_path: Path) -> None:
    outcomes: Outcomes = [
        Completed(Scheduled(1)),
        Compensated("charge", "over the limit"),
        Compensated(None, "", "deadline"),
    ]
    placed = place(FakeClient(outcomes), FakeFleet(tmp_path), ORDERS[:3])
    assert placed.completed == 1
    assert placed.compensated == {"charge rejected it (over the limit)": 1, "its deadline passed": 1}
    rejected = Told(completed=False, rejected_step="charge")
    assert list(placed.told.values()) == [Told(completed=True), rejected, Told(completed=False)]
    assert list(placed.latencies_ms) == [1.5] * 3
    assert placed.longest_pause_ms == 0


def test_processes_are_killed_when_so_many_orders_have_ended(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path)
    kills = [Kill(0, "broker"), Kill(4, "orders-2"), Kill(4, "coordinator"), Kill(11, "shipping")]
    placed = place(FakeClient([Completed(Scheduled(1))] * 10), fleet, kills=kills)
    assert fleet.killed == ["broker", "orders-2", "coordinator"]
    assert placed.kills == {"broker": 1, "orders": 1, "coordinator": 1}
    assert placed.longest_pause_ms > 0
    assert placed.counters.messages == 55, "the counters are read before a process that counts is killed"


def test_an_order_of_which_two_outcomes_are_told_is_a_violation(tmp_path: Path) -> None:
    outcomes: Outcomes = [Completed(Scheduled(1)), Compensated("charge", "no")]
    placed = place(FakeClient(outcomes), FakeFleet(tmp_path), [ORDERS[0], ORDERS[0]])
    assert [(violation.rule, violation.subject) for violation in placed.violations] == [
        ("told-twice", ORDERS[0].order_id)
    ]


def test_when_nothing_ends_any_more_the_rest_is_given_up(tmp_path: Path) -> None:
    placed = place(FakeClient([Completed(Scheduled(1))] * 4, hangs=True), FakeFleet(tmp_path))
    assert placed.completed == 4
    assert len(placed.told) == 4


def test_a_process_that_dies_by_itself_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(DemoFailed, match="payments ended by itself, with status 3") as failed:
        place(FakeClient([], hangs=True), FakeFleet(tmp_path, dies="payments"))
    assert failed.value.tail == "its last words"


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Compensated("reserve", "sold out"), "reserve rejected it (sold out)"),
        (Compensated("charge", "timeout", "gave-up"), "charge gave up"),
        (Compensated(None, "", "cancelled"), "it was cancelled"),
        (Compensated("create", "", "delivery-limit"), "nobody answered for create"),
    ],
)
def test_causes_are_told_in_words(outcome: Compensated, words: str) -> None:
    assert in_words(outcome) == words
