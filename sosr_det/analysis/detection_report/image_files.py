"""Finding and decoding the images that detections were made on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from sosr_det.errors import DataError
from sosr_det.evaluation.boxes import EvaluationSet

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".JPG", ".JPEG", ".PNG", ".BMP", ".webp", ".tif", ".tiff")
_FOLDERS = ("", "JPEGImages")  # a VOC folder itself will do as well


def image_file(data: EvaluationSet, image: int, images_root: Path | None) -> Path:
    """Where an image is.

    ``images_root`` is looked into first, for the recorded path (if relative), its name and the image's id; then the
    recorded path itself.

    Raises:
        DataError: it is nowhere; the message says where it was looked for.
    """
    recorded = None if data.image_paths is None else data.image_paths[image]
    candidates: list[Path] = []
    if images_root is not None:
        root = Path(images_root)
        names = [f"{data.image_ids[image]}{suffix}" for suffix in ("", *_SUFFIXES)]
        if recorded:
            relative = [] if Path(recorded).is_absolute() else [recorded]
            names = [*relative, Path(recorded).name, *names]
        candidates = [root / folder / name for folder in _FOLDERS for name in names]
        # Ids and paths come with the detections, whoever made them: they may not lead out of the folder.
        candidates = [path for path in candidates if path.resolve().is_relative_to(root.resolve())]
    if recorded:
        candidates.append(Path(recorded))
    for path in candidates:
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):  # a name too long for the file system, or with a null byte
            continue
    where = f"in {images_root}" if images_root is not None else "no path is recorded"
    if recorded:
        where = f"at {recorded}" + (f" or {where}" if images_root is not None else "")
    raise DataError(f"the image file of {data.image_ids[image]!r} is not at hand ({where})")


def read_image(path: Path, expected_size: np.ndarray | None) -> np.ndarray:
    """Pixels as the detector saw them (EXIF rotation applied), RGB; uint8 [height, width, 3].

    Args:
        path: The file.
        expected_size: Width and height that the boxes are for; not checked if None.

    Raises:
        DataError: not a readable image, or of another size.
    """
    encoded = np.fromfile(path, np.uint8)
    try:
        pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if len(encoded) else None
    except cv2.error as error:
        raise DataError(f"{path}: cannot be decoded: {error}") from error
    if pixels is None:
        raise DataError(f"{path}: cannot be decoded as an image")
    height, width = pixels.shape[:2]
    if expected_size is not None and (width, height) != tuple(int(side) for side in expected_size):
        raise DataError(
            f"{path}: it has {width} x {height} pixels, but the detections are for "
            f"{int(expected_size[0])} x {int(expected_size[1])}; it is another image"
        )
    return np.ascontiguousarray(pixels[:, :, ::-1])
