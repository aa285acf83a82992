"""The bare pipeline's processes, started for a measurement."""

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figures
from bench.plant import ROOT
from bench.usage import CpuMeter
from sagacore.demo.fleet import Fleet
from sagacore.demo.plant import SERVICES, local_endpoint
from sagacore.demo.shop.contracts import Order
from sagacore.demo.shop.customers import incoming_orders

from .client import closed_loop, wait_for_all
from .service import Peer

PROBE = next(incoming_orders(1, reject=0, seed=0))


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The running processes, and a client's connection to their broker."""

    fleet: Fleet
    peer: Peer

    def latencies_ms(self, orders: Sequence[Order], *, in_flight: int) -> list[float]:
        """Send all orders through, so many at a time, and give the latency of each. It blocks."""
        return closed_loop(self.peer, orders, in_flight=in_flight)

    def measure(self, orders: Sequence[Order], *, in_flight: int) -> Figures:
        """The same, and what it takes."""
        cpu = CpuMeter(self.fleet)
        started_s = time.perf_counter()
        latencies_ms = self.latencies_ms(orders, in_flight=in_flight)
        elapsed_s = time.perf_counter() - started_s
        return Figures.of(latencies_ms, in_flight=in_flight, elapsed_s=elapsed_s, cpu=cpu)


@contextlib.contextmanager
def running(*, waits: bool, via_coordinator: bool = False) -> Iterator[Pipeline]:
    """Start everything, and stop it afterwards. It blocks while the processes start."""
    with (
        tempfile.TemporaryDirectory(prefix="sagacore-bench-") as folder,
        local_endpoint() as endpoint,
        Fleet(Path(folder)) as fleet,
    ):
        options = (endpoint, str(Path(folder, "log")), str(int(via_coordinator)), str(int(waits)))
        for role in ("broker", "coordinator", *SERVICES):
            program = (sys.executable, "-m", "bench.bare", role, *options)
            fleet.start_program(role, program, {"PYTHONPATH": str(ROOT)})
        peer = Peer(endpoint, "client")
        try:
            wait_for_all(peer, PROBE)
            yield Pipeline(fleet, peer)
        finally:
            peer.close()
