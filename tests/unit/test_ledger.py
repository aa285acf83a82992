"""The audit of the shop's books catches every kind of violation, and nothing in books that are right."""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from sagacore.demo.ledger import Rule, Told, audit
from sagacore.demo.shop.contracts import CHARGE_CENTS_MAX, Order
from sagacore.demo.shop.tables import open_shop

COMPLETED = Order("order-1", "customer-0001", "sku-0001", 2, 300)
COMPENSATED = Order("order-2", "customer-0002", "sku-0002", 12, 500)
TOO_DEAR = Order("order-3", "customer-0003", "sku-0003", 1, CHARGE_CENTS_MAX + 1)
ORDERS = [COMPLETED, COMPENSATED, TOO_DEAR]
TOLD = {
    COMPLETED.order_id: Told(completed=True),
    COMPENSATED.order_id: Told(completed=False, rejected_step="schedule"),
    TOO_DEAR.order_id: Told(completed=False, rejected_step="charge"),
}


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """The books after one order was completed, one compensated after charge and reserve, and one after create."""
    open_shop(tmp_path, pieces_per_sku=100, cents_per_customer=1_000)
    for order in ORDERS:
        create(tmp_path, order, cancelled=order is not COMPLETED)
    for order in (COMPLETED, COMPENSATED):
        post(tmp_path, order.order_id, order.customer, "the shop", order.cents)
        reserve(tmp_path, order, released=order is COMPENSATED)
    post(tmp_path, COMPENSATED.order_id, "the shop", COMPENSATED.customer, COMPENSATED.cents)
    ship(tmp_path, COMPLETED)
    return tmp_path


def edit(books: Path, store: str, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(books / f"{store}.db")) as connection, connection:
        assert connection.execute(statement, values).rowcount > 0, "the edit must change something"


def create(books: Path, order: Order, *, cancelled: int) -> None:
    row = (order.order_id, order.customer, order.sku, order.quantity, order.cents, int(cancelled))
    columns = "order_id, customer, sku, quantity, cents, cancelled"
    edit(books, "orders", f"insert into orders ({columns}) values (?, ?, ?, ?, ?, ?)", *row)


def post(books: Path, order_id: str, payer: str, payee: str, cents: int) -> None:
    statement = "insert into postings (order_id, payer, payee, cents) values (?, ?, ?, ?)"
    edit(books, "gateway", statement, order_id, payer, payee, cents)
    edit(books, "gateway", "update accounts set cents = cents - ? where name = ?", cents, payer)
    edit(books, "gateway", "update accounts set cents = cents + ? where name = ?", cents, payee)


def reserve(books: Path, order: Order, *, released: int) -> None:
    statement = "insert into reservations (order_id, sku, quantity, released) values (?, ?, ?, ?)"
    edit(books, "inventory", statement, order.order_id, order.sku, order.quantity, int(released))
    standing = order.quantity * (1 - int(released))
    statement = "update stock set free = free - ?1, reserved = reserved + ?1 where sku = ?2"
    edit(books, "inventory", statement, standing, order.sku)


def ship(books: Path, order: Order) -> None:
    statement = "insert into shipments (order_id, sku, quantity, shelf) values (?, ?, ?, 1)"
    edit(books, "shipping", statement, order.order_id, order.sku, order.quantity)


def rules(books: Path, told: dict[str, Told] = TOLD) -> dict[Rule, str]:
    return {violation.rule: violation.subject for violation in audit(books, ORDERS, told)}


def test_right_books_have_no_violation(books: Path) -> None:
    assert audit(books, ORDERS, TOLD) == []


def test_an_order_that_has_not_ended_may_stand_half_way(books: Path) -> None:
    told = {order_id: outcome for order_id, outcome in TOLD.items() if order_id != COMPLETED.order_id}
    edit(books, "shipping", "delete from shipments")
    assert audit(books, ORDERS, told) == []


@pytest.mark.parametrize("step", ["orders", "gateway", "inventory", "shipping"])
def test_an_effect_of_an_order_that_nobody_placed_is_found(books: Path, step: str) -> None:
    stranger = Order("order-9", "customer-0009", "sku-0009", 1, 100)
    appearances: dict[str, Callable[[], None]] = {
        "orders": lambda: create(books, stranger, cancelled=False),
        "gateway": lambda: post(books, stranger.order_id, stranger.customer, "the shop", stranger.cents),
        "inventory": lambda: reserve(books, stranger, released=False),
        "shipping": lambda: ship(books, stranger),
    }
    appearances[step]()
    assert rules(books) == {"unknown-order": "order-9"}


@pytest.mark.parametrize("step", ["orders", "gateway", "inventory", "shipping"])
def test_an_effect_that_was_applied_twice_is_found(books: Path, step: str) -> None:
    repeats: dict[str, Callable[[], None]] = {
        "orders": lambda: create(books, COMPLETED, cancelled=False),
        "gateway": lambda: post(books, COMPLETED.order_id, COMPLETED.customer, "the shop", COMPLETED.cents),
        "inventory": lambda: reserve(books, COMPLETED, released=False),
        "shipping": lambda: ship(books, COMPLETED),
    }
    repeats[step]()
    assert rules(books) == {"applied-twice": "order-1"}


