"""The client against a broker in the same loop: starting, following, asking, and what breaks in between."""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sagacore import (
    BrokerUnavailable,
    Client,
    Compensated,
    Completed,
    DefinitionError,
    KeyConflict,
    OutcomeTimeout,
    PayloadError,
    ProtocolError,
    Saga,
    StartRefused,
    UnknownSaga,
    UsageError,
)
from sagacore import session as session_module
from sagacore.codes import CauseCode, Kind, OutcomeCode, Refusal, Section
from tests.fake_broker import ATTACH, DEFINE, START, FakeBroker, Message, compensated, completed, pack_any
from tests.small_shop import DONE, ORDER, Order, Paid, buy, pay, reserve


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    broker = FakeBroker()
    monkeypatch.setattr(session_module, "Link", broker.link)
    return broker


def run(body: Callable[[Client], Coroutine[Any, Any, None]], timeout: float = 5.0) -> None:
    async def main() -> None:
        async with Client("ipc:///nowhere", timeout=timeout) as client:
            await body(client)
        gc.collect()  # a future whose error nobody took would complain now

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the broker is a double without events
        await asyncio.sleep(0.001)


# Starting


def test_what_is_no_saga_cannot_be_started(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        with pytest.raises(DefinitionError, match=r"SAGA-E125.*'shop.pay' is no saga"):
            await client.start(pay, ORDER)  # type: ignore[arg-type]
        with pytest.raises(DefinitionError, match="SAGA-E125"):
            async for _ in client.start_many("buy", [ORDER]):  # type: ignore[arg-type]
                pass

    run(body)


def test_a_started_saga_has_an_id_and_ends_with_a_typed_result(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        saga = await client.start(buy, ORDER, key="order-1")
        assert (saga.key, saga.id) == ("order-1", "0-1-00000007")
        assert "order-1" in repr(saga)
        broker.end("order-1", DONE)
        outcome = await saga.outcome()
        assert outcome == Completed(Paid(5))
        assert await saga.outcome() is outcome

    run(body)
    (start,) = broker.of_kind(START)
    assert start.body == {Section.INPUT: buy.encode_input(ORDER), Section.KEY: b"order-1"}
    assert start.plan == buy.plan.fingerprint
    assert [define.body[Section.DATA] for define in broker.of_kind(DEFINE)] == [buy.definition]


def test_start_waits_until_the_saga_is_durable(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.answers_starts = False
        starting = asyncio.create_task(client.start(buy, ORDER, key="k"))
        await until(lambda: bool(broker.sagas))
        await asyncio.sleep(0.05)
        assert not starting.done()
        broker.end("k", DONE)  # a saga that has ended has begun
        assert await (await starting).outcome() == Completed(Paid(5))

    run(body)


def test_without_a_key_one_is_drawn(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        first, second = await client.start(buy, ORDER), await client.start(buy, ORDER)
        assert first.key
        assert first.key != second.key

    run(body)
    assert len(broker.sagas) == 2


def test_the_same_key_is_the_same_saga_and_another_input_a_conflict(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        first, again = [await client.start(buy, ORDER, key="k") for _ in range(2)]
        assert first.id == again.id
        with pytest.raises(KeyConflict, match="'k' was started before") as caught:
            await client.start(buy, Order("other"), key="k")
        assert caught.value.code == "SAGA-E303"

    run(body)
    assert len(broker.sagas) == 1


@pytest.mark.parametrize(
    ("value", "key", "error", "code"),
    [
        ("no order", "k", PayloadError, "SAGA-E202"),
        (Order("x" * 100), "k", PayloadError, "SAGA-E204"),
        (ORDER, "", UsageError, "SAGA-E307"),
        (ORDER, "\u00e9" * 101, UsageError, "SAGA-E307"),
    ],
)
def test_what_is_wrong_is_never_sent(
    broker: FakeBroker, value: Any, key: str, error: type[PayloadError], code: str
) -> None:
    async def body(client: Client) -> None:
        with pytest.raises(error) as caught:
            await client.start(buy, value, key=key)
        assert caught.value.code == code
        await client.start(buy, ORDER, key="\u00e9" * 100)

    run(body)
    assert len(broker.of_kind(START)) == 1


def test_starts_of_one_turn_share_a_frame(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        await client.start(buy, ORDER)
        before = broker.frames
        sagas = await asyncio.gather(*(client.start(buy, ORDER) for _ in range(500)))
        assert len({saga.id for saga in sagas}) == 500
        assert broker.frames - before < 10

    run(body)


@pytest.mark.parametrize("refusal", [Refusal.FULL, Refusal.CLASS_FULL])
def test_a_full_broker_is_asked_again(broker: FakeBroker, refusal: Refusal) -> None:
    async def body(client: Client) -> None:
        broker.refusals = [(refusal, "no room")] * 3
        assert (await client.start(buy, ORDER, key="k")).id

    run(body)
    assert len(broker.of_kind(START)) == 4


@pytest.mark.parametrize(("refusal", "code"), [(Refusal.FULL, "SAGA-E302"), (Refusal.CLASS_FULL, "SAGA-E309")])
def test_a_broker_that_stays_full_refuses(broker: FakeBroker, refusal: Refusal, code: str) -> None:
    async def body(client: Client) -> None:
        broker.refusals = [(refusal, "no room")] * 1000
        with pytest.raises(StartRefused, match="no room") as caught:
            await client.start(buy, ORDER, key="k")
        assert (caught.value.code, caught.value.retryable) == (code, True)

    run(body, timeout=0.2)


def test_a_plan_that_the_broker_lost_is_defined_again(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        await client.start(buy, ORDER)
        broker.plans.clear()
        await client.start(buy, ORDER)

    run(body)
    assert len(broker.of_kind(DEFINE)) == 2


def test_a_plan_that_the_broker_refuses_is_told_with_its_reason(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.is_bad_plan = True
        with pytest.raises(StartRefused, match="steps: none") as caught:
            await client.start(buy, ORDER)
        assert (caught.value.code, caught.value.retryable) == ("SAGA-E308", False)
        broker.is_bad_plan = False
        await client.start(buy, ORDER)

    run(body)


def test_other_refusals_name_the_saga(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.refusals = [(Refusal.TOO_LARGE, "300 bytes"), (Refusal.FORBIDDEN, "why")]
        with pytest.raises(PayloadError, match=r"'k' is larger .*300 bytes"):
            await client.start(buy, ORDER, key="k")
        with pytest.raises(ProtocolError, match=r"'k' .*why"):
            await client.start(buy, ORDER, key="k")

    run(body)


def test_many_unconfirmed_starts_wait_for_room(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "OUTBOX_BYTES", 1000)

    async def body(client: Client) -> None:
        sagas = await asyncio.gather(*(client.start(buy, ORDER) for _ in range(50)))
        assert len({saga.id for saga in sagas}) == 50

    run(body)


def test_nothing_waits_for_the_next_tick(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        await client.start(buy, ORDER, key="k")
        broker.ticks = False
        began_s = time.monotonic()
        saga = await client.start(buy, ORDER, key="l")
        await saga.status()
        await client.cancel("l")
        await client.stats()
        attached = client.attach("l", saga=buy)
        await until(lambda: bool(attached.id))
        broker.ends = lambda _: DONE
        assert len([one async for one in client.start_many(buy, [ORDER] * 500)]) == 500
        assert time.monotonic() - began_s < 2

    run(body)


# How sagas end


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        (compensated(CauseCode.REJECTED, 1, "no money"), Compensated("pay", "no money", "rejected")),
        (compensated(CauseCode.GAVE_UP, 0, "boom"), Compensated("reserve", "boom", "gave-up")),
        (compensated(CauseCode.DEADLINE, 64, "late"), Compensated(None, "late", "deadline")),
        (compensated(CauseCode.CANCELLED, 64, "enough"), Compensated(None, "enough", "cancelled")),
        (
            compensated(CauseCode.DELIVERY_LIMIT, 1, "", [(0, "by hand")]),
            Compensated("pay", "", "delivery-limit", ("reserve",)),
        ),
    ],
)
def test_a_compensated_saga_says_why(broker: FakeBroker, ending: Any, outcome: Compensated) -> None:
    async def body(client: Client) -> None:
        broker.ends = lambda _: ending
        assert await (await client.start(buy, ORDER)).outcome() == outcome

    run(body)


@pytest.mark.parametrize(
    ("ending", "error"),
    [
        (completed(0, {"cents": 5}), ProtocolError),
        (completed(1, {"cents": "five"}), PayloadError),
        ((OutcomeCode.COMPENSATED, {}), ProtocolError),
        ((OutcomeCode.COMPENSATED, {int(Section.CAUSE): pack_any([9, 0, "?"])}), ProtocolError),
        ((OutcomeCode.COMPENSATED, {int(Section.CAUSE): b"\xc1"}), ProtocolError),
    ],
)
def test_an_outcome_that_cannot_be_read_is_an_error(broker: FakeBroker, ending: Any, error: type[Exception]) -> None:
    async def body(client: Client) -> None:
        broker.ends = lambda _: ending
        saga = await client.start(buy, ORDER)
        for _ in range(2):
            with pytest.raises(error):
                await saga.outcome()

    run(body)


def test_results_by_name(broker: FakeBroker) -> None:
    both = Saga("both", Order).then(reserve, pay)

    async def body(client: Client) -> None:
        broker.ends = lambda _: (OutcomeCode.COMPLETED, {0: pack_any(None), 1: pack_any({"cents": 7})})
        assert await (await client.start(both, ORDER)).outcome() == Completed({"reserve": None, "pay": Paid(7)})

    run(body)


def test_an_outcome_can_be_waited_for_by_several_and_again(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        saga = await client.start(buy, ORDER, key="k")
        with pytest.raises(OutcomeTimeout, match=r"0\.02 s") as caught:
            await saga.outcome(timeout=0.02)
        assert caught.value.code == "SAGA-E304"
        waiting = [asyncio.create_task(saga.outcome()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        broker.end("k", DONE)
        assert await asyncio.gather(*waiting[1:]) == [Completed(Paid(5))] * 2

    run(body)


# What breaks in between


def test_no_broker_is_a_clear_error_in_time(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.is_up = False
        for call in (client.start(buy, ORDER), client.status("k"), client.stats(), client.cancel("k")):
            began_s = asyncio.get_running_loop().time()
            with pytest.raises(BrokerUnavailable, match="ipc:///nowhere") as caught:
                await call
            assert caught.value.code == "SAGA-E301"
            assert asyncio.get_running_loop().time() - began_s < 0.5

    run(body, timeout=0.1)


def test_a_broker_that_takes_no_more_clients_is_named_as_the_cause(broker: FakeBroker) -> None:
    broker.takes_no_session = True

    async def body(client: Client) -> None:
        with pytest.raises(BrokerUnavailable, match=r"no session of this client \(full\)"):
            await client.stats()

    run(body, timeout=0.2)


def test_a_short_outage_goes_unnoticed(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.is_up = False
        starting = asyncio.create_task(client.start(buy, ORDER, key="k"))
        await asyncio.sleep(0.05)
        broker.is_up = True
        saga = await starting
        broker.restart()
        broker.end("k", DONE)
        assert await saga.outcome() == Completed(Paid(5))

    run(body)
    assert [message.amount for message in broker.of_kind(ATTACH)] == [broker.of_kind(START)[0].amount]


def test_an_outcome_is_not_waited_for_in_vain_and_each_wait_has_its_own_time(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        saga = await client.start(buy, ORDER, key="k")
        broker.is_up = False
        with pytest.raises(BrokerUnavailable):
            await saga.outcome()
        again = asyncio.create_task(saga.outcome())
        await asyncio.sleep(0.2)
        broker.is_up = True
        broker.restart()
        broker.end("k", DONE)
        assert await again == Completed(Paid(5))

    run(body, timeout=0.5)


def test_a_loop_that_stood_still_does_not_blame_the_broker(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        saga = await client.start(buy, ORDER, key="k")
        waiting = asyncio.create_task(saga.outcome())
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251 - that is what is tested
        await asyncio.sleep(0.05)
        broker.end("k", DONE)
        assert await waiting == Completed(Paid(5))

    run(body, timeout=0.1)


def test_a_broker_that_talks_nonsense_is_left_and_asked_anew(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        saga = await client.start(buy, ORDER, key="k")
        broker.say_bytes(b"\xff" * 200)
        broker.end("k", DONE)
        assert await saga.outcome() == Completed(Paid(5))

    run(body)
    assert len(broker.of_kind(ATTACH)) == 1


def test_a_saga_that_the_broker_lost_is_unknown(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        saga = await client.start(buy, ORDER, key="k")
        broker.sagas.clear()
        broker.restart()
        with pytest.raises(UnknownSaga, match="'k'"):
            await saga.outcome()

    run(body)


def test_answers_that_nobody_waits_for_are_dropped(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        saga = await client.start(buy, ORDER, key="k")
        correlation = broker.of_kind(START)[0].amount
        broker.end("k", DONE)
        await saga.outcome()
        again = [Message(Kind.RESULT, correlation, OutcomeCode.COMPENSATED), Message(Kind.STATS, 99)]
        broker.say_bytes(b"".join(message.pack() for message in again))
        assert await saga.outcome() == Completed(Paid(5))

    run(body)


def test_cancelled_calls_leave_nothing_behind(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.is_up = False
        calls = [asyncio.create_task(call) for call in (client.start(buy, ORDER), client.stats())]
        await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert client._sessions is not None
        assert client._sessions.every[0]._calls == {}
        assert client._sessions.every[0].core.awaited == 0

    run(body)


# Opening and closing


def test_a_client_works_within_its_with_only(broker: FakeBroker) -> None:
    async def main() -> None:
        client = Client("ipc:///nowhere", timeout=5)
        with pytest.raises(UsageError) as caught:
            await client.start(buy, ORDER)
        assert caught.value.code == "SAGA-E306"
        async with client:
            saga = await client.start(buy, ORDER, key="k")
            with pytest.raises(UsageError):
                await client.__aenter__()
            waiting = asyncio.create_task(saga.outcome())
            await asyncio.sleep(0)
        with pytest.raises(UsageError):
            await waiting
        for call in (saga.outcome(), saga.status(), client.stats()):
            with pytest.raises(UsageError):
                await call
        async with client:
            broker.end("k", DONE)
            assert await client.attach("k", saga=buy).outcome() == Completed(Paid(5))

    asyncio.run(main())


def test_an_endpoint_that_cannot_be_one_is_refused() -> None:
    async def main() -> None:
        client = Client("nonsense")
        with pytest.raises(UsageError) as caught:
            await client.__aenter__()
        assert caught.value.code == "SAGA-E505"
        with pytest.raises(UsageError):
            await client.stats()

    asyncio.run(main())
    with pytest.raises(UsageError):
        Client("ipc:///x", timeout=0)
