"""Where a PASCAL VOC folder keeps its annotations and image-set lists, and reading such a list.

Layout: the development kit's documentation, http://host.robots.ox.ac.uk/pascal/VOC/.
"""

from __future__ import annotations

import re
from pathlib import Path

from sosr_det.errors import DataError
from sosr_det.evaluation.formats.text import shown


def find_voc_folder(root: str | Path, year: str) -> Path:
    """The folder with ``Annotations/`` and ``ImageSets/Main/`` of one year's data.

    Args:
        root: The folder that holds ``VOC<year>`` (usually called VOCdevkit), the folder above it, or the
            ``VOC<year>`` folder itself.
        year: Such as ``2007``.

    Raises:
        DataError: none of these; the message says where was looked.
    """
    root = Path(root)
    name = f"VOC{year}"
    candidates = [root / name, root / "VOCdevkit" / name]
    if re.fullmatch(r"VOC\d{4}", root.name) is None or root.name == name:
        candidates.append(root)  # a folder of the year's data under any name but another year's
    parts = ("Annotations", "ImageSets/Main")
    for folder in candidates:
        if all((folder / part).is_dir() for part in parts):
            return folder
    looked = ", ".join(str(folder) for folder in candidates)
    what = "no such folder" if not root.is_dir() else f"no {name} in it"
    raise DataError(
        f"{root}: {what}. Looked for Annotations/ and ImageSets/Main/ in: {looked}. The root is the folder that "
        f"holds {name}/, usually called VOCdevkit"
    )


def image_set_file(folder: Path, split: str) -> Path:
    """The list of a split's images, ``ImageSets/Main/<split>.txt``.

    Raises:
        DataError: no such list; the message names those that are there.
    """
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not path.is_file():
        # Lists per class ("cat_test.txt") are beside them and are no splits.
        there = sorted(p.stem for p in path.parent.glob("*.txt") if "_" not in p.stem)
        raise DataError(f"{path}: no such file. Splits that are there: {', '.join(there) or 'none'}")
    return path


def read_image_set(path: str | Path) -> list[str]:
    """Image ids of an image-set list such as ``ImageSets/Main/test.txt``, one a line; blank lines are skipped.

    Raises:
        DataError: If the file is missing or empty, a line holds more than an id, or an id comes twice.
    """
    path = Path(path)
    what = "an image-set list (one image id a line)"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected {what}") from error
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: not {what}: {error}") from error
    first_line: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 1:
            raise DataError(
                f"{path}:{number}: expected one image id, got {shown(line)}. Lists per class (such as "
                "'cat_test.txt') have a second column; the plain list (such as 'test.txt') is needed here"
            )
        image_id = fields[0]
        if image_id in first_line:
            raise DataError(
                f"{path}:{number}: image {shown(image_id)} is listed twice, first in line {first_line[image_id]}"
            )
        first_line[image_id] = number
    if not first_line:
        raise DataError(f"{path}: no image ids in it")
    return list(first_line)
