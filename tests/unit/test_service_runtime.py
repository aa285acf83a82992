"""A service's process between doubles of core and link: which handler is called where, and what is said of it."""

import asyncio
import gc
import itertools
import sqlite3
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sagacore import Context, FenceError, ProtocolError, Rejected, Retry, Service
from sagacore._core import Worker, WorkerMisuse, fence_on_run
from sagacore.fences.batch import Columns
from sagacore.fences.calls import Handler, Verdict
from sagacore.fences.rows import RowState
from sagacore.fences.work import Work
from sagacore.processes import lines
from sagacore.processes import service as runtime
from sagacore.processes.service import ServiceOptions, ServiceProcess


class Order(msgspec.Struct, frozen=True):
    number: int


class Priced(msgspec.Struct, frozen=True):
    cents: int


class Packed(msgspec.Struct, frozen=True):
    boxes: int


class FakeCore:
    """Hands out what the test says, and keeps what was said of it."""

    def __init__(self) -> None:
        self.is_ready = True
        self.refused: str | None = None
        self.shard: int | None = None
        self.carried: list[tuple[int, bytes]] = []
        self.heard: list[bytes] = []
        self.said: dict[int, tuple[Verdict, bytes]] = {}
        self.finishes = 0
        self.next: list[Work] = []
        self.ready: list[Work] = []
        self.let_go: list[tuple[bytes, int, int]] = []
        self.running: dict[int, Work] = {}
        self.told: tuple[int, int, int, list[int], list[int]] | None = None

    def connect(self, now_ms: int) -> None: ...

    def tick(self, now_ms: int) -> bool:
        return False

    def frame(self, now_ms: int) -> bytes | None:
        return None

    def receive(self, frame: bytes, now_ms: int) -> list[Columns]:
        ready, self.ready = self.ready, []
        return self.batches(ready)

    def works(self, tickets: list[int]) -> list[Work]:
        return [self.running[ticket] for ticket in tickets]

    def take_let_go(self) -> list[tuple[bytes, int, int]]:
        let_go, self.let_go = self.let_go, []
        return let_go

    def batches(self, works: list[Work]) -> list[Columns]:
        """In batches of neighbours that are alike, as the core does it with all that are."""
        self.running.update((work[0], work) for work in works)
        batches = []
        for (undo, step, bytes_max, count), group in itertools.groupby(
            works, key=lambda work: (*work[1:3], work[10], 1 if work[1] else len(work[9]))
        ):
            alike = list(group)
            results = tuple([work[9][at] if at < len(work[9]) else None for work in alike] for at in range(count))
            batches.append((undo, step, bytes_max, [work[0] for work in alike], [work[8] for work in alike], results))
        return batches

    def finish(self, tickets: list[int], verdicts: bytes, payloads: list[bytes], now_ms: int) -> list[Columns]:
        self.finishes += 1
        for ticket, verdict, payload in zip(tickets, verdicts, payloads, strict=True):
            assert ticket not in self.said
            self.said[ticket] = Verdict(verdict), payload
            del self.running[ticket]
        ready, self.next = self.next, []
        return self.batches(ready)

    def take_carried(self) -> list[tuple[int, bytes]]:
        carried, self.carried = self.carried, []
        return carried

    def pass_on(self, message: bytes) -> None:
        self.heard.append(message)

    def take_watermark(self) -> tuple[int, int, int, list[int], list[int]] | None:
        told, self.told = self.told, None
        return told

    def stats(self) -> dict[str, int]:
        return {"unconfirmed": 0}


class FakeLink:
    def __init__(
        self, _endpoint: str, _core: Any, deliver: Callable[[bytes, int], None], drained: Callable[[], None]
    ) -> None:
        self.deliver = deliver
        self.drained = drained
        self.is_open = False

    def open(self) -> None:
        self.is_open = True

    def flush(self) -> None: ...

    async def close(self) -> None:
        self.is_open = False


