"""The order books as in the shop, but a thing is ordered once at a time: under faults orders wait for each other."""

from sagacore import Context
from sagacore.demo.shop.contracts import Created, Order, create, orders

__all__ = ["orders"]


@create.action
def _(order: Order, ctx: Context) -> Created:
    ctx.hold(f"shelf:{order.sku}")
    number = ctx.db.execute(
        "insert into orders (order_id, customer, sku, quantity, cents) values (?, ?, ?, ?, ?)",
        (order.order_id, order.customer, order.sku, order.quantity, order.cents),
    ).lastrowid
    return Created(number or 0)


@create.compensation
def _(order: Order, created: Created | None, ctx: Context) -> None:
    del created
    ctx.db.execute("update orders set cancelled = cancelled + 1 where order_id = ?", (order.order_id,))
