"""What a JPEG's header says, against PIL and by hand."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image

from sosr_det.data.decode.jpeg_header import read_jpeg_header


def jpeg(height: int, width: int, mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize(("subsampling", "band_height"), [("4:4:4", 8), ("4:2:2", 8), ("4:2:0", 16)])
def test_size_and_bands(subsampling, band_height):
    data = jpeg(37, 300, subsampling=subsampling)
    header = read_jpeg_header(data)
    assert (header.height, header.width, header.band_height, header.top_down) == (37, 300, band_height, True)
    assert int.from_bytes(data[header.height_offset : header.height_offset + 2]) == 37
    assert data[header.scan_offset : header.scan_offset + 2] == b"\xff\xda"
    assert header.end_of_scan(data) == len(data) - 2
    assert header.end_of_scan(data + b"\0" * 10) == len(data) - 2
    assert header.end_of_scan(data[:-2]) == header.end_of_scan(data + b"\0" * 100) == -1


@pytest.mark.parametrize(
    ("options", "top_down"),
    [
        ({}, True),
        ({"progressive": True}, False),
        ({"restart_marker_rows": 1}, False),
        ({"restart_marker_blocks": 2}, False),
        ({"mode": "L"}, True),
        ({"exif": b"Exif\0\0" + bytes(range(256)) * 20, "comment": b"\xff\xda\xff\xc0\xff\xd9"}, True),
        ({"icc_profile": bytes(70000)}, True),
    ],
    ids=["baseline", "progressive", "restart rows", "restart blocks", "grey", "exif and comment", "profile"],
)
def test_what_can_be_decoded_from_the_top(options, top_down):
    header = read_jpeg_header(jpeg(50, 70, **options))
    assert (header.height, header.width, header.top_down) == (50, 70, top_down)


def test_several_pictures_are_not_read_from_the_top():
    file = io.BytesIO()
    pictures = [Image.fromarray(np.full((32, 32, 3), each, np.uint8)) for each in (10, 200)]
    pictures[0].save(file, "MPO", save_all=True, append_images=pictures[1:])
    header = read_jpeg_header(file.getvalue())
    assert header is not None
    assert not header.top_down


def test_scan_of_one_component_is_not_all_there_is():
    data = bytearray(jpeg(32, 32))
    header = read_jpeg_header(bytes(data))
    assert data[header.scan_offset + 4] == 3
    data[header.scan_offset + 4] = 1
    assert not read_jpeg_header(bytes(data)).top_down


def test_fill_bytes_before_a_marker():
    data = jpeg(32, 32)
    padded = data[:2] + b"\xff\xff" + data[2:]
    assert read_jpeg_header(padded).height == 32


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        jpeg(32, 32)[:100],  # ends inside the tables
        jpeg(32, 32, mode="CMYK"),
        b"\xff\xd8\xff\xe0\x00\x00" * 50,  # a segment that is shorter than its own length field
    ],
    ids=["empty", "start only", "png", "cut in the header", "four components", "length 0"],
)
def test_what_is_left_to_others(data):
    assert read_jpeg_header(data) is None


@pytest.mark.parametrize("value", [0, 12], ids=["no height", "12 bits"])
def test_frames_that_are_left_to_others(value):
    data = bytearray(jpeg(32, 32))
    at = read_jpeg_header(bytes(data)).height_offset
    if value == 0:
        data[at : at + 2] = b"\0\0"
    else:
        data[at - 1] = value
    assert read_jpeg_header(bytes(data)) is None


def test_no_bytes_make_it_fail():
    whole = jpeg(16, 16)
    generator = np.random.default_rng(0)
    for _ in range(2000):
        data = bytearray(whole[: generator.integers(len(whole))])
        for at in generator.integers(0, len(data), 3) if data else ():
            data[at] = generator.integers(256)
        header = read_jpeg_header(bytes(data))
        assert header is None or (header.height >= 1 and header.width >= 1)


def test_real_photographs(imagenet_sample):
    for path in imagenet_sample:
        with Image.open(path) as image:
            header = read_jpeg_header(path.read_bytes())
            assert (header.width, header.height) == image.size, os.fspath(path)
