"""The tree is tidy: sizes, headers, links, and dependencies that point one way. What that means is in tidy.py."""

import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests import tidy

ROOT = Path(__file__).resolve().parent.parent
FILES = list(tidy.files(ROOT))
# Generated: lines of hashes, and whatever a crate's author is called.
LOCKS = {ROOT / "Cargo.lock", *ROOT.glob("requirements/*.txt"), ROOT / "rust/fuzz/libfuzzer/Cargo.lock"}
WRITTEN = [path for path in FILES if path not in LOCKS]

PACKAGE = ROOT / "python/sagacore"
PACKAGE_FILES = [path for path in FILES if path.is_relative_to(PACKAGE) and path.suffix == ".py"]


def test_there_is_something_to_check() -> None:
    suffixes = {path.suffix for path in FILES}
    assert {".py", ".rs", ".toml", ".md"} <= suffixes


@pytest.mark.parametrize(
    ("check", "suffixes"),
    [
        (tidy.long_file, tidy.CODE),
        (tidy.long_lines, tidy.CODE | {".toml", ".sh", ""}),
        (tidy.leftovers, tidy.TEXT),
        (tidy.foreign_letters, tidy.TEXT),
        (tidy.long_python_functions, {".py"}),
        (tidy.long_rust_functions, {".rs"}),
        (tidy.broken_examples, tidy.PROSE),
    ],
)
def test_text(check: Callable[[str], list[str]], suffixes: set[str]) -> None:
    none(problems(WRITTEN, suffixes, lambda _, text: check(text)))


def test_every_module_says_what_it_is_about() -> None:
    none(problems(WRITTEN, {".py", ".rs"}, tidy.headless))


def test_links_resolve() -> None:
    none(problems(WRITTEN, tidy.PROSE, tidy.broken_links))


def test_every_rust_file_is_compiled() -> None:
    crates = [path.parent for path in FILES if path.name == "Cargo.toml" and (path.parent / "src").is_dir()]
    assert len(crates) >= 3
    none(problem for crate in crates for problem in tidy.unreached_rust(crate / "src"))


def test_crates_depend_one_way() -> None:
    core, broker = (ROOT / "rust/core/Cargo.toml").read_text(), (ROOT / "broker/Cargo.toml").read_text()
    none(tidy.forbidden_crates(core, ["sagacore-broker", "sagacore-python", "pyo3", "rustix"]))
    none(tidy.forbidden_crates(broker, ["sagacore-python", "pyo3", "rustix"]))
    # The model is written from the rules: with the cores' code it would agree with whatever that does.
    model = (ROOT / "rust/model/Cargo.toml").read_text()
    none(tidy.forbidden_crates(model, ["sagacore-core", "sagacore-broker", "sagacore-sim"]))


def test_crates_share_their_lints() -> None:
    for member in tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]:
        manifest = tomllib.loads((ROOT / member / "Cargo.toml").read_text())
        assert manifest["lints"] == {"workspace": True}, member
    core, broker = ROOT / "rust/core/clippy.toml", ROOT / "broker/clippy.toml"
    assert core.read_text() == broker.read_text(), "both cores keep to the same seam"


def test_only_transport_knows_the_sockets() -> None:
    others = [path for path in PACKAGE_FILES if path != PACKAGE / "transport.py"]
    none(import_problems(others, ["zmq"]))


def test_the_face_knows_no_process() -> None:
    # Steps, sagas, services and clients work without processes: a sandbox, or a test, is enough to run them.
    edge = {"cli.py", "cli_holds.py", "__main__.py"}
    folders = {PACKAGE, PACKAGE / "fences", PACKAGE / "testing"}
    face = [path for path in PACKAGE_FILES if path.parent in folders and path.name not in edge]
    assert PACKAGE / "steps.py" in face
    none(import_problems(face, ["sagacore.cli", "sagacore.demo", "sagacore.processes"]))


def test_processes_do_not_know_the_demo() -> None:
    processes = [path for path in PACKAGE_FILES if path.parent == PACKAGE / "processes"]
    none(import_problems(processes, ["sagacore.cli", "sagacore.demo"]))


def test_the_shop_uses_the_face_alone() -> None:
    # It is the example that people copy: what it needs, they may use.
    shop = [path for path in PACKAGE_FILES if path.parent == PACKAGE / "demo/shop"]
    assert shop
    none(import_problems(shop, ["sagacore._core", "sagacore.processes", "sagacore.transport"]))


def test_locks_name_no_place() -> None:
    locks = sorted(ROOT.glob("requirements/*.txt"))
    assert len(locks) == 4
    for path in locks:
        text = path.read_text()
        assert "://" not in text, path
        assert "--index" not in text, path
        assert "--find-links" not in text, path
        pinned = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
        assert pinned, path
        assert all("==" in line and line.endswith("\\") for line in pinned), f"{path}: make lock"


def none(found: Iterable[str]) -> None:
    if text := "\n".join(found):
        pytest.fail(text, pytrace=False)


def import_problems(paths: Iterable[Path], forbidden: list[str]) -> list[str]:
    def check(path: Path, text: str) -> list[str]:
        package = ".".join(path.parent.relative_to(ROOT / "python").parts)
        return tidy.forbidden_imports(text, package, forbidden)

    return problems(paths, {".py"}, check)


def problems(paths: Iterable[Path], suffixes: set[str], check: Callable[[Path, str], list[str]]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}: {problem}"
        for path in paths
        if path.suffix in suffixes
        for problem in check(path, path.read_text(encoding="utf-8"))
    ]
