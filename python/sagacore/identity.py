"""A saga's id: 16 bytes on the wire, `shard-sequence-nonce` in hexadecimal for people and tools."""

from __future__ import annotations

import re
import struct
from typing import Final

from sagacore.errors import UsageError
from sagacore.limits import KEY_BYTES_MAX

_LAYOUT: Final = struct.Struct("<QIHH")  # sequence, nonce, shard, reserved
_TEXT: Final = re.compile(r"([0-9a-f]{1,4})-([0-9a-f]{1,16})-([0-9a-f]{8})")


def saga_id_text(saga: bytes) -> str:
    """The id as people and tools write it, for example `0-2a-1f00c0de`."""
    sequence, nonce, shard, _ = _LAYOUT.unpack(saga)
    return f"{shard:x}-{sequence:x}-{nonce:08x}"


def shard_of_id(saga: bytes) -> int:
    """The number of the broker that the saga is of."""
    shard: int = _LAYOUT.unpack(saga)[2]
    return shard


def saga_id_bytes(text: str) -> bytes:
    """The id on the wire. Raises UsageError (SAGA-E307) for a text that is no id."""
    parts = _TEXT.fullmatch(text)
    if parts is None:
        raise UsageError(
            "SAGA-E307",
            f"{text!r} is not the id of a saga",
            "an id looks like 0-2a-1f00c0de; `sagacore status KEY` tells that of the saga with your key",
        )
    shard, sequence, nonce = (int(part, 16) for part in parts.groups())
    return _LAYOUT.pack(sequence, nonce, shard, 0)


def key_bytes(key: str) -> bytes:
    """A user's key on the wire. Raises UsageError (SAGA-E307) for one that is no text, empty or too long."""
    if not isinstance(key, str):
        raise UsageError("SAGA-E307", f"a key is a str, and not {key!r}", "make a text of what names the event: str()")
    data = key.encode("utf-8", "surrogatepass")
    if not 0 < len(data) <= KEY_BYTES_MAX:
        raise UsageError(
            "SAGA-E307",
            f"a key has {len(data)} bytes, and 1 to {KEY_BYTES_MAX} are allowed",
            "use what names the business event, such as an order's number; hash what is longer",
        )
    return data
