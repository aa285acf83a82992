"""The order books.

Run it with `sagacore service sagacore.demo.shop.orders:orders --fence sqlite:orders.db`.

A step that only writes to the service's own database is an ordinary function: what it writes through `ctx.db` and the
fence row, which makes it happen once, are one transaction.
"""

from sagacore import Context

from .contracts import Created, Order, create, orders

__all__ = ["orders"]


@create.action
def _(order: Order, ctx: Context) -> Created:
    number = ctx.db.execute(
        "insert into orders (order_id, customer, sku, quantity, cents) values (?, ?, ?, ?, ?)",
        (order.order_id, order.customer, order.sku, order.quantity, order.cents),
    ).lastrowid
    return Created(number or 0)


@create.compensation
def _(order: Order, created: Created | None, ctx: Context) -> None:
    ctx.db.execute("update orders set cancelled = cancelled + 1 where order_id = ?", (order.order_id,))
