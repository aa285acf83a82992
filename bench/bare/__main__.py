"""A process of the bare pipeline: `ROLE ENDPOINT LOG VIA_COORDINATOR WAITS`."""

import sys
from pathlib import Path

from .broker import Broker
from .disk import Log
from .message import ROUTE, ROUTE_VIA_COORDINATOR
from .service import Peer, Step, pass_on, serve

SWITCH_S = 0.000_2
"""The thread that syncs must get its turn: Python's own interval is five times the time between two syncs."""

role, endpoint, log, via_coordinator, waits = sys.argv[1:]
if role == "broker":
    sys.setswitchinterval(SWITCH_S)
    route = ROUTE_VIA_COORDINATOR if via_coordinator == "1" else ROUTE
    tells = waits == "1"
    Broker(endpoint, Log(Path(log), tells=tells), route, waits=tells).serve()
elif role == "coordinator":
    serve(Peer(endpoint, role), pass_on)
else:
    serve(Peer(endpoint, role), Step())
