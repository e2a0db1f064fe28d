"""The files of a VOC image-set list: looked for, read, and each problem noted with the file and the reason."""

from __future__ import annotations

import os.path as osp
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import mmcv
import numpy as np
from mmengine.fileio import exists, get, isdir, isfile, list_from_file

from sosr_det.data.voc_annotations import AnnotationTable, MissingAnnotationError
from sosr_det.data.voc_dataset.annotations import is_local, other_classes, read_listed
from sosr_det.data.voc_dataset.images import AUTO, ImageFolder, find_images
from sosr_det.data.voc_dataset.problems import Problems
from sosr_det.data.voc_dataset.report import examples
from sosr_det.errors import DataError

_HOW_TO_GET_DATA = (
    "Set data_root to the folder that holds VOC2007/ and VOC2012/ (usually data/VOCdevkit), or make a small data set "
    "to try things with: sosr-det data demo"
)


@dataclass(frozen=True)
class VOCFiles:
    """Where the files of a list are.

    Attributes:
        ann_file: The list.
        image_folder, xml_folder: Of the images, and of the XML files.
        img_suffix: Of the images, with the dot; or ``'auto'``.
        check_images: Whether to look for each image.
        cache: Whether the cache of annotations may be used.
        backend_args: MMEngine's.
    """

    ann_file: str
    image_folder: str
    xml_folder: str
    img_suffix: str = ".jpg"
    check_images: bool = True
    cache: bool = True
    backend_args: dict | None = None

    def xml_path(self, image_id: str) -> str:
        """An image's annotation."""
        return osp.join(self.xml_folder, f"{image_id}.xml")

    def check_folders(self, **folders: str) -> None:
        """Refuse folders that do not exist; empty names are passed over.

        Raises:
            DataError: One does not.
        """
        for what, path in folders.items():
            if path and not isdir(path, backend_args=self.backend_args):
                raise DataError(f"{what}: {path}: no such folder. {_HOW_TO_GET_DATA}")

    def image_ids(self) -> list[str]:
        """The list.

        Raises:
            DataError: It is missing or empty, or has an image twice.
        """
        if not isfile(self.ann_file, backend_args=self.backend_args):
            raise DataError(
                f"ann_file: {self.ann_file or '(not set)'}: no such file; expected a list of image ids, one a line, "
                f"such as VOC2007/ImageSets/Main/trainval.txt. {_HOW_TO_GET_DATA}"
            )
        lines = list_from_file(self.ann_file, backend_args=self.backend_args)
        image_ids = [line.strip() for line in lines if line.strip()]
        if not image_ids:
            raise DataError(f"{self.ann_file}: no image ids in it; expected one a line")
        repeated = [image_id for image_id, count in Counter(image_ids).items() if count > 1]
        if repeated:
            raise DataError(
                f"{self.ann_file}: {len(repeated)} images are listed more than once: {examples(repeated)}. To see "
                "images more often in training, wrap the data set in RepeatDataset"
            )
        return image_ids

    def read(
        self, image_ids: list[str], classes: Sequence[str] | None, max_skipped_fraction: float
    ) -> tuple[list[str], AnnotationTable, Problems]:
        """Names of the images' files, annotations with a size for each, and what is wrong with which of them.

        Args:
            image_ids: The images to read.
            classes: Objects of other classes make their image unusable; None lets any class pass.
            max_skipped_fraction: For the problems, see :class:`Problems`.

        Raises:
            DataError: The folder of images is missing.
        """
        problems = Problems(self.ann_file, len(image_ids), max_skipped_fraction)
        names = self._image_names(image_ids, problems)
        found = read_listed(self.xml_folder, image_ids, self.backend_args, self.cache)
        for position, error in found.problems.items():
            xml_path = self.xml_path(image_ids[position])
            reason = str(error).removeprefix(f"{xml_path}: ")
            if isinstance(error, MissingAnnotationError):
                reason = f"no such file, but {self.ann_file} lists the image {image_ids[position]!r}"
                problems.advice["files"] = (
                    f"Expected one XML file per listed image{self._second_column_hint(image_ids[position])}. "
                    f"{_HOW_TO_GET_DATA}"
                )
            problems.bad_file(position, xml_path, reason)
        table = self._with_sizes(image_ids, names, found.table, problems)
        if classes is not None:
            problems.advice["classes"] = (
                f"Configured: {list(classes)}. Correct metainfo=dict(classes=...), or leave these "
                "objects out with unknown_classes='ignore'"
            )
            for position, counts in other_classes(table, set(classes)).items():
                problems.unknown_classes(position, self.xml_path(image_ids[position]), counts)
        return names, table, problems

    def _image_names(self, image_ids: list[str], problems: Problems) -> list[str]:
        """File names in the folder of images; missing ones are problems if they are looked for."""
        if not self.check_images and self.img_suffix != AUTO:
            return [f"{image_id}{self.img_suffix}" for image_id in image_ids]
        path = self.image_folder
        if not isdir(path, backend_args=self.backend_args):
            raise DataError(f"{path}: no such folder; expected the images. {_HOW_TO_GET_DATA}")
        folder = ImageFolder(path, self.backend_args, is_local(path, self.backend_args))
        names, wrong = find_images(folder, image_ids, self.img_suffix)
        problems.advice["images"] = _HOW_TO_GET_DATA
        for position, reason in wrong.items():
            problems.bad_image(position, osp.join(path, names[position]), reason)
        if wrong:
            image_id = image_ids[min(wrong)]
            other = folder.other_suffix(image_id)
            if other and self.img_suffix != AUTO:
                problems.advice["images"] = f"There is a {image_id}{other}: set img_suffix={other!r}"
        return names

    def _with_sizes(
        self, image_ids: list[str], names: list[str], table: AnnotationTable, problems: Problems
    ) -> AnnotationTable:
        """The table with sizes from the images themselves where the annotations have none."""
        unsized = [p for p in np.flatnonzero(table.sizes[:, 0] == 0).tolist() if p not in problems]
        if not unsized:
            return table
        sizes = table.sizes.copy()
        for position in unsized:
            img_path = osp.join(self.image_folder, names[position])
            xml_path = self.xml_path(image_ids[position])
            reason = self.image_problem(img_path)
            if reason is not None:
                problems.bad_file(
                    position, img_path, f"{reason}, and {xml_path} has no <size> to take its place"
                )
                continue
            content = get(img_path, backend_args=self.backend_args)
            height, width = mmcv.imfrombytes(content, backend="cv2").shape[:2]
            sizes[position] = width, height
        return replace(table, sizes=sizes)

    def _second_column_hint(self, image_id: str) -> str:
        if len(image_id.split()) == 2 and exists(
            self.xml_path(image_id.split()[0]), backend_args=self.backend_args
        ):
            return "; this list has a second column, as VOC's lists per class do: use the plain list"
        return ""

    def image_problem(self, img_path: str) -> str | None:
        """Why the image cannot be used, or None if it can be read and decoded."""
        try:
            content = get(img_path, backend_args=self.backend_args)
        except OSError as error:
            return f"the image cannot be read ({type(error).__name__}: {error})"
        if not content:
            return "the image file is empty"
        try:
            image = mmcv.imfrombytes(content, backend="cv2")
        except Exception as error:
            return f"the image cannot be decoded ({error})"
        return "the image cannot be decoded" if image is None else None
