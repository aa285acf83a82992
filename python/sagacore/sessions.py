"""A client's sessions: one with each broker, and which of them a saga is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sagacore.answers import Event, unknown
from sagacore.endpoints import shard_of_key, split_endpoints
from sagacore.identity import saga_id_text, shard_of_id
from sagacore.session import Session


class Sessions:
    """See the module's text. `every` has them in the order of their shards."""

    def __init__(self, endpoint: str, timeout_s: float) -> None:
        """Raise UsageError (SAGA-E508) for a list of endpoints that is none."""
        endpoints = split_endpoints(endpoint)
        self.every: Final = [
            Session(each, timeout_s, number=number, count=len(endpoints)) for number, each in enumerate(endpoints)
        ]

    async def open(self) -> None:
        """Connect to all. Raises UsageError (SAGA-E505) for an endpoint that cannot be one, with none left open."""
        try:
            for session in self.every:
                session.open()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect from all."""
        for session in self.every:
            await session.close()

    def of_key(self, key: bytes) -> Session:
        """The session for the saga with this key."""
        return self.every[shard_of_key(key, len(self.every))]

    def of_id(self, saga: bytes) -> Session:
        """The session for the saga with this id. Raises UnknownSaga (SAGA-E305) where no broker has its shard."""
        shard = shard_of_id(saga)
        if len(self.every) == 1:
            return self.every[0]
        if shard >= len(self.every):
            raise unknown(f"the saga {saga_id_text(saga)}: there is no shard {shard}")
        return self.every[shard]

    def of(self, saga: bytes | None, key: bytes | None) -> Session:
        """The session for a saga that is named by its id or by its key."""
        return self.of_id(saga) if saga is not None else self.of_key(key or b"")

    async def ask_all(self, question: Callable[[Session], Callable[[int], None]]) -> list[Event]:
        """Ask every broker, one after the other, and give the answers. Raises BrokerUnavailable (SAGA-E301)."""
        return [await session.ask(question(session)) for session in self.every]


def added_up(stats: list[dict[str, Any]]) -> dict[str, Any]:
    """The counters of all brokers: added up, and under `shards` those of each where there are several."""
    if len(stats) == 1:
        return stats[0]
    numbers = {name: sum(one.get(name, 0) for one in stats) for name in stats[0] if name != "coordinators"}
    return {**numbers, "coordinators": [said for one in stats for said in one["coordinators"]], "shards": stats}
