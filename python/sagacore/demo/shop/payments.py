"""Charging the customer, at a payment provider outside.

Run it with `sagacore service sagacore.demo.shop.payments:payments --fence sqlite:payments.db`.

The provider's books are not in this service's database, so the step is an external action: the fence notes the
*intent* before the call and the receipt after it, and a call that is repeated carries the same idempotency key.
"""

from sagacore import Context, Rejected, Retry

from .contracts import CHARGE_CENTS_MAX, Charged, Created, Order, charge, payments
from .gateway import gateway

__all__ = ["payments"]


@charge.action(timeout=5, retry=Retry(tries=5))
async def _(order: Order, created: Created, ctx: Context) -> Charged:
    if order.cents > CHARGE_CENTS_MAX:
        raise Rejected("over the limit")
    receipt = await gateway().charge(
        key=ctx.idempotency_key, order_id=order.order_id, customer=order.customer, cents=order.cents
    )
    return Charged(receipt)


@charge.compensation
async def _(order: Order, charged: Charged | None, ctx: Context) -> None:
    # Without a receipt the charge may have happened or not, or may be on its way: the provider cancels by the key.
    await gateway().refund(key=ctx.idempotency_key, order_id=order.order_id)
