"""How an order is placed: which step comes after which. Whoever starts the saga needs this and the contracts.

Nothing is sent before it is paid and reserved, and once a courier was asked for there is no way back: `schedule` is
the pivot. If it says no, the charge and the reservation are undone side by side and then the order is cancelled.
"""

from sagacore import Saga

from .contracts import Order, charge, create, reserve, schedule

place_order = (
    Saga("place-order", Order, deadline=30, input_bytes=96)
    .then(create)
    .then(charge)
    .then(reserve)
    .then(schedule, pivot=True)
)
"""One step after another: five messages."""

place_order_diamond = (
    Saga("place-order-diamond", Order, deadline=30, input_bytes=96)
    .then(create)
    .then(charge, reserve)
    .then(schedule, pivot=True)
)
"""Payment and inventory side by side: seven messages, and one wait fewer."""
