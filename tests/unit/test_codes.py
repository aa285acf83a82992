"""The numbers that Python reads are those that Rust writes."""

import enum
import re
from pathlib import Path
from typing import get_args

import pytest

from sagacore import answers, codes
from sagacore.outcomes import Cause, State


def rust_codes(text: str, name: str) -> dict[str, int]:
    body = re.search(rf"\b{name}: u\d+ \{{(.*?)\n?\s*\}}", text, re.DOTALL)
    assert body, name
    return {screaming(variant): int(code) for variant, code in re.findall(r"(\w+) = (\d+)", body.group(1))}


def screaming(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()


@pytest.mark.parametrize("ours", [codes.OutcomeCode, codes.StatusCode, codes.CauseCode, codes.Refusal])
def test_closed_sets_are_the_same(root: Path, ours: type[enum.IntEnum]) -> None:
    text = (root / "rust/core/src/wire/kind.rs").read_text()
    assert {code.name: code.value for code in ours} == rust_codes(text, ours.__name__)


def test_kinds_that_a_client_hears_are_the_same(root: Path) -> None:
    theirs = rust_codes((root / "rust/core/src/wire/kind.rs").read_text(), "Kind")
    assert {code.name: code.value for code in codes.Kind}.items() <= theirs.items()


def test_sections_are_the_same(root: Path) -> None:
    text = (root / "rust/core/src/wire/body.rs").read_text()
    theirs = {name: int(code) for name, code in re.findall(r"pub const (\w+): u8 = (\d+);", text)}
    assert {code.name: code.value for code in codes.Section} == {k: v for k, v in theirs.items() if k != "END"}


def test_actions_are_the_same(root: Path) -> None:
    text = (root / "rust/core/src/client/types.rs").read_text()
    for action in codes.Action:
        assert re.search(rf"\b{action.name.capitalize()} = {action.value},", text)


def test_states_and_causes_have_their_words() -> None:
    assert [state.replace("-", "_").upper() for state in get_args(State)] == [code.name for code in codes.StatusCode]
    words = [cause.replace("-", "_").upper() for cause in get_args(Cause)]
    assert words == [code.name for code in codes.CauseCode]
    assert (get_args(State), get_args(Cause)) == (answers.STATES, answers.CAUSES)
