"""Handing parcels to a courier.

Run it with `sagacore service sagacore.demo.shop.shipping:shipping --fence sqlite:shipping.db`.

This step is the saga's pivot: it decides. It has no compensation, because nothing can fail after it.
"""

from sagacore import Context, Rejected

from .contracts import PARCEL_QUANTITY_MAX, Order, Reserved, Scheduled, schedule, shipping

__all__ = ["shipping"]


@schedule.action
def _(order: Order, reserved: Reserved, ctx: Context) -> Scheduled:
    if order.quantity > PARCEL_QUANTITY_MAX:
        raise Rejected("too heavy for a courier")
    parcel = ctx.db.execute(
        "insert into shipments (order_id, sku, quantity, shelf) values (?, ?, ?, ?)",
        (order.order_id, order.sku, order.quantity, reserved.shelf),
    ).lastrowid
    return Scheduled(parcel or 0)
