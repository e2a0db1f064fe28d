"""Refs: no flipped bit, edit or misplaced copy is followed."""

from pathlib import Path

import pytest

from sosr_det.errors import CorruptEntryError
from sosr_det.registry.refs import Ref

REF = Ref("r50", "v1", "ab" * 32, "2026-11-22T17:05:00Z", "cd" * 32)
FILE = Path("v1.json")


def test_round_trip():
    assert Ref.from_bytes(REF.to_bytes(), FILE, "r50", "v1") == REF
    first = Ref("r50", "v1", "ab" * 32, "2026-11-22T17:05:00Z")
    assert Ref.from_bytes(first.to_bytes(), FILE, "r50", "v1") == first


def test_every_flipped_bit_is_found():
    content = REF.to_bytes()
    for bit in range(len(content) * 8):
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptEntryError, match=r"v1\.json is damaged") as caught:
            Ref.from_bytes(bytes(broken), FILE, "r50", "v1")
        assert caught.value.damage.expected != caught.value.damage.actual


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"\xff", REF.to_bytes()[:-9], REF.to_bytes() * 2]
)
def test_other_content_is_refused(content):
    with pytest.raises(CorruptEntryError, match="damaged"):
        Ref.from_bytes(content, FILE, "r50", "v1")


def test_a_copy_under_another_name_is_refused():
    with pytest.raises(CorruptEntryError, match=r"expected r50@v2, found r50@v1"):
        Ref.from_bytes(REF.to_bytes(), FILE, "r50", "v2")
