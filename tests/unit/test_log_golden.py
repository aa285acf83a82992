"""The golden logs, as an operator's commands see them: each is told for what it is, and repaired as the index says."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sagacore import cli
from sagacore.errors import LogRefused
from sagacore.processes import log_tools

GOLDEN = Path(__file__).resolve().parents[2] / "tests/golden/log"
LOGS = {entry["name"]: entry for entry in json.loads((GOLDEN / "index.json").read_text())["logs"]}
WITHOUT_SEGMENTS = {"empty-directory", "leftovers"}
DAMAGED = [name for name, entry in LOGS.items() if "refuses" in entry and name not in WITHOUT_SEGMENTS]


def write_log(name: str, folder: Path) -> Path:
    """A golden log as the files of a broker's folder."""
    folder.mkdir(exist_ok=True)
    for file in LOGS[name]["files"]:
        length, *rows = (GOLDEN / name / f"{file}.hex").read_text().splitlines()
        content = bytearray(int(length, 16))
        for row in rows:
            offset, _, digits = row.partition(" ")
            content[int(offset, 16) : int(offset, 16) + len(digits) // 2] = bytes.fromhex(digits)
        (folder / file).write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_read(found: log_tools.Found, reads: dict[str, Any]) -> None:
    assert found.last_lsn + 1 == reads["next_lsn"]
    assert found.last_time_ms == reads["last_time_ms"]
    assert found.boot_epoch + 1 == reads["boot_epoch"]


@pytest.mark.parametrize("name", LOGS.keys() - WITHOUT_SEGMENTS)
def test_verify_says_what_a_start_would_do(name: str, tmp_path: Path) -> None:
    entry, folder = LOGS[name], write_log(name, tmp_path / "log")
    before = contents(folder)
    found = log_tools.verify(folder)
    assert contents(folder) == before
    if "refuses" in entry:
        assert (found.verdict, found.exit_status) == ("damaged", 1)
        assert found.place == entry["refuses"]["says"]
        assert found.hint
        return
    assert_read(found, entry["reads"])
    cut = entry["reads"].get("cut")
    if cut is None:
        assert (found.verdict, found.exit_status, found.place) == ("healthy", 0, "")
        assert ("was stopped" in found.means) is not entry["reads"]["unclean"]
    else:
        assert (found.verdict, found.exit_status) == ("torn", 3)
        assert found.place.startswith(f"{cut['file']} ends at byte {cut['offset']}, before LSN {cut['lsn']} ")
        assert cut["fault"] in found.place


@pytest.mark.parametrize("name", LOGS.keys() - WITHOUT_SEGMENTS)
def test_dump_gives_the_records_that_a_start_reads(name: str, tmp_path: Path) -> None:
    records: list[log_tools.Record] = []
    folder = write_log(name, tmp_path / "log")
    assert log_tools.dump(folder, records.append) == log_tools.verify(folder)
    lsns = [record["lsn"] for record in records if record["type"] != "MARK"]
    assert lsns == list(range(lsns[0], lsns[0] + len(lsns))) if lsns else name == "damaged-first-header"
    if "reads" in LOGS[name]:
        assert len(lsns) == LOGS[name]["reads"]["records"]


@pytest.mark.parametrize("name", sorted(WITHOUT_SEGMENTS))
def test_a_folder_without_a_log_is_an_error(name: str, tmp_path: Path) -> None:
    folder = write_log(name, tmp_path / "log")
    with pytest.raises(LogRefused, match=r"SAGA-E504 log\.missing-segment"):
        log_tools.verify(folder)
    with pytest.raises(LogRefused, match=r"SAGA-E504 log\.missing-segment"):
        log_tools.repair(folder, confirmed=True)


@pytest.mark.parametrize("name", DAMAGED)
def test_repair_asks_first_and_keeps_what_it_cuts(name: str, tmp_path: Path) -> None:
    folder, expected = write_log(name, tmp_path / "log"), LOGS[name]["repair"]
    before = contents(folder)
    if "error" in expected:
        with pytest.raises(LogRefused, match=expected["error"]):
            log_tools.repair(folder, confirmed=False)
        with pytest.raises(LogRefused, match=expected["error"]):
            log_tools.repair(folder, confirmed=True)
        assert contents(folder) == before
        return
    planned = log_tools.repair(folder, confirmed=False)
    assert planned is not None
    assert contents(folder) == before
    assert planned.next_lsn == expected["cut"]["lsn"] == expected["reads"]["next_lsn"]
    assert planned.lost_records == expected["cut"]["frames"]
    assert log_tools.repair(folder, confirmed=True) == planned
    after = contents(folder)
    kept = {name.removesuffix(".broken"): content for name, content in after.items() if name.endswith(".broken")}
    assert kept == {name: before[name] for name in kept}
    assert {name for name in before if name not in after} <= kept.keys()
    found = log_tools.verify(folder)
    assert found.verdict == "healthy"
    assert_read(found, expected["reads"])
    assert log_tools.repair(folder, confirmed=True) is None


def test_a_second_repair_keeps_what_the_first_set_aside(tmp_path: Path) -> None:
    folder = write_log("damaged-last-frame", tmp_path / "log")
    assert log_tools.repair(folder, confirmed=True) is not None
    kept = {path.name: path.read_bytes() for path in folder.glob("*.broken")}
    for path in write_log("damaged-last-frame", tmp_path / "other").iterdir():
        shutil.copy(path, folder / path.name)
    assert log_tools.repair(folder, confirmed=True) is not None
    aside = {path.name: path.read_bytes() for path in folder.glob("*.broken")}
    assert {name: aside[name] for name in kept} == kept
    assert len(aside) == 2 * len(kept)


def test_the_commands_say_it_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_log("damaged-middle-frame", tmp_path / "log")
    assert cli.verify(folder) == 1
    out = capsys.readouterr().out
    assert out.startswith("damaged: ")
    assert "log.damaged: 0000000000000002.seg is damaged at byte" in out
    assert cli.verify(folder, json=True) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "damaged"
    assert cli.repair(folder) == 1
    out = capsys.readouterr().out
    assert "lost: LSN 9 and all after it, with 12 whole records" in out
    assert "nothing was changed" in out
    assert cli.repair(folder, yes=True) == 0
    assert "nothing was changed" not in capsys.readouterr().out
    assert cli.repair(folder, yes=True) == 0
    assert capsys.readouterr().out.startswith("nothing to repair")


def test_dump_tells_a_saga_without_its_payloads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_log("sagas", tmp_path / "log")
    assert cli.dump(folder) == 0
    out, verdict = capsys.readouterr()
    assert "input of" not in out
    assert verdict.startswith("healthy: ")
    assert "+ START short of 0-1-" in out
    assert "- RUN pay-service.pay of 0-1-" in out
    assert "+ DONE edge 0 of 0-1-" in out
    assert "+ RESULT completed of 0-1-" in out
    assert "= saga short 0-4-" in out

    assert cli.dump(folder, json=True, bodies=True) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    started = [
        message
        for record in records
        for transaction in record.get("transactions", ())
        for message in transaction["publishes"]
        if message["kind"] == "START"
    ]
    keys = [message["sections"]["key"] for message in started]
    assert keys == ["completed", "running", "aborted", "begun"]
    assert started[0]["sections"]["input"] == "input of completed"

    saga = started[2]["saga"]
    assert cli.dump(folder, json=True, saga=saga, from_lsn=7) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["BATCH", "BATCH", "COPY"]
    assert all(started[0]["saga"] not in line and saga in line for line in lines)
    assert all(json.loads(line)["lsn"] >= 7 for line in lines)
