"""How fast VOC annotations are loaded: MMDetection's data set, ours, and ours from its cache."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sosr_det.analysis.interleaved import summarise, time_interleaved
from sosr_det.cache_root import ENV_CACHE
from sosr_det.data.voc_annotations import cache as annotation_cache
from sosr_det.data.voc_annotations import find_voc_folders, scan_classes
from sosr_det.data.voc_classes import VOC_CLASSES
from sosr_det.errors import ConfigError, DataError

PEER = "MMDetection's VOCDataset"
UNCACHED = "CheckedVOCDataset, nothing cached"
CACHED = "CheckedVOCDataset, from its cache"
NUM_FILES = 16_551  # trainval of VOC2007 and VOC2012


def generate_annotations(root: Path, count: int, seed: int = 0) -> None:
    """Make ``VOC2007/Annotations`` with so many files of VOC's shapes, and their list ``trainval``.

    As in VOC, there are two orders of the elements, a fifth of the objects has parts with boxes of their own, and one
    file in a hundred needs an XML parser.
    """
    generator = random.Random(seed)
    folder, lists = root / "VOC2007" / "Annotations", root / "VOC2007" / "ImageSets" / "Main"
    folder.mkdir(parents=True)
    lists.mkdir(parents=True)
    image_ids = [f"{number:06d}" for number in range(1, count + 1)]
    for image_id in image_ids:
        (folder / f"{image_id}.xml").write_text(_annotation(generator, image_id))
    (lists / "trainval.txt").write_text("".join(f"{image_id}\n" for image_id in image_ids))


def bench_annotations(
    voc_root: Path | None = None,
    split: str = "trainval",
    num_files: int = NUM_FILES,
    repeats: int = 5,
) -> dict[str, Any]:
    """Measure building the data sets of a split, each a whole ``__init__``; no image is looked for.

    Before anything is timed, all records are compared.

    Args:
        voc_root: A folder as of :func:`sosr_det.data.voc_annotations.find_voc_folders`; None generates files.
        split: Its lists ``ImageSets/Main/<split>.txt``.
        num_files: How many files to generate, at least 1.
        repeats: Rounds, at least 1; medians are reported.

    Returns:
        ``memory`` and ``disk``: name -> ``median_ms`` and ``ratio`` to MMDetection's, with the annotation files in the
        system's page cache, and not (``disk`` is None where the system cannot be asked to drop them); and what was
        measured with.

    Raises:
        ConfigError: Fewer than one round or file.
        DataError: No such data, or records that differ from MMDetection's, as with degenerate boxes.
    """
    if repeats < 1 or num_files < 1:
        raise ConfigError(f"repeats ({repeats}) and files ({num_files}) must be at least 1.")
    with tempfile.TemporaryDirectory(prefix="bench-annotations-") as place, _own_cache(Path(place, "cache")):
        generated = voc_root is None
        if voc_root is None:
            voc_root = Path(place, "VOCdevkit")
            generate_annotations(voc_root, num_files)
            time.sleep(annotation_cache.RACY_SECONDS + 0.1)  # files as young as these are not kept
        loader = _Loader(voc_root, split)
        num_boxes = loader.check_records()
        return {
            "data": "generated" if generated else voc_root.name,
            "split": split,
            "files": len(loader.xml_files),
            "boxes": num_boxes,
            "repeats": repeats,
            "memory": loader.time(repeats, evict=False),
            "disk": loader.time(repeats, evict=True) if hasattr(os, "posix_fadvise") else None,
        }


def report_lines(results: dict[str, Any]) -> list[str]:
    """The results of :func:`bench_annotations` as text."""
    lines = [
        f"{results['files']:,} annotations ({results['data']}, {results['split']}) with {results['boxes']:,} boxes, "
        f"{results['repeats']} rounds in turns, medians"
    ]
    for key, title in (("memory", "files in the page cache"), ("disk", "files read from the disk")):
        if results[key] is None:
            continue
        lines.append(title)
        for name, row in results[key].items():
            times = "" if name == PEER else f"   {1 / row['ratio']:.1f} times as fast"
            lines.append(f"  {name:<36} {row['median_ms']:9.0f} ms{times}")
    return lines


class _Loader:
    """Builds the data sets of both kinds."""

    def __init__(self, root: Path, split: str) -> None:
        self.folders = [
            folder
            for folder in find_voc_folders(root)
            if (folder / "ImageSets" / "Main" / f"{split}.txt").is_file()
        ]
        self.split = split
        self.classes = tuple(scan_classes(root, split=split, cache=False))
        self.xml_files = [
            folder / "Annotations" / f"{line.strip()}.xml"
            for folder in self.folders
            for line in (folder / "ImageSets" / "Main" / f"{split}.txt").read_text().splitlines()
            if line.strip()
        ]

    def theirs(self) -> Sequence[Any]:
        """MMDetection's."""
        import sosr_det.data.voc  # noqa: F401  (makes mmcv.ops importable)
        from mmdet.datasets import VOCDataset  # isort: skip

        return [VOCDataset(**arguments) for arguments in self._arguments()]

    def ours(self) -> Sequence[Any]:
        """The checked one."""
        from sosr_det.data.voc import CheckedVOCDataset

        return [CheckedVOCDataset(check_images=False, **arguments) for arguments in self._arguments()]

    def check_records(self) -> int:
        """Number of boxes.

        Raises:
            DataError: The two kinds differ, without a cache or with one.
        """
        theirs, num_boxes = self.theirs(), 0
        for cached in (False, True):
            self._prepare(CACHED if cached else UNCACHED)
            for expected, found in zip(theirs, self.ours(), strict=True):
                if len(expected) != len(found):
                    raise DataError(f"{len(found)} records, but MMDetection has {len(expected)}")
                for index in range(len(expected)):
                    record = expected.get_data_info(index)
                    if found.get_data_info(index) != record:
                        raise DataError(
                            f"{record['xml_path']}: the record differs from MMDetection's; degenerate boxes and boxes "
                            "beyond their image, which are corrected on loading, cannot be compared"
                        )
                    num_boxes += len(record["instances"])
        return num_boxes // 2

    def time(self, repeats: int, *, evict: bool) -> dict[str, dict[str, float]]:
        """Name -> ``median_ms`` and ``ratio``."""

        def before(name: str) -> None:
            self._prepare(name)
            if evict:
                self._evict()

        peers = {PEER: self.theirs, UNCACHED: self.ours, CACHED: self.ours}
        return summarise(time_interleaved(peers, repeats, warm_up=1, before=before))

    def _prepare(self, name: str) -> None:
        if name == UNCACHED:
            shutil.rmtree(os.environ[ENV_CACHE], ignore_errors=True)
        elif name == CACHED:
            self.ours()

    def _evict(self) -> None:
        for file in self.xml_files:
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)

    def _arguments(self) -> list[dict[str, Any]]:
        return [
            {
                "ann_file": str(folder / "ImageSets" / "Main" / f"{self.split}.txt"),
                "data_prefix": {"sub_data_root": str(folder)},
                "metainfo": {"classes": self.classes},
            }
            for folder in self.folders
        ]


