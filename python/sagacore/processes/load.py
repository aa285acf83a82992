"""Finding the object that a process should run: `module:object`."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from sagacore.errors import SagacoreError, UsageError

T = TypeVar("T")


def load(target: str, kind: type[T]) -> T:
    """The object of this kind that `module:object` names; modules are looked for in the current folder too.

    Raises UsageError (SAGA-E503) where there is none.
    """
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name or module_name.startswith("."):
        raise _not_there(target, kind, "it is not of the form module:object")
    found = getattr(_module(target, module_name, kind), name, None)
    if not isinstance(found, kind):
        raise _not_there(target, kind, f"the module has no {kind.__name__} named {name!r}")
    return found


def load_all(target: str, kind: type[T]) -> list[T]:
    """The object that `module:object` names, or all of this kind in a module. Raises UsageError (SAGA-E503)."""
    if ":" in target:
        return [load(target, kind)]
    if not target or target.startswith("."):
        raise _not_there(target, kind, "it is not of the form module or module:object")
    found = [thing for thing in vars(_module(target, target, kind)).values() if isinstance(thing, kind)]
    if not found:
        raise _not_there(target, kind, f"the module has no {kind.__name__}")
    return found


def _module(target: str, module_name: str, kind: type[object]) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except SagacoreError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module_name}.".startswith(f"{error.name}."):
            raise _broken(target, error) from error  # the module is there, and what it imports is not
        raise _not_there(target, kind, f"there is no module {module_name!r}") from error
    except Exception as error:
        raise _broken(target, error) from error


def _broken(target: str, error: Exception) -> UsageError:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return UsageError(
        "SAGA-E503",
        f"cannot load {target!r}: importing its module raised {type(error).__name__}{where}: {error}",
        "a module must import without an error: try `python -c 'import ...'` in the same folder",
    )


def _not_there(target: str, kind: type[object], why: str) -> UsageError:
    return UsageError(
        "SAGA-E503",
        f"cannot load {target!r}: {why}",
        f"name a {kind.__name__} as module:object, from the folder that the module is in",
    )
