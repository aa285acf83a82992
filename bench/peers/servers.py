"""The servers that peers stand on, each started in its own folder, on loopback and on ports of its own."""

import contextlib
import getpass
import json
import os
import pwd
import random
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from sagacore.demo.fleet import Fleet

from .installed import NotInstalled, install_folder

START_S = 60.0
LOOPBACK = "127.0.0.1"
PORTS = range(16_384, 32_768)
"""Temporal's tables have no room for greater ones."""


class Restate(NamedTuple):
    """Where sagas are started, and where services are made known."""

    ingress: str
    admin: str


def free_port() -> int:
    """A port that nobody listens on, below those that outgoing connections take. Raises `OSError` if there is none."""
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.create_server((LOOPBACK, port)):
            return port
    raise OSError("no port is free")


def wait_until(ready: Callable[[], bool], fleet: Fleet, what: str) -> None:
    """Wait until something is there.

    Raises `TimeoutError` after a minute, and `RuntimeError` if a process of the fleet has ended meanwhile; both with
    the last lines of its log.
    """
    give_up_s = time.monotonic() + START_S
    while not ready():
        for died in fleet.died():
            raise RuntimeError(f"{died.name} ended with status {died.status}:\n{died.tail}")
        if time.monotonic() > give_up_s:
            tails = "\n".join(f"{name}: {fleet.tail(name)}" for name in fleet.names())
            raise TimeoutError(f"{what} is not there after {START_S:.0f} s\n{tails}")
        time.sleep(0.05)


