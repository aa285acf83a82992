"""Several brokers: which one a saga is for, what of them is added up, and what a service carries between them."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from sagacore import BrokerUnavailable, Client, Completed, Service, SyncClient, UnknownSaga, UsageError
from sagacore import session as session_module
from sagacore._core import Holds
from sagacore.endpoints import check_shard, shard_of_key, split_endpoints
from sagacore.fences import MemoryFence, Watermark
from sagacore.fences.calls import Verdict
from sagacore.fences.sqlite import SqliteFence
from sagacore.fences.work import Work
from sagacore.processes.service import ServiceOptions, ServiceProcess
from tests.fake_broker import START, FakeBroker, FakeLink
from tests.small_shop import DONE, ORDER, Order, Paid, buy
from tests.unit.test_service_runtime import FakeCore
from tests.unit.test_service_runtime import FakeLink as ServiceLink

ENDPOINTS = "ipc:///a, ipc:///b"
KEYS = [f"order-{number}" for number in range(40)]


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> list[FakeBroker]:
    brokers = [FakeBroker(0), FakeBroker(1)]
    by_endpoint = dict(zip(split_endpoints(ENDPOINTS), brokers, strict=True))

    def link(endpoint: str, core: Any, deliver: Any) -> FakeLink:
        return by_endpoint[endpoint].link(endpoint, core, deliver)

    monkeypatch.setattr(session_module, "Link", link)
    return brokers


def run(body: Callable[[Client], Coroutine[Any, Any, None]], timeout: float = 2.0) -> None:
    async def main() -> None:
        async with Client(ENDPOINTS, timeout=timeout) as client:
            await body(client)

    asyncio.run(main())


@pytest.mark.parametrize("text", ["", "a,", ",a", "a,b,a", ",".join(f"e{number}" for number in range(65))])
def test_a_list_names_every_endpoint_once(text: str) -> None:
    with pytest.raises(UsageError, match="SAGA-E508"):
        split_endpoints(text)
    assert split_endpoints("a , b") == ["a", "b"]


def test_the_shard_of_a_key_never_changes() -> None:
    assert [shard_of_key(key.encode(), 3) for key in KEYS[:8]] == [0, 1, 0, 2, 2, 1, 0, 2]
    assert {shard_of_key(key.encode(), 2) for key in KEYS} == {0, 1}
    check_shard("ipc:///a", 0, 1, 7)  # one alone may have any number
    check_shard("ipc:///a", 1, 2, None)


def test_sagas_are_dealt_by_their_keys_and_found_again(brokers: list[FakeBroker]) -> None:
    async def body(client: Client) -> None:
        for key in KEYS:
            saga = await client.start(buy, ORDER, key=key)
            shard = shard_of_key(key.encode(), 2)
            assert key.encode() in brokers[shard].sagas
            assert saga.id.startswith(f"{shard}-")
            assert (await client.status(key)).saga_id == (await client.status(id=saga.id)).saga_id == saga.id
            assert (await client.status(saga.key)).state == "running"
            assert await client.cancel(id=saga.id)
        drawn = await client.start(buy, ORDER)
        assert (await client.status(drawn.key)).saga_id == drawn.id
        with pytest.raises(UnknownSaga, match="there is no shard 5"):
            await client.status(id="5-1-00000007")
        with pytest.raises(UnknownSaga):
            client.attach(id="5-1-00000007")

    run(body)


def test_many_are_dealt_too_and_ends_come_from_all(brokers: list[FakeBroker]) -> None:
    for broker in brokers:
        broker.ends = lambda _: DONE

    async def body(client: Client) -> None:
        orders = [Order(key) for key in KEYS]
        ended = [one async for one in client.start_many(buy, orders, in_flight=8, key=lambda order: order.item)]
        assert sorted(one.key for one in ended) == sorted(KEYS)
        assert all(one.outcome == Completed(Paid(5)) for one in ended)
        for shard, broker in enumerate(brokers):
            assert set(broker.sagas) == {key.encode() for key in KEYS if shard_of_key(key.encode(), 2) == shard}

    run(body)


def test_a_silent_broker_is_noticed_only_where_something_is_awaited_of_it(brokers: list[FakeBroker]) -> None:
    brokers[0].ends = lambda _: DONE

    async def body(client: Client) -> None:
        brokers[1].is_up = False
        own = [Order(key) for key in KEYS if shard_of_key(key.encode(), 2) == 0]
        ended = [one async for one in client.start_many(buy, own, key=lambda order: order.item)]
        assert len(ended) == len(own)
        other = next(key for key in KEYS if shard_of_key(key.encode(), 2) == 1)
        with pytest.raises(BrokerUnavailable):
            await client.start(buy, ORDER, key=other)

    run(body, timeout=0.5)


def test_what_brokers_tell_is_put_together(brokers: list[FakeBroker]) -> None:
    for shard, broker in enumerate(brokers):
        broker.stats = {"started": 3 + shard, "coordinators": [msgspec.msgpack.encode({"pid": shard})]}

    async def body(client: Client) -> None:
        stats = await client.stats()
        assert (stats["started"], stats["coordinators"]) == (7, [{"pid": 0}, {"pid": 1}])
        assert [one["started"] for one in stats["shards"]] == [3, 4]
        for shard, broker in enumerate(brokers):
            broker.stats = [(f"{shard}-1-00000007", "buy", "forward", ["pay"], 2)]
        assert [saga["id"] for saga in await client.stuck()] == ["0-1-00000007", "1-1-00000007"]
        for shard, broker in enumerate(brokers):
            found = [1, 5, 0, f"{shard}-1-00000007", False, []]
            broker.stats, broker.pages = (2, []), [(2, [found])]
        assert [one["victim"] for one in await client.deadlocks()] == ["0-1-00000007", "1-1-00000007"]

    run(body)


def test_brokers_in_another_order_are_an_error(brokers: list[FakeBroker]) -> None:
    brokers[0].shard, brokers[1].shard = 1, 0

    async def body(client: Client) -> None:
        for key in KEYS[:2]:
            with pytest.raises(UsageError, match="SAGA-E508"):
                await client.start(buy, ORDER, key=key)
        with pytest.raises(UsageError, match="SAGA-E508"):
            await client.stats()

    run(body)
    assert not any(broker.of_kind(START) for broker in brokers), "nothing was begun in the wrong place"


def test_the_blocking_client_knows_shards_too(brokers: list[FakeBroker]) -> None:
    for broker in brokers:
        broker.ends = lambda _: DONE
    with SyncClient(ENDPOINTS, timeout=2.0) as client:
        ends = list(client.start_many(buy, [Order(key) for key in KEYS], key=lambda order: order.item))
    assert len(ends) == len(KEYS)
    assert all(broker.sagas for broker in brokers)


class ShardCore(FakeCore):
    """The core of one shard's line."""

    def __init__(self, shard: int) -> None:
        super().__init__()
        self.shard = shard


