"""A business no."""

from __future__ import annotations


class Rejected(Exception):
    """A business no: nothing of the step took effect, and the saga is compensated. Never retried."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
