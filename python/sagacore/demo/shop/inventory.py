"""What lies on the shelves.

Run it with `sagacore service sagacore.demo.shop.inventory:inventory --fence sqlite:inventory.db`.
"""

from sagacore import Context, Rejected

from .contracts import Created, Order, Reserved, inventory, reserve

__all__ = ["inventory"]


@reserve.action
def _(order: Order, created: Created, ctx: Context) -> Reserved:
    shelf = ctx.db.execute(
        "update stock set free = free - ?1, reserved = reserved + ?1 where sku = ?2 and free >= ?1 returning shelf",
        (order.quantity, order.sku),
    ).fetchone()
    if shelf is None:
        raise Rejected("sold out")
    ctx.db.execute(
        "insert into reservations (order_id, sku, quantity) values (?, ?, ?)",
        (order.order_id, order.sku, order.quantity),
    )
    return Reserved(shelf[0])


@reserve.compensation
def _(order: Order, reserved: Reserved | None, ctx: Context) -> None:
    ctx.db.execute("update reservations set released = released + 1 where order_id = ?", (order.order_id,))
    ctx.db.execute(
        "update stock set free = free + ?1, reserved = reserved - ?1 where sku = ?2", (order.quantity, order.sku)
    )
