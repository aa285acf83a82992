"""What the four teams share: the order, the names and types of their steps, and what an order must keep to.

There is no implementation here, and nothing of anybody's store: a client, or the team that writes the saga, imports
this module alone.
"""

import msgspec

from sagacore import Service

CHARGE_CENTS_MAX = 100_000
"""Payments charges no order above this without a human: it is rejected."""
PARCEL_QUANTITY_MAX = 10
"""No courier takes a parcel with more pieces than this: shipping rejects it."""


class Order(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The input of the saga. It travels with every message: at most 96 bytes."""

    order_id: str
    customer: str
    sku: str
    quantity: int
    cents: int


class Created(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The order stands in the books, under this number."""

    number: int


class Charged(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The customer has paid; the payment provider gave this receipt."""

    receipt: int


class Reserved(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The goods lie ready on this shelf."""

    shelf: int


class Scheduled(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A courier comes for the parcel with this number."""

    parcel: int


orders = Service("orders")
payments = Service("payments")
inventory = Service("inventory")
shipping = Service("shipping")

# Charge and reserve ask for `Created`, so they come after the order was created, and it is cancelled only after both
# of them were undone. Neither asks for the other's result: they may run, and be undone, side by side.
create = orders.step("create", input=Order, output=Created, result_bytes=16)
charge = payments.step("charge", input=Order, output=Charged, needs=[Created], result_bytes=16)
reserve = inventory.step("reserve", input=Order, output=Reserved, needs=[Created], result_bytes=16)
schedule = shipping.step(
    "schedule", input=Order, output=Scheduled, needs=[Reserved], result_bytes=16, compensation=False
)
