"""Settings of processes that make no sense, said before anything is started."""

from __future__ import annotations

from sagacore.errors import UsageError


def check_range(name: str, value: int, least: int, most: int) -> None:
    """Raise UsageError (SAGA-E111) for a setting that is not from `least` to `most`."""
    if not least <= value <= most:
        raise UsageError("SAGA-E111", f"{name} is {value}", f"it must be from {least} to {most}")
