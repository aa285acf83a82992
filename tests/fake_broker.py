"""A broker in the client's own loop, without sockets: it speaks the wire as msgpack and struct see it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from sagacore.codes import CauseCode, Kind, OutcomeCode, Refusal, Section, StatusCode
from sagacore.transport import PeerCore, now_ms

TRANSACTION: Final = struct.Struct("<IBBHH6xQ")
HEADER: Final = struct.Struct("<IBBH16sQIHHQQQQQ16sQIHH16s")
START, DEFINE, ATTACH, SUBSCRIBE, CONFIRM, PING = 1, 9, 18, 19, 21, 22
QUIET, BY_KEY = 32, 128


@dataclass
class Message:
    """One message, with the number of the transaction that it came in."""

    kind: int
    amount: int = 0
    place: int = 0
    active: int = 0
    done: int = 0
    flags: int = 0
    saga: bytes = bytes(16)
    plan: int = 0
    body: dict[int, bytes] = field(default_factory=dict)
    number: int = 0

    def pack(self) -> bytes:
        body = msgpack.packb(dict(sorted(self.body.items())), use_bin_type=True) if self.body else b""
        length = -(-(HEADER.size + len(body)) // 8) * 8
        head = (length, 1, self.kind, self.flags, self.saga, self.plan, 0, self.place, 0, self.done, self.active)
        message = HEADER.pack(*head, 0, 0, 0, bytes(16), self.amount, len(body), 0, 0, bytes(16)) + body
        message = message.ljust(length, b"\0")
        return TRANSACTION.pack(TRANSACTION.size + length, 1, 0, 0, 1, 0) + message


def unpack(frame: bytes) -> Iterator[Message]:
    """The messages of a client's frame."""
    while frame:
        length, _, _, consumes, publishes, number = TRANSACTION.unpack_from(frame)
        assert (consumes, publishes) == (0, 1), "a client consumes nothing and says one thing at a time"
        at = TRANSACTION.size
        head = HEADER.unpack_from(frame, at)
        _, _, kind, flags, saga, plan, _, place, _, done, active, _, _, _, _, amount, body_length, *_ = head
        body = frame[at + HEADER.size : at + HEADER.size + body_length]
        sections = msgpack.unpackb(body, strict_map_key=False) if body else {}
        yield Message(kind, amount, place, active, done, flags, saga, plan, sections, number)
        frame = frame[length:]


Ending = tuple[int, dict[int, bytes]]


def completed(step: int, result: object) -> Ending:
    return OutcomeCode.COMPLETED, {step: msgpack.packb(result)}


def compensated(code: CauseCode, step: int, text: str, skipped: list[tuple[int, str]] | None = None) -> Ending:
    body = {int(Section.CAUSE): msgpack.packb([int(code), step, text])}
    if skipped:
        body[int(Section.SKIPPED)] = msgpack.packb(skipped)
    return OutcomeCode.COMPENSATED, body


@dataclass
class FakeSaga:
    """A saga as the broker knows it, and the correlation that its RESULT goes to."""

    id: bytes
    input: bytes
    ending: Ending | None = None
    state: int = StatusCode.RUNNING
    steps: list[str] = field(default_factory=list)
    attached: int | None = None


