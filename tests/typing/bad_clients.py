"""Calls of clients that a strict type checker must refuse: each ignored error must be there."""

from sagacore import Client, Completed, Saga, Sandbox, SyncClient
from tests.typing.shop import Created, Order, Parcel, charge, create

saga = Saga("place-order", Order).then(create).then(charge)


def takes(outcome: Completed[Created]) -> None: ...


async def asynchronously(client: Client) -> None:
    await client.start(saga, Parcel(1.0), key="order-1")  # type: ignore[misc]
    await client.start(saga, "order-1")  # type: ignore[misc]
    await client.start(charge, Order(1))  # type: ignore[arg-type]
    await client.start(saga, Order(1), key=1)  # type: ignore[arg-type]
    handle = await client.start(saga, Order(1))
    handle.outcome(timeout=5)  # type: ignore[unused-coroutine]
    outcome = await handle.outcome()
    print(outcome.result)  # type: ignore[union-attr]
    takes(outcome)  # type: ignore[arg-type]
    async for ended in client.start_many(saga, [Parcel(1.0)]):  # type: ignore[misc]
        takes(ended)  # type: ignore[arg-type]


def synchronously(client: SyncClient) -> None:
    client.start(saga, Parcel(1.0))  # type: ignore[misc]
    client.start_many(saga, ["order-1"])  # type: ignore[misc]


async def in_a_test(box: Sandbox) -> None:
    await box.run(saga, Parcel(1.0))  # type: ignore[misc]
    box.fail("charge", OSError("down"))  # type: ignore[arg-type]
    box.fail(charge, "down")  # type: ignore[arg-type]
    box.crash_before(charge, on="undo")  # type: ignore[arg-type]
    takes(await box.run(saga, Order(1)))  # type: ignore[arg-type]
