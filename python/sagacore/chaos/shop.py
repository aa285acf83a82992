"""The shop that is hurt: broker on a small disk, two coordinators, services and a client, each kind on its network."""

import contextlib
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sagacore.demo.fleet import Died, Fleet, Surroundings
from sagacore.demo.plant import SERVICES, role_of, start_broker, start_coordinators, start_service

from .disk import Pages, SmallDisk
from .network import Lan, own_mounts
from .options import ChaosOptions, Fault

KINDS: Final = ("broker", "coordinator", *SERVICES, "client")
PEERS: Final = KINDS[1:]
TARGETS: Final[dict[Fault, Sequence[str]]] = {
    "full-disk": ("broker",),
    "half-open": PEERS,
    "rolling-restart": ("everything",),
}
PORT: Final = 7700
COORDINATORS: Final = 2
SLOTS: Final = 256
"""A small table: it spills."""
SEGMENT_BYTES: Final = 1 << 20
"""Small segments: they are changed, recycled and removed all the time."""
OUTCOMES_MS: Final = 120_000
"""So long are outcomes remembered: far longer than a killed client is away, and briefly enough for a small disk."""
LOG: Final = "disk/log"
MODULES: Final = {"orders": "sagacore.chaos.orders"}
"""Services that are not the shop's."""


class Shop:
    """The processes, and what they stand on. Everything is gone when it is closed."""

    def __init__(self, folder: Path, options: ChaosOptions) -> None:
        self.folder = folder
        self.options = options
        self.lan: Lan | None = None
        self.disk: SmallDisk | None = None
        self.pages: Pages | None = None
        self.left_out: dict[Fault, str] = {}
        """Faults that were asked for and cannot be made here, and why."""
        self._fleet = Fleet(folder, self._surroundings)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Lay network and disk; start nothing yet. At the end all processes are ended, and network and disk gone."""
        try:
            self._lay()
            yield
        finally:
            self._fleet.stop()
            if self.disk is not None:
                self.disk.close()
            if self.pages is not None:
                self.pages.close()

    @property
    def faults(self) -> list[Fault]:
        """The faults that were asked for and can be made."""
        return [fault for fault in self.options.chosen if fault not in self.left_out]

    def start(self) -> None:
        """Start all processes, the client last."""
        fleet, options = self._fleet, self.options
        endpoint = f"tcp://{self.lan.address('broker')}:{PORT}" if self.lan else f"tcp://127.0.0.1:{free_port()}"
        log = ("--segment-bytes", str(SEGMENT_BYTES), "--outcomes-ms", str(OUTCOMES_MS))
        promises = {"durability": options.durability, "visibility": options.visibility}
        start_broker(fleet, endpoint, **promises, data=str(self.folder / LOG), options=log)
        start_coordinators(fleet, endpoint, count=COORDINATORS, slots=SLOTS)
        for service in SERVICES:
            module = MODULES.get(service)
            start_service(fleet, endpoint, service, count=options.workers, effects="sqlite", module=module)
        client = (sys.executable, "-m", "sagacore.chaos.placing", "--endpoint", endpoint, "--folder", str(self.folder))
        numbers = ("--seed", options.seed, "--rate", options.rate, "--in-flight", options.in_flight)
        fleet.start_program("client", (*client, *map(str, numbers)))

    def finish(self) -> None:
        """Have the client place no more, and wait for what is under way."""
        (self.folder / "finish").touch()

    def names(self) -> Sequence[str]:
        """See `Processes`."""
        return self._fleet.names()

    def named(self, kind: str) -> Sequence[str]:
        """See `Processes`."""
        return [name for name in self._fleet.names() if role_of(name) == kind]

    def signal(self, name: str, number: signal.Signals) -> None:
        """See `Processes`."""
        self._fleet.signal(name, number)

    def pid(self, name: str) -> int | None:
        """See `Processes`."""
        return self._fleet.pid(name) if self.status(name) is None else None

    def start_again(self, name: str) -> None:
        """See `Processes`."""
        self._fleet.start_again(name)

    def status(self, name: str) -> int | None:
        """A process's exit status; None while it runs."""
        return self._fleet.status(name)

    def died(self) -> Iterator[Died]:
        """The processes that have ended."""
        return self._fleet.died()

    def _lay(self) -> None:
        if self.options.namespaces:
            try:
                own_mounts()
            except OSError as error:
                self._leave_out(str(error), "cut", "half-open", "delay", "full-disk")
            else:
                self._lay_disk()
                self._lay_lan()
        else:
            self._leave_out("namespaces were not wanted", "cut", "half-open", "delay", "full-disk")
        (self.folder / LOG).parent.mkdir(exist_ok=True)
        if self.options.library is not None:
            self.pages = Pages(self.folder / "pages", self.options.library.resolve(strict=True))
        else:
            self._leave_out("no --library: `make chaos` builds it", "clock", "unsynced")

    def _lay_disk(self) -> None:
        disk = SmallDisk((self.folder / LOG).parent)
        try:
            disk.open()
        except OSError as error:
            self._leave_out(str(error), "full-disk")
        else:
            self.disk = disk

    def _lay_lan(self) -> None:
        lan = Lan(KINDS)
        try:
            lan.open()
        except OSError as error:
            self._leave_out(str(error), "cut", "half-open", "delay")
        else:
            self.lan = lan

    def _leave_out(self, why: str, *faults: Fault) -> None:
        self.left_out.update({fault: why for fault in faults if fault in self.options.chosen})

    def _surroundings(self, name: str) -> Surroundings:
        command = self.lan.command(role_of(name)) if self.lan else ()
        if self.pages is None:
            return Surroundings(command)
        loses = role_of(name) == "broker" and "unsynced" in self.options.chosen
        return Surroundings(command, self.pages.environment(name, self.folder / LOG if loses else None))


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
