"""Waiting, deadlocks and restarts in the sandbox: the real cores, in virtual time."""

import asyncio
from collections.abc import Callable

import pytest
from msgspec import Struct

from sagacore import Compensated, Completed, Context, Hold, Rejected, Retry, Saga, Sandbox, Service, Step
from sagacore.holds import Waiting


class Trip(Struct, frozen=True):
    name: str
    ok: bool = True


Taking = Step[Trip, str]


class World:
    """Two services, each with something to hold; in between, a step that lets others in."""

    def __init__(self, waiting: Waiting = "detect", hold: Callable[[str], Hold] = Hold) -> None:
        self.attempts: list[tuple[str, str, int]] = []
        self.cars, self.rooms, self.desk = (
            Service("cars", waiting=waiting),
            Service("rooms", waiting=waiting),
            Service("desk"),
        )
        self.car = self.taking(self.cars, "car", hold)
        self.room = self.taking(self.rooms, "room", hold)

        @self.desk.action(compensation=False)
        async def think(trip: Trip) -> int:
            await asyncio.sleep(0)
            return 1

        @self.desk.action(compensation=False)
        def confirm(trip: Trip) -> bool:
            if not trip.ok:
                raise Rejected("changed my mind")
            return True

        self.by_car = (
            Saga("by-car", Trip, deadline=3_600).then(self.car).then(think).then(self.room).then(confirm, pivot=True)
        )
        self.by_room = (
            Saga("by-room", Trip, deadline=3_600).then(self.room).then(think).then(self.car).then(confirm, pivot=True)
        )

    def taking(self, service: Service, name: str, hold: Callable[[str], Hold]) -> Taking:
        step = service.step(f"take-{name}", input=Trip, output=None)

        @step.action(retry=Retry(first_ms=5_000))
        def take(trip: Trip, ctx: Context) -> None:
            ctx.hold(hold(name))
            self.attempts.append((trip.name, name, ctx.attempt))
            ctx.db.execute("create table if not exists taken (who text)")
            ctx.db.execute("insert into taken values (?)", (trip.name,))

        @take.compensation
        def give_back(trip: Trip, nothing: None, ctx: Context) -> None:
            ctx.db.execute("delete from taken where who = ?", (trip.name,))

        return give_back  # type: ignore[return-value]


def names(box: Sandbox, service: str) -> list[str]:
    return [who for (who,) in box.db(service).execute("select who from taken order by who")]


def test_a_saga_waits_until_the_other_is_through() -> None:
    world = World()

    async def main() -> None:
        async with Sandbox(world.by_car) as box:
            outcomes = await asyncio.gather(*(box.run(world.by_car, Trip(name)) for name in ("a", "b", "c")))
            assert all(isinstance(outcome, Completed) for outcome in outcomes)
            assert [who for who, what, _ in world.attempts if what == "car"] == ["a", "b", "c"]
            assert box.elapsed_s < 1, "whoever waits is woken, and does not ask again and again"

    asyncio.run(main())


def test_what_was_undone_is_handed_over() -> None:
    world = World()

    async def main() -> None:
        async with Sandbox(world.by_car) as box:
            first, second = await asyncio.gather(
                box.run(world.by_car, Trip("a", ok=False)), box.run(world.by_car, Trip("b"))
            )
            assert isinstance(first, Compensated)
            assert isinstance(second, Completed)
            assert names(box, "cars") == names(box, "rooms") == ["b"]

    asyncio.run(main())


@pytest.mark.parametrize("waiting", ["detect", "wound-wait"])
def test_a_circle_is_resolved_and_both_complete(waiting: Waiting) -> None:
    world = World(waiting)

    async def main() -> None:
        async with Sandbox(world.by_car, world.by_room) as box:
            outcomes = await asyncio.gather(box.run(world.by_car, Trip("old")), box.run(world.by_room, Trip("young")))
            assert all(isinstance(outcome, Completed) for outcome in outcomes)
            assert names(box, "cars") == names(box, "rooms") == ["old", "young"]
            assert ("young", "room", 2) in world.attempts
            assert all(attempt == 1 for who, _, attempt in world.attempts if who == "old")
            assert box.elapsed_s < 5

    asyncio.run(main())


def test_shared_holds_that_meet_exclusive_ones_end_too() -> None:
    world = World(hold=lambda name: Hold.counted(name, 2, of=3))

    async def main() -> None:
        async with Sandbox(world.by_car, world.by_room) as box:
            outcomes = await asyncio.gather(
                *(box.run(saga, Trip(f"{n}")) for n, saga in enumerate([world.by_car, world.by_room] * 3))
            )
            assert all(isinstance(outcome, Completed) for outcome in outcomes)

    asyncio.run(main())


def test_who_must_not_wait_is_compensated() -> None:
    world = World("fail")

    async def main() -> None:
        async with Sandbox(world.by_car) as box:
            first, second = await asyncio.gather(*(box.run(world.by_car, Trip(name)) for name in "ab"))
            assert isinstance(first, Completed)
            assert isinstance(second, Compensated)
            assert (second.cause, second.reason) == ("rejected", "car is held by another saga")

    asyncio.run(main())


def test_a_deadline_ends_a_saga_that_waits() -> None:
    world = World()
    brief = Saga("brief", Trip, deadline=2).then(world.car)

    async def main() -> None:
        async with Sandbox(world.by_car, brief) as box:
            box.fail(world.room, OSError("down"), times=1)
            slow, waited = await asyncio.gather(box.run(world.by_car, Trip("slow")), box.run(brief, Trip("brief")))
            assert isinstance(slow, Completed)
            assert isinstance(waited, Compensated)
            assert (waited.cause, names(box, "cars")) == ("deadline", ["slow"])

    asyncio.run(main())


def test_waiting_outlives_the_service() -> None:
    world = World()

    async def main() -> None:
        async with Sandbox(world.by_car) as box:
            box.crash_after(world.car)
            outcomes = await asyncio.gather(*(box.run(world.by_car, Trip(name)) for name in "ab"))
            assert all(isinstance(outcome, Completed) for outcome in outcomes)
            assert names(box, "cars") == ["a", "b"]

    asyncio.run(main())
