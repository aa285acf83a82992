"""The golden frames, read and written with nothing of sagacore: `struct`, the `msgpack` package, and the document."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/wire"
INDEX = json.loads((GOLDEN / "index.json").read_text())
VALID = {entry["name"]: entry for entry in INDEX["valid"]}
MALFORMED = {entry["name"]: entry for entry in INDEX["malformed"]}

TRANSACTION = struct.Struct("<I B x H H 6x Q")
KEY = struct.Struct("<Q I H 2x I B x H")
HEADER = struct.Struct("<I B B H Q I H 2x Q I H H Q Q Q Q Q 16s Q I H 18x")
TRANSACTION_FIELDS = ("length", "version", "consumes", "publishes", "number")
KEY_FIELDS = ("sequence", "nonce", "shard", "attempt", "kind", "place")
HEADER_FIELDS = (
    *("length", "version", "kind", "flags", "sequence", "nonce", "shard", "plan", "attempt", "place", "deliveries"),
    *("done", "active", "undo", "age", "deadline_ms", "trace", "amount", "body_length", "mac_length"),
)

KINDS = {
    name: int(code)
    for code, name in re.findall(
        r"^\| (\d+) \| ([A-Z_]+) \|",
        (ROOT / "docs/wire-format.md").read_text().partition("## Kinds")[2].partition("## Flags")[0],
        re.MULTILINE,
    )
}


def frame_of(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


def number(value: int | str) -> int:
    return value if isinstance(value, int) else int(value, 16)


def unpack(layout: struct.Struct, names: tuple[str, ...], data: bytes, at: int) -> dict[str, Any]:
    return dict(zip(names, layout.unpack_from(data, at), strict=True))


def expected_header(entry: dict[str, Any]) -> dict[str, Any]:
    """All fields of a header, also those that the index leaves out."""
    fields = {name: number(value) for name, value in entry["header"].items() if name != "trace"}
    trace = bytes.fromhex(entry["header"].get("trace", "00" * 16))
    return dict.fromkeys(HEADER_FIELDS, 0) | {"version": 1} | fields | {"trace": trace}


def expected_key(entry: dict[str, Any]) -> dict[str, int]:
    return {name: KINDS[entry[name]] if name == "kind" else number(entry[name]) for name in KEY_FIELDS}


def expected_sections(entry: dict[str, Any]) -> dict[int, bytes]:
    return {key: bytes.fromhex(value) for key, value in entry["sections"]}


def test_the_layouts_have_the_documents_sizes() -> None:
    assert (TRANSACTION.size, KEY.size, HEADER.size) == (24, 24, 128)


def test_the_index_and_the_folder_agree() -> None:
    files = {entry["file"]: entry["bytes"] for entry in [*VALID.values(), *MALFORMED.values()]}
    assert len(files) == len(INDEX["valid"]) + len(INDEX["malformed"])
    assert {path.name for path in GOLDEN.iterdir()} == {*files, "index.json"}
    assert {name: len(frame_of(name.removesuffix(".hex"))) for name in files} == files


@pytest.mark.parametrize("name", VALID)
def test_a_frame_has_what_the_index_says(name: str) -> None:
    frame, at = frame_of(name), 0
    for entry in VALID[name]["transactions"]:
        start, head = at, unpack(TRANSACTION, TRANSACTION_FIELDS, frame, at)
        at += TRANSACTION.size
        assert (head["version"], head["number"]) == (1, number(entry["number"]))
        assert (head["consumes"], head["publishes"]) == (len(entry["consumes"]), len(entry["publishes"]))
        for key in entry["consumes"]:
            assert unpack(KEY, KEY_FIELDS, frame, at) == expected_key(key)
            at += KEY.size
        for message in entry["publishes"]:
            at += check_message(frame, at, message)
        assert at - start == head["length"]
    assert at == len(frame)


def check_message(frame: bytes, at: int, entry: dict[str, Any]) -> int:
    """Compares the message at this place with the index, and gives its length."""
    header = unpack(HEADER, HEADER_FIELDS, frame, at)
    assert header == expected_header(entry)
    assert header["kind"] == KINDS[entry["kind"]]
    end = at + HEADER.size + header["body_length"]
    sections = read_body(frame[at + HEADER.size : end])
    assert sections == expected_sections(entry)
    assert list(sections) == sorted(sections)
    padding = frame[end + header["mac_length"] : at + header["length"]]
    assert len(padding) < 8
    assert not any(padding)
    return int(header["length"])


def read_body(body: bytes) -> dict[int, bytes]:
    sections: dict[int, bytes] = msgpack.unpackb(body, strict_map_key=False) if body else {}
    assert all(isinstance(value, bytes) for value in sections.values())
    return sections


@pytest.mark.parametrize("name", VALID)
def test_a_writer_that_knows_the_index_writes_the_frame(name: str) -> None:
    frame = b"".join(map(write_transaction, VALID[name]["transactions"]))
    assert (frame == frame_of(name)) is VALID[name]["canonical"]


def write_transaction(entry: dict[str, Any]) -> bytes:
    keys = b"".join(KEY.pack(*expected_key(key).values()) for key in entry["consumes"])
    messages = b"".join(map(write_message, entry["publishes"]))
    length = TRANSACTION.size + len(keys) + len(messages)
    counts = (len(entry["consumes"]), len(entry["publishes"]))
    return TRANSACTION.pack(length, 1, *counts, number(entry["number"])) + keys + messages


def write_message(entry: dict[str, Any]) -> bytes:
    sections = expected_sections(entry)
    body = msgpack.packb(sections) if sections else b""
    length = (HEADER.size + len(body) + 7) // 8 * 8
    header = expected_header(entry) | {"length": length, "body_length": len(body), "mac_length": 0}
    return (HEADER.pack(*header.values()) + bytes(body)).ljust(length, b"\0")


def test_values_that_are_messagepack_are_what_the_document_says() -> None:
    def value(name: str, section: int) -> Any:
        message = VALID[name]["transactions"][0]["publishes"][-1]
        return msgpack.unpackb(expected_sections(message)[section])

    assert value("start", 64) == {"sku": "apple", "quantity": 2}
    assert value("fail-clean", 65) == [1, 1, "card declined"]
    assert value("result-skipped", 67) == [[0, "order was a test"]]
    assert value("status-answer", 70) == ["charge", "reserve"]
    assert value("ping-with-figures", 70) == {"slots": 256, "evictions": 17}
    figures = value("stats-answer", 70)
    assert figures == {"started": 42, "completed": 41, "coordinators": [msgpack.packb({"slots": 16})]}
    assert value("stuck-answer", 70) == [["3-12345678-c0ffee01", "place-order", "compensating", ["charge"]]]


def test_every_rule_of_the_document_has_a_malformed_frame() -> None:
    document = (ROOT / "docs/wire-format.md").read_text()
    rules = set(re.findall(r"^\| `((?:frame|transaction|key|message|body)\.\w+)` \|", document, re.MULTILINE))
    assert {entry["rule"] for entry in MALFORMED.values()} == rules
