"""For users' own tests: their sagas and services without processes, sockets or waiting. See docs/testing.md."""

from sagacore.testing.sandbox import Sandbox

__all__ = ["Sandbox"]
