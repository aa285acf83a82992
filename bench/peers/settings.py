"""What is measured: each peer at its best setting, synced and not, and where that is the faster one, in one process."""

from . import start
from .measure import Setting

SETTINGS = (
    Setting("rabbitmq", "four services, outbox", "sync", (64, 256), "bench.peers.rabbitmq", start.rabbitmq),
    Setting("rabbitmq", "four services, outbox", "memory", (64, 256), "bench.peers.rabbitmq", start.rabbitmq),
    Setting("restate", "four services", "sync", (64, 256), "bench.peers.restate", start.restate),
    Setting(
        "restate", "steps in the saga's process", "sync", (64, 256), "bench.peers.restate", start.restate_in_process
    ),
    Setting(
        "restate", "steps in the saga's process", "memory", (64, 256), "bench.peers.restate", start.restate_in_process
    ),
    Setting("dbos", "four services", "sync", (16, 64), "bench.peers.dbos", start.dbos),
    Setting("dbos", "steps in the saga's process", "sync", (16, 64), "bench.peers.dbos", start.dbos_in_process),
    Setting("dbos", "steps in the saga's process", "memory", (16, 64), "bench.peers.dbos", start.dbos_in_process),
    Setting("temporal", "four services", "sync", (16, 32), "bench.peers.temporal", start.temporal),
    Setting(
        "temporal", "steps in the saga's process", "sync", (16, 64), "bench.peers.temporal", start.temporal_in_process
    ),
    Setting(
        "temporal", "steps in the saga's process", "memory", (16, 64), "bench.peers.temporal", start.temporal_in_process
    ),
)
PEERS = tuple(dict.fromkeys(setting.peer for setting in SETTINGS))
