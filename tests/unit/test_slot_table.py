"""The slot table from Python, in batches, against a plain dict."""

import random
import struct

import pytest

from sagacore._core import SlotTable

DONE = 3
INSERTED, ADDED, KNOWN, NO_ROOM = 0, 1, 2, 3
SLOT = struct.Struct("<QIIHHHBBQQQQQ")


def header(sequence: int, edge: int) -> bytes:
    """A DONE of this edge, as on the wire."""
    return struct.pack(
        "<IBBHQIHHQIHHQQQQQ16sQIHH16s",
        *(128, 1, DONE, 0),
        *(sequence, sequence * 7 % 2**32, 0, 0),
        *(99, 0, edge, 0),
        *(1 << (edge % 64), 0, 0, sequence, 0, bytes(16), 0, 0, 0, 0, bytes(16)),
    )


def arrived(table: SlotTable, sequence: int) -> int:
    fields = SLOT.unpack(table.lookup(header(sequence, 0)))
    return int(fields[8])


def test_a_batch_is_as_good_as_one_at_a_time() -> None:
    arrivals = [(sequence, edge) for sequence in range(1, 60) for edge in (0, 3, 5)]
    random.Random(1).shuffle(arrivals)
    batch, single = SlotTable(1024), SlotTable(1024)
    codes, spilled = batch.arrive(b"".join(header(*arrival) for arrival in arrivals))
    singly = [single.arrive(header(*arrival))[0] for arrival in arrivals]
    assert codes == b"".join(singly)
    assert not spilled
    for sequence in range(1, 60):
        assert arrived(batch, sequence) == arrived(single, sequence) == 0b101001


def test_random_arrivals_against_a_dict() -> None:
    rng = random.Random(2)
    table, model = SlotTable(64), dict[int, int]()
    spills = 0
    for _ in range(20_000):
        sequence, edge = rng.randrange(1, 200), rng.randrange(8)
        codes, spilled = table.arrive(header(sequence, edge))
        if codes[0] != NO_ROOM:
            expected = KNOWN if model.get(sequence, 0) >> edge & 1 else ADDED if sequence in model else INSERTED
            assert codes[0] == expected
            model[sequence] = model.get(sequence, 0) | 1 << edge
        for number, keys in spilled:
            victim = struct.unpack_from("<Q", keys)[0]
            edges = {struct.unpack_from("<H", keys, at + 22)[0] for at in range(0, len(keys), 24)}
            assert sum(1 << edge for edge in edges) == model.pop(victim)
            table.answered(number)
            spills += 1
        assert len(table) == len(model) <= 64
    assert spills > 100


def test_slots_rebuilt_from_their_arrivals_are_the_same() -> None:
    table = SlotTable(64)
    headers = b"".join(header(7, edge) for edge in (9, 2, 30))
    table.arrive(headers)
    before = table.lookup(header(7, 2))
    assert table.remove(header(7, 2)) == b"\x01"
    assert table.lookup(header(7, 2)) == bytes(64)
    table.arrive(b"".join(header(7, edge) for edge in (30, 30, 9, 2)))
    assert table.lookup(header(7, 2)) == before


def test_memory_is_taken_once() -> None:
    table = SlotTable(256)
    before = table.table_bytes
    table.arrive(b"".join(header(sequence, 1) for sequence in range(1, 5_000)))
    assert table.table_bytes == before
    assert len(table) <= 256


def test_bad_headers_are_refused_by_name() -> None:
    table = SlotTable(64)
    with pytest.raises(ValueError, match=r"^message\.truncated"):
        table.arrive(b"x" * 100)
    with pytest.raises(ValueError, match=r"^message\.version"):
        table.arrive(header(1, 1)[:4] + b"\x09" + header(1, 1)[5:])
    assert len(table) == 0