class Bench:
    """A process under test."""

    def __init__(self, service: Service, *, fence: str = "memory", drain_s: float = 2.0) -> None:
        self.core = FakeCore()
        self.links: list[FakeLink] = []
        options = ServiceOptions(endpoint="ipc://nowhere", fence=fence, drain_s=drain_s)
        self.process = ServiceProcess(service, options, cores=[self.core], connect=self.connect)
        self.steps = [step.name for step in service.steps]
        self.tickets = 0

    def connect(
        self, endpoint: str, core: Any, deliver: Callable[[bytes, int], None], drained: Callable[[], None]
    ) -> FakeLink:
        self.links.append(FakeLink(endpoint, core, deliver, drained))
        return self.links[-1]

    def work(
        self, step: str, number: int = 1, *, undo: bool = False, deliveries: int = 0, phase: int = 0, results: Any = ()
    ) -> Work:
        self.tickets += 1
        saga = self.tickets.to_bytes(8, "little") + bytes(8)
        order, key = msgspec.msgpack.encode(Order(number)), f"key-{self.tickets}"
        encoded = tuple(msgspec.msgpack.encode(result) for result in results)
        at = self.steps.index(step)
        judged_by, hold = (phase, 9, 5), (at, self.tickets, (), False)
        return (self.tickets, undo, at, saga, 0, deliveries, 0, key, order, encoded, 256, judged_by, hold)

    def deliver(self, *works: Work) -> None:
        self.core.ready.extend(works)
        self.links[0].deliver(b"frame", 0)
        self.links[0].drained()

    async def said(self, *works: Work) -> list[tuple[Verdict, Any]]:
        """What is said of these, in their order; results decoded, texts as they are."""
        self.deliver(*works)
        return await self.wait(*works)

    async def wait(self, *works: Work) -> list[tuple[Verdict, Any]]:
        async with asyncio.timeout(5):
            while not all(work[0] in self.core.said for work in works):  # noqa: ASYNC110 (a double has no events)
                await asyncio.sleep(0.001)
        said = [self.core.said[work[0]] for work in works]
        return [(verdict, msgspec.msgpack.decode(data) if verdict is Verdict.DONE else data) for verdict, data in said]


