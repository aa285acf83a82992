"""Payments with its books in its own database: what it charges and its fence row are one transaction.

The shop's own payments calls a provider outside, who keeps books of his own.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from sagacore import Context, Rejected
from sagacore.demo.shop.contracts import CHARGE_CENTS_MAX, Charged, Created, Order, charge, payments
from sagacore.demo.shop.customers import CUSTOMERS, customer_name

__all__ = ["open_books", "payments"]

BOOKS = """
create table accounts (name text primary key, cents integer not null) strict;
create table charges (
    receipt integer primary key,
    order_id text not null,
    customer text not null,
    cents integer not null,
    refunded integer not null default 0
) strict;
"""


def open_books(path: Path) -> None:
    """Create the tables, with an account for each customer."""
    with closing(sqlite3.connect(path)) as books, books:
        books.execute("pragma journal_mode = wal")
        books.executescript(BOOKS)
        books.executemany("insert into accounts values (?, 0)", [(customer_name(n),) for n in range(CUSTOMERS)])


@charge.action
def _(order: Order, created: Created, ctx: Context) -> Charged:
    if order.cents > CHARGE_CENTS_MAX:
        raise Rejected("over the limit")
    ctx.db.execute("update accounts set cents = cents - ? where name = ?", (order.cents, order.customer))
    receipt = ctx.db.execute(
        "insert into charges (order_id, customer, cents) values (?, ?, ?)",
        (order.order_id, order.customer, order.cents),
    ).lastrowid
    return Charged(receipt or 0)


@charge.compensation
def _(order: Order, charged: Charged | None, ctx: Context) -> None:
    if charged is not None:
        ctx.db.execute("update charges set refunded = refunded + 1 where receipt = ?", (charged.receipt,))
        ctx.db.execute("update accounts set cents = cents + ? where name = ?", (order.cents, order.customer))
