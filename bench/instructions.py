"""Has a hot path of the cores become longer? Instructions are counted, not time: they are the same however busy the
machine is.

`rust/paths` does a path's operation so often, and twice as often; valgrind counts both, and what lies between them is
the operations' alone. The release build is counted, which users run. `instructions.json` has what each took when it was
last written, by kind of machine. Compilers differ in what they make of the same code, and so do C libraries and
processors in how they copy and checksum: so the limit is wider where rustc is another one than the baseline's.
"""

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
BASELINES = Path(__file__).with_suffix(".json")
PROGRAM = ROOT / "target/release/sagacore-paths"

OPERATIONS = 1_000
"""A multiple of `HOUSEKEEPING_OPERATIONS` in rust/paths."""
CHANGE_MAX = 0.10
"""The share by which a path may grow. One that has shrunk by as much asks for a new baseline: or it could grow back."""
CHANGE_MAX_OTHER_RUSTC = 0.20
"""The same where another rustc made the baseline."""
WRITE_HINT = "`python -m bench instructions --write` makes a new baseline, for a commit that says why"

REFERENCES = re.compile(r"I\s+refs:\s+([\d,]+)")


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """What each path took: instructions an operation."""

    rustc: str
    paths: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What is worse than it may be, and what is so much better that the baseline should follow: a line each."""

    problems: list[str] = field(default_factory=list)
    better: list[str] = field(default_factory=list)


def judge(counted: Mapping[str, int], baseline: Baseline | None, *, rustc: str) -> Judgement:
    """Compare what was counted with the baseline of this kind of machine, if there is one."""
    judgement = Judgement()
    if baseline is None:
        judgement.problems.append(f"there is no baseline for {platform.machine()}: {WRITE_HINT}")
        return judgement
    change_max = CHANGE_MAX if rustc == baseline.rustc else CHANGE_MAX_OTHER_RUSTC
    for name, count in counted.items():
        if name not in baseline.paths:
            judgement.problems.append(f"{name} has no baseline: {WRITE_HINT}")
            continue
        before = baseline.paths[name]
        said = f"{name} takes {count:,} instructions, {count / before - 1:+.1%} against {before:,}"
        if count > before * (1 + change_max):
            judgement.problems.append(f"{said}; {change_max:.0%} is allowed")
        elif count < before * (1 - change_max):
            judgement.better.append(said)
    judgement.problems.extend(
        f"{name} has a baseline and is no path any more: {WRITE_HINT}"
        for name in baseline.paths.keys() - counted.keys()
    )
    return judgement


def instructions(console: Console, *, write: bool = False) -> dict[str, Any]:
    """Count every path, print what was found and return it, with the problems. `write` makes it the baseline.

    Raises `RuntimeError` if valgrind is missing, or a path fails.
    """
    build()
    rustc = _output("rustc", "--version").strip()
    baselines = _baselines()
    counted = {name: count(name) for name in paths()}
    if write:
        baselines[platform.machine()] = Baseline(rustc=rustc, paths=counted)
        BASELINES.write_text(json.dumps(msgspec.to_builtins(baselines), indent=2, sort_keys=True) + "\n")
    baseline = baselines.get(platform.machine())
    judgement = judge(counted, baseline, rustc=rustc)
    console.print(_table(counted, baseline))
    if baseline is not None and baseline.rustc != rustc:
        console.print(f"the baseline is of {baseline.rustc}, this is {rustc}: {CHANGE_MAX_OTHER_RUSTC:.0%} are allowed")
    for line in judgement.better:
        console.print(f"[bold green]better:[/] {line}. {WRITE_HINT}")
    for line in judgement.problems:
        console.print(f"[bold red]worse:[/] {line}")
    return {"rustc": rustc, "paths": counted, "better": judgement.better, "problems": judgement.problems}


def build() -> None:
    """Build the program that does the operations."""
    build = ("cargo", "build", "--release", "--locked", "--quiet", "--package", "sagacore-paths")
    subprocess.run(build, cwd=ROOT, check=True)


def paths() -> dict[str, str]:
    """By name, what an operation of each path is."""
    lines = _output(str(PROGRAM)).splitlines()
    return dict(line.split("\t", 1) for line in lines)


def count(name: str, *options: str) -> int:
    """The instructions of one operation of a path. `--worse` as an option does a fifth of them twice."""
    once, twice = (_references(name, operations, *options) for operations in (OPERATIONS, 2 * OPERATIONS))
    return round((twice - once) / OPERATIONS)


def is_valgrind_there() -> bool:
    """Whether anything can be counted here."""
    return shutil.which("valgrind") is not None


def _references(name: str, operations: int, *options: str) -> int:
    if not is_valgrind_there():
        raise RuntimeError("valgrind is missing, which counts the instructions: apt-get install valgrind")
    valgrind = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
    command = (*valgrind, str(PROGRAM), name, str(operations), *options)
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    found = REFERENCES.search(ran.stderr)
    if ran.returncode != 0 or found is None:
        raise RuntimeError(f"{' '.join(command)} ended with status {ran.returncode}:\n{ran.stderr}")
    return int(found.group(1).replace(",", ""))


def _baselines() -> dict[str, Baseline]:
    if not BASELINES.exists():
        return {}
    return msgspec.json.decode(BASELINES.read_bytes(), type=dict[str, Baseline])


def _table(counted: Mapping[str, int], baseline: Baseline | None) -> Table:
    table = Table("path", "an operation is", title="instructions an operation")
    for column in ("instructions", "baseline", "change"):
        table.add_column(column, justify="right")
    operations = paths()
    for name, now in counted.items():
        before = baseline.paths.get(name) if baseline is not None else None
        against = ("", "") if before is None else (f"{before:,}", f"{now / before - 1:+.1%}")
        table.add_row(name, operations[name], f"{now:,}", *against)
    return table


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
