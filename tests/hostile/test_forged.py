"""Messages that are well-formed and a lie: whoever sends them, and however often, they change nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgpack  # type: ignore[import-untyped]
import msgspec
import pytest

from sagacore import Saga, Service
from tests.hostile import wire
from tests.hostile.conftest import Plant
from tests.hostile.peers import Raw
from tests.hostile.wire import CLIENT, COORDINATOR, SERVICE, Message

NUMBERS = itertools.count(1)
CAUSE = msgpack.packb([1, 0, "no"])
OTHER_SAGA = (1 << 40).to_bytes(8, "little") + bytes(8)


class Parcel(msgspec.Struct):
    """What is sent."""

    weight: int


first_service, second_service = Service("victim-first"), Service("victim-second")
first = first_service.step("first", input=Parcel, output=None)
second = second_service.step("second", input=Parcel, output=None)
send_parcel = Saga("send-parcel", Parcel).then(first).then(second)
PLAN = wire.fingerprint(send_parcel.definition)


@dataclass
class Victim:
    """A saga of two steps whose first RUN waits at an honest service, and the peers around it."""

    client: Raw
    serves_first: Raw
    serves_second: Raw
    run: Message
    key: bytes

    def right(self) -> Message:
        """What the first service should publish."""
        body = wire.body({wire.INPUT: self.run.sections()[wire.INPUT]})
        return self.run.next(wire.RUN, place=1, done=1, active=2, body=body)

    def ends_well(self) -> None:
        """The honest peers go on, and the saga completes: the second step is asked for once."""
        self.serves_first.say(self.right(), consumes=(self.run.key(),))
        run = self.serves_second.token(wire.RUN)
        assert (run.saga, run.place, run.done, run.active, run.deliveries) == (self.run.saga, 1, 1, 2, 0)
        self.serves_second.say(run.next(wire.DONE, done=3, body=run.body), consumes=(run.key(),))
        assert self.client.token(wire.RESULT).place == 1
        assert self.serves_second.is_silent(wire.RUN, 0.05)


@pytest.fixture(scope="module")
def peers(plant: Plant) -> Iterator[tuple[Raw, Raw, Raw]]:
    with Raw(plant.endpoint) as client, Raw(plant.endpoint) as one, Raw(plant.endpoint) as two:
        client.join(CLIENT, instance=11)
        one.join(SERVICE, "victim-first", instance=12)
        two.join(SERVICE, "victim-second", instance=13)
        client.say(Message(wire.DEFINE, plan=PLAN, body=wire.body({wire.DATA: send_parcel.definition})))
        yield client, one, two


@pytest.fixture
def victim(peers: tuple[Raw, Raw, Raw]) -> Victim:
    client, one, two = peers
    number = next(NUMBERS)
    key = b"victim-%d" % number
    parcel = msgspec.msgpack.encode(Parcel(number))
    body = wire.body({wire.INPUT: parcel, wire.USER_KEY: key})
    client.say(Message(wire.START, plan=PLAN, amount=number, body=body))
    run = one.hear(lambda message: message.kind == wire.RUN and message.sections()[wire.INPUT] == parcel)
    return Victim(client, one, two, run, key)


def forgeries(victim: Victim) -> dict[str, Message]:
    """Each differs from what is right in one field."""
    right = victim.right()
    bits = [(field, 1 << bit) for field in ("done", "active", "undo") for bit in (0, 1, 2, 31, 63)]
    edited = {f"{field} {bit:x}": replace(right, **{field: getattr(right, field) ^ bit}) for field, bit in bits}
    wrong = {
        "other place": replace(right, place=0),
        "no such place": replace(right, place=60_000),
        "other attempt": replace(right, attempt=1),
        "other plan": replace(right, plan=PLAN ^ 1),
        "other saga": replace(right, saga=OTHER_SAGA),
        "other nonce": replace(right, saga=right.saga[:8] + bytes(4) + right.saga[12:]),
        "other shard": replace(right, saga=right.saga[:12] + b"\1" + right.saga[13:]),
        "spliced": replace(right, flags=wire.SPLICE, body=b""),
        "result": replace(right, body=wire.body({0: b"\xc0", wire.INPUT: b"\xc0"})),
        "large input": replace(right, body=wire.body({wire.INPUT: bytes(8_000)})),
        "cause": replace(right, body=wire.body({wire.INPUT: b"\xc0", wire.CAUSE: CAUSE})),
    }
    kinds = {f"kind {kind}": replace(right, kind=kind) for kind in range(1, 27) if kind not in (2, 4, 11, 12, 19)}
    return edited | wrong | kinds


def test_the_step_s_own_service_can_say_nothing_but_what_the_plan_says(plant: Plant, victim: Victim) -> None:
    before = plant.stats()
    forged = forgeries(victim)
    for name, message in forged.items():
        victim.serves_first.say(message, consumes=(victim.run.key(),))
        assert victim.serves_first.refusal() in (wire.MISMATCH, 12), name
    # A refused sender keeps no lease: what it named comes again.
    again = victim.serves_first.token(wire.RUN)
    assert replace(again, deliveries=0) == replace(victim.run, deliveries=0)
    after = plant.stats()
    assert after["refused"] - before["refused"] == len(forged)
    assert victim.serves_second.is_silent(wire.RUN)
    victim.ends_well()


def test_flags_and_fields_that_only_the_broker_sets_are_not_taken_from_a_sender(victim: Victim) -> None:
    lie = replace(
        victim.right(), flags=wire.WIDE | wire.PIVOTED | 4, age=9, deadline_ms=1, trace=b"x" * 16, deliveries=7
    )
    victim.serves_first.say(lie, consumes=(victim.run.key(),))
    run = victim.serves_second.token(wire.RUN)
    assert (run.flags, run.age, run.trace, run.deliveries) == (0, victim.run.age, victim.run.trace, 0)
    assert run.deadline_ms == victim.run.deadline_ms
    victim.serves_second.say(run.next(wire.DONE, done=3, body=run.body), consumes=(run.key(),))
    assert victim.client.token(wire.RESULT).place == 1


@pytest.mark.parametrize(("role", "name"), [(CLIENT, ""), (SERVICE, "victim-second"), (COORDINATOR, "")])
def test_nobody_else_consumes_a_step_s_message(plant: Plant, victim: Victim, role: int, name: str) -> None:
    with Raw(plant.endpoint).join(role, name, credit=0) as thief:
        key, failed = victim.run.key(), victim.run.next(wire.FAIL, body=wire.body({wire.CAUSE: CAUSE}))
        for message in (victim.right(), failed, replace(failed, flags=wire.CLEAN), victim.run.next(wire.UNDO)):
            thief.say(message, consumes=(key,))
            assert thief.refusal() == wire.FORBIDDEN
        for kind in (wire.SPILL, wire.RETRY_LATER):
            thief.say(victim.run.next(kind, amount=1), consumes=(key,))
    victim.ends_well()


@pytest.mark.parametrize("role", [CLIENT, COORDINATOR])
def test_nobody_publishes_what_nothing_was_consumed_for(plant: Plant, victim: Victim, role: int) -> None:
    before = plant.stats()
    kinds = (wire.RUN, wire.DONE, wire.FAIL, wire.REVOKED, wire.UNDO, wire.UNDONE, wire.RESULT, wire.CONFIRM)
    with Raw(plant.endpoint).join(role, credit=0) as liar:
        for kind in kinds:
            liar.say(victim.run.next(kind, done=1, undo=1, place=1))
            assert liar.refusal() in (wire.FORBIDDEN, wire.MISMATCH, 14)
    assert plant.stats()["refused"] - before["refused"] == len(kinds)
    victim.ends_well()


def test_what_was_said_once_is_stale_when_anybody_says_it_again(plant: Plant, victim: Victim) -> None:
    before = plant.stats()["stale"]
    victim.serves_first.say(victim.right(), consumes=(victim.run.key(),))
    run = victim.serves_second.token(wire.RUN)
    said = wire.transaction([victim.right()], [victim.run.key()], 1)
    with (
        Raw(plant.endpoint) as unknown,
        Raw(plant.endpoint).join(CLIENT) as client,
        Raw(plant.endpoint).join(SERVICE, "victim-first", credit=0) as squatter,
    ):
        unknown.frame(said)
        assert unknown.refusal() == wire.NO_SESSION
        for replayer in (client, squatter, victim.serves_first):
            for _ in range(3):
                replayer.frame(said)
                assert replayer.refusal() == wire.STALE
    assert plant.stats()["stale"] - before == 9
    victim.serves_second.say(run.next(wire.DONE, done=3, body=run.body), consumes=(run.key(),))
    assert victim.client.token(wire.RESULT).place == 1
    assert victim.serves_second.is_silent(wire.RUN)


def test_who_names_an_instance_of_another_only_makes_it_subscribe_again(plant: Plant, victim: Victim) -> None:
    with Raw(plant.endpoint).join(CLIENT, instance=12) as thief:
        victim.serves_first.say(Message(wire.PING))
        assert victim.serves_first.refusal() == wire.NO_SESSION
        thief.say(victim.right(), consumes=(victim.run.key(),))
        assert thief.refusal() == wire.FORBIDDEN
        victim.serves_first.join(SERVICE, "victim-first", instance=12)
        assert victim.serves_first.token(wire.RUN).key() == victim.run.key()
    victim.ends_well()


def test_an_identity_cannot_be_taken_over_while_its_owner_is_there(plant: Plant) -> None:
    with Raw(plant.endpoint, identity=b"mine").join(CLIENT) as owner:
        with Raw(plant.endpoint, identity=b"mine") as thief:
            thief.frame(wire.subscribe(COORDINATOR))
            thief.frame(wire.transaction([Message(wire.STATS)]))
            assert thief.is_silent(wire.SUBSCRIBE)
        owner.say(Message(wire.STATS))
        owner.token(wire.STATS)


def test_a_second_process_beside_fences_in_memory_is_refused(plant: Plant) -> None:
    with Raw(plant.endpoint) as squatter:
        for flags in (0, wire.EXCLUSIVE):
            squatter.frame(wire.subscribe(SERVICE, "payments", flags=flags))
            squatter.hear(lambda told: (told.kind, told.place) == (wire.REFUSED, wire.EXCLUSIVE_REFUSED))
    plant.honest()


def test_the_books_are_right_after_all_of_it(plant: Plant) -> None:
    stats = plant.stats()
    assert (stats["running"], stats["stuck"], stats["pending"]) == (0, 0, 0)
    assert stats["started"] == stats["completed"] + stats["compensated"]
    plant.honest()
