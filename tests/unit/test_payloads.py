"""Codecs: what goes in comes out, and what is not of the type goes neither in nor out."""

import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Callable
from typing import Any, Literal, NewType, TypedDict

import msgpack  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagacore.errors import PayloadError
from sagacore.payloads import check_size, codec, type_name


class Line(msgspec.Struct, frozen=True):
    sku: str
    quantity: int = 1


class Tree(msgspec.Struct):
    children: "list[Tree]"


@dataclasses.dataclass(frozen=True)
class Order:
    number: int
    lines: tuple[Line, ...]
    placed: dt.datetime | None = None


class Address(TypedDict):
    street: str


class Colour(enum.Enum):
    RED = 1


class Opaque:
    pass


class HoldsOpaque(msgspec.Struct):
    things: dict[str, list[Opaque]]


Cents = NewType("Cents", int)

VALUES: list[tuple[Any, Any]] = [
    (Line, Line("tea", 2)),
    (Order, Order(42, (Line("tea"),), dt.datetime(2024, 2, 29, tzinfo=dt.UTC))),
    (Tree, Tree([Tree([])])),
    (Address, {"street": "High Street"}),
    (dict, {"any": ["thing", 1, None]}),
    (dict[str, int], {"a": 1}),
    (list[Line], [Line("tea")]),
    (Line | None, None),
    (Colour, Colour.RED),
    (Cents, Cents(5)),
    (Literal["yes", "no"], "yes"),
    (type(None), None),
    (int, 2**64 - 1),
    (str, "\u00e4\U0001f375"),
    (bytes, b"\x00\xff"),
    (decimal.Decimal, decimal.Decimal("1.10")),
    (uuid.UUID, uuid.UUID(int=7)),
    (Any, [1, "two"]),
]


@pytest.mark.parametrize(("tp", "value"), VALUES)
def test_what_goes_in_comes_out(tp: Any, value: Any) -> None:
    assert codec(tp).decode(codec(tp).encode(value)) == value


@given(st.dictionaries(st.text(), st.integers(-(2**63), 2**64 - 1) | st.text() | st.none()))
def test_another_reader_understands_it(value: dict[str, Any]) -> None:
    assert msgpack.unpackb(codec(dict[str, Any]).encode(value)) == value


def test_equal_values_are_equal_bytes() -> None:
    encode = codec(dict[str, int]).encode
    assert encode({"a": 1, "b": 2}) == encode({"b": 2, "a": 1})


def test_a_type_has_one_codec() -> None:
    assert codec(Line) is codec(Line)
    assert codec(dict[str, int]) is codec(dict[str, int])
    assert id(codec(Line)) != id(codec(Order))


@pytest.mark.parametrize(
    "tp", [Opaque, HoldsOpaque, list[Opaque], dict[str, Opaque], Line | Order, Callable, complex, "Line", object]
)
def test_a_type_that_cannot_be_carried_is_refused_when_its_codec_is_made(tp: Any) -> None:
    with pytest.raises(PayloadError, match="SAGA-E201"):
        codec(tp)


@pytest.mark.parametrize(
    ("tp", "value"),
    [
        (Line, None),
        (Line, Address(street="x")),
        (Order, Line("tea")),
        (Address, {"street": 5}),
        (Address, {}),
        (dict[str, int], {"a": "b"}),
        (Line | None, 3),
        (Colour, 1.5),
        (int, True),
        (int, 2**64),
        (type(None), 0),
        (Literal["yes"], "no"),
    ],
)
def test_a_value_of_another_type_does_not_go_in(tp: Any, value: Any) -> None:
    with pytest.raises(PayloadError, match="SAGA-E202"):
        codec(tp).encode(value)


def test_a_value_that_holds_what_cannot_be_carried_does_not_go_in() -> None:
    with pytest.raises(PayloadError, match="SAGA-E202"):
        codec(Line).encode(Line("tea", quantity=2**70))
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(PayloadError, match="SAGA-E202"):
        codec(list).encode(loop)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x81\xa3sku", b"\x80", b"\x81\xa3sku\x05", b"\xc0", b"\x91" * 9999])
def test_other_bytes_do_not_come_out(data: bytes) -> None:
    with pytest.raises(PayloadError, match="SAGA-E203"):
        codec(Line).decode(data)


@given(st.binary(max_size=64))
def test_no_bytes_break_the_codec(data: bytes) -> None:
    try:
        value = codec(Order).decode(data)
    except PayloadError:
        return
    assert isinstance(value, Order)


def test_a_field_may_be_added_with_a_default() -> None:
    class Longer(msgspec.Struct):
        sku: str
        colour: str = "green"

    assert codec(Longer).decode(codec(Line).encode(Line("tea", 2))) == Longer("tea")
    assert codec(Line).decode(codec(Longer).encode(Longer("tea"))) == Line("tea")


def test_sizes_are_checked() -> None:
    assert check_size(b"1234", 4, "it") == b"1234"
    with pytest.raises(PayloadError, match=r"SAGA-E204 the result of charge has 5 bytes, and 4 are declared"):
        check_size(b"12345", 4, "the result of charge")


@pytest.mark.parametrize(
    ("tp", "name"),
    [(Line, "Line"), (type(None), "NoneType"), (Line | None, "Line | None"), (dict[str, Line], "dict[str, Line]")],
)
def test_types_are_named_as_a_person_writes_them(tp: Any, name: str) -> None:
    assert type_name(tp) == name


def test_pydantic_models() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Inner(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        when: dt.date = pydantic.Field(alias="on")

    class Model(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        model_config = pydantic.ConfigDict(strict=True)
        inner: Inner
        colour: Colour
        raw: bytes = b""

    value = Model(inner=Inner(on=dt.date(2024, 2, 29)), colour=Colour.RED, raw=b"abc")
    made = codec(Model)
    assert made.decode(made.encode(value)) == value
    with pytest.raises(PayloadError, match="SAGA-E202"):
        made.encode(Inner(on=dt.date(2024, 2, 29)))
    with pytest.raises(PayloadError, match="SAGA-E203"):
        made.decode(codec(dict).encode({"inner": {}, "colour": 1}))
