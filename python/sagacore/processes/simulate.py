"""The simulator on the command line: the real cores under seeded faults, in virtual time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from sagacore import _core
from sagacore.transport import now_ms

# About a second's work of a thread: so often progress is shown, and Ctrl-C heard.
CHUNK_SEEDS: Final = 32


def simulate(simulation: _core.Simulation, first: int, seeds: int, jobs: int, *, as_json: bool) -> Iterator[str]:
    """Run `seeds` seeds from `first` on, on `jobs` threads. Gives lines on those that fail, then on all."""
    began_ms = now_ms()
    shows_progress = sys.stderr.isatty()
    while simulation.seeds < seeds:
        chunk = min(CHUNK_SEEDS * jobs, seeds - simulation.seeds)
        yield from simulation.run(first + simulation.seeds, chunk, jobs)
        if shows_progress:
            sys.stderr.write(f"\r{simulation.seeds} of {seeds} seeds")
            sys.stderr.flush()
    if shows_progress:
        sys.stderr.write("\n")
    seconds = (now_ms() - began_ms) / 1_000
    yield from [simulation.json(seconds)] if as_json else simulation.lines(seconds)
