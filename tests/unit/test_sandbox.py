"""The sandbox: sagas end as they would in a deployment, failures and crashes come when asked for, and time is free."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from sagacore import (
    Compensated,
    Completed,
    Context,
    KeyConflict,
    OutcomeTimeout,
    PayloadError,
    Rejected,
    Retry,
    Saga,
    Sandbox,
    Service,
    UsageError,
)


class Order(msgspec.Struct, frozen=True):
    number: int


class Created(msgspec.Struct, frozen=True):
    row: int


class Charged(msgspec.Struct, frozen=True):
    receipt: str


class Reserved(msgspec.Struct, frozen=True):
    shelf: int


class Parcel(msgspec.Struct, frozen=True):
    number: int


class Gateway:
    """What payments call: outside of any transaction."""

    def __init__(self) -> None:
        self.open()

    def open(self) -> None:
        self.charges: list[tuple[str, int]] = []
        self.refunds: list[tuple[str, bool]] = []
        self.wait: Callable[[], Awaitable[object]] | None = None


gateway = Gateway()
orders, payments, inventory, shipping = (
    Service("orders"),
    Service("payments"),
    Service("inventory"),
    Service("shipping"),
)


@orders.action
def create(order: Order, ctx: Context) -> Created:
    ctx.db.execute("create table if not exists orders (number)")
    return Created(ctx.db.execute("insert into orders values (?) returning rowid", (order.number,)).fetchone()[0])


@create.compensation
def cancel(order: Order, created: Created | None, ctx: Context) -> None:
    assert created is not None
    ctx.db.execute("delete from orders where number = ?", (order.number,))


@payments.action(retry=Retry(tries=100, first_ms=5_000, last_ms=5_000))
async def charge(order: Order, created: Created, ctx: Context) -> Charged:
    if gateway.wait is not None:
        await gateway.wait()
    gateway.charges.append((ctx.idempotency_key, ctx.tries))
    if order.number < 0 and ctx.tries > 1:
        raise Rejected("not twice")
    return Charged(ctx.idempotency_key)


@charge.compensation
async def refund(order: Order, charged: Charged | None, ctx: Context) -> None:
    gateway.refunds.append((ctx.idempotency_key, charged is None))


@inventory.action
def reserve(order: Order, created: Created, ctx: Context) -> Reserved:
    ctx.db.execute("insert into reserved values (?)", (order.number,))
    if order.number == 13:
        raise Rejected("unlucky")
    return Reserved(created.row)


@reserve.compensation
def release(order: Order, reserved: Reserved | None, ctx: Context) -> None:
    ctx.db.execute("delete from reserved where number = ?", (order.number,))


@shipping.action(external=True, compensation=False)
def schedule(order: Order, charged: Charged, reserved: Reserved) -> Parcel:
    return Parcel(order.number + reserved.shelf)


chain = Saga("chain", Order, deadline=30).then(create).then(charge).then(reserve).then(schedule, pivot=True)
diamond = Saga("diamond", Order, deadline=30).then(create).then(charge, reserve).then(schedule, pivot=True)
ORDER = Order(4)
DONE = Completed(Parcel(5))


def reserved(box: Sandbox) -> list[int]:
    return [number for (number,) in box.db("inventory").execute("select number from reserved order by number")]


def play(test: Callable[[Sandbox], Awaitable[None]], *sagas: Saga[Order, Parcel]) -> None:
    """Run a test in a sandbox of its own, and no longer than a moment."""
    gateway.open()

    async def main() -> None:
        async with asyncio.timeout(20), Sandbox(*sagas or (chain,)) as box:
            box.db("inventory").execute("create table reserved (number)")
            await test(box)

    asyncio.run(main())


def test_a_chain_completes() -> None:
    async def test(box: Sandbox) -> None:
        outcome: Completed[Parcel] | Compensated = await box.run(chain, ORDER)
        assert outcome == DONE
        assert box.calls == [("create", "action"), ("charge", "action"), ("reserve", "action"), ("schedule", "action")]
        assert reserved(box) == [4]
        assert box.db("orders").execute("select number from orders").fetchall() == [(4,)]
        assert box.elapsed_s == 0

    play(test)


def test_a_rejection_past_a_diamond_undoes_all_of_it_in_order() -> None:
    async def test(box: Sandbox) -> None:
        box.fail(schedule, Rejected("no courier"))
        outcome = await box.run(diamond, ORDER)
        assert outcome == Compensated("schedule", "no courier")
        assert set(box.calls[1:3]) == {("charge", "action"), ("reserve", "action")}
        assert set(box.calls[4:6]) == {("charge", "compensation"), ("reserve", "compensation")}
        assert box.calls[6:] == [("create", "compensation")]
        assert reserved(box) == []
        assert gateway.refunds == [(gateway.charges[0][0], False)]

    play(test, diamond)


def test_a_rejection_takes_back_the_effects_of_its_own_transaction() -> None:
    async def test(box: Sandbox) -> None:
        assert await box.run(chain, Order(13)) == Compensated("reserve", "unlucky")
        assert reserved(box) == []
        undone = [step for step, kind in box.calls if kind == "compensation"]
        assert undone == ["charge", "create"]

    play(test)


def test_retries_take_no_real_time() -> None:
    async def test(box: Sandbox) -> None:
        box.fail(charge, OSError("gateway down"), times=4)
        began_s = time.perf_counter()
        assert await box.run(chain, ORDER) == DONE
        assert time.perf_counter() - began_s < 1
        assert box.elapsed_s == 20
        assert box.calls.count(("charge", "action")) == 5
        assert gateway.charges[0][1] == 5

    play(test)


def test_a_deadline_takes_no_real_time() -> None:
    hasty = Saga("hasty", Order, deadline=28.765).then(create).then(charge).then(reserve).then(schedule, pivot=True)

    async def test(box: Sandbox) -> None:
        box.fail(charge, OSError("gateway down"))
        began_s = time.perf_counter()
        outcome = await box.run(hasty, ORDER)
        assert time.perf_counter() - began_s < 1
        assert outcome == Compensated(None, "the deadline passed", "deadline")
        assert box.elapsed_s == 28.765
        assert box.calls[-1] == ("create", "compensation")

    play(test, hasty)


def test_failures_come_in_turn_and_a_later_one_ends_an_endless_one() -> None:
    async def test(box: Sandbox) -> None:
        box.fail(reserve, OSError("disk"), times=1)
        box.fail(reserve, Rejected("sold out"))
        assert await box.run(chain, ORDER) == Compensated("reserve", "sold out")
        box.fail(reserve, Rejected("closed"), times=1)
        assert await box.run(chain, ORDER) == Compensated("reserve", "closed")
        assert await box.run(chain, ORDER) == DONE

    play(test)


def test_a_compensation_that_fails_is_tried_again() -> None:
    async def test(box: Sandbox) -> None:
        box.fail(schedule, Rejected("no courier"))
        box.fail(charge, OSError("gateway down"), times=2, on="compensation")
        assert isinstance(await box.run(chain, ORDER), Compensated)
        assert box.calls.count(("charge", "compensation")) == 3
        assert len(gateway.refunds) == 1

    play(test)


def test_a_crash_before_a_transactional_step_loses_nothing() -> None:
    async def test(box: Sandbox) -> None:
        box.crash_before(reserve)
        assert await box.run(chain, ORDER) == DONE
        assert box.calls.count(("reserve", "action")) == 1
        assert reserved(box) == [4]
        assert 0 < box.elapsed_s < 1, "a dead process is noticed, by its silence"

    play(test)


def test_a_crash_after_a_transactional_step_does_it_once() -> None:
    async def test(box: Sandbox) -> None:
        box.crash_after(reserve)
        assert await box.run(chain, ORDER) == DONE
        assert box.calls.count(("reserve", "action")) == 1, "its row answers the second time"
        assert reserved(box) == [4]
        assert box.elapsed_s > 0

    play(test)


def test_a_crash_after_an_external_step_repeats_it_under_one_key() -> None:
    async def test(box: Sandbox) -> None:
        box.crash_after(charge)
        assert await box.run(chain, ORDER) == DONE
        assert [tries for _, tries in gateway.charges] == [1, 2]
        assert len({key for key, _ in gateway.charges}) == 1

    play(test)


def test_a_crash_before_an_external_step_leaves_its_intent() -> None:
    async def test(box: Sandbox) -> None:
        box.crash_before(charge)
        assert isinstance(await box.run(chain, Order(-1)), Compensated)
        assert gateway.charges == [(gateway.charges[0][0], 2)]
        # Who knows what the first try did? So the rejection of the second one is not clean.
        assert gateway.refunds == [(gateway.charges[0][0], True)]

    play(test)


@pytest.mark.parametrize("when", ["before", "after"])
def test_crashes_while_compensating(when: str) -> None:
    async def test(box: Sandbox) -> None:
        crash = box.crash_before if when == "before" else box.crash_after
        box.fail(schedule, Rejected("no courier"))
        for step in (reserve, charge, create):
            crash(step, on="compensation")
        assert await box.run(chain, ORDER) == Compensated("schedule", "no courier")
        assert reserved(box) == []
        assert box.calls.count(("reserve", "compensation")) == 1
        assert len(gateway.refunds) == (1 if when == "before" else 2)

    play(test)


def test_a_crash_takes_along_what_else_the_process_did() -> None:
    async def test(box: Sandbox) -> None:
        gate = asyncio.Event()
        gateway.wait = gate.wait
        first = asyncio.create_task(box.run(chain, ORDER))
        while ("charge", "action") not in box.calls:  # noqa: ASYNC110 - the sandbox has no events
            await asyncio.sleep(0)
        box.crash_before(charge)
        second = asyncio.create_task(box.run(chain, Order(5)))
        while box.calls.count(("charge", "action")) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0)
        gate.set()
        assert await first == DONE
        assert await second == Completed(Parcel(7))
        assert sorted(tries for _, tries in gateway.charges) == [2, 2], "the first call of each came to nothing"

    play(test)


def test_sagas_run_side_by_side() -> None:
    async def test(box: Sandbox) -> None:
        box.fail(charge, OSError("gateway down"), times=10)
        outcomes = await asyncio.gather(*(box.run(chain, Order(number)) for number in range(20, 60)))
        assert all(isinstance(outcome, Completed) for outcome in outcomes)
        assert reserved(box) == list(range(20, 60))
        assert box.elapsed_s == 5

    play(test)


def test_a_key_names_one_saga() -> None:
    async def test(box: Sandbox) -> None:
        assert await box.run(chain, ORDER, key="order-4") == DONE
        assert await box.run(chain, ORDER, key="order-4") == DONE
        assert reserved(box) == [4]
        with pytest.raises(KeyConflict):
            await box.run(chain, Order(5), key="order-4")
        with pytest.raises(UsageError, match="SAGA-E307"):
            await box.run(chain, ORDER, key="")
        with pytest.raises(PayloadError, match="SAGA-E202"):
            await box.run(chain, {"number": 4})  # type: ignore[misc]
        assert await box.run(chain, ORDER) == Completed(Parcel(6)), "without a key it is another one"

    play(test)


def test_what_cannot_end_says_what_it_waits_for() -> None:
    async def test(box: Sandbox) -> None:
        box.fail(schedule, Rejected("no courier"))
        box.fail(charge, OSError("gateway down"), on="compensation")
        began_s = time.perf_counter()
        with pytest.raises(OutcomeTimeout, match=r"SAGA-E602 .* within 630 s .* it is stuck at charge") as caught:
            await box.run(chain, ORDER)
        assert time.perf_counter() - began_s < 10
        assert "action of shipping.schedule failed 1 time, at last with Rejected: no courier" in str(caught.value)
        assert "at last with OSError: gateway down" in str(caught.value)
        assert box.elapsed_s == 630

    play(test)


def test_a_saga_that_needs_longer_goes_on() -> None:
    async def test(box: Sandbox) -> None:
        box.fail(charge, OSError("gateway down"), times=2)
        with pytest.raises(OutcomeTimeout, match="it is running at charge"):
            await box.run(chain, ORDER, key="slow", within=7)
        assert box.elapsed_s == 7
        assert await box.run(chain, ORDER, key="slow") == DONE
        assert box.elapsed_s == 10

    play(test)


def test_hours_are_a_moment() -> None:
    courier = Service("courier")

    @courier.action(compensation=False, retry=Retry(tries=1_000, first_ms=600_000, last_ms=600_000))
    def fetch(order: Order) -> Parcel:
        return Parcel(1)

    patient = Saga("patient", Order, deadline=21_600).then(create).then(fetch)

    async def main() -> None:
        async with Sandbox(patient) as box:
            box.fail(fetch, OSError("nobody there"))
            assert await box.run(patient, ORDER) == Compensated(None, "the deadline passed", "deadline")
            assert box.elapsed_s == 21_600
            assert box.calls.count(("fetch", "action")) == 36

    asyncio.run(main())


def test_rows_are_forgotten_once_their_sagas_have_ended() -> None:
    async def test(box: Sandbox) -> None:
        assert await box.run(chain, ORDER) == DONE
        box.crash_before(schedule)  # until the broker notices, time passes
        assert isinstance(await box.run(chain, ORDER), Completed)
        rows = box.db("orders").execute("select sequence from sagacore_fence").fetchall()
        assert rows == [(2,)]

    play(test)


def test_the_fences_clock_keeps_up_with_the_sandbox() -> None:
    """An UNDO that finds an intent of a dead process waits until the action must have ended, and no longer."""
    slow = Service("slow")

    @slow.action(timeout=100)
    async def look(order: Order) -> Reserved:
        return Reserved(1)

    @look.compensation
    async def forget(order: Order, found: Reserved | None) -> None:
        assert found is None

    saga = Saga("slow", Order, deadline=0.1).then(look)

    async def main() -> None:
        async with Sandbox(saga) as box:
            box.crash_before(look)
            outcome = await box.run(saga, ORDER)
            assert isinstance(outcome, Compensated)
            assert outcome.cause == "deadline"
            assert 100 < box.elapsed_s < 110
            assert box.calls == [("look", "compensation")]

    asyncio.run(main())


def test_errors_of_handlers_are_logged_and_those_asked_for_are_not(caplog: pytest.LogCaptureFixture) -> None:
    async def test(box: Sandbox) -> None:
        box.fail(charge, OSError("gateway down"), times=1)
        box.db("inventory").execute("drop table reserved")
        outcome = await box.run(chain, ORDER)
        assert isinstance(outcome, Compensated)
        assert "no such table: reserved" in outcome.reason

    with caplog.at_level(logging.WARNING):
        play(test)
    assert {record.getMessage() for record in caplog.records} == {
        f"action of inventory.reserve failed, try {number}" for number in range(1, 6)
    }


def test_who_wants_to_stop_the_test_does() -> None:
    async def test(box: Sandbox) -> None:
        async def interrupt() -> None:
            raise KeyboardInterrupt

        gateway.wait = interrupt
        with pytest.raises(KeyboardInterrupt):
            await box.run(chain, ORDER)

    play(test)


def test_handlers_that_run_at_the_end_are_cancelled() -> None:
    ended: list[str] = []

    async def test(box: Sandbox) -> None:
        async def for_ever() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cancelled")

        gateway.wait = for_ever
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await box.run(chain, ORDER)

    play(test)
    assert ended == ["cancelled"]
