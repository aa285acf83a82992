"""What a strict type checker knows of services, steps and sagas that are written as they should be."""

from typing import Any, assert_type

from sagacore import Context, Rejected, Retry, Saga, Service, Step
from tests.typing.shop import Charged, Created, Order, Reserved, announce, charge, create

inventory = Service("inventory")

assert_type(create, Step[Order, Created])
assert_type(charge, Step[Order, Charged])
assert_type(announce, Step[Order, None])


@create.action
def make(order: Order, ctx: Context) -> Created:
    ctx.db.execute("insert into orders values (?)", (order.number,))
    return Created(order.number)


@create.compensation
def cancel(order: Order, created: Created | None, ctx: Context) -> None:
    ctx.db.execute("delete from orders where number = ?", (order.number,))


assert_type(make, Step[Order, Created])
assert_type(cancel, Step[Order, Created])


@charge.action(timeout=3, retry=Retry(tries=5, first_ms=50, last_ms=2_000))
async def _(order: Order, created: Created, ctx: Context) -> Charged:
    if order.number < 0:
        raise Rejected("no such order")
    return Charged(created.number)


@charge.compensation(timeout=3)
async def _(order: Order, charged: Charged | None) -> None: ...


@announce.action
def _(order: Order) -> None: ...


@inventory.action
def reserve(order: Order, ctx: Context) -> Reserved:
    return Reserved(str(order.number))


@reserve.compensation
def release(order: Order, reserved: Reserved | None) -> None: ...


@inventory.action(name="count", external=True, compensation=False)
def count_stock(order: Order, reserved: Reserved) -> int:
    return order.number


@inventory.action
async def look_up(order: Order) -> dict[str, int]:
    return {"number": order.number}


@inventory.action(timeout=1.5)
async def ask(order: Order) -> Reserved | None:
    return None


assert_type(reserve, Step[Order, Reserved])
assert_type(release, Step[Order, Reserved])
assert_type(count_stock, Step[Order, int])
assert_type(look_up, Step[Order, dict[str, int]])
assert_type(ask, Step[Order, Reserved | None])

empty = Saga("place-order", Order, deadline=30)
assert_type(empty, Saga[Order, None])
assert_type(empty.input, type[Order])
chain = empty.then(create).then(charge)
assert_type(chain, Saga[Order, Charged])
assert_type(chain.then(reserve, pivot=True), Saga[Order, Reserved])
assert_type(chain.then(reserve, announce), Saga[Order, dict[str, Any]])
assert_type(chain.then(reserve, returns=[create, charge]), Saga[Order, dict[str, Any]])
assert_type(empty.step(create).step(charge, after=[create], undo_before=[create]), Saga[Order, Charged])
assert_type(empty.step(create).step(charge, after=[create], returns=[create]), Saga[Order, dict[str, Any]])
assert_type(chain.encode_input(Order(1)), bytes)
assert_type(chain.definition, bytes)


def read(sections: dict[int, bytes]) -> Charged:
    return chain.decode_result(sections)
