"""How fast training and validation images are made from JPEG files on one core, beside torchvision's usual ways."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from sosr_det.analysis.interleaved import time_interleaved
from sosr_det.data.image_dataset import ClassificationDataset
from sosr_det.errors import ConfigError
from sosr_det.models import ClassificationPreprocessor

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
SIZE, RESIZED = 224, 256
_JPEG_SUFFIXES = (".jpg", ".jpeg")
_DRAWN = "drawn, quality 90, 4:2:0"
_REFERENCE = "torchvision, PIL"


def bench_pipeline(images: Path | None = None, limit: int = 200, repeats: int = 7) -> dict[str, Any]:
    """Images per second of one core's time, each side from the same files, which are in the page cache.

    The customary pipeline ends with a normalised float32 image; ours and torchvision.io's with a uint8 one, as the
    device normalises it. What that would cost on this core is a row of its own.

    Args:
        images: folder with JPEGs, searched recursively; None: :func:`draw_jpegs` in a temporary folder.
        limit: at most so many of them, spread over the sorted list; at least 1.
        repeats: rounds, at least 1; medians are reported.

    Returns:
        ``images`` (number, mean width and height in pixels, mean file size in kB, where from), ``versions`` and
        ``rows``: name -> ``median_ms`` and ``img_per_s`` of one image, ``ratio``: the median over the rounds of its
        time over the reference's of the same view; ``speedup``: the inverse.

    Raises:
        ConfigError: a folder that is absent or holds no JPEG.
    """
    with ExitStack() as stack:
        if images is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            draw_jpegs(folder, min(limit, 100))
        else:
            folder = images
        files = _jpegs(folder, limit)
        stack.enter_context(_one_thread())
        peers = {name: _over(step, files) for name, step in _peers(folder, files).items()}
        description = _describe(files, str(images) if images else _DRAWN)
        times = time_interleaved(peers, repeats, warm_up=1, clock=time.process_time)
    return {
        "images": description,
        "versions": _versions(),
        "rows": _rows(times, len(files)),
    }


def draw_jpegs(folder: Path, number: int) -> list[Path]:
    """``number`` JPEGs like ImageNet's: about 500 x 375 px, quality 90, 4:2:0.

    Their spectrum falls as that of photographs, as the time of decoding goes by the number of coded coefficients.
    """
    generator = np.random.default_rng(0)
    paths = []
    for index in range(number):
        height, width = (int(generator.normal(mean, 15)) for mean in (375, 500))
        if generator.random() < 0.25:
            height, width = width, height
        path = folder / f"{index:04d}.jpg"
        Image.fromarray(_photograph_like(generator, height, width)).save(
            path, quality=90, subsampling="4:2:0"
        )
        paths.append(path)
    return paths


def _photograph_like(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    planes = []
    for _ in range(3):
        spectrum = np.fft.rfft2(generator.normal(size=(height, width))) / frequency
        spectrum[0, 0] = 0
        plane = np.fft.irfft2(spectrum, (height, width))
        planes.append(plane / plane.std())
    common, *colours = planes
    rgb = np.stack([common, common + 0.3 * colours[0], common + 0.3 * colours[1]], axis=2)
    return np.clip(120 + 55 * rgb, 0, 255).astype(np.uint8)


def _jpegs(folder: Path, limit: int) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError(
            f"--images {folder} is no folder. Give one with JPEGs, or leave it out to draw some."
        )
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _JPEG_SUFFIXES)
    if not found:
        raise ConfigError(f"--images {folder} holds no .jpg or .jpeg file. Leave --images out to draw some.")
    count = min(limit, len(found))
    return [found[index * len(found) // count] for index in range(count)]


@contextmanager
def _one_thread():
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _peers(folder: Path, files: Sequence[Path]) -> dict[str, Callable[[int], Any]]:
    """Name -> what it makes of the file with an index. The names begin with the view: ``train`` or ``val``."""
    unit_mean, unit_std = [m / 255 for m in MEAN], [s / 255 for s in STD]
    to_normal = [transforms.ToTensor(), transforms.Normalize(unit_mean, unit_std)]
    pil = {
        "train": transforms.Compose(
            [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), *to_normal]
        ),
        "val": transforms.Compose([transforms.Resize(RESIZED), transforms.CenterCrop(SIZE), *to_normal]),
    }
    tensor = {
        "train": v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]),
        "val": v2.Compose([v2.Resize(RESIZED, antialias=True), v2.CenterCrop(SIZE)]),
    }
    ours = {
        "train": [{"type": "DecodeRandomResizedCrop", "size": SIZE, "flip_prob": 0.5}],
        "val": [
            {"type": "DecodeResize", "size": RESIZED},
            {"type": "torchvision/CenterCrop", "size": SIZE},
        ],
    }
    samples = [(path, 0) for path in files]
    normalise = ClassificationPreprocessor(MEAN, STD)
    peers: dict[str, Callable[[int], Any]] = {}
    for view in ("train", "val"):
        data = ClassificationDataset(folder, samples, ["image"], ours[view])
        peers[f"{view}: {_REFERENCE}"] = lambda i, view=view: pil[view](_open(files[i]))
        peers[f"{view}: torchvision.io and v2"] = lambda i, view=view: tensor[view](
            decode_image(str(files[i]), ImageReadMode.RGB)
        )
        peers[f"{view}: ours"] = lambda i, data=data: data[i]["inputs"]
        if view == "train":
            peers["train: ours, and normalised on this core"] = lambda i, data=data: normalise(
                {"inputs": data[i]["inputs"][None], "labels": torch.zeros(1, dtype=torch.int64)}
            )
            peers["train: decoding alone, OpenCV"] = lambda i: cv2.imdecode(
                np.fromfile(files[i], np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
            )
    return peers


def _open(path: Path) -> Image.Image:
    """As torchvision's ``ImageFolder`` does."""
    with open(path, "rb") as file:
        return Image.open(file).convert("RGB")


def _over(step: Callable[[int], Any], files: Sequence[Path]) -> Callable[[], None]:
    def all_files() -> None:
        for index in range(len(files)):
            step(index)

    return all_files


def _rows(times: dict[str, list[float]], number: int) -> dict[str, dict[str, float]]:
    rows = {}
    for name, taken in times.items():
        reference = times[f"{name.partition(':')[0]}: {_REFERENCE}"]
        ratio = statistics.median(a / b for a, b in zip(taken, reference, strict=True))
        seconds = statistics.median(taken) / number
        rows[name] = {
            "median_ms": 1000 * seconds,
            "img_per_s": 1 / seconds,
            "ratio": ratio,
            "speedup": 1 / ratio,
        }
    return rows


def _describe(files: Sequence[Path], source: str) -> dict[str, Any]:
    sizes = []
    for path in files:
        with Image.open(path) as image:
            sizes.append(image.size)
    width, height = np.mean(sizes, axis=0)
    kilobytes = sum(path.stat().st_size for path in files) / len(files) / 1000
    return {
        "source": source,
        "number": len(files),
        "mean_width_px": round(float(width)),
        "mean_height_px": round(float(height)),
        "mean_file_kb": round(kilobytes),
    }


def _versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
        "opencv": cv2.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
