"""Where brokers are, and which of them a saga belongs to."""

from __future__ import annotations

import zlib
from typing import Final

from sagacore.errors import UsageError
from sagacore.limits import SHARDS_MAX

_HINT: Final = "name every broker once, in the order of their --shard numbers, and the same everywhere"


def split_endpoints(text: str) -> list[str]:
    """The endpoints in a list with commas, one for each shard, in order.

    Raises UsageError (SAGA-E508) for one that is empty or named twice, or for too many.
    """
    endpoints = [part.strip() for part in text.split(",")]
    if "" in endpoints or len(set(endpoints)) < len(endpoints) or len(endpoints) > SHARDS_MAX:
        raise UsageError("SAGA-E508", f"{text!r} is no list of 1 to {SHARDS_MAX} different endpoints", _HINT)
    return endpoints


def check_one_endpoint(endpoint: str, process: str) -> None:
    """Raise UsageError (SAGA-E508) for a list: a broker and a coordinator are of one shard."""
    if "," in endpoint:
        raise UsageError(
            "SAGA-E508", f"a {process} has one endpoint, not a list: {endpoint!r}", f"start a {process} for each"
        )


def check_shard(endpoint: str, number: int, count: int, shard: int | None) -> None:
    """Raise UsageError (SAGA-E508) where the broker at a place of a list says that its number is another one.

    A single broker may have any number; None: it has not said it yet.
    """
    if count > 1 and shard is not None and shard != number:
        raise UsageError(
            "SAGA-E508", f"the broker at {endpoint} is shard {shard}, and stands as number {number} of {count}", _HINT
        )


def shard_of_key(key: bytes, count: int) -> int:
    """The shard, of so many, of the saga with this key. The same for every client, in every language, for ever."""
    return zlib.crc32(key) % count
