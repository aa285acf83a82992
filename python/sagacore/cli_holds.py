"""Commands about what sagas hold: whether they could wait for each other, and whether they did."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

from cyclopts import App, Parameter

from sagacore.errors import UsageError


def add_to(app: App) -> None:
    """Add the commands of this module to the program."""
    app.command(check)


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
