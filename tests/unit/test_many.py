"""`start_many` against a broker in the same loop: every input has one end, whatever happens on the way."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagacore import (
    BrokerUnavailable,
    Client,
    Compensated,
    Completed,
    Ended,
    KeyConflict,
    PayloadError,
    SagacoreError,
    StartRefused,
    UnknownSaga,
    UsageError,
)
from sagacore import session as session_module
from sagacore.codes import CauseCode, Refusal
from sagacore.many import CHUNK
from tests.fake_broker import DEFINE, QUIET, START, Ending, FakeBroker, compensated, completed
from tests.small_shop import DONE, Order, Paid, buy

Ends = list[Ended[Paid]]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    broker = FakeBroker()
    monkeypatch.setattr(session_module, "Link", broker.link)
    return broker


def run(body: Callable[[Client], Coroutine[Any, Any, None]], timeout: float = 5.0) -> None:
    async def main() -> None:
        async with Client("ipc:///nowhere", timeout=timeout) as client:
            await body(client)

    asyncio.run(main())


def orders(count: int) -> list[Order]:
    return [Order(f"item {number}") for number in range(count)]


def item(order: Order) -> str:
    return order.item


def price(key: bytes) -> Ending:
    """Each item costs its number; every tenth one is refused."""
    number = int(key.split()[1])
    return compensated(CauseCode.REJECTED, 1, "no") if number % 10 == 0 else completed(1, {"cents": number})


def test_every_input_ends_once_with_its_own_outcome(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.ends = price
        ended = {one.key: one async for one in client.start_many(buy, orders(1000), key=item)}
        for number in range(1000):
            expected = Compensated("pay", "no") if number % 10 == 0 else Completed(Paid(number))
            one = ended.pop(f"item {number}")
            assert one.outcome == expected
            assert 0 <= one.latency_ms < 5_000
        assert not ended

    run(body)
    starts = broker.of_kind(START)
    assert len(starts) == 1000
    assert all(start.flags == QUIET for start in starts), "no answer but the outcome is wanted"
    assert len(broker.of_kind(DEFINE)) == 1
    assert broker.frames < 100


def test_no_more_than_in_flight_run(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        ends = client.start_many(buy, orders(50), in_flight=7, key=item)
        reading = asyncio.create_task(_all(ends))
        shuffle = random.Random(1)
        while not reading.done():
            running = [key for key, saga in broker.sagas.items() if saga.ending is None]
            assert len(running) <= 7
            if running:
                broker.end(shuffle.choice(running).decode(), DONE)
            await asyncio.sleep(0.001)
        assert len(reading.result()) == 50

    run(body)
    assert broker.running_max == 7


def test_inputs_are_read_as_there_is_room(broker: FakeBroker) -> None:
    read = 0

    def endless() -> Iterator[Order]:
        nonlocal read
        while True:
            read += 1
            yield Order(f"item {read}")

    async def body(client: Client) -> None:
        broker.ends = price
        count = 0
        async for _ in client.start_many(buy, endless(), in_flight=10, key=item):
            count += 1
            assert read <= count + 10 + CHUNK
            if count == 5_000:
                break

    run(body)


def test_nothing_gives_nothing(broker: FakeBroker) -> None:
    async def none() -> AsyncIterator[Order]:
        return
        yield

    async def body(client: Client) -> None:
        assert await _all(client.start_many(buy, [])) == []
        assert await _all(client.start_many(buy, none())) == []

    run(body)


def test_without_a_key_each_has_one_of_its_own(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.ends = lambda _: DONE
        same = [Order("same")] * 300
        keys = [one.key for one in await _all(client.start_many(buy, same))]
        keys += [one.key for one in await _all(client.start_many(buy, same))]
        assert len(set(keys)) == 600

    run(body)


def test_an_asynchronous_source_does_not_hold_up_outcomes(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.ends = price
        has_first = asyncio.Event()

        async def slow() -> AsyncIterator[Order]:
            yield Order("item 1")
            await has_first.wait()  # comes only if the first outcome is handed out meanwhile
            for number in range(2, 600):
                yield Order(f"item {number}")

        keys = []
        async for one in client.start_many(buy, slow(), in_flight=20, key=item):
            has_first.set()
            keys.append(one.key)
        assert len(set(keys)) == 599

    run(body)


def test_a_source_that_fails_ends_the_iteration_after_what_it_gave(broker: FakeBroker) -> None:
    def broken() -> Iterator[Order]:
        yield Order("item 1")
        raise OSError("disk")

    async def broken_later() -> AsyncIterator[Order]:
        yield Order("item 2")
        await asyncio.sleep(0.01)
        raise OSError("network")

    async def body(client: Client) -> None:
        broker.ends = price
        with pytest.raises(OSError, match="disk"):
            await _all(client.start_many(buy, broken(), key=item))
        ends: Ends = []
        with pytest.raises(OSError, match="network"):
            await _all(client.start_many(buy, broken_later(), key=item), ends)
        assert [one.key for one in ends] == ["item 2"]

    run(body)


def test_an_error_is_raised_with_its_key(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.ends = price
        with pytest.raises(PayloadError) as caught:
            await _all(client.start_many(buy, [*orders(3), Order("item " + "9" * 100)], key=item))
        assert caught.value.code == "SAGA-E204"
        assert any("item 99" in note for note in caught.value.__notes__)
        with pytest.raises(KeyConflict, match="'item 1'"):
            await _all(client.start_many(buy, [Order("other")], key=lambda _: "item 1"))
        with pytest.raises(UsageError):
            await _all(client.start_many(buy, orders(1), in_flight=0))

    run(body)


def test_with_on_error_the_others_go_on(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.ends = price
        failed: dict[str, SagacoreError] = {}
        wrong: list[Any] = [Order("item 1"), "no order", Order("item 2" + "2" * 100), Order("item 3")]
        keys = iter(["item 1", "a", "b", "item 3"])
        ends = await _all(client.start_many(buy, wrong, key=lambda _: next(keys), on_error=failed.__setitem__))
        assert {one.key for one in ends} == {"item 1", "item 3"}
        assert {key: error.code for key, error in failed.items()} == {"a": "SAGA-E202", "b": "SAGA-E204"}

    run(body)


def test_a_result_that_cannot_be_read_is_an_error_of_that_saga(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.ends = lambda key: completed(1, {"cents": "five"}) if key == b"item 1" else DONE
        failed: list[str] = []
        ends = await _all(
            client.start_many(buy, orders(3), key=item, on_error=lambda key, error: failed.append(key + error.code))
        )
        assert (len(ends), failed) == (2, ["item 1SAGA-E203"])

    run(body)


def test_a_full_broker_is_asked_again(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.ends = price
        broker.refusals = [(Refusal.FULL, "no room")] * 400
        ends = await _all(client.start_many(buy, orders(300), key=item))
        assert len({one.key for one in ends}) == 300

    run(body)
    assert len(broker.of_kind(START)) == 700


def test_those_that_wait_for_a_full_broker_count_as_in_flight(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.refusals = [(Refusal.FULL, "no room")] * 3
        reading = asyncio.create_task(_all(client.start_many(buy, orders(9), in_flight=3, key=item)))
        while len(broker.sagas) < 9:
            await asyncio.sleep(0.005)
            for key, saga in list(broker.sagas.items()):
                if saga.ending is None and len(broker.sagas) >= 3:
                    broker.end(key.decode(), DONE)
        for key in list(broker.sagas):
            broker.end(key.decode(), DONE)
        assert len(await reading) == 9

    run(body)
    assert broker.running_max == 3
    assert list(broker.sagas)[:3] == [b"item 0", b"item 1", b"item 2"]


def test_a_broker_that_stays_full_refuses(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.refusals = [(Refusal.FULL, "no room")] * 10_000
        with pytest.raises(StartRefused) as caught:
            await _all(client.start_many(buy, orders(3), key=item))
        assert caught.value.code == "SAGA-E302"

    run(body, timeout=0.2)


def test_a_plan_that_the_broker_lost_is_defined_again(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.ends = price
        count = 0
        async for _ in client.start_many(buy, orders(100), in_flight=5, key=item):
            count += 1
            if count == 20:
                broker.plans.clear()
        assert count == 100

    run(body)


def test_a_bad_plan_is_told(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.is_bad_plan = True
        with pytest.raises(StartRefused, match="steps: none"):
            await _all(client.start_many(buy, orders(3), key=item))

    run(body)


def test_a_restart_of_the_broker_goes_unnoticed(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.ends = price
        keys = []
        async for one in client.start_many(buy, orders(2_000), in_flight=100, key=item):
            keys.append(one.key)
            if len(keys) in (300, 900):
                broker.restart()
        assert len(keys) == len(set(keys)) == 2_000

    run(body)
    assert len(broker.sagas) == 2_000


def test_a_saga_that_the_broker_lost_is_unknown(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        failed: dict[str, SagacoreError] = {}
        reading = asyncio.create_task(_all(client.start_many(buy, orders(2), key=item, on_error=failed.__setitem__)))
        while len(broker.sagas) < 2:  # noqa: ASYNC110 - the broker is a double without events
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        del broker.sagas[b"item 0"]
        broker.restart()
        await asyncio.sleep(0.3)
        broker.end("item 1", DONE)
        assert [one.key for one in await reading] == ["item 1"]
        assert isinstance(failed["item 0"], UnknownSaga)

    run(body)


def test_a_silent_broker_is_a_clear_error(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.ends = price
        ends: Ends = []

        async def read() -> None:
            async for one in client.start_many(buy, orders(1000), in_flight=10, key=item):
                ends.append(one)
                broker.is_up = len(ends) < 50

        with pytest.raises(BrokerUnavailable):
            await read()
        assert len(ends) < 100

    run(body, timeout=0.2)


def test_a_small_outbox_only_slows_it_down(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "OUTBOX_BYTES", 2_000)

    async def body(client: Client) -> None:
        broker.ends = price
        assert len(await _all(client.start_many(buy, orders(2_000), key=item))) == 2_000

    run(body)


def test_a_full_outbox_waits_for_confirmations_not_for_outcomes(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "OUTBOX_BYTES", 2_000)
    monkeypatch.setattr("sagacore.many.CHUNK", 10)

    async def body(client: Client) -> None:
        broker.is_up = False
        inputs = iter(orders(100))
        reading = asyncio.create_task(_all(client.start_many(buy, inputs, in_flight=100, key=item)))
        await asyncio.sleep(0.05)
        assert next(inputs).item == "item 10", "nothing more is read while the outbox is full"
        broker.is_up = True
        while len(broker.sagas) < 99:  # noqa: ASYNC110 - the broker is a double without events
            await asyncio.sleep(0.001)
        for key in list(broker.sagas):
            broker.end(key.decode(), DONE)
        assert len(await reading) == 99

    run(body)


def test_who_stops_early_leaves_nothing_behind(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.ends = lambda key: None if key != b"item 3" else DONE
        ends = client.start_many(buy, orders(20), key=item)
        async for one in ends:
            assert one.key == "item 3"
            break
        await ends.aclose()
        assert client._sessions is not None
        assert client._sessions.every[0].core.awaited == 0
        assert client._sessions.every[0]._streams == {}
        broker.end("item 4", DONE)
        await asyncio.sleep(0.02)

    run(body)


def test_two_at_once_do_not_mix(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.ends = lambda key: completed(1, {"cents": int(key)})

        async def total(first: int) -> Counter[str]:
            inputs = [Order(str(number)) for number in range(first, first + 500)]
            seen: Counter[str] = Counter()
            async for one in client.start_many(buy, inputs, in_flight=30, key=item):
                assert one.outcome == Completed(Paid(int(one.key)))
                seen[one.key] += 1
            return seen

        first, second = await asyncio.gather(total(0), total(500))
        assert set(first) == {str(number) for number in range(500)}
        assert set(second) == {str(number) for number in range(500, 1000)}

    run(body)


@settings(max_examples=40)
@given(
    count=st.integers(0, 60),
    in_flight=st.integers(1, 20),
    full=st.integers(0, 30),
    restarts=st.lists(st.integers(1, 60), max_size=2),
    seed=st.integers(0, 2**32),
)
def test_whatever_happens_each_input_ends_once(
    count: int, in_flight: int, full: int, restarts: list[int], seed: int
) -> None:
    chance = random.Random(seed)
    broker = FakeBroker()
    broker.refusals = [(Refusal.FULL, "")] * full
    broker.ends = lambda key: price(key) if chance.random() < 0.5 else None

    async def body(client: Client) -> None:
        seen: Counter[str] = Counter()

        async def end_the_rest() -> None:
            while True:
                for key, saga in list(broker.sagas.items()):
                    if saga.ending is None and chance.random() < 0.5:
                        broker.end(key.decode(), price(key))
                await asyncio.sleep(0.001)

        ending = asyncio.create_task(end_the_rest())
        async for one in client.start_many(buy, orders(count), in_flight=in_flight, key=item):
            seen[one.key] += 1
            if seen.total() in restarts:
                broker.restart()
        ending.cancel()
        assert seen == Counter(order.item for order in orders(count))
        assert broker.running_max <= in_flight

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "Link", broker.link)
        patch.setattr("sagacore.many.PAUSE_FIRST_S", 0.001)
        patch.setattr("sagacore.many.PAUSE_LAST_S", 0.002)
        run(body)


async def _all(ends: AsyncIterator[Ended[Paid]], into: Ends | None = None) -> Ends:
    into = [] if into is None else into
    async for one in ends:
        into.append(one)
    return into
