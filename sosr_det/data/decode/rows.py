"""JPEG pixels with no more decoding than asked for."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from sosr_det.data.decode.encoded import EncodedImage, undecodable
from sosr_det.data.decode.jpeg_header import JpegHeader, read_jpeg_header

# EXIF orientation is ignored, as torchvision's decoder does.
_FLAGS = {
    1: cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
    2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_IGNORE_ORIENTATION,
    8: cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION,
}
REDUCTIONS = tuple(_FLAGS)


class ImageSource:
    """An image file whose size is known before it is decoded.

    JPEGs are decoded by OpenCV, row by row as they are needed; everything else (PNG, WebP, GIF, JPEGs with four
    components, damaged files) by torchvision, whole, when the size is asked for. Both use libjpeg-turbo with the same
    settings: the pixels are the same, bit for bit, as :func:`sosr_det.data.image_dataset.read_rgb_image` gives.

    Attributes:
        height, width: in pixels, as stored.

    Raises:
        DataError: the file cannot be decoded; the message has its name. A JPEG may be damaged without its header
            telling: then :meth:`pixels` raises it.
    """

    def __init__(self, encoded: EncodedImage) -> None:
        self.encoded = encoded
        self.header = read_jpeg_header(encoded.data)
        self._whole: np.ndarray | None = None
        if self.header is None:
            self._whole = _decode_by_torchvision(encoded)
            self.height, self.width = self._whole.shape[:2]
        else:
            self.height, self.width = self.header.height, self.header.width

    @property
    def can_reduce(self) -> bool:
        """Whether :meth:`pixels` can give a reduced image."""
        return self.header is not None

    def pixels(self, bottom: int | None = None, reduction: int = 1) -> np.ndarray:
        """uint8 ``[H / reduction, W / reduction, 3]`` (rounded up) in **BGR**; rows from ``bottom`` on may be missing.

        Args:
            bottom: rows that are needed, in pixels of the whole image; None for all.
            reduction: 1, 2, 4 or 8: the mean-preserving reduction that a JPEG's blocks offer.
        """
        if self._whole is not None:
            return self._whole
        image = None
        if bottom is not None:
            image = _decode_top(self.encoded.data, self.header, bottom + 2 * reduction, _FLAGS[reduction])
        if image is None:
            image = _decode(np.frombuffer(self.encoded.data, np.uint8), _FLAGS[reduction])
        if image is None:
            # Damaged, or OpenCV is pickier: torchvision has the last word, and the error.
            whole = _decode_by_torchvision(self.encoded)
            if reduction == 1:
                return whole
            height, width = (-(-side // reduction) for side in whole.shape[:2])
            return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
        return image


def _decode(data: np.ndarray, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(data, flags)
    except cv2.error:  # larger than OpenCV reads
        return None


def _decode_top(data: bytes, header: JpegHeader, bottom: int, flags: int) -> np.ndarray | None:
    """The rows above ``bottom``, or None where that is not less work or not possible.

    The decoder gets the file with a smaller height in its header, and so stops after those rows. It gets it without its
    end marker: with that, libjpeg would complain about the rest on stderr.
    """
    bands = -(-bottom // header.band_height)
    if not header.top_down or bands * header.band_height >= header.height:
        return None
    end = header.end_of_scan(data)
    if end < 0:
        return None
    top = np.frombuffer(data, np.uint8, end).copy()
    top[header.height_offset], top[header.height_offset + 1] = bottom >> 8, bottom & 255
    return _decode(top, flags)


def _decode_by_torchvision(encoded: EncodedImage) -> np.ndarray:
    rgb = decode_rgb_image(encoded)
    return np.ascontiguousarray(rgb.flip(0).permute(1, 2, 0).numpy())


def decode_rgb_image(encoded: EncodedImage) -> Tensor:
    """Decode a JPEG, PNG, WebP or GIF file to a uint8 RGB tensor ``[3, H, W]``.

    A JPEG that was cut off is an error, too: torchvision does not fill it up with grey.

    Raises:
        UnreadableImageError: it cannot be decoded; the message has its name.
    """
    if not encoded.data:
        raise undecodable(encoded.name, 0, ValueError("the file is empty"))
    try:
        # A bytearray, as torch warns of memory that it must not write.
        data = torch.frombuffer(bytearray(encoded.data), dtype=torch.uint8)
        image = decode_image(data, mode=ImageReadMode.RGB)
    except RuntimeError as error:
        raise undecodable(encoded.name, len(encoded.data), error) from error
    # A PNG of 16 bits keeps its upper ones, as with PIL and OpenCV.
    return image if image.dtype == torch.uint8 else (image.to(torch.int32) >> 8).to(torch.uint8)
