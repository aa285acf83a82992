"""What a saga costs the client: a few microseconds to start, and a few to hand out its outcome."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from sagacore import Ended
from sagacore import session as session_module
from sagacore.many import CHUNK, Many
from sagacore.session import Session
from sagacore.transport import PeerCore
from tests.fake_broker import START, SUBSCRIBE, Message, completed, unpack
from tests.small_shop import Order, Paid, buy

ORDERS = [Order(f"item {number}") for number in range(CHUNK)]


class NoLink:
    """A link that gives nothing away and gets nothing by itself."""

    def __init__(self, endpoint: str, core: PeerCore, deliver: Callable[[bytes, int], None]) -> None:
        self.core = core
        self.deliver = deliver

    def open(self) -> None:
        self.core.connect(0)
        self.core.frame(0)
        self.deliver(Message(SUBSCRIBE, amount=1).pack(), 0)

    def flush(self) -> None:
        """What is started is read by the bench."""

    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[Session, Many[Order, Paid]]]:
    monkeypatch.setattr(session_module, "Link", NoLink)

    async def make() -> tuple[Session, Many[Order, Paid]]:
        session = Session("ipc:///nowhere", 10.0)
        session.open()
        if session._watch is not None:
            session._watch.cancel()
        return session, Many([session], buy, in_flight=10 * CHUNK, key=lambda order: order.item, on_error=None)

    return lambda: asyncio.run(make())


@pytest.mark.benchmark(group="client, 256 sagas")
def test_start(benchmark: BenchmarkFixture, many: Any) -> None:
    """Encode the inputs, start the sagas and write the frame."""

    def start(session: Session, many: Many[Order, Paid]) -> bytes | None:
        session._flushing = True  # the loop that would be told is closed
        many._start(ORDERS)
        return session.core.frame(0)

    frame = benchmark.pedantic(start, setup=lambda: (many(), {}), rounds=200)  # type: ignore[no-untyped-call]
    assert sum(message.kind == START for message in unpack(frame)) == CHUNK


@pytest.mark.benchmark(group="client, 256 sagas")
def test_end(benchmark: BenchmarkFixture, many: Any) -> None:
    """Read a frame of outcomes and hand them out."""

    def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
        session, waiting = many()
        session._flushing = True
        waiting._start(ORDERS)
        code, body = completed(1, {"cents": 5})
        results = [Message(8, waiting._lanes[0].first + number, code, body=body) for number in range(CHUNK)]
        return (session, waiting, b"".join(result.pack() for result in results)), {}

    def end(session: Session, many: Many[Order, Paid], frame: bytes) -> list[Ended[Paid]]:
        session._deliver(frame, 0)
        return [many._ended.popleft() for _ in range(CHUNK)]

    ended = benchmark.pedantic(end, setup=setup, rounds=200)  # type: ignore[no-untyped-call]
    assert {one.key for one in ended} == {order.item for order in ORDERS}
