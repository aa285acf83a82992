"""Temporal's server in one process over PostgreSQL, on loopback and on ports of its own."""

import json
import subprocess
from pathlib import Path

from sagacore.demo.fleet import Fleet

from .installed import NotInstalled, install_folder
from .servers import LOOPBACK, free_port, listening, wait_until

HISTORY_SHARDS = 16
"""Workflows of one shard are written one after another: enough for the database's connections, and no more."""
LIMITS = {
    "frontend.namespaceRPS": 100_000,
    "frontend.rps": 100_000,
    "frontend.persistenceMaxQPS": 100_000,
    "frontend.namespaceCount": 100_000,
    "history.rps": 100_000,
    "history.persistenceMaxQPS": 100_000,
    "matching.rps": 100_000,
    "matching.persistenceMaxQPS": 100_000,
    "system.visibilityPersistenceMaxWriteQPS": 100_000,
    # One partition: pollers and tasks of a queue always meet, and one host gains nothing from more.
    "matching.numTaskqueueReadPartitions": 1,
    "matching.numTaskqueueWritePartitions": 1,
}
"""Limits that would otherwise be met before the machine's."""


def start_temporal(fleet: Fleet, database: str) -> str:
    """Start Temporal's frontend, history and matching services in one process, over PostgreSQL.

    Returns the address of the frontend. Raises `NotInstalled`.
    """
    programs = install_folder() / "temporal" / "bin"
    if not (programs / "server").exists() or not (programs / "sql").exists():
        raise NotInstalled("Temporal")
    port = database.rpartition(":")[2].partition("/")[0]
    for name, schema in (("temporal", "temporal"), ("visibility", "visibility")):
        tool = (str(programs / "sql"), "--plugin", "postgres12", "--ep", LOOPBACK, "-p", port, "-u", "postgres")
        for step in (
            ("--db", name, "create"),
            ("--db", name, "setup-schema", "-v", "0.0"),
            ("--db", name, "update-schema", "--schema-name", f"postgresql/v12/{schema}"),
        ):
            subprocess.run((*tool, *step), check=True, capture_output=True, cwd="/")
    return _start_server(fleet, programs, port)


def _start_server(fleet: Fleet, programs: Path, port: str) -> str:
    config, dynamic = fleet.folder / "temporal.yaml", fleet.folder / "dynamic.yaml"
    dynamic.write_text(json.dumps({name: [{"value": value}] for name, value in LIMITS.items()}))
    frontend = free_port()
    config.write_text(json.dumps(_temporal_config(port, frontend, dynamic)))  # JSON is YAML
    services = ("--service", "frontend", "--service", "history", "--service", "matching")
    fleet.start_program(
        "temporal", (str(programs / "server"), "--config-file", str(config), "--allow-no-auth", "start", *services)
    )
    wait_until(lambda: listening(frontend), fleet, "Temporal")
    return f"{LOOPBACK}:{frontend}"


def _temporal_config(database_port: str, frontend: int, dynamic: Path) -> dict[str, object]:
    def store(name: str, connections: int) -> dict[str, object]:
        return {
            "sql": {
                "pluginName": "postgres12_pgx",
                "databaseName": name,
                "connectAddr": f"{LOOPBACK}:{database_port}",
                "connectProtocol": "tcp",
                "user": "postgres",
                "maxConns": connections,
                "maxIdleConns": connections,
            }
        }

    def rpc(port: int) -> dict[str, object]:
        return {"rpc": {"grpcPort": port, "membershipPort": free_port(), "bindOnLocalHost": True}}

    cluster = {
        "enabled": True,
        "initialFailoverVersion": 1,
        "rpcName": "frontend",
        "rpcAddress": f"{LOOPBACK}:{frontend}",
    }
    return {
        "log": {"stdout": True, "level": "warn"},
        "persistence": {
            "defaultStore": "default",
            "visibilityStore": "visibility",
            "numHistoryShards": HISTORY_SHARDS,
            "datastores": {"default": store("temporal", 40), "visibility": store("visibility", 10)},
        },
        "global": {"membership": {"maxJoinDuration": "30s", "broadcastAddress": LOOPBACK}},
        "services": {
            "frontend": rpc(frontend),
            "history": rpc(free_port()),
            "matching": rpc(free_port()),
        },
        "clusterMetadata": {
            "enableGlobalNamespace": False,
            "failoverVersionIncrement": 10,
            "masterClusterName": "active",
            "currentClusterName": "active",
            "clusterInformation": {"active": cluster},
        },
        "dcRedirectionPolicy": {"policy": "noop"},
        "dynamicConfigClient": {"filepath": str(dynamic), "pollInterval": "60s"},
    }
