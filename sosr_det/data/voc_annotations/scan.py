"""Which classes a VOC-format data set has, found by reading its annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from sosr_det.data.voc_annotations.read import read_annotations
from sosr_det.errors import DataError

_LAYOUT = "a folder with Annotations/, JPEGImages/ and ImageSets/Main/, or one that holds such folders (VOC2007/, ...)"


def find_voc_folders(root: str | Path) -> list[Path]:
    """Folders with ``Annotations/``: ``root`` itself, else those in it, else those in ``root/VOCdevkit``; sorted.

    Raises:
        DataError: There is none.
    """
    root = Path(root)
    if (root / "Annotations").is_dir():
        return [root]
    for parent in (root, root / "VOCdevkit"):
        found = sorted(folder.parent for folder in parent.glob("*/Annotations") if folder.is_dir())
        if found:
            return found
    raise DataError(f"{root}: no VOC-format data there; expected {_LAYOUT}")


def scan_classes(
    root: str | Path,
    *,
    split: str | None = None,
    ann_files: Sequence[str | Path] = (),
    cache: bool = True,
) -> dict[str, int]:
    """Class name -> number of objects, sorted by name (by code points); names exactly as written.

    The order is that of labels for a detector: it does not depend on the files' order, and for VOC itself it is the
    development kit's. Two spellings are two classes, so show the list; and write it into the config and the run
    record, since another scan may find another list.

    Args:
        root: A data set as of :func:`find_voc_folders`.
        split: Read the images of ``ImageSets/Main/<split>.txt`` only, in each folder that has it.
        ann_files: Read the images of these lists only; paths relative to ``root`` or absolute, below a folder with
            ``Annotations/``. With neither: every annotation that there is.
        cache: As of :func:`~sosr_det.data.voc_annotations.read.read_annotations`.

    Raises:
        DataError: No such data or list, a bad annotation, or no object at all.
    """
    if split is not None and ann_files:
        raise ValueError("give split or ann_files, not both")
    root = Path(root)
    if ann_files:
        paths = [xml for ann_file in ann_files for xml in _listed(root / ann_file)]
    elif split is not None:
        folders = find_voc_folders(root)
        lists = [folder / "ImageSets" / "Main" / f"{split}.txt" for folder in folders]
        there = [path for path in lists if path.is_file()]
        if not there:
            raise DataError(f"{root}: no list {split!r}; looked for {', '.join(map(str, lists))}")
        paths = [xml for path in there for xml in _listed(path)]
    else:
        paths = [
            str(path)
            for folder in find_voc_folders(root)
            for path in sorted((folder / "Annotations").glob("*.xml"))
        ]
    counts = Counter(read_annotations(paths, cache=cache).table.class_counts) if paths else Counter()
    if not counts:
        raise DataError(f"{root}: no object in {len(paths)} annotations, so no class can be found")
    return dict(sorted(counts.items()))


def _listed(path: Path) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: this list of images cannot be read ({error})") from error
    folder = next((p / "Annotations" for p in path.parents if (p / "Annotations").is_dir()), None)
    if folder is None:
        raise DataError(f"{path}: no folder above it has Annotations/; expected {_LAYOUT}")
    return (str(folder / f"{line.strip()}.xml") for line in lines if line.strip())
