"""What a tidy tree is: each check takes text or paths and gives the problems that it sees, one line each."""

import ast
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

LINE_COLUMNS_MAX = 120
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 80

PRUNED = {".git", ".venv", ".hypothesis", ".benchmarks", "target", "dist", "artifacts", "corpus", "__pycache__"}
CODE = {".py", ".pyi", ".rs"}
PROSE = {".md"}
TEXT = CODE | PROSE | {".toml", ".txt", ".json", ".sh", ".lock", ".yml", ""}

# In brackets, so that this file does not find itself.
LEFTOVERS = re.compile(r"\b([T]ODO|[F]IXME|[X]XX|[H]ACK)\b|\b(todo|unimplemented|dbg)!\s*[(\[{]|\b[b]reakpoint\(")
RUST_FUNCTION = re.compile(r"^( *)(?:pub(?:\([^)]*\))? )?(?:default )?(?:const )?(?:async )?(?:unsafe )?fn (\w+)")
FENCE = re.compile(r"^ {0,3}```(\w*)[^\n]*\n(.*?)^ {0,3}```\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|!\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


def files(root: Path) -> Iterator[Path]:
    """Every file of the tree that somebody wrote, in order. Links to folders are not followed."""
    for folder, names, leaves in os.walk(root):
        names[:] = sorted(name for name in names if name not in PRUNED and not name.endswith("_cache"))
        for leaf in sorted(leaves):
            path = Path(folder, leaf)
            if path.suffix in TEXT and not path.is_symlink():
                yield path


def long_lines(text: str) -> list[str]:
    """Lines beyond the last column."""
    return [
        f"line {number} has {len(line)} columns"
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > LINE_COLUMNS_MAX
    ]


def long_file(text: str) -> list[str]:
    """A file that has outgrown its subject."""
    lines = len(text.splitlines())
    return [f"{lines} lines"] if lines > FILE_LINES_MAX else []


def leftovers(text: str) -> list[str]:
    """Notes to self that were never settled."""
    return [
        f"line {number}: {found.group()}"
        for number, line in enumerate(text.splitlines(), 1)
        if (found := LEFTOVERS.search(line))
    ]


def foreign_letters(text: str) -> list[str]:
    """Characters beyond ASCII: they hide look-alikes, and not every terminal shows them."""
    return [f"line {number}: {line!a}" for number, line in enumerate(text.splitlines(), 1) if not line.isascii()]


def long_python_functions(text: str) -> list[str]:
    """Functions that do not fit a screen. The docstring is counted: it is read too."""
    return [
        f"{node.name} has {lines} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]


def long_rust_functions(text: str) -> list[str]:
    """The same for Rust, as rustfmt lays it out: a function ends at the brace in its own column."""
    lines = text.splitlines()
    problems = []
    for number, line in enumerate(lines):
        found = RUST_FUNCTION.match(line)
        if found is None or line.endswith((";", "}")):
            continue
        close = found.group(1) + "}"
        length = next((at for at, later in enumerate(lines[number:], 1) if later.rstrip() == close), 0)
        if length > FUNCTION_LINES_MAX:
            problems.append(f"{found.group(2)} has {length} lines")
    return problems


def headless(path: Path, text: str) -> list[str]:
    """A module that does not say what it is about. Stubs and empty markers need not."""
    if path.suffix == ".py" and text and ast.get_docstring(ast.parse(text)) is None:
        return ["no docstring"]
    if path.suffix == ".rs" and not text.startswith("//!"):
        return ["no //! header"]
    return []


def unreached_rust(sources: Path) -> list[str]:
    """Files below a crate's src that no `mod` names: the compiler never sees them, so nothing in them is true."""
    named = set()
    for path in sources.rglob("*.rs"):
        named |= set(re.findall(r"^\s*(?:pub(?:\([^)]*\))? )?mod (\w+);", path.read_text(), re.MULTILINE))
    roots = {"lib", "main", "mod"}
    return [
        f"{path}: no mod names it"
        for path in sorted(sources.rglob("*.rs"))
        if path.stem not in roots and path.stem not in named and "bin" not in path.parts
    ]


def slug(heading: str) -> str:
    """The anchor that a heading gets where Markdown is shown."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def broken_links(path: Path, text: str) -> list[str]:
    """Relative links of a document to files or headings that are not there."""
    problems = []
    for found in LINK.finditer(FENCE.sub("", text)):
        link = found.group(1) or found.group(2)
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name) if name else path
        if not target.exists():
            problems.append(f"{link}: no such file")
        elif anchor and target.suffix in PROSE:
            headings = HEADING.findall(FENCE.sub("", target.read_text()))
            if anchor not in {slug(heading) for heading in headings}:
                problems.append(f"{link}: no such heading")
    return problems


def broken_examples(text: str) -> list[str]:
    """Python examples of a document that are no Python."""
    problems = []
    for language, code in FENCE.findall(text):
        if language != "python":
            continue
        try:
            compile(code, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        except SyntaxError as error:
            problems.append(f"{error}: {code.splitlines()[(error.lineno or 1) - 1]}")
    return problems


def imported(text: str, package: str = "") -> set[str]:
    """The dotted names that a module imports, wherever in it; those of `from a import b` as `a` and `a.b`."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def forbidden_imports(text: str, package: str, forbidden: Iterable[str]) -> list[str]:
    """Imports of what lies above a module, or beside it behind a seam."""
    return [
        f"imports {name}"
        for name in sorted(imported(text, package))
        if any(name == above or name.startswith(f"{above}.") for above in forbidden)
    ]


def forbidden_crates(manifest: str, forbidden: Iterable[str]) -> list[str]:
    """Dependencies, of the tests too, that a crate must not have."""
    table = tomllib.loads(manifest)
    needed = {
        name for part in ("dependencies", "dev-dependencies", "build-dependencies") for name in table.get(part, {})
    }
    return [f"depends on {name}" for name in sorted(needed & set(forbidden))]
