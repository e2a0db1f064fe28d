"""Images that CUB's test split and ImageNet share byte for byte.

Both were collected from flickr; 22 to 23 such images are known
(http://guopei.github.io/2016/Overlap-Between-Imagenet-And-CUB/), so a backbone from ImageNet has seen them.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sosr_det.data.prepare.inspection import IMAGE_SUFFIXES
from sosr_det.data.prepare.progress import Progress, no_progress


def identical_images(
    root: Path, files: Sequence[str], other_root: Path, workers: int, progress: Progress = no_progress
) -> list[tuple[str, str]]:
    """Find the files of one data set that are byte for byte in another one's ``train`` or ``val``.

    Only files of equal size are read, and compared by SHA-256.

    Args:
        root: folder that ``files`` are relative to.
        files: the images to look for.
        other_root: folder with ``train`` and ``val``, searched at all depths.
        workers: number of threads that read.
        progress: told the number of candidates read.

    Returns:
        Pairs of relative paths (in ``root``, in ``other_root``), sorted.
    """
    by_size: dict[int, list[str]] = defaultdict(list)
    for file in files:
        if (root / file).is_file() and (size := os.path.getsize(root / file)):
            by_size[size].append(file)
    candidates = list(_files_of_size(other_root, by_size.keys()))
    sizes = {size for _, size in candidates}
    ours: dict[str, list[str]] = defaultdict(list)
    pairs: list[tuple[str, str]] = []
    with ThreadPoolExecutor(workers, thread_name_prefix="hash") as pool:
        mine = [file for size in sizes for file in by_size[size]]
        for file, digest in zip(mine, pool.map(_sha256, (root / file for file in mine)), strict=True):
            ours[digest].append(file)
        digests = pool.map(_sha256, (other_root / other for other, _ in candidates))
        for done, ((other, _), digest) in enumerate(zip(candidates, digests, strict=True), start=1):
            pairs += [(file, other) for file in ours.get(digest, ())]
            progress("comparing with ImageNet", done, len(candidates))
    return sorted(pairs)


def _files_of_size(root: Path, sizes) -> list[tuple[str, int]]:
    found = []
    for split in ("train", "val"):
        for parent, _, names in os.walk(root / split):
            for name in names:
                if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                    path = os.path.join(parent, name)
                    if (size := os.path.getsize(path)) in sizes:
                        found.append((os.path.relpath(path, root), size))
    return found


def _sha256(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
