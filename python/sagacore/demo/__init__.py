"""The main job: an order shop on real processes, some of which are killed, and an audit of its books at the end.

`run(DemoOptions())` is what `sagacore demo` does.
"""

from .options import DemoOptions

__all__ = ["DemoOptions", "run"]


def run(options: DemoOptions) -> int:
    """Run the demo and return its exit status: 0 if every order ended and the books are right."""
    from .job import run  # noqa: PLC0415 (the shop's services import this package, and need nothing of the job)

    return run(options)
