"""Inputs and results as MessagePack: one codec for each type, made once.

A payload is a `msgspec.Struct`, a dataclass, a TypedDict, a dict, a built-in type or a union of these; a pydantic
model works too where pydantic is installed. A codec refuses a value that is not of its type before anything is
committed or sent, and bytes that are not.
"""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, Generic, TypeVar, overload

import msgspec

from sagacore.errors import PayloadError

T = TypeVar("T")

_ENCODE_ERRORS = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)
_DECODE_ERRORS = (msgspec.MsgspecError, TypeError, ValueError, RecursionError)

# Sorted dicts and sets: the same input under the same key must be the same bytes.
_encoder = msgspec.msgpack.Encoder(order="deterministic")
_codecs: dict[Any, Codec[Any]] = {}
_MODULES = re.compile(r"\b(?:[A-Za-z_]\w*\.)+")


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """How values of one type become bytes and back.

    `encode` raises PayloadError (SAGA-E202) for a value that is not of the type, `decode` (SAGA-E203) for such bytes.
    `encode_all` and `decode_all` do it for many at once, which costs less, and raise for the first that is wrong.
    `encode` looks at the class of an object, and not at its fields: `verify` reads what it gave, and raises
    PayloadError (SAGA-E202) for the first that has a field of another type.
    """

    type_name: str
    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]
    encode_all: Callable[[Sequence[T]], list[bytes]]
    decode_all: Callable[[Sequence[bytes]], list[T]]
    verify: Callable[[Sequence[bytes]], None]


@overload
def codec(tp: type[T]) -> Codec[T]: ...
@overload
def codec(tp: Any) -> Codec[Any]: ...
def codec(tp: Any) -> Codec[Any]:
    """The codec of a type, the same one each time. Raises PayloadError (SAGA-E201) for a type that has none."""
    try:
        known = _codecs.get(tp)
    except TypeError:  # not hashable, such as Annotated with a list in it: made anew each time
        return _make(tp)
    if known is None:
        known = _codecs[tp] = _make(tp)
    return known


def check_size(data: bytes, bytes_max: int, what: str) -> bytes:
    """The data itself, or PayloadError (SAGA-E204) if it has more than `bytes_max` bytes."""
    if len(data) > bytes_max:
        raise PayloadError(
            "SAGA-E204",
            f"{what} has {len(data)} bytes, and {bytes_max} are declared",
            "declare more (result_bytes= of the step, input_bytes= of the saga), or pass a reference, not the data",
        )
    return data


def type_name(tp: Any) -> str:
    """A type as a person writes it: without the names of modules."""
    if isinstance(tp, type) and not hasattr(tp, "__args__"):
        return tp.__name__
    return _MODULES.sub("", str(tp))


def _make(tp: Any) -> Codec[Any]:
    if _is_pydantic(tp):
        return _pydantic_codec(tp)
    name = type_name(tp)
    try:
        unknown = next(_unsupported(msgspec.inspect.type_info(tp)), None)
        decoder = msgspec.msgpack.Decoder(tp)
    except (TypeError, NameError, ValueError, AttributeError) as error:
        raise _not_a_payload(name, str(error)) from error
    if unknown is not None:
        raise _not_a_payload(name, f"it holds {type_name(unknown)}, which MessagePack cannot carry")
    encode, decode = _checked_encode(tp, name, decoder.decode), _checked_decode(decoder.decode, name)
    verify = _verify(decoder.decode, name) if _is_class(tp) else _is_verified
    return Codec(name, encode, decode, _encode_all(tp, encode), _decode_all(decoder.decode, decode), verify)


def _not_a_payload(name: str, why: str) -> PayloadError:
    return PayloadError(
        "SAGA-E201",
        f"{name} cannot be a payload: {why}",
        "use a msgspec.Struct, a dataclass, a TypedDict, a dict, a built-in type, or a pydantic model by itself",
    )


def _is_class(tp: Any) -> bool:
    return isinstance(tp, type) and (issubclass(tp, msgspec.Struct) or is_dataclass(tp))


