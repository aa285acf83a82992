"""What can be chosen of the demo."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sagacore.errors import UsageError
from sagacore.limits import SHARDS_MAX

SLOTS_MIN: Final = 16
"""The smallest table that a coordinator can have."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The settings of one run. Raises UsageError (SAGA-E111) where one of them cannot be."""

    orders: int = 20_000
    """Orders to place."""
    reject: float = 0.05
    """Share of orders that each of payments, inventory and shipping rejects, from 0 to 1."""
    kill: int = 0
    """Processes to kill -9 during the run, evenly spread; from 6 on each kind is hit. Each is started again."""
    shape: Literal["chain", "diamond"] = "chain"
    """Order, payment, inventory, shipping one after another; or payment and inventory side by side."""
    durability: Literal["sync", "os", "memory"] = "sync"
    """What the broker's confirmation promises: synced to disk, written to the system, or nothing."""
    visibility: Literal["strict", "relaxed"] = "strict"
    """Whether all that a step publishes waits for the broker's log, or only what decides."""
    in_flight: int = 1_000
    """Orders that are under way at a time."""
    slots: int = 65_536
    """Slots in a coordinator's table, 64 bytes each. A small table spills; it never refuses."""
    coordinators: int = 1
    """Coordinators that share the sagas of a broker."""
    shards: int = 1
    """Brokers, each with its log and its coordinators: an order's id says which one runs its saga."""
    workers: int = 1
    """Processes for each service."""
    contention: bool = False
    """Instead of the shop, trips that take the same things in opposite orders, from three services. They wait a lot:
    `--orders 1000` is enough to see it."""
    detect_deadlocks: bool = True
    """Whether the broker finds and resolves deadlocks. Without it, trips that wait for each other never end."""
    seed: int = 1
    """Decides what the customers order."""
    keep: Path | None = None
    """Folder for the stores and logs, which are kept; without it a temporary one is used."""
    json: bool = False
    """Print the result as one JSON object on the last line."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        bounds = {"orders": 1, "in_flight": 1, "slots": SLOTS_MIN, "coordinators": 1, "workers": 1, "shards": 1}
        for name, least in bounds.items():
            if getattr(self, name) < least:
                raise UsageError("SAGA-E111", f"{name} is {getattr(self, name)}", f"it must be {least} or more")
        if self.shards > SHARDS_MAX:
            raise UsageError("SAGA-E111", f"shards is {self.shards}", f"it must be {SHARDS_MAX} or less")
        if not 0 <= self.reject <= 1:
            raise UsageError("SAGA-E111", f"reject is {self.reject}", "it is a share, from 0 to 1")
        if self.kill < 0:
            raise UsageError("SAGA-E111", f"kill is {self.kill}", "it must be 0 or more")
