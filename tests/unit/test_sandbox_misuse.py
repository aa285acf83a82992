"""What the sandbox refuses, with a code that says what to do; and how its clock steps."""

import asyncio
import sqlite3
from pathlib import Path

import msgspec
import pytest

from sagacore import Compensated, Context, DefinitionError, FenceError, Rejected, Saga, Sandbox, Service, UsageError
from sagacore.fences import sqlite as sqlite_fence
from sagacore.testing import wires


class Order(msgspec.Struct, frozen=True):
    number: int


class Parcel(msgspec.Struct, frozen=True):
    number: int


orders, shipping = Service("orders"), Service("shipping")


@orders.action(compensation=False)
def create(order: Order) -> int:
    return order.number


@shipping.action(compensation=False)
def schedule(order: Order, ctx: Context) -> Parcel:
    ctx.db.execute("create table if not exists parcels (number)")
    return Parcel(order.number)


chain = Saga("chain", Order, deadline=30).then(create).then(schedule, pivot=True)
other_chain = Saga("other-chain", Order).then(create)
ORDER = Order(4)


def test_a_step_without_an_action_or_a_compensation_is_refused() -> None:
    service = Service("elsewhere")
    pick = service.step("pick", input=Order, output=Parcel)
    with pytest.raises(DefinitionError, match=r"SAGA-E601 step 'elsewhere.pick' has no action"):
        Sandbox(Saga("pick", Order).then(pick))

    @pick.action
    def _(order: Order) -> Parcel:
        return Parcel(1)

    # Past the pivot a saga does not need it; the contract promises it to others.
    with pytest.raises(DefinitionError, match=r"SAGA-E601 step 'elsewhere.pick' has no compensation"):
        Sandbox(Saga("pick", Order).then(create).then(pick, pivot=True))


def test_two_steps_of_one_title_are_refused() -> None:
    twin = Service("shipping")

    @twin.action(name="schedule", compensation=False)
    def other(order: Order) -> Parcel:
        return Parcel(1)

    with pytest.raises(DefinitionError, match="SAGA-E109"):
        Sandbox(chain, Saga("other", Order).then(other))


def test_only_what_is_in_the_sandbox_can_be_asked_for() -> None:
    other = Service("other").step("step", input=Order, output=None)

    async def main() -> None:
        async with Sandbox(chain) as box:
            for call in (lambda: box.db("nobody"), lambda: box.fail(other, OSError()), lambda: box.crash_after(other)):
                with pytest.raises(UsageError, match="SAGA-E603"):
                    call()
            with pytest.raises(UsageError, match="SAGA-E603"):
                await box.run(other_chain, ORDER)
            with pytest.raises(UsageError, match="SAGA-E111"):
                box.fail(create, OSError(), times=0)

    asyncio.run(main())


def test_a_sandbox_is_used_within_its_block() -> None:
    async def main() -> None:
        box = Sandbox(chain)
        box.fail(create, Rejected("closed"), times=1)  # may be said before
        async with box:
            assert await box.run(chain, ORDER) == Compensated("create", "closed")
            with pytest.raises(UsageError, match="SAGA-E603"):
                await box.__aenter__()
            folder = Path(box.db("orders").execute("pragma database_list").fetchone()[2]).parent
            assert folder.exists()
        assert not folder.exists()
        with pytest.raises(UsageError, match="SAGA-E603"):
            await box.run(chain, ORDER)

    asyncio.run(main())
    with pytest.raises(UsageError, match="SAGA-E603"):
        Sandbox()


def test_a_transaction_of_the_tests_own_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_fence, "BUSY_TIMEOUT_S", 0.05)

    async def main() -> None:
        async with Sandbox(chain) as box:
            box.db("shipping").execute("begin immediate")
            with pytest.raises(
                FenceError, match=r"SAGA-E604 .*shipping.db cannot commit: database is locked"
            ) as caught:
                await box.run(chain, ORDER)
            assert isinstance(caught.value.__cause__, sqlite3.Error)

    asyncio.run(main())


def test_the_clock_steps_to_what_is_due() -> None:
    clock = wires.Clock()
    began_ms = clock.now_ms
    for delay_ms in (7_013, 25, 7_013):
        clock.due_in(delay_ms)
    seen = []
    while clock.now_ms < began_ms + 600_000:
        before_ms = clock.now_ms
        clock.step(began_ms + 600_000)
        assert 0 < clock.now_ms - before_ms <= wires.STEP_MS_MAX
        seen.append(clock.now_ms - began_ms)
    assert {25, 7_013, 600_000} <= set(seen)
    assert len(seen) < 1_000
    clock.touch()
    clock.step(clock.now_ms + 600_000)
    assert clock.now_ms - began_ms == 600_000 + wires.STEP_MS_MIN
