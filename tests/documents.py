"""Runs the examples of a document: what it says must be true.

A comment on the line above a fenced block says what becomes of it:

    <!-- run -->          Python runs as part of one module per document; a console's lines after `$ ` run in bash
    <!-- file: NAME -->   is written to NAME, which later blocks may import or name

All blocks of a document work in one empty folder, in their order. Commands put in the background with `&` live until
the document ends. Blocks without a comment are only checked for being Python.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARKED = re.compile(
    r"^<!-- (?P<mark>run|file: (?P<name>[\w./-]+)) -->\n+```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```\s*$",
    re.MULTILINE | re.DOTALL,
)
COMMENT = re.compile(r"^<!-- (?:run|file:)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block that has a mark: where to write it, or else it runs."""

    line: int
    language: str
    code: str
    file: str | None


def blocks(text: str) -> list[Block]:
    """The marked blocks of a document.

    Raises:
        ValueError: a mark stands above no block.
    """
    found = [
        Block(text.count("\n", 0, match.start("code")), match["language"], match["code"], match["name"])
        for match in MARKED.finditer(text)
    ]
    if len(found) != len(COMMENT.findall(text)):
        message = "a mark stands above no fenced block"
        raise ValueError(message)
    return found


def run(name: str, text: str, folder: Path) -> int:
    """Runs all marked blocks of the document called `name` in `folder`, and gives how many there were."""
    module = types.ModuleType("document")
    marked = blocks(text)
    with background(folder) as shell, importable(module, folder):
        for block in marked:
            where = f"{name}, line {block.line}"
            if block.file is not None:
                target = folder / block.file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(block.code)
            elif block.language == "python":
                # Lines are those of the document, so that a traceback points into it.
                exec(compile("\n" * block.line + block.code, name, "exec"), module.__dict__)  # noqa: S102
            else:
                shell.run(block.code, where)
    return len(marked)


class Shell:
    """Runs consoles' lines in one folder; what stays in the background is in the same process group."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.groups: list[int] = []

    def run(self, code: str, where: str) -> None:
        """Runs the lines after `$ `; other lines are what they print, and not compared."""
        lines = [line[2:] for line in code.splitlines() if line.startswith("$ ")]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with (self.folder / "console.log").open("ab") as log:
            process = subprocess.Popen(
                ["/bin/bash", "-euo", "pipefail", "-c", "\n".join(lines)],
                cwd=self.folder,
                env=os.environ | {"PATH": path, "PYTHONPATH": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.groups.append(process.pid)
        status = process.wait()
        assert status == 0, f"{where}: exit status {status}\n{(self.folder / 'console.log').read_text()}"


@contextlib.contextmanager
def background(folder: Path) -> Iterator[Shell]:
    """A shell whose background commands end with the block."""
    shell = Shell(folder)
    try:
        yield shell
    finally:
        for group in shell.groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)


@contextlib.contextmanager
def importable(module: types.ModuleType, folder: Path) -> Iterator[None]:
    """Makes the document's module and the files in its folder importable, in its folder, and undoes that."""
    before, modules = Path.cwd(), set(sys.modules)
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        sys.path.remove(str(folder))
        for name in set(sys.modules) - modules:
            origin = getattr(sys.modules[name], "__file__", None)
            if name == module.__name__ or (origin and Path(origin).is_relative_to(folder)):
                del sys.modules[name]
