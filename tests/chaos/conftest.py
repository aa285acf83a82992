"""The library that is loaded before all others, built for the tests of chaos."""

import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def library(root: Path) -> Path:
    """The built library; built again where its sources have changed."""
    command = ["cargo", "build", "--release", "--locked", "--quiet", "--package", "sagacore-chaos"]
    subprocess.run(command, cwd=root, check=True)
    return root / "target/release/libsagacore_chaos.so"