def run(bench: Bench, test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        bench.process.open()
        try:
            await test()
        finally:
            await bench.process.close()
        assert not bench.links[0].is_open

    asyncio.run(main())


def shop() -> Service:
    service = Service("shop")

    @service.action(retry=Retry(tries=2, first_ms=7))
    def price(order: Order) -> Priced:
        if order.number == 13:
            raise ValueError("unlucky")
        if order.number < 0:
            raise Rejected("no such order")
        return Priced(order.number * 100)

    @price.compensation
    def unprice(order: Order, priced: Priced | None) -> None: ...

    @service.action(compensation=False)
    def pack(order: Order, priced: Priced, ctx: Context) -> Packed:
        assert ctx.step == "pack"
        assert ctx.idempotency_key.startswith("key-")
        return Packed(priced.cents + ctx.tries)

    return service


def test_plain_functions_run_in_batches_on_the_loop() -> None:
    bench = Bench(shop())

    async def test() -> None:
        works = [bench.work("price", number) for number in range(20, 70)]
        packed = bench.work("pack", results=[Priced(10)], deliveries=2)
        said = await bench.said(*works, packed)
        assert said == [(Verdict.DONE, {"cents": number * 100}) for number in range(20, 70)] + [
            (Verdict.DONE, {"boxes": 13})
        ]
        assert bench.core.finishes < 10
        assert bench.process.calls == 0

    run(bench, test)


def test_failures_are_judged_by_policy_and_phase() -> None:
    bench = Bench(shop())

    async def test() -> None:
        said = await bench.said(
            bench.work("price", 13),
            bench.work("price", 13, deliveries=1),
            bench.work("price", 13, deliveries=1, phase=1),
            bench.work("price", 13, deliveries=40, phase=2),
            bench.work("price", -1),
            bench.work("price", -1, phase=1),
            bench.work("price", -1, phase=2),
        )
        assert said == [
            (Verdict.RETRY, b"7 ValueError: unlucky"),
            (Verdict.GAVE_UP, b"ValueError: unlucky"),
            (Verdict.RETRY, b"14 ValueError: unlucky"),
            (Verdict.RETRY, b"5000 ValueError: unlucky"),
            (Verdict.REJECTED, b"no such order"),
            (Verdict.REJECTED, b"no such order"),
            (Verdict.RETRY, b"7 no such order"),
        ]

    run(bench, test)


def test_errors_go_without_the_garbage_collector() -> None:
    seen: list[weakref.ref[Exception]] = []

    class Seen(Rejected):
        def __init__(self) -> None:
            super().__init__("no")
            seen.append(weakref.ref(self))

    service = Service("shop")

    @service.action(compensation=False)
    def price(order: Order) -> Priced:
        raise Seen

    @service.action(compensation=False)
    async def gauge(order: Order) -> Priced:
        raise Seen

    bench = Bench(service)

    async def test() -> None:
        works = [bench.work(step) for step in ("price", "price", "gauge")]
        assert await bench.said(*works) == [(Verdict.REJECTED, b"no")] * 3
        assert [found() for found in seen] == [None] * 3

    gc.disable()
    try:
        run(bench, test)
    finally:
        gc.enable()


def test_compensations_get_the_result_or_none_and_are_never_given_up() -> None:
    service, seen = Service("shop"), list[Priced | None]()

    @service.action
    def price(order: Order) -> Priced:
        return Priced(1)

    @price.compensation(retry=Retry(tries=1, first_ms=3))
    def unprice(order: Order, priced: Priced | None) -> None:
        seen.append(priced)
        if order.number == 13:
            raise Rejected("never")

    bench = Bench(service)

    async def test() -> None:
        said = await bench.said(
            bench.work("price", undo=True, results=[Priced(4)]),
            bench.work("price", undo=True),
            bench.work("price", 13, undo=True, deliveries=9),
        )
        assert said == [(Verdict.UNDONE, b""), (Verdict.UNDONE, b""), (Verdict.RETRY, b"1536 never")]
        assert seen == [Priced(4), None, None]

    run(bench, test)


def test_a_step_without_a_compensation_here_is_asked_for_again() -> None:
    bench = Bench(shop())

    async def test() -> None:
        [said] = await bench.said(bench.work("pack", undo=True))
        assert said == (Verdict.RETRY, runtime.NO_COMPENSATION)

    run(bench, test)


def test_a_slow_plain_function_goes_to_a_thread_and_the_loop_lives() -> None:
    service, threads = Service("shop"), list[threading.Thread]()

    @service.action(compensation=False)
    def price(order: Order) -> Priced:
        threads.append(threading.current_thread())
        time.sleep(0.02)
        return Priced(1)

    bench = Bench(service)

    async def test() -> None:
        for _ in range(3):
            await bench.said(bench.work("price"))
        assert set(threads) == {threading.main_thread()}, "a busy machine may hold up any one call"
        before_s = time.perf_counter()
        await bench.said(*[bench.work("price") for _ in range(10)])
        assert time.perf_counter() - before_s < 0.15, "side by side"
        assert threading.main_thread() not in threads[3:]

    run(bench, test)


def test_one_slow_call_among_many_quick_ones_moves_nothing() -> None:
    service = shop()
    step = service.steps[0]
    assert step.implementation is not None
    handler = Handler(step, step.implementation)

    def is_quick_after(*took_s: float) -> bool:
        for took in took_s:
            handler.measure(took)
        return handler.is_quick

    assert is_quick_after(0.00001, 0.01, 0.00001), "the machine was busy"
    assert not is_quick_after(0.02, 0.02, 0.02)
    assert is_quick_after(*[0.00001] * 100)


def test_coroutines_run_side_by_side_with_their_timeout() -> None:
    service = Service("shop")

    @service.action(compensation=False, timeout=2, retry=Retry(tries=2))
    async def price(order: Order) -> Priced:
        if order.number == 1:
            raise asyncio.CancelledError
        if order.number == 2:
            raise TimeoutError("the gateway's own")
        await asyncio.sleep(0.05 if order.number == 3 else 5)
        return Priced(order.number)

    bench = Bench(service)

    async def test() -> None:
        before_s = time.perf_counter()
        said = await bench.said(
            *[bench.work("price", 3) for _ in range(200)],
            bench.work("price", 1, deliveries=1),
            bench.work("price", 2, deliveries=1),
            bench.work("price", 4, deliveries=1),
        )
        assert time.perf_counter() - before_s < 4
        assert said[:200] == [(Verdict.DONE, {"cents": 3})] * 200
        assert said[200:] == [
            (Verdict.GAVE_UP, b"RuntimeError: the handler cancelled itself"),
            (Verdict.GAVE_UP, b"TimeoutError: the gateway's own"),
            (Verdict.GAVE_UP, b"TimeoutError: no end after 2 s"),
        ]

    run(bench, test)


def test_what_may_begin_after_a_finish_begins() -> None:
    bench = Bench(shop())

    async def test() -> None:
        waiting = bench.work("price", undo=True, results=[Priced(1)])
        bench.core.next = [waiting]
        await bench.said(bench.work("price"))
        assert await bench.wait(waiting) == [(Verdict.UNDONE, b"")]

    run(bench, test)


def test_a_transactional_action_commits_with_its_row_and_an_external_one_after_its_intent(tmp_path: Path) -> None:
    path, service, rows = tmp_path / "shop.db", Service("shop"), list[int]()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("create table prices (number integer)")

    def states() -> list[int]:
        return [state for (state,) in other.execute("select state from sagacore_fence order by step")]

    @service.action(compensation=False)
    def price(order: Order, ctx: Context) -> Priced:
        ctx.db.execute("insert into prices values (?)", (order.number,))
        if order.number < 0:
            raise Rejected("negative")
        return Priced(1)

    @service.action(compensation=False)
    async def charge(order: Order) -> Packed:
        rows.extend(states())
        return Packed(1)

    @service.action(compensation=False, external=True)
    def ship(order: Order) -> Packed:
        assert threading.current_thread() is not threading.main_thread()
        raise ValueError("down")

    bench = Bench(service, fence=f"sqlite:{path}")

    async def test() -> None:
        charged = await bench.said(bench.work("charge"))
        assert (charged, rows, states()) == ([(Verdict.DONE, {"boxes": 1})], [RowState.INTENT], [RowState.DONE])
        said = await bench.said(bench.work("price", 5), bench.work("price", -1), bench.work("ship"))
        assert said == [
            (Verdict.DONE, {"cents": 1}),
            (Verdict.REJECTED, b"negative"),
            (Verdict.RETRY, b"50 ValueError: down"),
        ]
        assert other.execute("select * from prices").fetchall() == [(5,)]
        assert bench.process.calls == 0

    run(bench, test)
    other.close()


def test_ending_waits_for_what_runs_and_takes_nothing_new() -> None:
    service, ended = Service("shop"), list[int]()

    @service.action(compensation=False)
    async def price(order: Order) -> Priced:
        await asyncio.sleep(order.number / 10)
        ended.append(order.number)
        return Priced(1)

    bench = Bench(service, drain_s=0.5)

    async def main() -> None:
        bench.process.open()
        works = [bench.work("price", 1), bench.work("price", 50)]
        bench.deliver(*works)
        await asyncio.sleep(0.02)
        closing = asyncio.create_task(bench.process.close())
        await asyncio.sleep(0.02)
        bench.deliver(bench.work("price", 0))
        await closing
        assert (ended, list(bench.core.said)) == ([1], [works[0][0]])

    asyncio.run(main())


PATIENCE_S = 10.0
"""For what ends by itself."""


def serve(bench: Bench, refused: str | None, *, stop_s: float = 0.5) -> None:
    async def main() -> None:
        bench.core.refused = refused
        bench.process.open()
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(stop_s, stop.set)
        try:
            await bench.process.serve(stop)
        finally:
            await bench.process.close()

    asyncio.run(main())


def test_a_second_process_with_fences_in_memory_gives_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(Bench(shop()), "exclusive")  # the one before it may just have died
    serve(Bench(shop()), None)
    monkeypatch.setattr(lines, "REFUSED_S", 0.2)
    with pytest.raises(FenceError) as refused:
        serve(Bench(shop()), "exclusive", stop_s=PATIENCE_S)
    assert refused.value.code == "SAGA-E401"
    serve(Bench(shop()), "full")
    with pytest.raises(ProtocolError):
        serve(Bench(shop()), "unsupported", stop_s=PATIENCE_S)


def test_a_fence_that_failed_ends_the_process(tmp_path: Path) -> None:
    bench = Bench(shop(), fence=f"sqlite:{tmp_path / 'shop.db'}", drain_s=60)
    bench.process._fence.failure = MemoryError("no more")  # type: ignore[misc]
    with pytest.raises(FenceError, match="no more"):
        serve(bench, None, stop_s=PATIENCE_S)


def test_what_the_core_was_told_of_ended_sagas_goes_to_the_fence(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    bench = Bench(shop(), fence=f"sqlite:{path}")

    async def test() -> None:
        ended, running = bench.work("price", 1), bench.work("price", 2)
        await bench.said(ended, running)
        serving = asyncio.create_task(bench.process.serve(stop := asyncio.Event()))
        bench.core.told = (9, 1, 7, [2] * 21, [])
        db = sqlite3.connect(path)
        async with asyncio.timeout(5):
            while db.execute("select sequence from sagacore_fence").fetchall() != [(2,)]:  # noqa: ASYNC110 (as above)
                await asyncio.sleep(0.01)
        db.close()
        again = (100, *ended[1:])
        assert await bench.said(again) == [(Verdict.DROP, b"")]
        stop.set()
        await serving

    run(bench, test)


def test_codes_are_the_cores() -> None:
    for state in RowState:
        assert fence_on_run(state) in range(1, 6)
    with pytest.raises(ValueError, match="no state"):
        fence_on_run(len(RowState))
    options: dict[str, int] = {"instance": 1, "lease_ms": 1, "credit": 1}
    core = Worker("shop", ["price"], memory_fence=True, **options)
    for verdict in (*Verdict, 0, len(Verdict) + 1):
        expected = "ticket" if verdict in list(Verdict) else "no verdict"
        with pytest.raises(WorkerMisuse, match=expected):
            core.finish([7], bytes((verdict,)), [b""], 0)
