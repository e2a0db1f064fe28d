"""Images of a list that cannot be used: gathered, and refused or left out by an explicit policy."""

from __future__ import annotations

from collections import Counter, defaultdict

from sosr_det.data.voc_dataset.images import MISSING
from sosr_det.data.voc_dataset.report import counts_text, examples
from sosr_det.errors import DataError

_NUM_EXAMPLES = 5


class Problems:
    """What is wrong with which image.

    Args:
        ann_file: The list, for messages.
        num_images: Images that are to be loaded.
        max_skipped_fraction: More than this share of them is refused even if they may be left out, 0 to 1.
    """

    def __init__(self, ann_file: str, num_images: int, max_skipped_fraction: float) -> None:
        self._ann_file = ann_file
        self._num_images = num_images
        self._max_fraction = max_skipped_fraction
        self._missing: dict[int, str] = {}
        self._files: dict[int, list[tuple[str, str]]] = defaultdict(list)
        self._unknown: dict[int, Counter[str]] = {}
        self._xml_paths: dict[int, str] = {}
        self.advice: dict[str, str] = {}  # what to do about "images", "files" and "classes"

    def bad_image(self, position: int, path: str, reason: str) -> None:
        """The image file does not exist, or several could be meant."""
        if reason == MISSING:
            self._missing[position] = path
        else:
            self.bad_file(position, path, reason)

    def bad_file(self, position: int, file: str, reason: str) -> None:
        """Its annotation or image cannot be used."""
        self._files[position].append((file, reason))

    def unknown_classes(self, position: int, xml_path: str, counts: Counter[str]) -> None:
        """It has objects of classes that are not configured."""
        self._unknown[position] = counts
        self._xml_paths[position] = xml_path

    def __contains__(self, position: int) -> bool:
        return position in self._missing or position in self._files or position in self._unknown

    def __len__(self) -> int:
        return len(self._missing.keys() | self._files.keys() | self._unknown.keys())

    def listed(self) -> list[tuple[str, str]]:
        """``(file, reason)``, one per image, in the list's order."""
        result = []
        for position in sorted(self._missing.keys() | self._files.keys() | self._unknown.keys()):
            if position in self._missing:
                result.append((self._missing[position], MISSING))
            elif position in self._files:
                result.append(self._files[position][0])
            else:
                counts = counts_text(self._unknown[position])
                result.append(
                    (self._xml_paths[position], f"objects of classes that are not configured: {counts}")
                )
        return result

    def refuse(self) -> DataError:
        """The error for a policy that leaves nothing out."""
        few = len(self) <= self._max_fraction * self._num_images
        hint = "\non_problem='skip' leaves such images out, and says so" if few else ""
        return DataError(self._text() + hint)

    def check_limit(self) -> None:
        """For the policy that leaves such images out.

        Raises:
            DataError: They are too many.
        """
        if len(self) > self._max_fraction * self._num_images:
            raise DataError(
                f"{self._text()}\non_problem='skip' leaves out at most {self._max_fraction:.4g} of the images, but "
                f"{len(self)} of {self._num_images} cannot be used: correct the data, or raise max_skipped_fraction"
            )

    def _text(self) -> str:
        sections = [text for text in (self._missing_text(), self._files_text(), self._unknown_text()) if text]
        if len(sections) == 1:
            return sections[0]
        lines = "".join(f"\n- {section}" for section in sections)
        return f"{self._ann_file}: {len(self)} of its {self._num_images} images cannot be used:{lines}"

    def _missing_text(self) -> str:
        if not self._missing:
            return ""
        return (
            f"{len(self._missing)} of the {self._num_images} images listed in {self._ann_file} are missing: "
            f"{examples(list(self._missing.values()))}.{self._advice('images')}"
        )

    def _files_text(self) -> str:
        entries = [f"{file}: {reason}" for at in sorted(self._files) for file, reason in self._files[at]]
        if not entries:
            return ""
        advice = self._advice("files")
        if len(entries) == 1:
            return f"{entries[0]}.{advice}"
        shown = "".join(f"\n    {entry}" for entry in entries[:_NUM_EXAMPLES])
        more = f"\n    ... and {len(entries) - _NUM_EXAMPLES} more" if len(entries) > _NUM_EXAMPLES else ""
        count = f"{len(self._files)} of the {self._num_images} images listed in {self._ann_file}"
        return f"{count} have files that cannot be used:{shown}{more}" + (f"\n   {advice}" if advice else "")

    def _unknown_text(self) -> str:
        if not self._unknown:
            return ""
        total = sum(self._unknown.values(), Counter())
        return (
            f"{self._ann_file}: objects of classes that are not configured: {counts_text(total)}."
            f"{self._advice('classes')}"
        )

    def _advice(self, kind: str) -> str:
        return f" {self.advice[kind]}" if self.advice.get(kind) else ""
