"""The types of the face, judged by type checkers: what should pass passes, and what should fail fails where marked."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GOOD = sorted(HERE.glob("good_*.py"))
BAD = sorted(HERE.glob("bad_*.py"))


def marked_lines(path: Path) -> set[int]:
    lines = path.read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if "# type: ignore[" in line}


def mypy(*paths: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *map(str, paths)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.timeout(300)
def test_mypy_accepts_what_is_right_and_refuses_each_marked_line() -> None:
    # --strict reports an ignore that hides nothing, so a marked line without its error fails here as well.
    pytest.importorskip("mypy")
    assert GOOD
    assert BAD
    assert all(marked_lines(path) for path in BAD)
    run = mypy(*GOOD, *BAD)
    assert run.returncode in (0, 1), run.stderr
    assert not re.findall(r"^tests/typing/.*: error:.*", run.stdout, re.MULTILINE)


@pytest.mark.timeout(300)
def test_mypy_finds_an_error_on_every_marked_line_and_on_no_other(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    copies = {}
    for path in BAD:
        copies[path] = tmp_path / f"unmarked_{path.name}"
        copies[path].write_text(re.sub(r"  # type: ignore\[.*\]", "", path.read_text()))
    run = mypy(*copies.values())
    for path, copy in copies.items():
        found = {int(line) for line in re.findall(rf"{re.escape(copy.name)}:(\d+): error:", run.stdout)}
        assert found == marked_lines(path), run.stdout


@pytest.mark.timeout(300)
def test_pyright_agrees(tmp_path: Path) -> None:
    if importlib.util.find_spec("basedpyright") is None:
        pytest.skip("basedpyright is not installed")
    settings = {
        "include": [str(HERE)],
        "extraPaths": [str(ROOT / "python"), str(ROOT)],
        "typeCheckingMode": "strict",
        "enableTypeIgnoreComments": False,
    }
    project = tmp_path / "pyrightconfig.json"
    project.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(project)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    errors = [entry for entry in json.loads(run.stdout)["generalDiagnostics"] if entry["severity"] == "error"]
    for path in (*GOOD, *BAD):
        found = {entry["range"]["start"]["line"] + 1 for entry in errors if entry["file"] == str(path)}
        assert found == (marked_lines(path) if path in BAD else set()), path.name


def test_what_type_checkers_accept_is_accepted_when_it_runs() -> None:
    for path in GOOD:
        importlib.import_module(f"tests.typing.{path.stem}")
