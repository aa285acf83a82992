"""The blocking client: it does what the other one does, from any thread."""

import threading
import time
from collections.abc import Iterator

import pytest

from sagacore import (
    BrokerUnavailable,
    Completed,
    Ended,
    OutcomeTimeout,
    PayloadError,
    SagacoreError,
    Status,
    SyncClient,
    UsageError,
)
from sagacore import session as session_module
from sagacore.codes import Refusal
from tests.fake_broker import START, Ending, FakeBroker, completed
from tests.small_shop import DONE, ORDER, Order, Paid, buy


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    broker = FakeBroker()
    monkeypatch.setattr(session_module, "Link", broker.link)
    return broker


def cents(key: bytes) -> Ending:
    return completed(1, {"cents": int(key)})


def item(order: Order) -> str:
    return order.item


def test_it_starts_follows_and_asks(broker: FakeBroker) -> None:
    broker.stats = []
    with SyncClient("ipc:///nowhere", timeout=5) as client:
        saga = client.start(buy, ORDER, key="k")
        assert (saga.key, saga.id) == ("k", "0-1-00000007")
        assert "'k'" in repr(saga)
        assert saga.status().state == client.status("k").state == "running"
        assert saga.cancel("why")
        assert client.cancel("k")
        with pytest.raises(OutcomeTimeout):
            saga.outcome(timeout=0.01)
        broker.ends = lambda _: DONE
        assert client.start(buy, ORDER, key="other").outcome() == Completed(Paid(5))
        assert client.attach("other", saga=buy).outcome(timeout=5) == Completed(Paid(5))
        assert client.stuck() == []
        broker.stats = {"sessions": 1}
        assert client.stats() == {"sessions": 1, "coordinators": []}
        client.resolve(saga.id, 0, "skip", reason="why")
        assert client.status("nobody") == Status("unknown")
        with pytest.raises(PayloadError):
            client.start(buy, Order("x" * 200))


def test_start_many(broker: FakeBroker) -> None:
    broker.ends = cents
    with SyncClient("ipc:///nowhere", timeout=5) as client:
        ends = client.start_many(buy, (Order(str(number)) for number in range(3_000)), in_flight=100, key=item)
        outcomes = {one.key: one.outcome for one in ends}
        assert outcomes == {str(number): Completed(Paid(number)) for number in range(3_000)}
        assert list(client.start_many(buy, [])) == []


def test_a_slow_source_does_not_hold_back_what_it_gave_before(broker: FakeBroker) -> None:
    broker.ends = cents
    ended: list[Ended[Paid]] = []
    ended_meanwhile = 0

    def slow() -> Iterator[Order]:
        nonlocal ended_meanwhile
        for number in range(20):
            time.sleep(0.01)
            ended_meanwhile = len(ended)
            yield Order(str(number))

    with SyncClient("ipc:///nowhere", timeout=5) as client:
        ended.extend(client.start_many(buy, [Order("99")], key=item))
        for one in client.start_many(buy, slow(), key=item):
            ended.append(one)  # noqa: PERF402 - the source looks at it meanwhile
    assert len(ended) == 21
    assert ended_meanwhile > 5


def test_errors_come_through(broker: FakeBroker) -> None:
    broker.ends = cents
    failed: dict[str, SagacoreError] = {}
    inputs = [Order("1"), Order("2" * 200), Order("3")]
    with SyncClient("ipc:///nowhere", timeout=5) as client:
        keys = iter("abc")
        with pytest.raises(PayloadError):
            list(client.start_many(buy, inputs, key=lambda _: next(keys)))
        names = iter("123")
        ends = client.start_many(buy, inputs, key=lambda _: next(names), on_error=failed.__setitem__)
        assert {one.key for one in ends} == {"1", "3"}
        assert list(failed) == ["2"]


def test_no_broker_is_a_clear_error(broker: FakeBroker) -> None:
    broker.is_up = False
    with SyncClient("ipc:///nowhere", timeout=0.1) as client, pytest.raises(BrokerUnavailable):
        client.start(buy, ORDER)


def test_it_works_within_its_with_only(broker: FakeBroker) -> None:
    client = SyncClient("ipc:///nowhere", timeout=5)
    with pytest.raises(UsageError):
        client.stats()
    with client:
        saga = client.start(buy, ORDER, key="k")
        with pytest.raises(UsageError):
            client.__enter__()
    with pytest.raises(UsageError):
        saga.outcome()
    with client:
        assert client.status("k").state == "running"
    with pytest.raises(UsageError):
        list(client.start_many(buy, [ORDER]))


def test_an_endpoint_that_cannot_be_one_leaves_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(UsageError, match="nonsense"), SyncClient("nonsense"):
        pass
    assert threading.active_count() == before


def test_threads_share_it_and_are_let_go_when_it_closes(broker: FakeBroker) -> None:
    outcomes: list[object] = []

    def wait(client: SyncClient, key: str) -> None:
        try:
            outcomes.append(client.start(buy, Order(key), key=key).outcome())
        except SagacoreError as error:
            outcomes.append(error.code)

    broker.ends = lambda key: None if key == b"0" else DONE
    with SyncClient("ipc:///nowhere", timeout=5) as client:
        threads = [threading.Thread(target=wait, args=(client, str(number))) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads[1:]:
            thread.join(5)
        assert outcomes == [Completed(Paid(5))] * 9
    threads[0].join(5)
    assert outcomes[9:] == ["SAGA-E306"]


def test_who_waits_for_a_full_broker_is_let_go_too(broker: FakeBroker) -> None:
    codes: list[str] = []
    broker.refusals = [(Refusal.FULL, "no room")] * 1000

    def wait(client: SyncClient) -> None:
        with pytest.raises(UsageError) as caught:
            client.start(buy, ORDER, key="k")
        codes.append(caught.value.code)

    with SyncClient("ipc:///nowhere", timeout=30) as client:
        thread = threading.Thread(target=wait, args=(client,))
        thread.start()
        while len(broker.of_kind(START)) < 5:
            time.sleep(0.01)
    thread.join(5)
    assert codes == ["SAGA-E306"]
