"""The base of the image-classification data sets: images with one label each, decoded to uint8 RGB tensors."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from sosr_det.data.decode.encoded import EncodedImage, takes_encoded, undecodable
from sosr_det.data.transforms import build_pipeline
from sosr_det.errors import DataError

# What `read_rgb_image` can decode.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")


class ClassificationDataset(torch.utils.data.Dataset):
    """Images on disk with one label each; the base of the layouts that people have.

    Args:
        root: folder of the data set, for messages and relative paths.
        samples: ``(path, label)`` pairs, label in ``[0, len(classes))``.
        classes: class names by label.
        pipeline: transform configs, applied in order to the decoded uint8 image, or, where the first of them decodes
            (:mod:`sosr_det.data.decode`), to the file's bytes.

    Raises:
        DataError: no samples at all, or a class without a sample.
    """

    def __init__(
        self,
        root: Path,
        samples: Sequence[tuple[Path, int]],
        classes: Sequence[str],
        pipeline: Sequence[dict],
    ) -> None:
        self.root = Path(root)
        self.classes = list(classes)
        counts = Counter(label for _, label in samples)
        empty = [name for label, name in enumerate(self.classes) if counts[label] == 0]
        if empty:
            shown = ", ".join(empty[:5]) + (", …" if len(empty) > 5 else "")
            raise DataError(
                f"{len(empty)} of {len(self.classes)} classes under {self.root} have no image: {shown}. "
                f"Every class needs at least one file ending in {' '.join(IMAGE_SUFFIXES)}; "
                "remove the empty class folders or fill them."
            )
        # Paths as one relative string each keep the per-worker copy small.
        self._relative_paths = [str(Path(path).relative_to(self.root)) for path, _ in samples]
        self._labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
        self.transform: Callable[[Tensor | EncodedImage], Tensor] = build_pipeline(pipeline)
        self._takes_encoded = takes_encoded(self.transform)

    @property
    def metainfo(self) -> dict:
        """``dict(classes=(...))``: what mmengine stores in checkpoints and gives to evaluators."""
        return {"classes": tuple(self.classes)}

    def __len__(self) -> int:
        return len(self._relative_paths)

    def __getitem__(self, index: int) -> dict:
        image = self.read_encoded(index) if self._takes_encoded else self.read_image(index)
        return {"inputs": self.transform(image), "labels": int(self._labels[index])}

    def read_image(self, index: int) -> Tensor:
        """The stored image, before the pipeline: uint8 ``[3, H, W]`` in RGB."""
        return read_rgb_image(self.root / self._relative_paths[index])

    def read_encoded(self, index: int) -> EncodedImage:
        """The stored file, for a pipeline that decodes it itself."""
        path = self.root / self._relative_paths[index]
        try:
            return EncodedImage(path.read_bytes(), str(path))
        except OSError as error:
            raise _unreadable(path, error) from error

    def sample_name(self, index: int) -> str:
        """What messages call the sample: its path."""
        return str(self.root / self._relative_paths[index])

    def fingerprint(self) -> str:
        """sha256 over the sorted ``relative path <tab> label`` lines and the class list.

        Names the selection of files, not their contents: hashing the pixels of ImageNet takes minutes.
        """
        lines = sorted(f"{p}\t{y}" for p, y in zip(self._relative_paths, self._labels.tolist(), strict=True))
        return hashlib.sha256("\n".join([*self.classes, "", *lines]).encode()).hexdigest()


def read_rgb_image(path: Path) -> Tensor:
    """Decode a JPEG, PNG, WebP or GIF file to a uint8 RGB tensor ``[3, H, W]``.

    Raises:
        DataError: the file is missing or cannot be decoded; the message names the path.
    """
    try:
        return decode_image(str(path), mode=ImageReadMode.RGB)
    except (RuntimeError, OSError) as error:
        raise _unreadable(Path(path), error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    if not path.exists():
        return DataError(f"image {path} is missing; was the data set moved or changed during the run?")
    return undecodable(str(path), path.stat().st_size, error)


def require_folder(path: Path, what: str, remedy: str) -> Path:
    """Return ``path`` if it is a folder, else raise a :class:`DataError` that says what was expected there."""
    path = Path(path)
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise DataError(f"{what}: {path} {found}. {remedy}")
    return path
