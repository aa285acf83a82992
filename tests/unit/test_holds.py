"""Holds as users write them, and what a call of a handler makes of them, whatever keeps them."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from sagacore import Context, DefinitionError, FenceError, Held, Hold, Rejected, Saga, Service, UsageError
from sagacore.fences.holding import Holder, Holding
from sagacore.fences.work import Work
from sagacore.holds import Blocked, Mode, Waiting


class Order(Struct, frozen=True):
    sku: str


class Store:
    """Where one saga is in the way of everything that is asked for more than once."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def take(self, hold: Hold, work: Work, *, waits: bool) -> Sequence[Holder]:
        self.taken.append(hold.resource)
        return [(b"7" * 16, 1, 3)] if self.taken.count(hold.resource) > 1 else []


def holding(waiting: Waiting = "detect", phase: int = 0) -> tuple[Holding, Store]:
    store = Store()
    work: Work = (0, False, 0, bytes(16), 0, 0, 0, "", b"", (), 64, (phase, 1, 1), (2, 5, (), False))
    return Holding(store, work, "stock.reserve", waiting), store


def refused(code: str) -> Any:
    return pytest.raises(DefinitionError, match=code)


def test_a_hold_says_who_may_share_it() -> None:
    assert Hold("sku:42") == Hold("sku:42", Mode.EXCLUSIVE, 1, 1)
    assert Hold.shared("x").mode is Mode.SHARED
    assert Hold.counted("pool", 2, of=10) == Hold("pool", Mode.COUNTED, 2, 10)
    assert (Hold("sku:42:red").kind, Hold("ledger").kind) == ("sku", "ledger")


@pytest.mark.parametrize("name", ["", "x" * 201, "\u00e9" * 101, "\ud800"])
def test_a_resource_has_a_short_name(name: str) -> None:
    with pytest.raises(UsageError, match="SAGA-E410"):
        Hold(name)


@pytest.mark.parametrize(("amount", "of"), [(0, 1), (-1, 5), (6, 5), (1, 2**31)])
def test_a_part_of_a_pool_is_no_more_than_the_pool(amount: int, of: int) -> None:
    with pytest.raises(UsageError, match="SAGA-E410"):
        Hold.counted("pool", amount, of=of)


def test_who_must_wait_is_unwound_and_the_broker_is_told() -> None:
    held, store = holding()
    held.take(Hold("a"), wait=True)
    with pytest.raises(Blocked):
        held.take(Hold("a"), wait=True)
    assert msgspec.msgpack.decode(held.blocked or b"") == [0, 0, b"a", [[b"7" * 16, 1, 3]]]
    with pytest.raises(Blocked):  # a handler that catches everything gets no further
        held.take(Hold("b"), wait=True)
    assert store.taken == ["a", "a"]


@pytest.mark.parametrize(("waiting", "wait"), [("fail", True), ("detect", False), ("wound-wait", False)])
def test_who_must_not_wait_is_told(waiting: Waiting, wait: bool) -> None:  # noqa: FBT001 (a case's value)
    held, _ = holding(waiting)
    held.take(Hold("a"), wait=wait)
    with pytest.raises(Held) as caught:
        held.take(Hold("a"), wait=wait)
    assert isinstance(caught.value, Rejected)
    assert (caught.value.resource, held.blocked) == ("a", None)
    held.take(Hold("b"), wait=wait)


def test_blocked_is_no_ordinary_exception() -> None:
    assert not issubclass(Blocked, Exception)


def test_a_context_takes_texts_and_holds() -> None:
    held, store = holding()
    context = Context(bytes(16), "reserve", "", taker=held)
    context.hold("a")
    context.hold(Hold.shared("b"), wait=False)
    assert store.taken == ["a", "b"]
    with pytest.raises(UsageError, match="SAGA-E410"):
        context.hold("")


@pytest.mark.parametrize(
    ("context", "code"),
    [
        (Context(bytes(16), "pay", "", external=True, taker=holding()[0]), "SAGA-E408"),
        (Context(bytes(16), "release", ""), "SAGA-E409"),
        (Context(bytes(16), "ship", "", taker=holding(phase=2)[0]), "SAGA-E407"),
    ],
)
def test_there_are_places_where_nothing_can_be_held(context: Context, code: str) -> None:
    with pytest.raises(FenceError, match=code):
        context.hold("a")


def test_a_call_asks_for_a_bounded_number() -> None:
    held, _ = holding()
    for number in range(64):
        held.take(Hold(str(number)), wait=True)
    with pytest.raises(FenceError, match="SAGA-E411"):
        held.take(Hold("one more"), wait=True)


def test_holds_are_declared_where_an_action_is_written() -> None:
    stock = Service("stock")
    reserve = stock.step("reserve", input=Order, output=None, compensation=False)

    @reserve.action(holds=lambda order: [f"sku:{order.sku}", Hold.shared("catalogue")])
    def do(order: Order) -> None: ...

    assert do.implementation is not None
    assert do.implementation.holds is not None
    assert list(do.implementation.holds(Order("7"))) == ["sku:7", Hold.shared("catalogue")]


def test_an_external_action_declares_none() -> None:
    stock = Service("stock")
    with refused("SAGA-E123"):

        @stock.action(holds=lambda order: [order.sku])
        async def reserve(order: Order) -> None: ...


def test_a_step_past_the_pivot_declares_none() -> None:
    stock = Service("stock")

    @stock.action(holds=lambda order: [order.sku], compensation=False)
    def reserve(order: Order) -> None: ...

    @stock.action(compensation=False)
    def decide(order: Order) -> None: ...

    assert Saga("s", Order).then(decide).then(reserve, pivot=True).definition
    with refused("SAGA-E124"):
        _ = Saga("s", Order).then(decide, pivot=True).then(reserve).definition


def test_a_service_says_how_its_steps_wait() -> None:
    stock = Service("stock", waiting="wound-wait")
    assert stock.waiting == "wound-wait"
    assert stock.step("reserve", input=Order).waiting == "wound-wait"
    assert Service("other").waiting == "detect"
    with refused("SAGA-E111"):
        Service("stock", waiting="never")  # type: ignore[arg-type]
