"""What all tests share: settings of the property tests, and folders that are short enough for sockets."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# No deadline for one example: on a busy machine it fails for nothing. `CI=1` makes the examples the same each time.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", parent=hypothesis.settings.get_profile("default"), derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the checkout."""
    return ROOT


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """An empty folder with a short path: a Unix socket's name has at most 107 bytes, and tmp_path may be longer."""
    folder = Path(tempfile.mkdtemp(prefix="saga-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def endpoint(socket_folder: Path) -> str:
    """An address that nobody listens on yet."""
    return f"ipc://{socket_folder}/broker"
