"""What can be chosen of the chaos."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from sagacore.errors import UsageError

Fault: TypeAlias = Literal[
    "kill", "pause", "cut", "half-open", "delay", "full-disk", "clock", "rolling-restart", "unsynced"
]
"""The kinds of faults. `unsynced` is no event: it makes each kill of the broker lose what was not synced."""
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)


@dataclass(frozen=True, kw_only=True)
class ChaosOptions:
    """The settings of one run. Raises UsageError (SAGA-E111) where one of them cannot be."""

    seconds: float = 60.0
    """How long faults are made, 5 s on and 5 s off; healing comes after."""
    seed: int = 1
    """Decides which fault comes when, and what is ordered."""
    faults: str = ",".join(FAULTS)
    """Kinds of faults, with commas between them. A kind that cannot be made here is named, and left out."""
    namespaces: bool = True
    """Give each kind of process a network namespace of its own. Needs root and iproute2; else all is on loopback."""
    rate: float = 200.0
    """Orders a second."""
    in_flight: int = 500
    """Orders that are under way at a time."""
    workers: int = 2
    """Processes for each of the four services."""
    durability: Literal["sync", "os", "memory"] = "sync"
    """The broker's. With less than "sync" a run with `unsynced` must fail, and so show that it can."""
    visibility: Literal["strict", "relaxed"] = "strict"
    """The broker's: what may leave it before it is synced."""
    library: Path | None = None
    """The library that loses unsynced writes and moves clocks: `make chaos` builds it."""
    target: Path | None = None
    """A TOML file that describes a deployment of your own, instead of the shop: see docs/chaos.md."""
    keep: Path | None = None
    """Folder for the stores and logs, which are kept; without it a temporary one is used, kept after a failure."""
    json: bool = False
    """Print nothing but the result as one JSON object, which is the last line in any case."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        for name in ("seconds", "rate", "in_flight", "workers"):
            if getattr(self, name) <= 0:
                raise UsageError("SAGA-E111", f"{name} is {getattr(self, name)}", "it must be more than 0")
        unknown = [name for name in self.faults.split(",") if name not in FAULTS]
        if unknown:
            raise UsageError("SAGA-E111", f"there is no fault {unknown[0]!r}", f"there are {', '.join(FAULTS)}")

    @property
    def chosen(self) -> list[Fault]:
        """The kinds of faults, in the order of FAULTS."""
        names = self.faults.split(",")
        return [fault for fault in FAULTS if fault in names]
