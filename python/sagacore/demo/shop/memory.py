"""The four services of the shop with their effects in memory, for benchmarks: `--fence memory`, one process each.

The steps are those of the contracts, and the same orders are rejected. What is kept dies with the process.
"""

import itertools

from sagacore import Rejected

from .contracts import (
    CHARGE_CENTS_MAX,
    PARCEL_QUANTITY_MAX,
    Charged,
    Created,
    Order,
    Reserved,
    Scheduled,
    charge,
    create,
    inventory,
    orders,
    payments,
    reserve,
    schedule,
    shipping,
)
from .customers import CUSTOMERS, SHELVES, SOLD_OUT_SKU, customer_name, sku_name

__all__ = ["inventory", "orders", "payments", "shipping"]

numbers = itertools.count(1)
open_orders = {customer_name(n): 0 for n in range(CUSTOMERS)}
balances = {customer_name(n): 0 for n in range(CUSTOMERS)}
shelves = {sku_name(n): n for n in range(SHELVES)}
reserved_pieces = dict.fromkeys(shelves, 0)


@create.action
def _(order: Order) -> Created:
    open_orders[order.customer] += 1
    return Created(next(numbers))


@create.compensation
def _(order: Order, created: Created | None) -> None:
    if created is not None:
        open_orders[order.customer] -= 1


@charge.action
def _(order: Order, created: Created) -> Charged:
    if order.cents > CHARGE_CENTS_MAX:
        raise Rejected("over the limit")
    balances[order.customer] -= order.cents
    return Charged(next(numbers))


@charge.compensation
def _(order: Order, charged: Charged | None) -> None:
    if charged is not None:
        balances[order.customer] += order.cents


@reserve.action
def _(order: Order, created: Created) -> Reserved:
    if order.sku == SOLD_OUT_SKU:
        raise Rejected("sold out")
    reserved_pieces[order.sku] += order.quantity
    return Reserved(shelves[order.sku])


@reserve.compensation
def _(order: Order, reserved: Reserved | None) -> None:
    if reserved is not None:
        reserved_pieces[order.sku] -= order.quantity


@schedule.action
def _(order: Order, reserved: Reserved) -> Scheduled:
    if order.quantity > PARCEL_QUANTITY_MAX:
        raise Rejected("too heavy for a courier")
    return Scheduled(next(numbers))