class FakeBroker:
    """Starts every saga once, and ends it at once as `ends` says; with None it runs until `end` is called."""

    def __init__(self, shard: int = 0) -> None:
        self.shard = shard
        self.sagas: dict[bytes, FakeSaga] = {}
        self.heard: list[Message] = []
        self.frames = 0
        self.is_up = True
        self.takes_no_session = False
        self.answers_starts = True
        self.refusals: list[tuple[Refusal, str]] = []
        """For the next STARTs and RESOLVEs, one each."""
        self.is_bad_plan = False
        self.ticks = True
        """Else there are no heartbeats, and what is not sent at once is not sent."""
        self.plans: set[int] = set()
        self.stats: object = {}
        self.pages: list[object] = []
        """Answered first, one after the other."""
        self.ends: Callable[[bytes], Ending | None] = lambda _: None
        self.running_max = 0
        self._links: list[FakeLink] = []
        self._sessions: set[FakeLink] = set()

    def link(self, endpoint: str, core: PeerCore, deliver: Callable[[bytes, int], None]) -> FakeLink:
        return FakeLink(self, endpoint, core, deliver)

    def restart(self) -> None:
        """What is durable stays; sessions, and who is attached, are forgotten."""
        self._sessions.clear()
        for saga in self.sagas.values():
            saga.attached = None

    def end(self, key: str, ending: Ending) -> None:
        saga = self.sagas[key.encode()]
        saga.ending = ending
        saga.state = StatusCode.COMPLETED if ending[0] == OutcomeCode.COMPLETED else StatusCode.COMPENSATED
        if saga.attached is not None:
            for link in self._sessions:
                self._say(link, self._result(saga, saga.attached))

    def say_bytes(self, frame: bytes) -> None:
        for link in list(self._sessions):
            link.hear(frame)

    def take(self, link: FakeLink, frame: bytes) -> None:
        if not self.is_up:
            return
        self.frames += 1
        answers = []
        last = 0
        for message in unpack(frame):
            if message.kind == SUBSCRIBE and self.takes_no_session:
                answers.append(Message(Kind.REFUSED, place=Refusal.FULL))
            elif message.kind == SUBSCRIBE:
                self._sessions.add(link)
                answers.append(Message(SUBSCRIBE, amount=1, place=self.shard))
            elif link not in self._sessions:
                answers.append(Message(Kind.REFUSED, amount=message.number, place=Refusal.NO_SESSION))
            else:
                self.heard.append(message)
                answers += self._answer(message)
                last = max(last, message.number)
        if last:
            answers.append(Message(CONFIRM, amount=last))
        self._say(link, *answers)

    def tick(self, link: FakeLink) -> None:
        if self.is_up and link in self._sessions:
            self._say(link, Message(PING))

    def of_kind(self, kind: int) -> list[Message]:
        return [message for message in self.heard if message.kind == kind]

    def _say(self, link: FakeLink, *messages: Message) -> None:
        if messages:
            frame = b"".join(message.pack() for message in messages)
            asyncio.get_running_loop().call_soon(link.hear, frame)

    def _answer(self, message: Message) -> list[Message]:
        match message.kind:
            case 1:  # START
                return self._start(message)
            case 9:  # DEFINE
                return self._define(message)
            case 22:  # PING
                return []
            case Kind.STATS | Kind.STUCK | Kind.DEADLOCKS:
                told = self.pages.pop(0) if self.pages else self.stats
                return [Message(message.kind, amount=message.amount, body={Section.DATA: msgpack.packb(told)})]
        return self._answer_about(message, self._find(message))

    def _define(self, message: Message) -> list[Message]:
        if self.is_bad_plan:
            return [self._refused(message, Refusal.BAD_PLAN, "steps: none")]
        self.plans.add(message.plan)
        return []

    def _answer_about(self, message: Message, saga: FakeSaga | None) -> list[Message]:
        if saga is None:
            return [self._refused(message, Refusal.UNKNOWN, "")]
        if message.kind == ATTACH:
            return self._attach(saga, message)
        if message.kind == Kind.STATUS:
            names = {int(Section.DATA): msgpack.packb(saga.steps)}
            return [Message(Kind.STATUS, message.amount, saga.state, saga=saga.id, body=names)]
        if message.kind == Kind.RESOLVE and self.refusals:
            return [self._refused(message, *self.refusals.pop(0))]
        if message.kind == Kind.CANCEL and saga.state != StatusCode.RUNNING:
            return [self._refused(message, Refusal.TOO_LATE, "")]
        return [Message(message.kind, message.amount, saga=saga.id)]

    def _start(self, message: Message) -> list[Message]:
        if self.refusals:
            return [self._refused(message, *self.refusals.pop(0))]
        if message.plan not in self.plans:
            return [self._refused(message, Refusal.NO_PLAN, "")]
        key, data = message.body[Section.KEY], message.body[Section.INPUT]
        saga = self.sagas.get(key)
        if saga is None:
            saga = self.sagas[key] = FakeSaga(struct.pack("<QIHH", len(self.sagas) + 1, 7, self.shard, 0), data)
            saga.ending = self.ends(key)
        elif saga.input != data:
            return [self._refused(message, Refusal.KEY_CONFLICT, "")]
        answers = self._attach(saga, message)
        running = sum(other.ending is None for other in self.sagas.values())
        self.running_max = max(self.running_max, running)
        return answers if self.answers_starts else []

    def _attach(self, saga: FakeSaga, message: Message) -> list[Message]:
        saga.attached = message.amount
        if saga.ending is not None:
            return [self._result(saga, message.amount)]
        return [] if message.flags & QUIET else [Message(Kind.STATUS, message.amount, saga.state, saga=saga.id)]

    def _result(self, saga: FakeSaga, correlation: int) -> Message:
        assert saga.ending is not None
        code, body = saga.ending
        return Message(Kind.RESULT, correlation, code, saga=saga.id, body=body)

    def _find(self, message: Message) -> FakeSaga | None:
        if message.flags & BY_KEY:
            return self.sagas.get(message.body[Section.KEY])
        return next((saga for saga in self.sagas.values() if saga.id == message.saga), None)

    def _refused(self, message: Message, refusal: Refusal, text: str) -> Message:
        body = {int(Section.TEXT): text.encode()} if text else {}
        return Message(Kind.REFUSED, message.number, refusal, active=message.amount, body=body)


class FakeLink:
    """What `transport.Link` is, to a `FakeBroker`."""

    def __init__(
        self, broker: FakeBroker, endpoint: str, core: PeerCore, deliver: Callable[[bytes, int], None]
    ) -> None:
        self.endpoint = endpoint
        self._broker = broker
        self._core = core
        self._deliver = deliver
        self._ticker: asyncio.TimerHandle | None = None
        self._is_stopped = False

    def open(self) -> None:
        self._core.connect(now_ms())
        self._tick()

    def flush(self) -> None:
        while not self._is_stopped and (frame := self._core.frame(now_ms())) is not None:
            self._broker.take(self, frame)

    def hear(self, frame: bytes) -> None:
        if self._ticker is not None and self._broker.is_up:
            self._deliver(frame, now_ms())
            self.flush()

    def stop(self) -> None:
        self._is_stopped = True
        if self._ticker is not None:
            self._ticker.cancel()

    async def close(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    def _tick(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(0.01, self._tick)
        if self._core.tick(now_ms()):
            self._core.connect(now_ms())
        if self._broker.ticks:
            self.flush()
            self._broker.tick(self)


def pack_any(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed
