"""Frames as a stranger makes them: any field may say anything."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgpack  # type: ignore[import-untyped]

from sagacore._core import ClientCore

TRANSACTION: Final = struct.Struct("<IBBHH6xQ")
HEADER: Final = struct.Struct("<IBBH16sQIHHQQQQQ16sQIHH16s")
KEY: Final = struct.Struct("<16sIBBH")

START, RUN, DONE, FAIL, REVOKED, UNDO, UNDONE, RESULT, DEFINE, CANCEL, SPILL, RETRY_LATER = range(1, 13)
RESOLVE, STATUS, ATTACH, SUBSCRIBE, CREDIT, CONFIRM, PING, REFUSED, STATS = range(16, 25)
CLIENT, SERVICE, COORDINATOR = 1, 2, 3
WIDE, PIVOTED, CLEAN, SPLICE, EXCLUSIVE, BY_KEY = 1, 2, 8, 16, 64, 128
STALE, NO_SESSION, FORBIDDEN, MISMATCH, NO_PLAN, FULL = range(1, 7)
EXCLUSIVE_REFUSED: Final = 11
INPUT, CAUSE, USER_KEY, SKIPPED, NAME, TEXT, DATA, FREED = range(64, 72)


@dataclass(frozen=True)
class Message:
    """One message. Sizes are filled in when it is packed."""

    kind: int
    flags: int = 0
    saga: bytes = bytes(16)
    plan: int = 0
    attempt: int = 0
    place: int = 0
    deliveries: int = 0
    done: int = 0
    active: int = 0
    undo: int = 0
    age: int = 0
    deadline_ms: int = 0
    trace: bytes = bytes(16)
    amount: int = 0
    body: bytes = b""

    def key(self) -> bytes:
        """What a transaction names this token by."""
        return KEY.pack(self.saga, self.attempt, self.kind, 0, self.place)

    def pack(self) -> bytes:
        length = -(-(HEADER.size + len(self.body)) // 8) * 8
        sets = (self.done, self.active, self.undo, self.age, self.deadline_ms, self.trace, self.amount)
        names = (self.kind, self.flags, self.saga, self.plan, self.attempt, self.place, self.deliveries)
        header = HEADER.pack(length, 1, *names, *sets, len(self.body), 0, 0, bytes(16))
        return (header + self.body).ljust(length, b"\0")

    def sections(self) -> dict[int, bytes]:
        return msgpack.unpackb(self.body, strict_map_key=False) if self.body else {}

    def next(self, kind: int, **fields: object) -> Message:
        """A message of the same saga."""
        following = Message(kind, saga=self.saga, plan=self.plan, attempt=self.attempt)
        return replace(following, **fields)  # type: ignore[arg-type]


def body(sections: Mapping[int, bytes]) -> bytes:
    """A body with these sections."""
    return bytes(msgpack.packb(dict(sorted(sections.items())), use_bin_type=True))


def transaction(messages: Iterable[Message], consumes: Iterable[bytes] = (), number: int = 0) -> bytes:
    """A frame of one transaction."""
    packed, keys = [message.pack() for message in messages], list(consumes)
    length = TRANSACTION.size + sum(map(len, keys)) + sum(map(len, packed))
    return TRANSACTION.pack(length, 1, 0, len(keys), len(packed), number) + b"".join(keys + packed)


def messages(frame: bytes) -> Iterator[Message]:
    """All messages of a frame."""
    while frame:
        length, _, _, consumes, publishes, _ = TRANSACTION.unpack_from(frame)
        at = TRANSACTION.size + consumes * KEY.size
        for _ in range(publishes):
            size, _, *fields, length_of_body, _, _, _ = HEADER.unpack_from(frame, at)
            carried = frame[at + HEADER.size : at + HEADER.size + length_of_body]
            yield replace(Message(*fields), body=carried)
            at += size
        frame = frame[length:]


def subscribe(role: int, name: str = "", *, instance: int = 0, flags: int = 0, credit: int = 1_000) -> bytes:
    """Who a peer says that it is."""
    said = Message(SUBSCRIBE, flags, place=role, amount=instance, active=60_000, done=credit)
    return transaction([replace(said, body=body({NAME: name.encode()}))])


PING_FRAME: Final = transaction([Message(PING)])


def fingerprint(definition: bytes) -> int:
    """What a plan is named by: a core computes it, and it is defined for nobody."""
    return ClientCore(instance=1, credit=1, outbox_bytes=1 << 20).define(definition)
