"""Each check of tidy.py finds what it is for, and lets pass what is right."""

from pathlib import Path

import pytest

from tests import tidy

LONG_PYTHON = "def act():\n" + "    pass\n" * tidy.FUNCTION_LINES_MAX
LONG_RUST = "    pub fn act() {\n" + "        step();\n" * tidy.FUNCTION_LINES_MAX + "    }\n"


def test_sizes() -> None:
    assert tidy.long_lines("x" * 120) == []
    assert tidy.long_lines("\n" + "x" * 121) == ["line 2 has 121 columns"]
    assert tidy.long_file("\n" * 600) == []
    assert tidy.long_file("\n" * 601) == ["601 lines"]


def test_long_functions() -> None:
    assert tidy.long_python_functions(LONG_PYTHON) == ["act has 81 lines"]
    assert tidy.long_python_functions(LONG_PYTHON.replace("    pass\n", "", 1)) == []
    assert tidy.long_rust_functions(LONG_RUST) == ["act has 82 lines"]
    assert tidy.long_rust_functions(LONG_RUST.replace("        step();\n", "", 2)) == []
    assert tidy.long_rust_functions("fn declared();\n" + "fn one() {}\n" * 100) == []


@pytest.mark.parametrize("text", ["# TO" + "DO: later", "to" + 'do!("x")', "// FIX" + "ME", "break" + "point()"])
def test_leftovers(text: str) -> None:
    assert len(tidy.leftovers(f"fine\n{text}\n")) == 1


def test_words_that_only_look_like_leftovers() -> None:
    assert tidy.leftovers('todo = "warn"\nmastodon\nhackney\n') == []


def test_foreign_letters() -> None:
    assert tidy.foreign_letters("plain\n") == []
    assert tidy.foreign_letters("a\nd\u00e9j\u00e0\n") == ["line 2: 'd\\xe9j\\xe0'"]


def test_headers() -> None:
    assert tidy.headless(Path("a.py"), '"""Says it."""\n') == []
    assert tidy.headless(Path("a.py"), "x = 1\n") == ["no docstring"]
    assert tidy.headless(Path("a.rs"), "//! Says it.\n") == []
    assert tidy.headless(Path("a.rs"), "use x;\n") == ["no //! header"]


def test_links(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# The `slot` table, drawn\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"

    def broken(text: str) -> list[str]:
        return tidy.broken_links(page, text)

    assert (
        broken("[a](there.md) [b](there.md#the-slot-table-drawn) [c](https://example.org/x) `[d](no.md)`"[:-12]) == []
    )
    assert broken("[a](gone.md)") == ["gone.md: no such file"]
    assert broken("![a](gone.png)") == ["gone.png: no such file"]
    assert broken("[a](there.md#no-heading)") == ["there.md#no-heading: no such heading"]


def test_examples() -> None:
    assert tidy.broken_examples("```python\nawait f()\n```\n```console\n$ not python\n```\n") == []
    assert len(tidy.broken_examples("```python\nx ==\n```\n")) == 1


def test_rust_files_without_a_mod(tmp_path: Path) -> None:
    (tmp_path / "lib.rs").write_text("mod named;\npub(crate) mod folder;\n")
    for name in ("named.rs", "stray.rs", "folder/mod.rs"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert tidy.unreached_rust(tmp_path) == [f"{tmp_path}/stray.rs: no mod names it"]


@pytest.mark.parametrize(
    "statement",
    ["import sagacore.demo", "from sagacore import demo", "from sagacore.demo.shop import x", "from . import demo"],
)
def test_imports(statement: str) -> None:
    assert tidy.forbidden_imports(f"def f():\n    {statement}\n", "sagacore", ["sagacore.demo"]) != []
    assert tidy.forbidden_imports(statement, "sagacore", ["sagacore.demonstration"]) == []


def test_imports_of_a_sibling() -> None:
    assert tidy.imported("from .shop import saga\nfrom ..cli import main\n", "sagacore.demo") == {
        "sagacore.demo.shop",
        "sagacore.demo.shop.saga",
        "sagacore.cli",
        "sagacore.cli.main",
    }


def test_crates() -> None:
    manifest = '[dependencies]\npyo3 = "1"\n[dev-dependencies]\nproptest = "1"\n'
    assert tidy.forbidden_crates(manifest, ["pyo3", "rustix"]) == ["depends on pyo3"]
    assert tidy.forbidden_crates(manifest, ["rustix"]) == []
