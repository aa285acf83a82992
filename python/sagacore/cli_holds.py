"""Commands about what sagas hold: whether they could wait for each other, and whether they did."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from sagacore.errors import UsageError


def add_to(app: App) -> None:
    """Add the commands of this module to the program."""
    app.command(check)
    app.command(isolation)


def check(*targets: str, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> int:
    """Say whether sagas could wait for each other in a circle, by what their steps declare to hold.

    It suggests an order of taking things that cannot. Holds that a handler takes with ctx.hold are not seen. The exit
    status is 1 where a cycle is possible.

    Parameters
    ----------
    targets
        Modules, whose sagas are all checked together, or single sagas as module:object.
    as_json
        Print one JSON object.

    """
    from sagacore import hold_order
    from sagacore.processes.load import load_all
    from sagacore.saga import Saga

    if not targets:
        raise UsageError("SAGA-E506", "nothing to check", "name modules, or sagas as module:object")
    sagas = list(dict.fromkeys(saga for target in targets for saga in load_all(target, Saga)))
    report = hold_order.check(sagas)
    print(json.dumps(dataclasses.asdict(report)) if as_json else hold_order.text(report))
    return 1 if report.cycles else 0


def isolation(*files: Path, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> int:
    """Say which sagas overwrote or read what another one had not finished with: lost updates and dirty reads.

    The exit status is 1 where there are any. See docs/isolation.md.

    Parameters
    ----------
    files
        What `sagacore service --isolation FILE` has written; those of all services that share a run.
    as_json
        Print one JSON object a line.

    """
    import msgspec

    from sagacore import isolation as checker

    if not files:
        raise UsageError("SAGA-E506", "nothing to read", "name the files of sagacore service --isolation")
    accesses = checker.read(files)
    found = checker.anomalies(accesses)
    if as_json:
        print("\n".join(msgspec.json.encode(anomaly).decode() for anomaly in found))
    else:
        print(checker.text(found, len(accesses)))
    return 1 if found else 0
