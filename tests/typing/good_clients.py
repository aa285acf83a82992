"""What a strict type checker knows of starting sagas and of their outcomes."""

from typing import Any, assert_type

from sagacore import Client, Compensated, Completed, Ended, Handle, Saga, Sandbox, Status, SyncClient, SyncHandle
from tests.typing.shop import Charged, Order, charge, create

saga = Saga("place-order", Order).then(create).then(charge)


async def asynchronously(client: Client) -> None:
    handle = await client.start(saga, Order(1), key="order-1")
    assert_type(handle, Handle[Order, Charged])
    assert_type(await handle.outcome(timeout=5), Completed[Charged] | Compensated)
    assert_type(await handle.status(), Status)
    assert_type(await handle.cancel("changed my mind"), bool)
    async for ended in client.start_many(saga, [Order(1)], key=lambda order: str(order.number)):
        assert_type(ended, Ended[Charged])
    assert_type(client.attach("order-1", saga=saga), Handle[Order, Charged])
    assert_type(client.attach("order-1"), Handle[Any, Any])


def synchronously(client: SyncClient) -> None:
    handle = client.start(saga, Order(1))
    assert_type(handle, SyncHandle[Order, Charged])
    assert_type(handle.outcome(), Completed[Charged] | Compensated)


async def in_a_test(box: Sandbox) -> None:
    box.fail(charge, OSError("down"), times=2, on="compensation")
    box.crash_after(create)
    assert_type(await box.run(saga, Order(1), key="order-1"), Completed[Charged] | Compensated)
