"""The orders that come in: ordinary ones, and a share that one of the services has to reject.

What an order is rejected for stands in the order itself (too dear, sold out, too heavy), so who will reject which one
is known beforehand, and an audit can tell whether they did.
"""

import random
from collections.abc import Iterator

from .contracts import CHARGE_CENTS_MAX, PARCEL_QUANTITY_MAX, Order

CUSTOMERS = 1_000
SHELVES = 100
SOLD_OUT_SKU = "sku-none"
QUANTITY_ORDINARY_MAX = 3
QUANTITY_MAX = 2 * PARCEL_QUANTITY_MAX
CENTS_MAX = 2 * CHARGE_CENTS_MAX


def customer_name(number: int) -> str:
    """The account name of a customer, `number` from 0 to CUSTOMERS - 1."""
    return f"customer-{number:04}"


def sku_name(number: int) -> str:
    """What lies on the shelf with this number, from 0 to SHELVES - 1."""
    return f"sku-{number:04}"


def incoming_orders(count: int, *, reject: float, seed: int, first: int = 0) -> Iterator[Order]:
    """Yield `count` orders, numbered from `first` on, always the same for the same arguments.

    `reject` is the share, from 0 to 1, that each of payments, inventory and shipping has to reject, each decided on
    its own: an order may be too dear and sold out.
    """
    dice = random.Random(seed)
    for number in range(first, first + count):
        too_dear = dice.random() < reject
        sold_out = dice.random() < reject
        too_heavy = dice.random() < reject
        cents = dice.randint(100, CHARGE_CENTS_MAX)
        quantity = dice.randint(1, QUANTITY_ORDINARY_MAX)
        yield Order(
            order_id=f"order-{number:07}",
            customer=customer_name(dice.randrange(CUSTOMERS)),
            sku=SOLD_OUT_SKU if sold_out else sku_name(dice.randrange(SHELVES)),
            quantity=quantity + PARCEL_QUANTITY_MAX if too_heavy else quantity,
            cents=cents + CHARGE_CENTS_MAX if too_dear else cents,
        )


def rejected_by(order: Order) -> tuple[str, ...]:
    """The steps that have to reject this order if they are asked for it, in the order of the chain."""
    reasons = (
        ("charge", order.cents > CHARGE_CENTS_MAX),
        ("reserve", order.sku == SOLD_OUT_SKU),
        ("schedule", order.quantity > PARCEL_QUANTITY_MAX),
    )
    return tuple(step for step, rejects in reasons if rejects)