def _annotation(generator: random.Random, image_id: str) -> str:
    width, height = generator.choice([(500, 375), (375, 500), (500, 333)])
    owner = "Tom &amp; co" if generator.random() < 0.01 else "someone"
    number_of_objects = min(1 + int(generator.expovariate(0.6)), 20)
    alphabetical = generator.random() < 0.4
    objects = "".join(_object(generator, width, height, alphabetical) for _ in range(number_of_objects))
    source = "<source>\n\t\t<database>none</database>\n\t\t<annotation>generated</annotation>\n\t</source>"
    size = (
        f"<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>3</depth>\n\t</size>"
    )
    owner_xml = f"<owner>\n\t\t<name>{owner}</name>\n\t</owner>"
    head = f"<folder>VOC2007</folder>\n\t<filename>{image_id}.jpg</filename>\n\t"
    rest = f"{source}\n\t{owner_xml}\n\t{size}\n\t<segmented>0</segmented>\n"
    body = f"{head}\n{objects}\t{rest}" if alphabetical else f"{head}{rest}{objects}"
    return f"<annotation>\n\t{body}</annotation>\n"


def _object(generator: random.Random, width: int, height: int, alphabetical: bool) -> str:
    name = generator.choice(VOC_CLASSES)
    box = _box(generator, width, height, "\t\t", alphabetical)
    flags = [
        f"<{tag}>{int(generator.random() < share)}</{tag}>"
        for tag, share in (("truncated", 0.5), ("difficult", 0.15))
    ]
    parts = ""
    if generator.random() < 0.2:
        for part in ("head", "hand", "foot"):
            part_box = _box(generator, width, height, "\t\t\t", False)
            parts += f"\t\t<part>\n\t\t\t<name>{part}</name>\n{part_box}\t\t</part>\n"
    pose = "<pose>Unspecified</pose>"
    if alphabetical:
        middle = f"{box}\t\t{flags[1]}\n\t\t{pose}\n\t\t{flags[0]}\n{parts}"
    else:
        middle = f"\t\t{pose}\n\t\t{flags[0]}\n\t\t{flags[1]}\n{box}{parts}"
    return f"\t<object>\n\t\t<name>{name}</name>\n{middle}\t</object>\n"


def _box(generator: random.Random, width: int, height: int, indent: str, alphabetical: bool) -> str:
    xmin, ymin = generator.randint(1, width - 10), generator.randint(1, height - 10)
    sides = {
        "xmin": xmin,
        "ymin": ymin,
        "xmax": generator.randint(xmin + 1, width),
        "ymax": generator.randint(ymin + 1, height),
    }
    order = sorted(sides) if alphabetical else sides
    lines = "".join(f"{indent}\t<{tag}>{sides[tag]}</{tag}>\n" for tag in order)
    return f"{indent}<bndbox>\n{lines}{indent}</bndbox>\n"


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """Neither use nor fill the user's own cache."""
    before = {name: os.environ.get(name) for name in (ENV_CACHE, annotation_cache.ENV_SWITCH)}
    os.environ[ENV_CACHE] = str(folder)
    os.environ[annotation_cache.ENV_SWITCH] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