class Lines:
    """A process of a service with two lines, and the cores behind them."""

    def __init__(self, service: Service, fence: str = "memory") -> None:
        self.cores = [ShardCore(0), ShardCore(1)]
        self.links: list[ServiceLink] = []
        self.steps = [step.name for step in service.steps]
        options = ServiceOptions(endpoint=ENDPOINTS, fence=fence, drain_s=1.0)
        self.process = ServiceProcess(service, options, cores=self.cores, connect=self.connect)

    def connect(self, endpoint: str, core: Any, deliver: Any, drained: Any) -> ServiceLink:
        self.links.append(ServiceLink(endpoint, core, deliver, drained))
        return self.links[-1]

    def deliver(self, shard: int, *works: Work) -> None:
        self.cores[shard].ready.extend(works)
        self.links[shard].deliver(b"frame", 0)
        self.links[shard].drained()


def work(shard: int, ticket: int) -> Work:
    saga = ticket.to_bytes(8, "little") + bytes(4) + shard.to_bytes(2, "little") + bytes(2)
    order = msgspec.msgpack.encode(Order(f"{shard}"))
    return (ticket, False, 0, saga, 0, 0, 0, "key", order, (), 256, (0, 9 + shard, 5), (0, ticket, (), False))


def seller(*, waits: bool) -> Service:
    service = Service("seller")

    if waits:

        @service.action(compensation=False)
        async def sell(order: Order) -> Paid:
            await asyncio.sleep(0)
            return Paid(int(order.item))
    else:

        @service.action(compensation=False)
        def sell(order: Order) -> Paid:
            return Paid(int(order.item))

    return service


