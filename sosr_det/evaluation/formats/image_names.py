"""Which image of an image set a file means: by id, by file name, or by the number that COCO's files make of an id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

_DIGITS = re.compile(r"[0-9_]{1,18}")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".xml")


class ImageNames:
    """Looks images up by what others call them.

    A text is an id of the set, or a file name or path whose last part without suffix is one. A whole number, or a
    text of digits that is no id, stands for the id with the same digits: 1 for ``000001``, 2008000002 for
    ``2008_000002``.

    Args:
        image_ids: The image set; indices count in this order.
    """

    def __init__(self, image_ids: Sequence[str]) -> None:
        self.image_ids = image_ids
        self._by_id = {image_id: index for index, image_id in enumerate(image_ids)}
        self._by_number: dict[int, list[int]] = {}
        for index, image_id in enumerate(image_ids):
            if (number := _number(image_id)) is not None:
                self._by_number.setdefault(number, []).append(index)

    def __len__(self) -> int:
        return len(self.image_ids)

    def index(self, name: str | int) -> int | None:
        """The index of an image, None for one that is not in the set.

        Raises:
            ValueError: The number stands for several images.
        """
        if isinstance(name, str):
            if name in self._by_id:
                return self._by_id[name]
            if (index := self.index_of_path(name)) is not None:
                return index
        number = _number(name) if isinstance(name, str) else name
        found = self._by_number.get(number, []) if number is not None else []
        if len(found) > 1:
            both = " and ".join(repr(self.image_ids[index]) for index in found[:2])
            raise ValueError(f"{name!r} may be {both}: ids are needed as the image set has them")
        return found[0] if found else None

    def index_of_path(self, path: str) -> int | None:
        """The index of an image by its file's name; folders and suffix do not count."""
        last = PurePosixPath(path.replace("\\", "/"))
        return self._by_id.get(last.stem if last.suffix.lower() in _SUFFIXES else last.name)


def _number(image_id: str) -> int | None:
    digits = image_id.replace("_", "")
    return int(digits) if digits and _DIGITS.fullmatch(image_id) else None
