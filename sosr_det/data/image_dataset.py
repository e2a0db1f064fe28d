"""The base of the image-classification data sets: images with one label each, decoded to uint8 RGB tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sosr_det.data.decode.encoded import EncodedImage, takes_encoded, undecodable
from sosr_det.data.decode.rows import decode_rgb_image
from sosr_det.data.image_index.index import ImageIndex
from sosr_det.data.regular_file import open_regular_file
from sosr_det.data.transforms import build_pipeline
from sosr_det.data.unreadable import is_cut_off_jpeg
from sosr_det.errors import DataError, UnreadableImageError

# What `read_rgb_image` can decode.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")


class ClassificationDataset(torch.utils.data.Dataset):
    """Images on disk with one label each; the base of the layouts that people have.

    Args:
        root: folder of the data set, for messages and relative paths.
        samples: ``(path, label)`` pairs, label in ``[0, len(classes))``; or a ready index, which is taken as it is.
        classes: class names by label.
        pipeline: transform configs, applied in order to the decoded uint8 image, or, where the first of them decodes
            (:mod:`sosr_det.data.decode`), to the file's bytes.

    Raises:
        DataError: no samples at all, or a class without a sample.
    """

    def __init__(
        self,
        root: Path,
        samples: Sequence[tuple[Path, int]] | ImageIndex,
        classes: Sequence[str],
        pipeline: Sequence[dict],
    ) -> None:
        self.root = Path(root)
        self.classes = list(classes)
        if not isinstance(samples, ImageIndex):
            relative = ((Path(path).relative_to(self.root).as_posix(), label) for path, label in samples)
            samples = ImageIndex.from_samples(relative, classes)
        self.index = samples
        counts = np.bincount(samples.labels, minlength=len(self.classes))
        empty = [name for label, name in enumerate(self.classes) if counts[label] == 0]
        if empty:
            shown = ", ".join(empty[:5]) + (", …" if len(empty) > 5 else "")
            raise DataError(
                f"{len(empty)} of {len(self.classes)} classes under {self.root} have no image: {shown}. "
                f"Every class needs at least one file ending in {' '.join(IMAGE_SUFFIXES)}; "
                "remove the empty class folders or fill them."
            )
        self.transform: Callable[[Tensor | EncodedImage], Tensor] = build_pipeline(pipeline)
        self._takes_encoded = takes_encoded(self.transform)

    @property
    def metainfo(self) -> dict:
        """``dict(classes=(...))``: what mmengine stores in checkpoints and gives to evaluators."""
        return {"classes": tuple(self.classes)}

    @property
    def labels(self) -> np.ndarray:
        """int32 ``[N]``, read-only: the label of each image."""
        return self.index.labels

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> dict:
        image = self.read_encoded(index) if self._takes_encoded else self.read_image(index)
        return {"inputs": self.transform(image), "labels": int(self.index.labels[index])}

    def read_image(self, index: int) -> Tensor:
        """The stored image, before the pipeline: uint8 ``[3, H, W]`` in RGB."""
        return decode_rgb_image(self.read_encoded(index))

    def read_encoded(self, index: int) -> EncodedImage:
        """The stored file, for a pipeline that decodes it itself.

        Raises:
            UnreadableImageError: it is missing or cannot be read.
        """
        return read_image_file(self.root / self.index.path(index))

    def sample_name(self, index: int) -> str:
        """What messages call the sample: its path."""
        return str(self.root / self.index.path(index))

    def fingerprint(self) -> str:
        """sha256 over the sorted ``relative path <tab> label`` lines and the class list.

        Names the selection of files, not their contents: hashing the pixels of ImageNet takes minutes.
        """
        return self.index.fingerprint()


def read_image_file(path: Path) -> EncodedImage:
    """A whole file.

    Raises:
        UnreadableImageError: it is missing, cannot be read, or is a JPEG without its end; the message names the path.
    """
    try:
        with open(path, "rb", buffering=0, opener=open_regular_file) as file:
            data = file.read()
    except FileNotFoundError as error:
        raise UnreadableImageError(
            f"image {path} is missing; was the data set moved or changed during the run?"
        ) from error
    except OSError as error:
        raise UnreadableImageError(f"image {path} cannot be read: {error}. Is the disk in order?") from error
    if is_cut_off_jpeg(data):
        raise undecodable(str(path), len(data), ValueError("the JPEG is cut off, it has no end marker"))
    return EncodedImage(data, str(path))


def read_rgb_image(path: Path) -> Tensor:
    """Decode a JPEG, PNG, WebP or GIF file to a uint8 RGB tensor ``[3, H, W]``.

    Raises:
        UnreadableImageError: the file is missing or cannot be decoded; the message names the path.
    """
    return decode_rgb_image(read_image_file(path))


def require_folder(path: Path, what: str, remedy: str) -> Path:
    """Return ``path`` if it is a folder, else raise a :class:`DataError` that says what was expected there."""
    path = Path(path)
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise DataError(f"{what}: {path} {found}. {remedy}")
    return path
