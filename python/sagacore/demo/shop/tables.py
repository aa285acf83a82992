"""Opens the shop: the tables of each service in its own SQLite file, with full shelves and funded accounts.

No table forbids that something happens twice: where a row per order would hide a repeated effect, there is a row per
effect, and what is undone is counted. So the books show what really happened, and whoever audits them can tell.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from .customers import CUSTOMERS, SHELVES, SOLD_OUT_SKU, customer_name, sku_name
from .gateway import SHOP_ACCOUNT

ORDERS = """
create table orders (
    number integer primary key,
    order_id text not null,
    customer text not null,
    sku text not null,
    quantity integer not null,
    cents integer not null,
    cancelled integer not null default 0
) strict;
create index orders_by_order on orders (order_id);
"""
GATEWAY = """
create table accounts (name text primary key, cents integer not null, opening_cents integer not null) strict;
create table charges (
    receipt integer primary key,
    key text not null unique,
    order_id text not null,
    customer text not null,
    cents integer not null,
    state text not null
) strict;
create table postings (
    posting integer primary key,
    order_id text not null,
    payer text not null,
    payee text not null,
    cents integer not null
) strict;
"""
INVENTORY = """
create table stock (
    sku text primary key,
    shelf integer not null,
    free integer not null,
    reserved integer not null default 0,
    opening integer not null
) strict;
create table reservations (
    reservation integer primary key,
    order_id text not null,
    sku text not null,
    quantity integer not null,
    released integer not null default 0
) strict;
create index reservations_by_order on reservations (order_id);
"""
SHIPPING = """
create table shipments (
    parcel integer primary key,
    order_id text not null,
    sku text not null,
    quantity integer not null,
    shelf integer not null
) strict;
"""


def open_shop(folder: Path, *, pieces_per_sku: int, cents_per_customer: int) -> None:
    """Create the stores of all services in `folder`: `orders.db`, `gateway.db`, `inventory.db` and `shipping.db`.

    Payments keeps nothing but its fence, in `payments.db`, which the fence makes itself. Raises `sqlite3.Error` if a
    store is there already.
    """
    with _created(folder / "orders.db", ORDERS):
        pass
    with _created(folder / "gateway.db", GATEWAY) as books:
        books.execute("insert into accounts values (?, 0, 0)", (SHOP_ACCOUNT,))
        funded = ((customer_name(n), cents_per_customer, cents_per_customer) for n in range(CUSTOMERS))
        books.executemany("insert into accounts values (?, ?, ?)", funded)
    with _created(folder / "inventory.db", INVENTORY) as books:
        filled = ((sku_name(n), n, pieces_per_sku, pieces_per_sku) for n in range(SHELVES))
        books.executemany("insert into stock (sku, shelf, free, opening) values (?, ?, ?, ?)", filled)
        books.execute("insert into stock (sku, shelf, free, opening) values (?, ?, 0, 0)", (SOLD_OUT_SKU, SHELVES))
    with _created(folder / "shipping.db", SHIPPING):
        pass


@contextlib.contextmanager
def _created(path: Path, schema: str) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path)) as books:
        books.execute("pragma journal_mode = wal")
        books.executescript(schema)
        with books:
            yield books