def test_an_order_that_was_cancelled_twice_is_found(books: Path) -> None:
    edit(books, "orders", "update orders set cancelled = 2 where order_id = 'order-2'")
    assert rules(books) == {"undone-twice": "order-2", "undone-without-effect": "order-2"}


def test_a_charge_that_was_refunded_twice_is_found(books: Path) -> None:
    post(books, COMPENSATED.order_id, "the shop", COMPENSATED.customer, COMPENSATED.cents)
    assert rules(books) == {"undone-twice": "order-2", "undone-without-effect": "order-2"}


def test_a_reservation_that_was_released_twice_is_found(books: Path) -> None:
    edit(books, "inventory", "update reservations set released = 2 where order_id = 'order-2'")
    edit(books, "inventory", "update stock set free = free + 12, reserved = reserved - 12 where sku = 'sku-0002'")
    assert rules(books) == {"undone-twice": "order-2", "undone-without-effect": "order-2"}


def test_a_refund_without_a_charge_is_found(books: Path) -> None:
    post(books, TOO_DEAR.order_id, "the shop", TOO_DEAR.customer, TOO_DEAR.cents)
    assert rules(books) == {"undone-without-effect": "order-3"}


@pytest.mark.parametrize(
    ("store", "statement"),
    [
        ("orders", "update orders set cancelled = 1 where order_id = 'order-1'"),
        ("orders", "delete from orders where order_id = 'order-1'"),
        ("shipping", "delete from shipments where order_id = 'order-1'"),
    ],
)
def test_a_completed_order_that_lacks_an_effect_is_found(books: Path, store: str, statement: str) -> None:
    edit(books, store, statement)
    assert rules(books) == {"effect-missing": "order-1"}


def test_a_completed_order_that_is_not_paid_is_found(books: Path) -> None:
    post(books, COMPLETED.order_id, "the shop", COMPLETED.customer, COMPLETED.cents)
    assert rules(books) == {"effect-missing": "order-1"}


def test_a_compensated_order_that_is_still_open_is_found(books: Path) -> None:
    edit(books, "orders", "update orders set cancelled = 0 where order_id = 'order-3'")
    assert rules(books) == {"effect-left-over": "order-3"}


def test_a_compensated_order_that_was_sent_is_found(books: Path) -> None:
    ship(books, COMPENSATED)
    assert rules(books) == {"effect-left-over": "order-2"}


@pytest.mark.parametrize(
    ("store", "statement"),
    [
        ("orders", "update orders set quantity = 7 where order_id = 'order-1'"),
        ("shipping", "update shipments set sku = 'sku-0005' where order_id = 'order-1'"),
    ],
)
def test_an_effect_that_is_not_what_was_ordered_is_found(books: Path, store: str, statement: str) -> None:
    edit(books, store, statement)
    assert rules(books) == {"effect-wrong": "order-1"}


def test_a_charge_of_another_amount_is_found(books: Path) -> None:
    edit(books, "gateway", "update postings set cents = 299 where order_id = 'order-1'")
    found = rules(books)
    assert found["effect-wrong"] == "order-1"
    assert found["money-not-conserved"] in ("the shop", "customer-0001")


def test_an_order_that_completed_though_it_had_to_be_rejected_is_found(books: Path) -> None:
    told = {**TOLD, TOO_DEAR.order_id: Told(completed=True)}
    assert rules(books, told)["completed-though-rejected"] == "order-3"


def test_an_order_that_was_rejected_without_reason_is_found(books: Path) -> None:
    told = {**TOLD, COMPENSATED.order_id: Told(completed=False, rejected_step="charge")}
    assert rules(books, told) == {"rejected-without-reason": "order-2"}


def test_money_that_an_account_gained_is_found(books: Path) -> None:
    edit(books, "gateway", "update accounts set cents = cents + 1 where name = 'customer-0007'")
    violations = audit(books, ORDERS, TOLD)
    assert [(violation.rule, violation.subject) for violation in violations] == [
        ("money-not-conserved", "customer-0007"),
        ("money-not-conserved", "all accounts"),
    ]


def test_money_posted_to_no_account_is_found(books: Path) -> None:
    edit(books, "gateway", "update postings set payee = 'nobody' where payee = 'customer-0002'")
    assert "nobody" in {violation.subject for violation in audit(books, ORDERS, TOLD)}


@pytest.mark.parametrize(
    "statement",
    [
        "update stock set free = free - 1 where sku = 'sku-0004'",
        "update stock set reserved = reserved + 1 where sku = 'sku-0004'",
        "update stock set free = free + 1, reserved = reserved - 1 where sku = 'sku-0004'",
    ],
)
def test_a_piece_that_was_lost_or_gained_is_found(books: Path, statement: str) -> None:
    edit(books, "inventory", statement)
    assert rules(books) == {"stock-not-conserved": "sku-0004"}


def test_more_pieces_reserved_than_there_were_is_found(books: Path) -> None:
    edit(books, "inventory", "update stock set free = free - 99, opening = opening - 99 where sku = 'sku-0001'")
    assert rules(books) == {"stock-not-conserved": "sku-0001"}


def test_pieces_reserved_of_what_never_was_there_are_found(books: Path) -> None:
    edit(books, "inventory", "delete from stock where sku = 'sku-0001'")
    assert rules(books) == {"stock-not-conserved": "sku-0001"}
