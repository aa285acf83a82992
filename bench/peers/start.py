"""What each peer's setting consists of: its servers, its workers and services, and the environment of its client."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from sagacore.demo.fleet import Fleet
from sagacore.demo.plant import SERVICES

from .measure import Durability, run_module, start_module
from .servers import (
    free_port,
    listening,
    register,
    start_postgres,
    start_rabbitmq,
    start_restate,
    wait_until,
)
from .temporal_server import start_temporal

DBOS = "bench.peers.dbos"
APPLICATIONS = 2
"""Processes that run DBOS's workflows, one a core: each is bound to its own interpreter's lock."""
RABBITMQ = "bench.peers.rabbitmq"
TEMPORAL = "bench.peers.temporal"
RESTATE = "bench.peers.restate"


def rabbitmq(fleet: Fleet, durability: Durability) -> Mapping[str, str]:
    """RabbitMQ, PostgreSQL, an orchestrator and the four services."""
    environment = {
        "PEER_POSTGRES": start_postgres(fleet, synced=durability == "sync"),
        "PEER_AMQP": start_rabbitmq(fleet),
        "PEER_DURABLE": "1" if durability == "sync" else "0",
    }
    start_module(fleet, "orchestrator", RABBITMQ, ("orchestrator",), environment)
    for service in SERVICES:
        start_module(fleet, service, RABBITMQ, ("service", service), environment)
    return environment


def restate(fleet: Fleet, durability: Durability) -> Mapping[str, str]:
    """Restate, the saga's handler and the four services."""
    server = start_restate(fleet, synced=durability == "sync")
    register(server, _listening(fleet, "checkout", RESTATE, ("checkout",)))
    for service in SERVICES:
        register(server, _listening(fleet, service, RESTATE, ("service", service)))
    return {"PEER_INGRESS": server.ingress}


def restate_in_process(fleet: Fleet, durability: Durability) -> Mapping[str, str]:
    """Restate, and the saga's handler with the steps as its side effects."""
    server = start_restate(fleet, synced=durability == "sync")
    register(server, _listening(fleet, "checkout", RESTATE, ("in-process",)))
    return {"PEER_INGRESS": server.ingress}


def dbos(fleet: Fleet, durability: Durability) -> Mapping[str, str]:
    """PostgreSQL, the processes that run the workflows, and the four services."""
    ports = [_listening(fleet, service, DBOS, ("service", service)) for service in SERVICES]
    return _dbos(fleet, durability, {"PEER_SERVICES": " ".join(map(str, ports))})


def dbos_in_process(fleet: Fleet, durability: Durability) -> Mapping[str, str]:
    """PostgreSQL, and the processes that run the workflows with their steps."""
    return _dbos(fleet, durability, {})


def _dbos(fleet: Fleet, durability: Durability, services: Mapping[str, str]) -> Mapping[str, str]:
    environment = {**services, "PEER_POSTGRES": start_postgres(fleet, synced=durability == "sync")}
    # One after another: the first one makes the tables.
    ports = [
        _listening(fleet, f"application-{number}", DBOS, ("application", str(number)), environment)
        for number in range(APPLICATIONS)
    ]
    return {"PEER_APPLICATIONS": " ".join(f"http://127.0.0.1:{port}/place" for port in ports)}


def temporal(fleet: Fleet, durability: Durability) -> Mapping[str, str]:
    """Temporal over PostgreSQL, a worker for the workflows and one for each service's activities."""
    environment = _temporal(fleet, durability)
    start_module(fleet, "workflows", TEMPORAL, ("workflows",), environment)
    for service in SERVICES:
        start_module(fleet, service, TEMPORAL, ("service", service), environment)
    return {**environment, "PEER_WORKFLOW": "OverServices"}


def temporal_in_process(fleet: Fleet, durability: Durability) -> Mapping[str, str]:
    """Temporal over PostgreSQL, and one worker for workflows and local activities."""
    environment = _temporal(fleet, durability)
    start_module(fleet, "workflows", TEMPORAL, ("in-process",), environment)
    return {**environment, "PEER_WORKFLOW": "InProcess"}


def _temporal(fleet: Fleet, durability: Durability) -> dict[str, str]:
    address = start_temporal(fleet, start_postgres(fleet, synced=durability == "sync"))
    environment = {"PEER_TEMPORAL": address}
    run_module(fleet, TEMPORAL, ("namespace",), environment)
    return environment


def _listening(
    fleet: Fleet, name: str, module: str, role: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})
) -> int:
    """Start a module that serves a port, and return the port when it does."""
    port = free_port()
    start_module(fleet, name, module, (*role, str(port)), environment)
    wait_until(lambda: listening(port), fleet, name)
    return port
