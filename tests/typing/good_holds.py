"""What a strict type checker knows of holds that are written as they should be."""

from typing import assert_type

from sagacore import Context, Held, Hold, Service, Step
from tests.typing.shop import Order

stock = Service("stock", waiting="wound-wait")
label = stock.step("label", input=Order, compensation=False)


@label.action(holds=lambda order: [f"order:{order.number}", Hold.shared("paper")])
def _(order: Order, ctx: Context) -> None:
    ctx.hold("sku:42")
    ctx.hold(Hold.counted("pool", 2, of=10), wait=False)
    try:
        ctx.hold(Hold("seat:12a"), wait=False)
    except Held as held:
        assert_type(held.resource, str)


def sheets(order: Order) -> list[str]:
    return [f"sheet:{order.number}"]


@stock.action(holds=sheets, timeout=2)
def count_sheets(order: Order) -> int:
    return order.number


assert_type(count_sheets, Step[Order, int])
