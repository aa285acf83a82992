"""Chaos: faults in the rhythm of 5 s on and 5 s off against real processes, then healing and an audit.

`run(ChaosOptions())` is what `sagacore chaos` does: against the shop of the demo, or against a deployment of one's own.
"""

from .options import ChaosOptions

__all__ = ["ChaosOptions", "run"]


def run(options: ChaosOptions) -> int:
    """Run it and return its exit status: 0 if everything ended and nothing was wrong."""
    if options.target is not None:
        from .outside import run as run_outside  # noqa: PLC0415 (one of the two is needed, and neither for --help)

        return run_outside(options, options.target)
    from .job import run as run_shop  # noqa: PLC0415 (the same)

    return run_shop(options)
