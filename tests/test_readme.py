"""The examples of README and docs run as they stand. How they are marked is in documents.py."""

from pathlib import Path

import pytest

from tests import documents

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
WITH_EXAMPLES = [path for path in DOCUMENTS if path.exists() and documents.COMMENT.search(path.read_text())]


def test_readme_has_examples() -> None:
    assert README in WITH_EXAMPLES


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(path: Path, socket_folder: Path) -> None:
    assert documents.run(path.name, path.read_text(), socket_folder) > 0
