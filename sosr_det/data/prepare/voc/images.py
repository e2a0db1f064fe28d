"""Decoding the images of a detection data set, with their sizes and identical copies."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from sosr_det.data.prepare.decoding import format_note, read_image_file, undecodable
from sosr_det.data.prepare.inspection import Problem

# torchvision says what is wrong with these. OpenCV, with which detectors train, says only that it failed.
_TORCHVISION = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


class SizedImages:
    """Decodes images for :func:`~sosr_det.data.prepare.decoding.decode_all`, and keeps what it saw.

    Attributes:
        sizes: (width, height) in pixels by file, turned as EXIF says, as MMDetection's loader turns it.
        digests: hash of the file's bytes by file.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, tuple[int, int]] = {}
        self.digests: dict[str, bytes] = {}

    def decode(self, root: Path, file: str) -> tuple[Problem | None, str | None]:
        """Decode one image; safe in threads."""
        data = read_image_file(root, file)
        if isinstance(data, Problem):
            return data, None
        self.digests[file] = hashlib.blake2b(data, digest_size=16).digest()
        size = (_torchvision_size if data.startswith(_TORCHVISION) else _opencv_size)(file, data)
        if isinstance(size, Problem):
            return size, None
        self.sizes[file] = size
        return None, format_note(bytes(data[:16]), file)

    def identical(self, files: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
        """Find images of a ``test`` list that are byte for byte in another list under another name.

        Args:
            files: image files by split, such as ``VOC2007/test``.

        Returns:
            (file of the list that is tested on, file of a list that is trained on), sorted.
        """
        held_out = {f for split, names in files.items() if split.rpartition("/")[2] == "test" for f in names}
        learned = {f for split, names in files.items() if split.rpartition("/")[2] != "test" for f in names}
        by_digest = defaultdict(list)
        for file in learned:
            if file in self.digests:
                by_digest[self.digests[file]].append(file)
        return sorted(
            (file, other)
            for file in held_out
            for other in by_digest.get(self.digests.get(file, b""), ())
            if other != file
        )


def _torchvision_size(file: str, data: bytearray) -> tuple[int, int] | Problem:
    import torch
    from torchvision.io import ImageReadMode, decode_image

    try:
        image = decode_image(
            torch.frombuffer(data, dtype=torch.uint8), mode=ImageReadMode.RGB, apply_exif_orientation=True
        )
    except RuntimeError as error:
        return undecodable(file, error, data)
    return image.shape[-1], image.shape[-2]


def _opencv_size(file: str, data: bytearray) -> tuple[int, int] | Problem:
    import cv2
    import numpy as np

    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        return Problem("undecodable", file, f"{error.err} ({len(data):,} bytes)")
    if image is None:
        return Problem("undecodable", file, f"no image of a known kind ({len(data):,} bytes)")
    return image.shape[1], image.shape[0]
