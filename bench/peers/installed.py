"""What the install script has put where."""

import json
import os
from pathlib import Path

FOLDER_VARIABLE = "SAGACORE_PEERS"
HINT = "run bench/peers/install"
PARTS = {
    "rabbitmq": ("rabbitmq-server", "aio-pika", "postgresql", "asyncpg"),
    "restate": ("restate-server", "restate-sdk"),
    "dbos": ("dbos", "postgresql"),
    "temporal": ("temporal-server", "temporalio", "postgresql"),
}
"""What a peer consists of."""


class NotInstalled(Exception):
    """A peer, or something that it stands on, is not there."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not installed: {HINT}")


def install_folder() -> Path:
    """Where the peers are: `SAGACORE_PEERS`, else a folder in the user's cache."""
    return Path(os.environ.get(FOLDER_VARIABLE) or Path.home() / ".cache" / "sagacore-peers")


def python() -> str:
    """The interpreter of the peers' own environment. Raises `NotInstalled`."""
    path = install_folder() / "venv" / "bin" / "python"
    if not path.exists():
        raise NotInstalled("the environment of the peers")
    return str(path)


def version_of(peer: str) -> str:
    """The versions of a peer's parts, as they were installed. Raises `NotInstalled`."""
    try:
        versions = json.loads((install_folder() / "versions.json").read_text())
    except FileNotFoundError:
        raise NotInstalled(peer) from None
    return ", ".join(f"{part} {versions[part]}" for part in PARTS[peer] if part in versions)
