"""Shipping with a handler that burns CPU: the gate must notice."""

import time

from sagacore import Rejected
from sagacore.demo.shop.contracts import PARCEL_QUANTITY_MAX, Order, Reserved, Scheduled, schedule, shipping

__all__ = ["shipping"]

BURNT_S = 0.001


@schedule.action
def _(order: Order, reserved: Reserved) -> Scheduled:
    until_s = time.thread_time() + BURNT_S
    while time.thread_time() < until_s:
        pass
    if order.quantity > PARCEL_QUANTITY_MAX:
        raise Rejected("too heavy for a courier")
    return Scheduled(1)
