"""Handlers that a strict type checker must refuse: each ignored error must be there."""

from sagacore import Context, Service
from tests.typing.shop import Charged, Created, Order, Parcel, Reserved, charge, create

inventory = Service("inventory")


@create.action  # type: ignore[arg-type]
def returns_another_type(order: Order) -> Charged:
    return Charged(order.number)


@create.action  # type: ignore[arg-type]
def takes_another_input(parcel: Parcel) -> Created:
    return Created(1)


@create.action  # type: ignore[arg-type]
async def returns_another_type_later(order: Order) -> Charged:
    return Charged(order.number)


@create.action  # type: ignore[arg-type]
def takes_nothing() -> Created:
    return Created(1)


@create.action(timeout=3)  # type: ignore[arg-type]
def returns_another_type_with_options(order: Order) -> Charged:
    return Charged(order.number)


@create.action(timeout="3s")  # type: ignore[call-overload, untyped-decorator]
def has_a_timeout_of_text(order: Order) -> Created:
    return Created(order.number)


@create.compensation  # type: ignore[arg-type]
def wants_it_done_for_sure(order: Order, created: Created) -> None: ...


@create.compensation  # type: ignore[arg-type]
def wants_another_result(order: Order, charged: Charged | None, ctx: Context) -> None: ...


@create.compensation  # type: ignore[arg-type]
def takes_no_result(order: Order) -> None: ...


@create.compensation  # type: ignore[arg-type]
def takes_the_context_first(order: Order, ctx: Context, created: Created | None) -> None: ...


@create.compensation  # type: ignore[arg-type]
def gives_something_back(order: Order, created: Created | None) -> Created | None:
    return created


@charge.compensation(timeout=3)  # type: ignore[arg-type]
async def wants_another_result_with_options(order: Order, created: Created | None) -> None: ...


@inventory.action
def reserve(order: Order) -> Reserved:
    return Reserved(str(order.number))


@reserve.compensation  # type: ignore[arg-type]
def releases_something_else(order: Order, created: Created | None) -> None: ...


@inventory.action  # type: ignore[arg-type]
def asks_for_nothing() -> Reserved:
    return Reserved("")


@inventory.action(timeout=3)  # type: ignore[arg-type]
def asks_for_nothing_with_options() -> Reserved:
    return Reserved("")