@pytest.mark.parametrize("waits", [False, True])
def test_a_service_answers_each_broker_for_its_own(waits: bool) -> None:  # noqa: FBT001
    lines = Lines(seller(waits=waits))

    async def main() -> None:
        lines.process.open()
        for ticket in (1, 2, 3):
            for shard in (0, 1):  # the same tickets: each core has its own
                lines.deliver(shard, work(shard, ticket))
        async with asyncio.timeout(5):
            while not all(len(core.said) == 3 for core in lines.cores):  # noqa: ASYNC110 (a double has no events)
                await asyncio.sleep(0.001)
        await lines.process.close()

    asyncio.run(main())
    for shard, core in enumerate(lines.cores):
        sold = Verdict.DONE, msgspec.msgpack.encode({"cents": shard})
        assert core.said == dict.fromkeys((1, 2, 3), sold)


def test_a_service_carries_what_brokers_tell_each_other() -> None:
    lines = Lines(seller(waits=False))

    async def main() -> None:
        lines.process.open()
        lines.cores[0].carried = [(1, b"probe"), (7, b"nobody"), (1, b"wake")]
        lines.deliver(0)
        await lines.process.close()

    asyncio.run(main())
    assert [core.heard for core in lines.cores] == [[], [b"probe", b"wake"]]


def test_a_service_refuses_brokers_in_another_order() -> None:
    lines = Lines(seller(waits=False))
    lines.cores[1].shard = 0

    async def main() -> None:
        lines.process.open()
        try:
            await lines.process.serve(asyncio.Event())
        finally:
            await lines.process.close()

    with pytest.raises(UsageError, match="SAGA-E508"):
        asyncio.run(main())


def saga(shard: int, sequence: int) -> bytes:
    return sequence.to_bytes(8, "little") + bytes(4) + shard.to_bytes(2, "little") + bytes(2)


def test_in_memory_what_a_shard_forgets_is_its_own() -> None:
    fence = MemoryFence()
    holds: Holds = fence._holds
    for shard in (0, 1):
        assert holds.take("sku", 1, 1, 1, saga(shard, 5), 0, 0, 5) == []
        holds.keep(saga(shard, 5), 0, 0)
    fence.learn(Watermark(8, 1, 1, [3] * 21, [], 0))
    fence.learn(Watermark(9, 1, 1, [6] * 21, [], 1))
    assert [row[0] for row in holds.rows("sku")] == [saga(0, 5)]
    fence.learn(Watermark(9, 1, 2, [6] * 21, [], 1))
    fence.learn(Watermark(7, 1, 1, [3] * 21, [], 1))
    assert len(holds) == 1, "the other shard's log is another one: nothing of it is left, and this one's is"
    fence.learn(Watermark(7, 1, 1, [3] * 21, [], 0))
    assert len(holds) == 0


def test_in_sqlite_each_log_has_its_watermark(tmp_path: Any) -> None:
    fence = SqliteFence(str(tmp_path / "fence.db"))

    async def main() -> None:
        fence.open("shop", lambda _: None)
        for log, mark in ((8, 3), (9, 6), (8, 4)):
            fence.learn(Watermark(log, 1, mark, [mark] * 21, [], log - 8))
        fence.close()

    asyncio.run(main())
    with contextlib.closing(sqlite3.connect(tmp_path / "fence.db")) as db:
        rows = db.execute("select log, as_of_lsn from sagacore_fence_watermark").fetchall()
    assert sorted(rows) == [(8, 4), (9, 6)]
