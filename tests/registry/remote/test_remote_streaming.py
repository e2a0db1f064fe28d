"""Blobs that come in pieces of any size: handed on unchanged when right, refused when one bit is wrong."""

import pytest

from sosr_det.errors import CorruptEntryError
from sosr_det.registry.blob import blob_chunks, blob_layout
from sosr_det.registry.remote.streaming import verified_stream


@pytest.fixture
def blob(state):
    specs = {}
    return b"".join(blob_chunks(state, specs)), specs


def pieces(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 7, 64, 1000, 1 << 20])
def test_the_right_blob_passes_unchanged(blob, size):
    data, specs = blob
    assert b"".join(verified_stream(pieces(data, size), specs, "s3://x")) == data


@pytest.mark.parametrize("size", [1, 61, 1 << 20])
def test_any_wrong_byte_is_refused_and_never_handed_on_as_complete(blob, size):
    data, specs = blob
    header = len(blob_layout(specs).header)
    for at in [*range(0, header, 37), *range(header, len(data), 5), len(data) - 1]:
        wrong = bytearray(data)
        wrong[at] ^= 0x10
        with pytest.raises(CorruptEntryError) as caught:
            list(verified_stream(pieces(bytes(wrong), size), specs, "s3://x"))
        damage = caught.value.damage
        assert damage.file == "s3://x"
        assert damage.part.startswith("header, byte" if at < header else "tensor")


@pytest.mark.parametrize("size", [1, 61, 1 << 20])
def test_a_wrong_length_is_refused(blob, size):
    data, specs = blob
    for wrong in (b"", data[:1], data[: len(data) // 2], data[:-1], data + b"\0", data + data):
        with pytest.raises(CorruptEntryError, match=f"expected {len(data)} bytes, found {len(wrong)} bytes"):
            list(verified_stream(pieces(wrong, size), specs, "s3://x"))
