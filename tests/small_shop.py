"""A saga of two steps that nobody runs: for tests of the client, where a double of the broker says how it ends."""

import msgspec

from sagacore import Saga, Service
from tests.fake_broker import completed


class Order(msgspec.Struct):
    """What is bought."""

    item: str


class Paid(msgspec.Struct):
    """What was paid."""

    cents: int


shop = Service("shop")
reserve = shop.step("reserve", input=Order, output=None)
pay = shop.step("pay", input=Order, output=Paid)
buy = Saga("buy", Order, input_bytes=100).then(reserve).then(pay)
ORDER = Order("book")
DONE = completed(1, {"cents": 5})
