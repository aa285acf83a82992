"""Looking at a broker's log while no broker holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sagacore import _core
from sagacore.errors import LogRefused


def log_refused(error: _core.LogError) -> LogRefused:
    """The error that a log's refusal means for an operator."""
    what, _, hint = str(error).partition("\nhint: ")
    return LogRefused("SAGA-E504", what, hint or "sagacore log verify shows where")


def verify(data: Path) -> dict[str, Any]:
    """What the log in a folder is like. Raises LogRefused (SAGA-E504) where there is none, or a broker holds it."""
    _check(data)
    try:
        verdict, reason, numbers = _core.log_verify(str(data))
    except _core.LogError as error:
        raise log_refused(error) from error
    return {"verdict": verdict, "reason": reason, **dict(numbers)}


def repair(data: Path) -> str | None:
    """Cut the log in a folder where it is damaged, and say where; None where there was nothing to repair.

    Raises LogRefused (SAGA-E504) where there is none, or a broker holds it.
    """
    _check(data)
    try:
        return _core.log_repair(str(data))
    except _core.LogError as error:
        raise log_refused(error) from error


def _check(data: Path) -> None:
    if not data.is_dir():
        raise LogRefused("SAGA-E504", f"there is no log in {data}: it is not a folder", "name the broker's --data")
