"""The golden plans, compiled with nothing of sagacore, from what docs/wire-format.md says of plans."""

import json
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

GOLDEN = Path(__file__).resolve().parents[2] / "tests/golden/plans"
PLANS = {entry["name"]: entry for entry in json.loads((GOLDEN / "index.json").read_text())["plans"]}

U64 = (1 << 64) - 1
BLOCK = 64

Order = list[set[int]]
"""By step: all that come before it."""


def definition_of(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


def siphash_2_4_128(data: bytes, key: bytes = bytes(16)) -> bytes:
    """SipHash-2-4 with 128 bits of output, as its authors describe it."""
    low, high = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [low ^ 0x736F6D6570736575, high ^ 0x646F72616E646F6D, low ^ 0x6C7967656E657261, high ^ 0x7465646279746573]
    v[1] ^= 0xEE

    def turn(value: int, bits: int) -> int:
        return (value << bits | value >> (64 - bits)) & U64

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0], v[2] = (v[0] + v[1]) & U64, (v[2] + v[3]) & U64
            v[1], v[3] = turn(v[1], 13) ^ v[0], turn(v[3], 16) ^ v[2]
            v[0] = turn(v[0], 32)
            v[2], v[0] = (v[2] + v[1]) & U64, (v[0] + v[3]) & U64
            v[1], v[3] = turn(v[1], 17) ^ v[2], turn(v[3], 21) ^ v[0]
            v[2] = turn(v[2], 32)

    whole = len(data) // 8 * 8
    words = [data[at : at + 8] for at in range(0, whole, 8)]
    words.append(data[whole:].ljust(7, b"\0") + bytes([len(data) & 0xFF]))
    for word in words:
        value = int.from_bytes(word, "little")
        v[3] ^= value
        rounds(2)
        v[0] ^= value
    v[2] ^= 0xEE
    rounds(4)
    first = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    rounds(4)
    second = v[0] ^ v[1] ^ v[2] ^ v[3]
    return first.to_bytes(8, "little") + second.to_bytes(8, "little")


def closed(direct: list[set[int]], order: list[int]) -> Order:
    """With what comes before a step, all that comes before that. `order`: each after what it names."""
    before = [set(steps) for steps in direct]
    for step in order:
        before[step] |= {earlier for other in direct[step] for earlier in before[other]}
    return before


def graph_of(members: set[int], before: Order) -> dict[str, Any]:
    """Roots, targets and edges of the transitive reduction of an order on some steps, as the index has them."""
    then: dict[int, list[dict[str, int]]] = {step: [] for step in sorted(members)}
    edges: list[dict[str, Any]] = []
    used: list[int] = []

    def join(sources: list[int], into: int | str) -> None:
        block = next((at for at, count in enumerate(used) if count + len(sources) <= BLOCK), len(used))
        if block == len(used):
            used.append(0)
        for source in sources:
            edge = block * BLOCK + used[block]
            used[block] += 1
            edges.append({"edge": edge, "from": source, "into": into})
            then[source].append({"edge": edge})

    roots, passed = [], set()
    for step in sorted(members):
        earlier = before[step] & members
        direct = sorted(earlier - {other for source in earlier for other in before[source]})
        passed |= set(direct)
        if not direct:
            roots.append(step)
        elif len(direct) == 1:
            then[direct[0]].append({"step": step})
        else:
            join(direct, step)
    join(sorted(members - passed), "end")
    return {"roots": roots, "then": then, "edges": sorted(edges, key=lambda edge: edge["edge"])}


def assert_graph(entry: dict[str, Any], expected: dict[str, Any]) -> None:
    assert entry["roots"] == expected["roots"]
    assert {step["step"]: step["then"] for step in entry["steps"]} == expected["then"]
    edges = [{name: edge[name] for name in ("edge", "from", "into")} for edge in entry["edges"]]
    assert edges == expected["edges"]


def forward_order(steps: list[list[Any]]) -> Order:
    return closed([set(step[4]) for step in steps], list(range(len(steps))))


def undo_order(definition: list[Any]) -> Order:
    """By step: all that are undone before it."""
    steps, count = definition[6], len(definition[6])
    if definition[4] == 1:
        return [set(range(step + 1, count)) for step in range(count)]
    direct: list[set[int]] = [set() for _ in steps]
    for index, step in enumerate(steps):
        for earlier in {*step[5], *step[6]}:
            direct[earlier].add(index)
    return closed(direct, list(reversed(range(count))))


def test_the_hash_is_the_authors() -> None:
    # The first two of their test vectors: no bytes and one, under the key 00 01 ... 0f.
    key = bytes(range(16))
    assert siphash_2_4_128(b"", key).hex() == "a3817f04ba25a8e66df67214c7550293"
    assert siphash_2_4_128(b"\0", key).hex() == "da87c1d86b99af44347659119b22fc45"


@pytest.mark.parametrize("name", PLANS)
def test_a_definition_has_its_fingerprint(name: str) -> None:
    definition = definition_of(name)
    assert len(definition) == PLANS[name]["bytes"]
    assert int.from_bytes(siphash_2_4_128(definition)[:8], "little") == int(PLANS[name]["fingerprint"], 16)
    assert msgpack.packb(msgpack.unpackb(definition)) == definition, "every value has its shortest encoding"


@pytest.mark.parametrize("name", PLANS)
def test_a_definition_says_what_the_index_says(name: str) -> None:
    definition = msgpack.unpackb(definition_of(name))
    assert definition[1] == PLANS[name]["saga"]
    assert [step[0] for step in definition[6]] == PLANS[name]["steps"]
    pivots = [index for index, step in enumerate(definition[6]) if step[3] & 1]
    assert pivots == [PLANS[name]["pivot"]] if pivots else "pivot" not in PLANS[name]
    before_pivot = forward_order(definition[6])[pivots[0]] if pivots else set(range(len(definition[6])))
    compensable = {index for index, step in enumerate(definition[6]) if step[3] & 2 and index in before_pivot}
    assert sum(1 << step for step in compensable) == int(PLANS[name]["compensable"], 16)


@pytest.mark.parametrize("name", PLANS)
def test_the_forward_graph_follows_from_the_definition(name: str) -> None:
    steps = msgpack.unpackb(definition_of(name))[6]
    expected = graph_of(set(range(len(steps))), forward_order(steps))
    assert_graph(PLANS[name]["forward"], expected)
    assert PLANS[name]["messages"] == len(steps) + len(expected["edges"])


@pytest.mark.parametrize("name", PLANS)
def test_results_are_carried_where_they_are_needed(name: str) -> None:
    definition = msgpack.unpackb(definition_of(name))
    steps, returns = definition[6], set(definition[5])
    before = forward_order(steps)
    needed = [
        returns.union(*(other[5] for index, other in enumerate(steps) if step in {index, *before[index]}))
        for step in range(len(steps))
    ]
    forward = PLANS[name]["forward"]
    for entry in forward["steps"]:
        assert set(entry["carry"]) == needed[entry["step"]] & before[entry["step"]]
    for entry in forward["edges"]:
        there = before[entry["from"]] | {entry["from"]}
        wanted = returns if entry["into"] == "end" else needed[entry["into"]]
        assert set(entry["carry"]) == there & wanted


@pytest.mark.parametrize("name", PLANS)
def test_compensation_graphs_follow_from_the_definition(name: str) -> None:
    before = undo_order(msgpack.unpackb(definition_of(name)))
    assert PLANS[name]["undo"]
    for entry in PLANS[name]["undo"]:
        members = {step for step in range(64) if int(entry["set"], 16) >> step & 1}
        assert_graph(entry, graph_of(members, before))
