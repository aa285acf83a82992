"""The contracts that the files of this folder are written against."""

from msgspec import Struct

from sagacore import Service


class Order(Struct, frozen=True):
    number: int


class Created(Struct, frozen=True):
    number: int


class Charged(Struct, frozen=True):
    cents: int


class Reserved(Struct, frozen=True):
    sku: str


class Parcel(Struct, frozen=True):
    kilograms: float


orders, payments, inventory = Service("orders"), Service("payments"), Service("inventory")
create = orders.step("create", input=Order, output=Created)
charge = payments.step("charge", input=Order, output=Charged, needs=[Created])
announce = orders.step("announce", input=Order, compensation=False)
weigh = inventory.step("weigh", input=Parcel, output=Reserved)
