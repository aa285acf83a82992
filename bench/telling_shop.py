"""Shipping as in the shop in memory, but a rejection tells when it was made."""

import itertools
import time

from sagacore import Rejected
from sagacore.demo.shop.contracts import PARCEL_QUANTITY_MAX, Order, Reserved, Scheduled, schedule, shipping

__all__ = ["rejected_s", "shipping"]

numbers = itertools.count(1)


@schedule.action
def _(order: Order, reserved: Reserved) -> Scheduled:
    if order.quantity > PARCEL_QUANTITY_MAX:
        raise Rejected(str(time.monotonic_ns()))
    return Scheduled(next(numbers))


def rejected_s(reason: str) -> float:
    """When the order was rejected, by the clock that all processes of a machine share."""
    return int(reason) / 1e9
