"""A log's records as lines: text for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from sagacore.processes.log_tools import Cut, Found, Record

SHOWN = ("pivoted", "wide", "wide_before", "relaxed", "deadline_ms", "ended_ms")


def record_json(record: Record) -> str:
    """A record as one line of JSON."""
    return json.dumps(record, default=_readable)


def record_text(record: Record) -> str:
    """A record as lines of text: what it consumes and what it publishes."""
    more = ", after an unclean stop" if record.get("unclean") else ""
    head = f"lsn {record['lsn']}  {record['time_ms']} ms  {record['type']}{more}"
    lines = [line for transaction in record.get("transactions", ()) for line in _transaction(transaction)]
    lines += [line for copy in record.get("copies", ()) for line in _copy(copy)]
    if "unreadable" in record:
        lines.append(f"unreadable: {record['unreadable']}")
    return "\n  ".join([head, *lines])


def found_text(found: Found) -> str:
    """What a log is like."""
    lines = [f"{found.verdict}: {found.means}"]
    lines += [f"place: {found.place}"] if found.place else []
    lines += [f"hint: {found.hint}"] if found.hint else []
    lines.append(
        f"{found.segments} segments, {found.frames} frames with {found.payload_bytes:,} bytes, last LSN "
        f"{found.last_lsn} at {found.last_time_ms} ms, boot {found.boot_epoch}"
    )
    if found.stray_frames:
        lines.append(f"{found.stray_frames} whole frames stand behind the place where the log ends")
    return "\n".join(lines)


def cut_text(cut: Cut, *, is_done: bool) -> str:
    """What a repair costs."""
    records = "1 whole record" if cut.lost_records == 1 else f"{cut.lost_records} whole records"
    lost = f"lost: LSN {cut.next_lsn} and all after it, with {records} that can still be read"
    aside = "kept" if is_done else "will be kept"
    return (
        f"{cut.place}\n{lost}\nsagas in them may be lost, or stay half done; the segments as they are {aside} as "
        "*.broken files"
    )


def _transaction(transaction: Mapping[str, Any]) -> Iterator[str]:
    for key in transaction["consumes"]:
        yield f"- {_name(key)}"
    for message in transaction["publishes"]:
        yield f"+ {_name(message)}{_details(message)}"


def _copy(copy: Mapping[str, Any]) -> Iterator[str]:
    names = [str(copy[key]) for key in ("what", "plan", "saga", "outcome", "phase") if copy.get(key) is not None]
    yield f"= {' '.join(names)}{_details(copy)}"
    for message in copy.get("pending", ()):
        yield f"  + {_name(message)}{_details(message)}"


def _name(message: Mapping[str, Any]) -> str:
    """RUN payments.charge of 0-2a-1f00c0de; the attempt where it is not the first."""
    words = [message["kind"]]
    words += [f"edge {message['edge']}"] if "edge" in message else []
    about = next((str(message[key]) for key in ("step", "outcome", "plan") if key in message), "")
    words += [about] if "edge" not in message else []
    words += [f"of {message['saga']}"] if "saga" in message else []
    words += [f"attempt {message['attempt']}"] if message.get("attempt") else []
    return " ".join(filter(None, words))


def _details(message: Mapping[str, Any]) -> str:
    sets = [f"{key} {' '.join(message[key])}" for key in ("done", "active", "undo") if key in message]
    shown = [f"{key} {message[key]}" for key in SHOWN if message.get(key)]
    shown += message.get("flags", ())
    details = [*sets, *shown, *(_section(name, value) for name, value in message.get("sections", {}).items())]
    return f": {', '.join(details)}" if details else ""


def _section(name: str, value: int | bytes) -> str:
    what = f"{value} bytes" if isinstance(value, int) else json.dumps(_readable(value), default=_readable)
    return f"{name} {what}"


def _readable(value: object) -> object:
    """Bytes as what they say: MessagePack, or text, or else hexadecimal."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return msgspec.msgpack.decode(value)
    except (msgspec.DecodeError, RecursionError):
        text = value.decode(errors="replace")
        return text if text.isprintable() else value.hex()
