"""What opening ImageNet's list of images takes, and what it costs each worker process, beside a Python list of it."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sosr_det.data.image_index.array_file import write_arrays
from sosr_det.data.image_index.cache import FORMAT, read_index_file
from sosr_det.data.image_index.index import ImageIndex
from sosr_det.data.image_index.stamps import take_stamps
from sosr_det.errors import ConfigError

CLASSES = 1000


def bench_image_index(images: int = 1_281_167, workers: int = 4) -> dict[str, Any]:
    """Build an index from names like ImageNet's (no such files are made), open it, and let workers read every path.

    Args:
        images: how many, at least 1000.
        workers: forked processes that read all paths at once, at least 1.

    Returns:
        ``index`` and ``list``, each with ``open_seconds``, ``parent_bytes`` that it wrote in the opening process, and
        ``worker_bytes``: what became private to a worker, the most of all of them.

    Raises:
        ConfigError: not Linux, whose ``/proc`` says how much memory is private.
    """
    if not Path("/proc/self/smaps_rollup").exists():
        raise ConfigError("this measures private memory, which only Linux tells (/proc/self/smaps_rollup)")
    if images < CLASSES or workers < 1:
        raise ConfigError(f"at least {CLASSES} images and 1 worker, got {images} and {workers}")
    with tempfile.TemporaryDirectory(prefix="sosr-index-") as name:
        root = Path(name)
        classes = [f"n{label:08d}" for label in range(CLASSES)]
        for label in classes:
            (root / "train" / label).mkdir(parents=True)
        began = time.monotonic()
        index = ImageIndex.from_samples(_names(images), classes)
        index.fingerprint()
        built = time.monotonic() - began
        file = root / "synthetic.idx"
        _write(file, index, root)
        del index
        gc.collect()
        parts = {kind: _measured(kind, file, root, images, workers) for kind in ("index", "list")}
        size = file.stat().st_size
    return {
        "images": images,
        "workers": workers,
        "build_seconds_without_listing": round(built, 3),
        "file_bytes": size,
        "file_bytes_per_image": round(size / images, 1),
        **parts,
    }


def _names(images: int) -> Iterator[tuple[str, int]]:
    for number in range(images):
        label = number * CLASSES // images
        yield f"train/n{label:08d}/n{label:08d}_{number % 100_000}.JPEG", label


def _write(file: Path, index: ImageIndex, root: Path) -> None:
    places = ["train", *(f"train/{name}" for name in index.classes)]
    arrays = {
        "path_bytes": index.path_bytes,
        "offsets": index.offsets,
        "labels": index.labels,
        "places": np.frombuffer("\0".join(places).encode(), np.uint8),
        "stamps": take_stamps(root, places).values.reshape(-1),
    }
    about = {
        "format": FORMAT,
        "layout": "class folders",
        "classes": list(index.classes),
        "fingerprint": index.fingerprint(),
    }
    write_arrays(file, arrays, about)


def _measured(kind: str, file: Path, root: Path, images: int, workers: int) -> dict[str, Any]:
    """In a process of its own: memory that was freed here would be counted there."""
    arguments = [sys.executable, "-m", __name__, kind, str(file), str(root), str(images), str(workers)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def _measure(kind: str, file: Path, root: Path, images: int, workers: int) -> dict[str, Any]:
    before = _memory()
    began = time.monotonic()
    if kind == "index":
        index = read_index_file(file)
        places = ["train", *(f"train/{name}" for name in index.classes)]
        take_stamps(root, places)  # as opening looks whether a folder has changed
        path = index.path
    else:
        path = [name for name, _ in _names(images)].__getitem__
    opened = time.monotonic() - began
    parent = _memory()["written"] - before["written"]
    gc.collect()
    gc.freeze()
    return {
        "open_seconds": round(opened, 3),
        "parent_bytes": parent,
        "worker_bytes": max(found["private"] for found in _fork(path, images, workers)),
    }


def _fork(path: Any, images: int, workers: int) -> list[dict[str, int]]:
    """Every worker reads all paths in a random order, and measures while the others have done so, too."""
    read_end, write_end = os.pipe()
    go_read, go_write = os.pipe()
    children = []
    for worker in range(workers):
        child = os.fork()
        if child == 0:
            os.close(go_write)
            before = _memory()
            order = np.random.default_rng(worker).permutation(images)
            for number in order:
                path(int(number))
            del order
            os.write(write_end, b"\n")
            os.read(go_read, 1)  # until all have read: ends when the parent closes it
            after = _memory()
            os.write(
                write_end, (json.dumps({key: after[key] - before[key] for key in after}) + "\n").encode()
            )
            os.read(go_read, 1)
            os._exit(0)
        children.append(child)
    os.close(go_read)
    lines = os.fdopen(read_end)
    for _ in children:
        lines.readline()
    os.close(go_write)
    found = [json.loads(lines.readline()) for _ in children]
    lines.close()
    os.close(write_end)
    for child in children:
        os.waitpid(child, 0)
    return found


def _memory() -> dict[str, int]:
    """Bytes that are this process's alone, and those of them that it wrote, which cannot be dropped and read again."""
    values = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        key, _, rest = line.partition(":")
        values[key] = int(rest.split()[0]) * 1024
    return {"private": values["Private_Clean"] + values["Private_Dirty"], "written": values["Private_Dirty"]}


if __name__ == "__main__":
    kind, file, root, images, workers = sys.argv[1:]
    print(json.dumps(_measure(kind, Path(file), Path(root), int(images), int(workers))))
