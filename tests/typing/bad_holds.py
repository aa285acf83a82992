"""Holds that a strict type checker refuses, each on the line that is marked."""

from sagacore import Context, Hold, Service
from tests.typing.shop import Order, announce

Service("stock", waiting="always")  # type: ignore[arg-type]
Hold.counted("pool", 2)  # type: ignore[call-arg]
Hold.shared(42)  # type: ignore[arg-type]


def act(order: Order, ctx: Context) -> None:
    ctx.hold(order)  # type: ignore[arg-type]
    ctx.hold("sku:42", wait="no")  # type: ignore[arg-type]
    ctx.hold()  # type: ignore[call-arg]


announce.action(holds=lambda order: [order.colour])  # type: ignore[attr-defined]
announce.action(holds=lambda order: [order.number])  # type: ignore[list-item]
announce.action(holds=["sku:42"])  # type: ignore[call-overload]
