"""What a client asks about sagas that run: their state, their end, and what an operator decides."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sagacore import Client, Compensated, Completed, ProtocolError, Status, UnknownSaga, UsageError
from sagacore import session as session_module
from sagacore.codes import CauseCode, Kind, OutcomeCode, Refusal, Section, StatusCode
from sagacore.picture import deadlock_text
from tests.fake_broker import BY_KEY, FakeBroker, compensated, pack_any
from tests.small_shop import DONE, ORDER, Paid, buy


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


@pytest.mark.parametrize("by", ["key", "id"])
def test_a_saga_can_be_attached(broker: FakeBroker, by: str) -> None:
    async def body(client: Client) -> None:
        started = await client.start(buy, ORDER, key="k")
        if by == "key":
            saga = client.attach("k", saga=buy)
            assert (saga.key, saga.id) == ("k", "")
        else:
            saga = client.attach(id=started.id, saga=buy)
            assert (saga.key, saga.id) == (None, started.id)
        assert (await saga.status()).state == "running"
        broker.end("k", DONE)
        assert await saga.outcome() == Completed(Paid(5))
        assert saga.id == started.id

    run(body)


def test_without_its_saga_an_outcome_is_plain(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        for key, ending, outcome in (
            ("one", DONE, Completed({"cents": 5})),
            ("two", (OutcomeCode.COMPLETED, {0: pack_any(1), 3: pack_any("b")}), Completed({0: 1, 3: "b"})),
            ("three", compensated(CauseCode.REJECTED, 1, "no"), Compensated("step 1", "no")),
        ):
            await client.start(buy, ORDER, key=key)
            broker.end(key, ending)
            assert await client.attach(key).outcome() == outcome

    run(body)


def test_an_unknown_saga(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        saga = client.attach("nobody")
        with pytest.raises(UnknownSaga, match="'nobody'") as caught:
            await saga.outcome()
        assert caught.value.code == "SAGA-E305"
        assert await client.status("nobody") == Status("unknown")
        with pytest.raises(UnknownSaga, match="0-9-0000000a"):
            await client.cancel(id="0-9-0000000a")

    run(body)
    assert broker.sagas == {}


@pytest.mark.parametrize("names", [{}, {"key": "k", "id": "0-1-00000007"}, {"id": "k"}, {"key": ""}])
def test_a_saga_has_one_name(broker: FakeBroker, names: dict[str, Any]) -> None:
    async def body(client: Client) -> None:
        with pytest.raises(UsageError) as caught:
            client.attach(**names)
        assert caught.value.code == "SAGA-E307"
        with pytest.raises(UsageError):
            await client.status(**names)

    run(body)


@pytest.mark.parametrize("code", [code for code in StatusCode if code is not StatusCode.UNKNOWN])
def test_status_names_state_and_steps(broker: FakeBroker, code: StatusCode) -> None:
    async def body(client: Client) -> None:
        saga = await client.start(buy, ORDER, key="k")
        broker.sagas[b"k"].state = code
        broker.sagas[b"k"].steps = ["reserve", "pay"]
        status = await saga.status()
        assert (status.state, status.steps, status.saga_id) == (code.name.lower(), ("reserve", "pay"), saga.id)
        assert await client.status("k") == await client.status(id=saga.id) == status

    run(body)
    assert [message.flags & BY_KEY for message in broker.of_kind(Kind.STATUS)] == [0, BY_KEY, 0]


def test_cancel_says_whether_it_came_in_time(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        saga = await client.start(buy, ORDER, key="k")
        assert await saga.cancel("changed my mind")
        assert await client.cancel("k", reason="again")
        broker.sagas[b"k"].state = StatusCode.DECIDING
        assert not await saga.cancel()
        assert not await client.cancel(id=saga.id)

    run(body)
    texts = [message.body[Section.TEXT] for message in broker.of_kind(Kind.CANCEL)]
    assert texts == [b"changed my mind", b"again", b"", b""]


def test_counters_come_with_what_coordinators_say(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.stats = {"sessions": 3}
        assert await client.stats() == {"sessions": 3, "coordinators": []}
        broker.stats = {"coordinators": [pack_any({"slots": 16})]}
        assert await client.stats() == {"coordinators": [{"slots": 16}]}

    run(body)


def test_stuck_sagas_are_listed(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        broker.stats = [["0-1-00000007", "buy", "compensating", ["pay"], 0b100]]
        assert await client.stuck() == [
            {"id": "0-1-00000007", "saga": "buy", "phase": "compensating", "steps": {"pay": 2}}
        ]

    run(body)


def test_deadlocks_are_asked_for_until_there_are_no_more(broker: FakeBroker) -> None:
    hops = [["0-1-00000007", "cars", "car"], ["0-2-00000007", "rooms", "room:7"]]
    pages = [[2, [[1, 5_000, 4, "0-2-00000007", False, hops]]], [3, [[2, 5_010, None, "0-2-00000007", True, hops]]]]

    async def body(client: Client) -> None:
        broker.pages = [*pages, [3, []]]
        first, second = await client.deadlocks()
        assert (first["number"], first["detection_ms"], first["cycle"][1]["resource"]) == (1, 4, "room:7")
        assert deadlock_text(first) == (
            "deadlock 1: 0-2-00000007 gave way after 4 ms\n"
            "  0-1-00000007 --- cars car --> 0-2-00000007\n"
            "  0-2-00000007 --- rooms room:7 --> 0-1-00000007"
        )
        assert deadlock_text(second) == ("wound 2: 0-2-00000007 gave way\n  0-1-00000007 --- cars car --> 0-2-00000007")
        broker.stats = [[1]]
        with pytest.raises(ProtocolError):
            await client.deadlocks()

    run(body)


@pytest.mark.parametrize("nonsense", [b"\xc1", 7, {"coordinators": [b"\xc1"]}, [[1]]])
def test_answers_that_cannot_be_read_are_errors(broker: FakeBroker, nonsense: object) -> None:
    async def body(client: Client) -> None:
        broker.stats = nonsense
        with pytest.raises(ProtocolError):
            await client.stats()
        with pytest.raises(ProtocolError):
            await client.stuck()

    run(body)


def test_resolve_names_step_and_action(broker: FakeBroker) -> None:
    async def body(client: Client) -> None:
        saga = await client.start(buy, ORDER, key="k")
        await client.resolve(saga.id, 1, "done", reason="by hand", result=b"\x01")
        wrong: list[tuple[int, Any]] = [(1, "undo"), (64, "skip"), (-1, "skip")]
        for step, action in wrong:
            with pytest.raises(UsageError) as caught:
                await client.resolve(saga.id, step, action)
            assert caught.value.code == "SAGA-E111"
        with pytest.raises(UnknownSaga):
            await client.resolve("0-9-0000000a", 1, "retry")
        broker.refusals = [(Refusal.MISMATCH, "not past the pivot")]
        with pytest.raises(UsageError, match="not past the pivot"):
            await client.resolve(saga.id, 1, "done")

    run(body)
    message = broker.of_kind(Kind.RESOLVE)[0]
    assert (message.place, message.active) == (1, 3)
    assert message.body == {Section.TEXT: b"by hand", Section.DATA: b"\x01"}
