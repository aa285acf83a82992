"""Adds up what brokers and coordinators count, over their restarts."""

from collections.abc import Mapping
from typing import Any

import msgspec

from .result import CoordinatorFigures


class Counters:
    """The sum over all boots of the broker and all coordinators that were ever there.

    A process that is killed takes with it what it counted since it was last asked.
    """

    def __init__(self) -> None:
        self._messages_by_boot: dict[tuple[int, int], int] = {}
        self._spills_by_boot: dict[tuple[int, int], int] = {}
        self._coordinators: dict[int, Mapping[str, int]] = {}

    def observe(self, stats: Mapping[str, Any]) -> None:
        """Take in an answer of the broker, or of several."""
        for shard, one in enumerate(stats.get("shards", (stats,))):
            boot = shard, one["boot_epoch"]
            self._messages_by_boot[boot] = one["messages"]
            self._spills_by_boot[boot] = one["spills"]
        for said in stats["coordinators"]:
            figures = msgspec.msgpack.decode(said) if isinstance(said, bytes) else said
            self._coordinators[figures["pid"]] = figures

    @property
    def messages(self) -> int | None:
        """Messages between coordinators and services; None if no broker has ever answered."""
        return sum(self._messages_by_boot.values()) if self._messages_by_boot else None

    @property
    def coordinator(self) -> CoordinatorFigures:
        """All coordinators together: what they did is added up, what they take is that of the largest.

        Spills are those that a broker has accepted.
        """
        every = self._coordinators.values()
        return CoordinatorFigures(
            slots=max((figures["slots"] for figures in every), default=0),
            table_bytes=max((figures["table_bytes"] for figures in every), default=0),
            evictions=sum(figures["evictions_clean"] + figures["evictions_dirty"] for figures in every),
            spills=sum(self._spills_by_boot.values()),
            rss_bytes=max((figures["rss_bytes"] for figures in every), default=0),
        )
