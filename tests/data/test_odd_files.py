"""Files that are not what their names promise: pictures of 16 bits, pipes, names that are no UTF-8."""

from __future__ import annotations

import io
import os
import sys
import threading

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from sosr_det.data.decode.encoded import EncodedImage
from sosr_det.data.decode.rows import decode_rgb_image
from sosr_det.data.decode.transforms import DecodeRandomResizedCrop, DecodeResize
from sosr_det.data.image_dataset import read_image_file
from sosr_det.data.imagenet import ImageNetFolder
from sosr_det.data.shards.dataset import ShardedImages
from sosr_det.data.shards.verify import verify_shards
from sosr_det.data.shards.write import write_shards
from sosr_det.data.unreadable import check_file_end, file_problem
from sosr_det.errors import UnreadableImageError


def _png(levels: np.ndarray) -> bytes:
    return cv2.imencode(".png", levels)[1].tobytes()


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_16_bit_png_is_read_as_8_bits(shape):
    levels = np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)
    image = decode_rgb_image(EncodedImage(_png(levels), "deep.png"))
    assert image.dtype == torch.uint8
    expected = (levels >> 8).astype(np.uint8)  # what libpng's png_set_strip_16 does, for PIL and OpenCV too
    expected = np.stack([expected] * 3, 2) if len(shape) == 2 else expected[..., 2::-1]
    assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("step", [DecodeRandomResizedCrop(4), DecodeResize(4)])
def test_16_bit_png_goes_through_the_pipeline(step):
    levels = np.full((8, 8, 3), 40_000, np.uint16)
    view = step(EncodedImage(_png(levels), "deep.png"))
    assert view.dtype == torch.uint8
    assert (view == 40_000 >> 8).all()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("read", [read_image_file, check_file_end, file_problem])
def test_named_pipe_is_an_unreadable_image_and_no_endless_wait(tmp_path, read):
    pipe = tmp_path / "n01440764_1.JPEG"
    os.mkfifo(pipe)
    outcome = []

    def attempt() -> None:
        try:
            outcome.append(read(pipe))
        except UnreadableImageError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(10)
    waits = thread.is_alive()
    if waits:  # let it go
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        thread.join(10)
    assert not waits
    assert "no regular file" in outcome[0]


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
def test_shards_of_classes_whose_names_are_no_utf8(tmp_path):
    out = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(out, "JPEG")
    for split in ("train", "val"):
        for name in (b"a\xffclass", b"tab\tand\nline"):
            folder = os.path.join(os.fsencode(tmp_path / "in"), split.encode(), name)
            os.makedirs(folder)
            with open(os.path.join(folder, b"x\xfe.JPEG"), "wb") as file:
                file.write(out.getvalue())
    folders = ImageNetFolder(str(tmp_path / "in"), "train", [])
    write_shards(folders, tmp_path / "out", "train", 10_000)
    shards = ShardedImages(str(tmp_path / "out"), "train", [])
    assert shards.classes == folders.classes
    assert shards.fingerprint() == folders.fingerprint()
    assert verify_shards(str(tmp_path / "out"), "train") == (1, 2)
