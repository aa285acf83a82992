"""What the shop's services do to their stores, called by hand on plain SQLite connections."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sagacore import Context, Rejected, Step
from sagacore.demo.ledger import Told, audit
from sagacore.demo.shop import inventory, orders, payments, shipping
from sagacore.demo.shop.contracts import (
    CHARGE_CENTS_MAX,
    Charged,
    Created,
    Order,
    Reserved,
    Scheduled,
    charge,
    create,
    reserve,
    schedule,
)
from sagacore.demo.shop.customers import SOLD_OUT_SKU, incoming_orders, rejected_by
from sagacore.demo.shop.gateway import FILE_VARIABLE, Declined, Gateway, gateway
from sagacore.demo.shop.saga import place_order, place_order_diamond
from sagacore.demo.shop.tables import open_shop
from sagacore.payloads import codec

ORDER = Order("order-1", "customer-0001", "sku-0001", 2, 300)
SERVICES = (orders.orders, payments.payments, inventory.inventory, shipping.shipping)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    open_shop(tmp_path, pieces_per_sku=100, cents_per_customer=1_000)
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "gateway.db"))
    gateway.cache_clear()
    yield tmp_path
    gateway().close()
    gateway.cache_clear()


def act(shop: Path, step: Step[Any, Any], order: Order, *results: object) -> Any:
    """Call the action as the fence does: inside a savepoint of a transaction."""
    assert step.implementation is not None
    function = step.implementation.function
    if step.implementation.external:
        return asyncio.run(function(order, *results, context(step, None)))
    with transaction(shop, step) as connection:
        return function(order, *results, context(step, connection))


def take_back(shop: Path, step: Step[Any, Any], order: Order, result: object) -> None:
    assert step.undo is not None
    function = step.undo.function
    if step.undo.external:
        asyncio.run(function(order, result, context(step, None)))
        return
    with transaction(shop, step) as connection:
        function(order, result, context(step, connection))


@contextlib.contextmanager
def transaction(shop: Path, step: Step[Any, Any]) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(shop / f"{step.service}.db", isolation_level=None)) as connection:
        connection.execute("begin immediate")
        connection.execute("savepoint call")
        try:
            yield connection
        except Rejected:
            connection.execute("rollback to call")
            raise
        finally:
            connection.execute("release call")
            connection.execute("commit")


def context(step: Step[Any, Any], db: sqlite3.Connection | None) -> Context:
    return Context(bytes(16), step.name, f"key-of-{step.name}", external=db is None, db=db)


def place(shop: Path, order: Order = ORDER) -> tuple[Created, Charged, Reserved]:
    created = act(shop, create, order)
    return created, act(shop, charge, order, created), act(shop, reserve, order, created)


def test_every_step_is_implemented_and_what_must_be_can_be_taken_back() -> None:
    for service in SERVICES:
        service.check()


def test_an_order_leaves_one_effect_in_every_store(shop: Path) -> None:
    _, _, reserved = place(shop)
    assert isinstance(act(shop, schedule, ORDER, reserved), Scheduled)
    assert audit(shop, [ORDER], {ORDER.order_id: Told(completed=True)}) == []


def test_an_order_that_is_taken_back_leaves_none(shop: Path) -> None:
    heavy = Order("order-1", "customer-0001", "sku-0001", 20, 300)
    created, charged, reserved = place(shop, heavy)
    with pytest.raises(Rejected, match="heavy"):
        act(shop, schedule, heavy, reserved)
    take_back(shop, charge, heavy, charged)
    take_back(shop, reserve, heavy, reserved)
    take_back(shop, create, heavy, created)
    assert audit(shop, [heavy], {heavy.order_id: Told(completed=False, rejected_step="schedule")}) == []


def test_a_repeated_undo_shows_in_the_books(shop: Path) -> None:
    created, _, reserved = place(shop)
    for step, result in ((create, created), (reserve, reserved)):
        take_back(shop, step, ORDER, result)
        take_back(shop, step, ORDER, result)
    assert {violation.rule for violation in audit(shop, [ORDER], {})} >= {"undone-twice"}


def test_what_is_sold_out_or_too_dear_is_rejected_and_changes_nothing(shop: Path) -> None:
    created = Created(1)
    with pytest.raises(Rejected, match="sold out"):
        act(shop, reserve, Order("order-1", "customer-0001", SOLD_OUT_SKU, 1, 300), created)
    with pytest.raises(Rejected, match="sold out"):
        act(shop, reserve, Order("order-1", "customer-0001", "sku-0001", 101, 300), created)
    with pytest.raises(Rejected, match="limit"):
        act(shop, charge, Order("order-1", "customer-0001", "sku-0001", 1, CHARGE_CENTS_MAX + 1), created)
    assert audit(shop, [ORDER], {ORDER.order_id: Told(completed=False)}) == []


def test_a_repeated_charge_with_one_key_is_one_charge(shop: Path) -> None:
    created = act(shop, create, ORDER)
    assert act(shop, charge, ORDER, created) == act(shop, charge, ORDER, created)
    assert audit(shop, [ORDER], {}) == []


def test_a_charge_that_comes_after_its_refund_is_declined(shop: Path) -> None:
    take_back(shop, charge, ORDER, None)
    with pytest.raises(Declined):
        act(shop, charge, ORDER, Created(1))
    assert audit(shop, [ORDER], {ORDER.order_id: Told(completed=False)}) == []


def test_a_repeated_refund_is_one_refund(shop: Path) -> None:
    created = act(shop, create, ORDER)
    charged = act(shop, charge, ORDER, created)
    for _ in range(3):
        take_back(shop, charge, ORDER, charged)
    take_back(shop, create, ORDER, created)
    assert audit(shop, [ORDER], {ORDER.order_id: Told(completed=False)}) == []


def test_what_is_asked_of_the_gateway_at_once_is_settled_together(shop: Path) -> None:
    async def ask_all() -> list[int | BaseException]:
        charges = (books.charge(key=f"k{n % 7}", order_id="o", customer="customer-0001", cents=1) for n in range(9))
        cancelled = books.charge(key="cancelled", order_id="o", customer="customer-0001", cents=1)
        await books.refund(key="cancelled", order_id="o")
        return await asyncio.gather(*charges, cancelled, return_exceptions=True)

    books = Gateway(str(shop / "gateway.db"))
    receipts = asyncio.run(ask_all())
    books.close()
    assert len(set(receipts[:9])) == 7
    assert receipts[0] == receipts[7]
    assert isinstance(receipts[-1], Declined)


def test_a_gateway_whose_books_are_gone_fails_every_call_and_hangs_none(tmp_path: Path) -> None:
    books = Gateway(str(tmp_path / "empty.db"))
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        asyncio.run(books.refund(key="k", order_id="o"))
    books.close()


def test_incoming_orders_repeat_with_their_seed_and_are_rejected_as_often_as_asked() -> None:
    some = list(incoming_orders(20_000, reject=0.05, seed=7))
    assert some == list(incoming_orders(20_000, reject=0.05, seed=7))
    assert some != list(incoming_orders(20_000, reject=0.05, seed=8))
    for step in ("charge", "reserve", "schedule"):
        share = sum(step in rejected_by(order) for order in some) / len(some)
        assert 0.04 < share < 0.06
    assert not any(rejected_by(order) for order in incoming_orders(1_000, reject=0, seed=7))
    assert all(len(rejected_by(order)) == 3 for order in incoming_orders(100, reject=1, seed=7))


def test_an_order_takes_at_most_96_bytes() -> None:
    encode = codec(Order).encode
    assert max(len(encode(order)) for order in incoming_orders(1_000, reject=0.5, seed=1)) <= 96


def test_both_sagas_can_be_planned() -> None:
    assert place_order.plan.messages == 5
    assert place_order_diamond.plan.messages == 7


IN_MEMORY = """
from sagacore import Rejected
from sagacore.demo.shop import memory
from sagacore.demo.shop.contracts import charge, create, reserve, schedule
from sagacore.demo.shop.customers import incoming_orders, rejected_by

for service in (memory.orders, memory.payments, memory.inventory, memory.shipping):
    service.check()
for order in incoming_orders(500, reject=0.3, seed=3):
    created = create.implementation.function(order)
    results = {}
    rejected = []
    for step, arguments in ((charge, (created,)), (reserve, (created,)), (schedule, (created,))):
        try:
            results[step] = step.implementation.function(order, *arguments)
        except Rejected:
            rejected.append(step.name)
    assert tuple(rejected) == rejected_by(order)
    for step in (charge, reserve):
        step.undo.function(order, results.get(step))
    create.undo.function(order, created)
assert not any(memory.open_orders.values())
assert not any(memory.balances.values())
assert not any(memory.reserved_pieces.values())
"""


def test_the_services_in_memory_do_the_same() -> None:
    # In a process of its own: a step has one implementation in a process.
    done = subprocess.run([sys.executable, "-c", IN_MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
