"""Finding the image files of a list with one look at their folder, instead of one question per image."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence

from mmengine.fileio import exists

AUTO = "auto"
MISSING = "the image is missing"
# In this order, other cases too, where the suffix is searched for; all can be decoded by OpenCV.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class ImageFolder:
    """The folder of the images.

    Args:
        path: The folder.
        backend_args: MMEngine's, for folders that are not on this machine: those are asked about each file.
        is_local: Whether it is on this machine: it is then listed once.
    """

    def __init__(self, path: str, backend_args: dict | None = None, is_local: bool = True) -> None:
        self.path = path
        self._backend_args = backend_args
        self._is_local = is_local
        self._listings: dict[str, set[str]] = {}
        self._by_stem: dict[str, dict[str, list[str]]] = {}

    def exists(self, name: str) -> bool:
        """Whether there is such a file; ``name`` is relative to the folder."""
        folder, _, base = name.rpartition("/")
        # What the listing lacks may still exist: a link's target, a name in another case, an absolute path.
        return (self._is_local and base in self._listing(folder)) or exists(
            os.path.join(self.path, name), backend_args=self._backend_args
        )

    def find(self, image_id: str, suffix: str) -> tuple[str | None, str]:
        """``(file name, "")`` of an image, or ``(None, what is wrong)``.

        Args:
            image_id: The image, without suffix.
            suffix: With the dot, or ``'auto'`` for whichever of :data:`SUFFIXES` there is.
        """
        if suffix != AUTO:
            name = f"{image_id}{suffix}"
            return (name, "") if self.exists(name) else (None, MISSING)
        found = self._candidates(image_id)
        if len(found) > 1:
            return None, f"several images could be meant: {', '.join(found)}"
        return (found[0], "") if found else (None, MISSING)

    def other_suffix(self, image_id: str) -> str | None:
        """A suffix with which there is an image."""
        found = self._candidates(image_id)
        return os.path.splitext(found[0])[1] if found else None

    def _candidates(self, image_id: str) -> list[str]:
        if not self._is_local:
            spellings = [spelling for s in SUFFIXES for spelling in (s, s.upper())]
            return [f"{image_id}{s}" for s in spellings if self.exists(f"{image_id}{s}")]
        folder, slash, stem = image_id.rpartition("/")
        if folder not in self._by_stem:
            by_stem = defaultdict(list)
            for name in sorted(self._listing(folder, links=True)):
                base, suffix = os.path.splitext(name)
                if suffix.lower() in SUFFIXES:
                    by_stem[base].append(name)
            self._by_stem[folder] = by_stem
        found = [f"{folder}{slash}{name}" for name in self._by_stem[folder].get(stem, ())]
        return [name for name in found if self.exists(name)]

    def _listing(self, folder: str, links: bool = False) -> set[str]:
        """Names in a folder; links only if asked for, since their targets may be missing."""
        key = f"{folder}\0links" if links else folder
        if key not in self._listings:
            try:
                with os.scandir(os.path.join(self.path, folder)) as entries:
                    names = {entry.name for entry in entries if links or not entry.is_symlink()}
            except OSError:
                names = set()
            self._listings[key] = names
        return self._listings[key]


def find_images(
    folder: ImageFolder, image_ids: Sequence[str], suffix: str
) -> tuple[list[str], dict[int, str]]:
    """File names of the images, and what is wrong by position; such an image's name is a guess."""
    names, problems = [], {}
    for position, image_id in enumerate(image_ids):
        name, problem = folder.find(image_id, suffix)
        if name is None:
            problems[position] = problem
            name = f"{image_id}{SUFFIXES[0] if suffix == AUTO else suffix}"
        names.append(name)
    return names, problems
