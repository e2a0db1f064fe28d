"""Decoding every image of a data set the way training does."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from sosr_det.data.prepare.inspection import Problem
from sosr_det.data.prepare.progress import Progress, no_progress

_CHUNK = 64  # images for one task of a worker
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG", (".jpg", ".jpeg")),
    (b"\x89PNG\r\n\x1a\n", "PNG", (".png",)),
    (b"GIF8", "GIF", (".gif",)),
    (b"RIFF", "WebP", (".webp",)),
)


@dataclass
class DecodingResult:
    """What decoding found.

    Attributes:
        decoded: number of images that could be decoded.
        problems: those that could not.
        other_format: notes on images whose name ends like another format; they decode nevertheless.
    """

    decoded: int = 0
    problems: list[Problem] = field(default_factory=list)
    other_format: list[str] = field(default_factory=list)


Decoder = Callable[[Path, str], tuple[Problem | None, str | None]]
"""Of a folder and a file in it: why it cannot be decoded, and a note on its kind, or None for either."""


def decode_all(
    root: Path,
    files: Sequence[str],
    workers: int,
    progress: Progress = no_progress,
    decode: Decoder | None = None,
) -> DecodingResult:
    """Decode images in ``workers`` threads (the decoder releases Python's lock) with torchvision, as the data sets do.

    Args:
        root: folder that ``files`` are relative to.
        files: image files.
        workers: number of threads, at least 1.
        progress: told the number of images done.
        decode: decodes one image; called in any of the threads. None means as the classification data sets do.
    """
    decode = decode or _decode
    result = DecodingResult()
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    done = 0
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for chunk, outcomes in zip(
                chunks, pool.map(lambda chunk: [decode(root, f) for f in chunk], chunks), strict=True
            ):
                for file, (problem, note) in zip(chunk, outcomes, strict=True):
                    if problem is not None:
                        result.problems.append(problem)
                    else:
                        result.decoded += 1
                    if note is not None:
                        result.other_format.append(f"{file} {note}")
                done += len(chunk)
                progress("decoding images", done, len(files))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return result


def _decode(root: Path, file: str) -> tuple[Problem | None, str | None]:
    import torch
    from torchvision.io import ImageReadMode, decode_image

    data = read_image_file(root, file)
    if isinstance(data, Problem):
        return data, None
    try:
        image = decode_image(torch.frombuffer(data, dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError as error:
        return undecodable(file, error, data), None
    if image.dtype != torch.uint8 or image.ndim != 3:
        kind = "is animated" if image.ndim != 3 else f"has {image.dtype} pixels, expected 8 bits"
        return Problem("undecodable", file, kind), None
    return None, format_note(bytes(data[:16]), file)


def read_image_file(root: Path, file: str) -> bytearray | Problem:
    """The file's bytes, or why there are none."""
    try:
        data = bytearray((root / file).read_bytes())
    except OSError as error:
        return Problem("missing", file, error.strerror or str(error))
    return data or Problem("empty", file, "has 0 bytes")


def undecodable(file: str, error: RuntimeError, data: bytearray) -> Problem:
    """The problem that torchvision's decoder tells."""
    # torchvision puts the place in its sources first.
    reason = str(error).splitlines()[0].rpartition(".cpp:")[2].partition(", ")[2] or str(error)
    return Problem("undecodable", file, f"{reason} ({len(data):,} bytes)")


def format_note(start: bytes, file: str) -> str | None:
    """What kind of image the first bytes tell, if the name ends like another."""
    suffix = os.path.splitext(file)[1].lower()
    for signature, name, suffixes in _SIGNATURES:
        if start.startswith(signature) and suffix not in suffixes:
            return f"is a {name} file"
    return None