def listening(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs, of the newest version. Raises `NotInstalled`."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not versions:
        raise NotInstalled("PostgreSQL")
    return versions[-1].parent


def start_postgres(fleet: Fleet, *, synced: bool, connections: int = 200) -> str:
    """Start PostgreSQL, and return its URL for the database `postgres`.

    `synced` is synchronous_commit and fsync; without both, a commit is in memory alone. Raises `NotInstalled`.
    """
    programs, port, data = postgres_programs(), free_port(), fleet.folder / "postgres"
    as_user = _as_postgres(data)
    create = (*as_user, str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync")
    subprocess.run(create, check=True, stdout=subprocess.DEVNULL, cwd="/")
    switch = "on" if synced else "off"
    settings: Mapping[str, object] = {
        "listen_addresses": LOOPBACK,
        "port": port,
        "unix_socket_directories": "",
        "max_connections": connections,
        "synchronous_commit": switch,
        "fsync": switch,
        "full_page_writes": switch,
        "shared_buffers": "1GB",
        "effective_cache_size": "4GB",
        "wal_buffers": "64MB",
        "max_wal_size": "8GB",
        "checkpoint_timeout": "30min",
        "wal_compression": "on",
        "jit": "off",
        "autovacuum_naptime": "10s",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    fleet.start_program("postgres", (*as_user, str(programs / "postgres"), "-D", str(data), *options))
    answers = (str(programs / "pg_isready"), "-q", "-h", LOOPBACK, "-p", str(port))
    wait_until(lambda: subprocess.run(answers, check=False).returncode == 0, fleet, "PostgreSQL")
    return f"postgresql://postgres@{LOOPBACK}:{port}/postgres"


def _as_postgres(data: Path) -> tuple[str, ...]:
    """PostgreSQL refuses to run as root: then it runs as the user that its package has made."""
    if getpass.getuser() != "root":
        return ()
    user = pwd.getpwnam("postgres")
    data.mkdir()
    shutil.chown(data, user.pw_uid, user.pw_gid)
    data.parent.chmod(0o711)
    data.parent.parent.chmod(0o711)
    return ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=QUIT")


def start_rabbitmq(fleet: Fleet) -> str:
    """Start RabbitMQ and the name server that its runtime needs, and return its URL. Raises `NotInstalled`."""
    root = install_folder() / "debian" / "root" / "usr" / "lib"
    program = next(root.glob("rabbitmq/lib/*/sbin/rabbitmq-server"), None)
    if program is None:
        raise NotInstalled("RabbitMQ")
    home, port, names_port = fleet.folder / "rabbitmq", free_port(), free_port()
    home.mkdir()
    erlang = root / "erlang"
    settings = (
        f"listeners.tcp.1 = {LOOPBACK}:{port}",
        "vm_memory_high_watermark.absolute = 4GB",
        "disk_free_limit.absolute = 64MB",
    )
    (home / "rabbitmq.conf").write_text("\n".join(settings) + "\n")
    environment = {
        "HOME": str(home),
        "PATH": f"{erlang / 'bin'}:{os.environ['PATH']}",
        "ERL_ROOTDIR": str(erlang),
        "ERL_EPMD_PORT": str(names_port),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "RABBITMQ_NODENAME": "bench@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(home / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "logs"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "config"),
        # Schedulers that wait without spinning, as its makers advise for machines with few cores.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
        ),
        "RABBITMQ_ALLOW_INPUT": "1",  # the script becomes the server, which dies with this process
    }
    epmd = next(erlang.glob("erts-*/bin/epmd"))
    fleet.start_program("epmd", (str(epmd), "-port", str(names_port), "-address", LOOPBACK))
    wait_until(lambda: listening(names_port), fleet, "Erlang's name server")
    fleet.start_program("rabbitmq", (str(program), "-noinput"), environment)
    wait_until(lambda: listening(port), fleet, "RabbitMQ")
    return f"amqp://guest:guest@{LOOPBACK}:{port}/"


def start_restate(fleet: Fleet, *, synced: bool) -> Restate:
    """Start Restate with all its parts in one process. Raises `NotInstalled`."""
    packages = install_folder() / "restate" / "node_modules" / "@restatedev"
    program = next(packages.glob("restate-server-*/bin/restate-server"), None)
    if program is None:
        raise NotInstalled("Restate")
    ingress, admin, node = free_port(), free_port(), free_port()
    unsynced = str(not synced).lower()
    config = fleet.folder / "restate.toml"
    config.write_text(f"""
base-dir = "{fleet.folder / "restate"}"
cluster-name = "bench"
node-name = "bench"
listen-mode = "tcp"
bind-address = "{LOOPBACK}:{node}"
advertised-address = "http://{LOOPBACK}:{node}"
disable-telemetry = true
log-filter = "warn"
default-num-partitions = 1
rocksdb-total-memory-size = "1 GiB"

[bifrost]
default-provider = "local"

[bifrost.local]
rocksdb-disable-wal-fsync = {unsynced}

[log-server]
rocksdb-disable-wal-fsync = {unsynced}

[ingress]
bind-address = "{LOOPBACK}:{ingress}"

[admin]
bind-address = "{LOOPBACK}:{admin}"
disable-web-ui = true
""")
    fleet.start_program("restate", (str(program), "--no-logo", "--config-file", str(config)))
    restate = Restate(f"http://{LOOPBACK}:{ingress}", f"http://{LOOPBACK}:{admin}")
    wait_until(
        lambda: answers(f"{restate.admin}/health") and answers(f"{restate.ingress}/restate/health"), fleet, "Restate"
    )
    return restate


def answers(url: str) -> bool:
    """Whether an HTTP server says that it is well."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 (our own server)
            return bool(response.status == HTTPStatus.OK)
    except OSError:
        return False


def register(restate: Restate, port: int) -> None:
    """Tell Restate of the services behind a port. Raises `OSError` if it does not take them."""
    body = json.dumps({"uri": f"http://{LOOPBACK}:{port}", "force": True}).encode()
    url, headers = f"{restate.admin}/deployments", {"content-type": "application/json"}
    request = urllib.request.Request(url, body, headers)  # noqa: S310 (our own server)
    with urllib.request.urlopen(request, timeout=30):  # noqa: S310
        pass
