"""Refs: no flipped bit, edit or misplaced copy is followed."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from sosr_det.errors import CorruptEntryError
from sosr_det.registry.manifest import Summary
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


def summary():
    return Summary(
        kind="backbone",
        arch="resnet50",
        data="imagenet-1k",
        recipe=None,
        metrics={"top1": 76.13},
        size_bytes=100,
        num_tensors=3,
        tensors_digest="12" * 32,
        parents=("34" * 32,),
        license=None,
        created="2026-11-22T17:05:00Z",
    )


def test_a_ref_with_a_summary_survives_and_any_flipped_bit_is_found():
    ref = replace(REF, summary=summary())
    content = ref.to_bytes()
    assert Ref.from_bytes(content, FILE, "r50", "v1") == ref
    for bit in range(len(content) * 8):
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptEntryError, match=r"v1\.json is damaged"):
            Ref.from_bytes(bytes(broken), FILE, "r50", "v1")


def test_the_checksum_is_over_the_other_fields_as_canonical_json():
    """Written out here, because refs of earlier versions must stay readable."""
    content = (
        b'{"checksum":"%s","digest":"'
        + b"ab" * 32
        + b'","name":"r50","previous":"'
        + b"cd" * 32
        + b'","tag":"v1",'
        b'"updated":"2026-11-22T17:05:00Z"}\n'
    )
    body = content.replace(b'"checksum":"%s",', b"").removesuffix(b"\n")
    content = content.replace(b"%s", hashlib.sha256(body).hexdigest().encode())
    assert content == REF.to_bytes()
    assert Ref.from_bytes(content, FILE, "r50", "v1") == REF
