"""Ids of sagas and keys of users, as text and as bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagacore.errors import UsageError
from sagacore.identity import key_bytes, saga_id_bytes, saga_id_text


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1))
def test_an_id_is_the_same_as_text_and_as_bytes(sequence: int, nonce: int, shard: int) -> None:
    data = sequence.to_bytes(8, "little") + nonce.to_bytes(4, "little") + shard.to_bytes(2, "little") + bytes(2)
    assert saga_id_text(data) == f"{shard:x}-{sequence:x}-{nonce:08x}"
    assert saga_id_bytes(saga_id_text(data)) == data


@pytest.mark.parametrize(
    "text", ["", "order-42", "0-2a-1f00c0d", "0-2a-1f00c0de ", "10000-1-00000000", "0-2A-1F00C0DE"]
)
def test_other_texts_are_no_ids(text: str) -> None:
    with pytest.raises(UsageError, match="SAGA-E307"):
        saga_id_bytes(text)


def test_keys_have_a_length() -> None:
    assert key_bytes("order-42") == b"order-42"
    assert key_bytes("\u00e4" * 100) == "\u00e4".encode() * 100
    for key in ("", "\u00e4" * 101):
        with pytest.raises(UsageError, match="SAGA-E307"):
            key_bytes(key)
