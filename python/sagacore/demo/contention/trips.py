"""What is contended for: cars, rooms and seats of three services, which trips take in every order.

A trip takes its things one after the other, so that others come in between, and gives them all back past its pivot. A
thing that two trips have at once is an error of the service: its hold did not keep the second one out.

Run a service with `sagacore service sagacore.demo.contention.trips:cars`. In the environment, `SAGACORE_WAITING` says
what its holds do, and `SAGACORE_STORE=memory` where its things are.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
from typing import Final, Protocol, cast

import msgspec

from sagacore import Context, Retry, Saga, Service, Step
from sagacore.holds import Waiting

WAITING_VARIABLE: Final = "SAGACORE_WAITING"
STORE_VARIABLE: Final = "SAGACORE_STORE"
THINGS_MAX: Final = 8
"""Things that a trip takes at most."""
NAMES: Final = ("cars", "rooms", "seats")
SCHEMA: Final = """
    create table if not exists things (thing integer, trip text, number integer, primary key (thing, trip, number));
    create table if not exists work (taken integer not null, given_back integer not null);
    insert into work select 0, 0 where not exists (select 1 from work);
"""


class Trip(msgspec.Struct, frozen=True):
    """Takes these things, in this order."""

    name: str
    things: list[int]


class Store(Protocol):
    """The things of one service, and who has them."""

    def take(self, thing: int, trip: str, number: int) -> None:
        """Let a trip have a thing. Raises RuntimeError where another one has it."""

    def give_back(self, thing: int, trip: str, number: int) -> None:
        """Undo that."""

    def give_all_back(self, trip: str) -> None:
        """The trip is through."""


class Database:
    """Things in the fence's database."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def take(self, thing: int, trip: str, number: int) -> None:
        """See `Store`."""
        others = "select trip from things where thing = ? and trip != ? limit 1"
        if found := self._db.execute(others, (thing, trip)).fetchone():
            raise RuntimeError(f"{found[0]} and {trip} have {thing} at once")
        self._db.execute("insert into things values (?, ?, ?)", (thing, trip, number))
        self._db.execute("update work set taken = taken + 1")

    def give_back(self, thing: int, trip: str, number: int) -> None:
        """See `Store`."""
        self._db.execute("delete from things where thing = ? and trip = ? and number = ?", (thing, trip, number))
        self._db.execute("update work set given_back = given_back + 1")

    def give_all_back(self, trip: str) -> None:
        """See `Store`."""
        self._db.execute("delete from things where trip = ?", (trip,))


class Memory:
    """Things that are gone with the process."""

    def __init__(self) -> None:
        self._things: dict[int, set[tuple[str, int]]] = {}
        self._lock = threading.Lock()

    def take(self, thing: int, trip: str, number: int) -> None:
        """See `Store`."""
        with self._lock:
            having = self._things.setdefault(thing, set())
            if others := {other for other, _ in having if other != trip}:
                raise RuntimeError(f"{others.pop()} and {trip} have {thing} at once")
            having.add((trip, number))

    def give_back(self, thing: int, trip: str, number: int) -> None:
        """See `Store`."""
        with self._lock:
            self._things.get(thing, set()).discard((trip, number))

    def give_all_back(self, trip: str) -> None:
        """See `Store`."""
        with self._lock:
            for having in self._things.values():
                having -= {one for one in having if one[0] == trip}


_MEMORY: Final = Memory() if os.environ.get(STORE_VARIABLE) == "memory" else None


def _store(ctx: Context) -> Store:
    return _MEMORY if _MEMORY is not None else Database(ctx.db)


def _taking(service: Service, number: int) -> Step[Trip, None]:
    step = service.step(f"take-{number}", input=Trip)

    @step.action(retry=Retry(tries=1))
    def take(trip: Trip, ctx: Context) -> None:
        ctx.hold(f"thing:{trip.things[number]}")
        _store(ctx).take(trip.things[number], trip.name, number)

    @step.compensation
    def give_back(trip: Trip, _nothing: None, ctx: Context) -> None:
        _store(ctx).give_back(trip.things[number], trip.name, number)

    return step


def _ending(service: Service) -> Step[Trip, None]:
    step = service.step(f"return-{service.name}", input=Trip, compensation=False)

    @step.action
    def give_all_back(trip: Trip, ctx: Context) -> None:
        _store(ctx).give_all_back(trip.name)

    return step


_waiting: Final = cast("Waiting", os.environ.get(WAITING_VARIABLE, "detect"))
cars, rooms, seats = SERVICES = tuple(Service(name, waiting=_waiting) for name in NAMES)
_TAKES: Final = {service.name: [_taking(service, number) for number in range(THINGS_MAX)] for service in SERVICES}
_ENDS: Final = [_ending(service) for service in SERVICES]


@cars.action(compensation=False)
def confirm(trip: Trip) -> None:
    """From here on there is no way back."""


def sagas(things: int, deadline_s: float) -> list[Saga[Trip, None]]:
    """Trips with so many things, one for each order of the services; the order begins anew after three."""
    found = []
    for order in itertools.permutations(NAMES):
        saga = Saga(f"trip-{'-'.join(order)}-{things}", Trip, deadline=deadline_s, input_bytes=160)
        built: Saga[Trip, None] = saga
        for number in range(things):
            built = built.then(_TAKES[order[number % len(order)]][number])
        found.append(cast("Saga[Trip, None]", built.then(confirm, pivot=True).then(*_ENDS)))
    return found
