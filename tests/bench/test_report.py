"""Results that are written, and drawn, from figures as the measurements give them."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.markdown import render

CPU = {"client": 1.0, "broker": 6.5, "coordinator": 0.5, "services": 8.0}
ROW = {"sagas_per_s": 1_234, "p50_ms": 1.5, "p99_ms": 9.25, "in_flight": 512, "cpu_us_per_saga": CPU}
COUNTED = {**ROW, "messages_per_saga": 5.0, "log_bytes_per_saga": 1_496.0}
PROMISES = {"durability": "sync", "visibility": "relaxed", "fences": "memory"}
THROUGHPUT: dict[str, Any] = {
    **PROMISES,
    "success": COUNTED,
    "rollback": COUNTED,
    "bare": {**ROW, "ratio": 0.81},
    "everything_durable": {**COUNTED, "fences": "sqlite"},
    "strict": {"success": COUNTED},
    "rows": [{"what": "completed", **COUNTED}, {"what": "bare pipeline", **ROW}],
}
PARKED = {**PROMISES, "parked": 1_000, "beside": ROW, "none": ROW, "ratio": 0.97, "broker": {"bytes_per_saga": 99}}


CONTENTION: dict[str, Any] = {
    "durability": "sync",
    "sagas": 300,
    "things": 1_000,
    "in_flight": 60,
    "rows": [
        {
            "skew": 0.8,
            "holds": 4,
            "waiting": "detect",
            "completed_per_s": 202.4,
            "completed": 1.0,
            "aborts": 0.025,
            "wasted": 0.011,
            "p50_ms": 66.2,
            "p99_ms": 1_777.0,
            "detection_p99_ms": 4,
        }
    ],
}


def measured(figures: dict[str, Any]) -> dict[str, Any]:
    about = {"date": "2026-01-02", "command": "python -m bench", "took_s": 3}
    return {"about": {**about, "machine": report.machine(), "versions": report.versions()}, "figures": figures}


def test_a_page_has_goals_and_the_parts_that_were_measured() -> None:
    page = render({"throughput": measured(THROUGHPUT), "parked": measured(PARKED)})
    assert "| beside the bare pipeline | at least 0.8 of it | 0.81 of 1,234 |" in page
    assert "| bare pipeline | 512 | 1,234 | 1.50 | 9.25 |  |  | 16.0 | 1.0 | 6.5 | 0.5 | 8.0 |" in page
    assert "## Throughput" in page
    assert "## Parked" in page
    assert "## Growth" not in page


def test_policies_of_contention_are_rows() -> None:
    page = render({"contention": measured(CONTENTION)})
    assert "300 sagas a row over 1,000 things, 60 in flight" in page
    assert "| 0.8, 4, detect | 202 | 100% | 2.5% | 1.1% | 66 | 1,777 | 4 |" in page


def test_what_is_measured_replaces_its_own_part_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    for part, figures in (("parked", {"ratio": 0.5}), ("growth", {"steps": []}), ("parked", {"ratio": 0.9})):
        report._store(part, ("bench", part), 1.0, figures)
    stored = json.loads((tmp_path / "results.json").read_text())
    assert {part: found["figures"] for part, found in stored.items()} == {
        "parked": {"ratio": 0.9},
        "growth": {"steps": []},
    }


def test_a_part_that_fails_is_named_after_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "_run", lambda command: PARKED if command[1] == "parked" else None)
    with pytest.raises(RuntimeError, match="failed: growth"):
        report.report(Console(), ("growth", "parked"))
    assert "## Parked" in (tmp_path / "results.md").read_text()