def _checked_encode(tp: Any, name: str, decode: Callable[[bytes], Any]) -> Callable[[Any], bytes]:
    encode = _encoder.encode

    def encode_instance(value: Any) -> bytes:
        # The fields of what a handler returns are the type checker's task: reading each would double the cost.
        if type(value) is not tp and not isinstance(value, tp):
            raise _not_of_type(name, f"it is a {type(value).__name__}")
        try:
            return encode(value)
        except _ENCODE_ERRORS as error:
            raise _not_of_type(name, str(error)) from error

    def encode_and_read(value: Any) -> bytes:
        try:
            data = encode(value)
            decode(data)
        except _ENCODE_ERRORS as error:
            raise _not_of_type(name, str(error)) from error
        return data

    return encode_instance if _is_class(tp) else encode_and_read


def _encode_all(tp: Any, encode_one: Callable[[Any], bytes]) -> Callable[[Sequence[Any]], list[bytes]]:
    encode, types = _encoder.encode, {tp} if _is_class(tp) else None

    def encode_all(values: Sequence[Any]) -> list[bytes]:
        # The types of all are looked at in one go. If one is another, or cannot be encoded, one by one says why.
        try:
            return list(map(encode if set(map(type, values)) == types else encode_one, values))
        except _ENCODE_ERRORS:
            return list(map(encode_one, values))

    return encode_all


def _verify(decode: Callable[[bytes], Any], name: str) -> Callable[[Sequence[bytes]], None]:
    def verify(datas: Sequence[bytes]) -> None:
        try:
            deque(map(decode, datas), maxlen=0)
        except _DECODE_ERRORS as error:
            raise _not_of_type(name, str(error)) from error

    return verify


def _is_verified(datas: Sequence[bytes]) -> None:
    """Encoding has read it all, or whoever made the value has."""


def _decode_all(
    decode: Callable[[bytes], Any], decode_one: Callable[[bytes], Any]
) -> Callable[[Sequence[bytes]], list[Any]]:
    def decode_all(datas: Sequence[bytes]) -> list[Any]:
        try:
            return list(map(decode, datas))
        except _DECODE_ERRORS:
            return list(map(decode_one, datas))

    return decode_all


def _not_of_type(name: str, why: str) -> PayloadError:
    return PayloadError(
        "SAGA-E202",
        f"the value is not of type {name}: {why}",
        "an action returns what its annotation says, and a saga is started with its input type: check both",
    )


def _checked_decode(decode: Callable[[bytes], Any], name: str) -> Callable[[bytes], Any]:
    def decode_checked(data: bytes) -> Any:
        try:
            return decode(data)
        except _DECODE_ERRORS as error:
            raise PayloadError(
                "SAGA-E203",
                f"the bytes are not {name}: {error}",
                "writer and reader must agree on the type: add fields with defaults, and roll out readers first",
            ) from error

    return decode_checked


def _unsupported(info: msgspec.inspect.Type, seen: set[Any] | None = None) -> Iterator[Any]:
    """The classes within a type that msgspec knows nothing of."""
    seen = set() if seen is None else seen
    if isinstance(info, msgspec.inspect.CustomType):
        yield info.cls
        return
    cls = getattr(info, "cls", None)
    if cls is not None:
        if cls in seen:
            return
        seen.add(cls)
    for part in _parts(info):
        yield from _unsupported(part, seen)


def _parts(info: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    for field in getattr(info, "fields", ()):
        yield field.type
    for attribute in ("item_type", "key_type", "value_type", "type"):
        part = getattr(info, attribute, None)
        if isinstance(part, msgspec.inspect.Type):
            yield part
    yield from getattr(info, "item_types", ())
    yield from getattr(info, "types", ())


def _is_pydantic(tp: Any) -> bool:
    # Who has a model has imported pydantic: so it is never imported here.
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(tp, type) and issubclass(tp, pydantic.BaseModel)


def _pydantic_codec(model: Any) -> Codec[Any]:
    name = type_name(model)

    def encode(value: Any) -> bytes:
        if not isinstance(value, model):
            raise _not_of_type(name, f"it is a {type(value).__name__}")
        try:
            return _encoder.encode(value.model_dump(mode="json", by_alias=False, round_trip=True))
        except _ENCODE_ERRORS as error:
            raise _not_of_type(name, str(error)) from error

    def decode(data: bytes) -> Any:
        # By JSON, so that strict models accept their dates and enums again; by name, so that aliases do not matter.
        text = msgspec.json.encode(msgspec.msgpack.decode(data))
        return model.model_validate_json(text, by_alias=False, by_name=True)

    checked = _checked_decode(decode, name)
    return Codec(
        name,
        encode,
        checked,
        lambda values: list(map(encode, values)),
        lambda datas: list(map(checked, datas)),
        _is_verified,
    )
