"""PASCAL VOC detection data as MMDetection reads it, with its silent steps checked and counted."""

from __future__ import annotations

import colorsys
import hashlib
import json
import logging
import os.path as osp
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import mmcv
from mmengine.fileio import exists, get, isdir, isfile, list_from_file
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from sosr_det.compat import install_mmcv_ops
from sosr_det.data.voc_xml import parse_voc_xml
from sosr_det.errors import ConfigError, DataError

install_mmcv_ops()  # mmdet.datasets imports mmcv.ops
from mmdet.datasets import VOCDataset  # noqa: E402

_HOW_TO_GET_DATA = (
    "Set data_root to the folder that holds VOC2007/ and VOC2012/ (usually data/VOCdevkit), or make a small data set "
    "to try things with: sosr-det data demo"
)
_NUM_EXAMPLES = 5


@dataclass
class VOCLoadReport:
    """What loading a VOC data set found and changed. Counts are over the whole image-set list.

    Attributes:
        num_images: Images in the list.
        num_images_filtered: Of those, left out by ``filter_cfg`` (no boxes at all, or too small an image).
        num_boxes: Boxes of the configured classes that are kept, with those marked to be ignored.
        num_difficult: Of those, marked difficult in the XML.
        num_ignored_small: Of those, not difficult, but ignored because of ``bbox_min_size``.
        num_clipped: Of those, cut off at the image's border.
        num_degenerate: Boxes left out because ``xmax <= xmin`` or ``ymax <= ymin``.
        degenerate: Where these are: ``(XML file, class, [xmin, ymin, xmax, ymax])``, coordinates as in the file.
        num_outside: Boxes left out because nothing of them lies inside the image.
        outside: Where these are, in the same form.
        unknown_classes: Class names that are not configured, with their number of boxes.
        boxes_per_class: Kept boxes by configured class, in the configured order.
    """

    num_images: int = 0
    num_images_filtered: int = 0
    num_boxes: int = 0
    num_difficult: int = 0
    num_ignored_small: int = 0
    num_clipped: int = 0
    num_degenerate: int = 0
    degenerate: list[tuple[str, str, list[int]]] = field(default_factory=list)
    num_outside: int = 0
    outside: list[tuple[str, str, list[int]]] = field(default_factory=list)
    unknown_classes: dict[str, int] = field(default_factory=dict)
    boxes_per_class: dict[str, int] = field(default_factory=dict)


@DATASETS.register_module(force=True)  # sosr_det.register puts a lazy stand-in under this name
class CheckedVOCDataset(VOCDataset):
    """MMDetection's ``VOCDataset``, louder: the same records, with every file and box checked on loading.

    A record is MMDetection's: 0-based integer boxes ``[xmin - 1, ymin - 1, xmax - 1, ymax - 1]``, difficult boxes
    with ``ignore_flag`` 1. On clean data (VOC2007, VOC2012) nothing differs. Otherwise:

    - a missing folder, list, XML file or image, malformed XML and undecodable images are a :class:`DataError`;
    - objects of classes that are not configured are an error (MMDetection skips them);
    - boxes with ``xmax <= xmin`` or ``ymax <= ymin`` are left out (they make ``loss_bbox`` infinite), as are boxes
      wholly outside their image; boxes partly outside are cut off at its border;
    - all of this is counted in :attr:`load_report`, and what was changed is one warning in the log.

    This holds for validation data too: :mod:`sosr_det.evaluation.formats.ground_truth` counts a left-out box as ground
    truth.

    Args:
        img_suffix: Suffix of the image files, with the dot.
        check_images: Look for each listed image on loading (one call to the file system each).
        unknown_classes: ``'error'``, or ``'ignore'`` for one warning with the counts.
        **kwargs: MMDetection's: ``data_root``, ``ann_file``, ``data_prefix=dict(sub_data_root=...)``, ``metainfo``,
            ``filter_cfg``, ``pipeline``, ``test_mode``, ... ``metainfo=dict(classes=(...))`` sets the classes.

    Attributes:
        load_report: A :class:`VOCLoadReport`; None until the data is loaded (``lazy_init=True``).

    Raises:
        DataError: As above, and for an image listed twice.
        ConfigError: For class names given twice or not as a sequence, too short a palette, ``bbox_min_size``
            together with ``test_mode`` (small ground truth would not count), or an unusable option.

    Source: MMDetection 3, ``mmdet/datasets/{voc,xml_style}.py``.
    """

    def __init__(
        self,
        *,
        img_suffix: str = ".jpg",
        check_images: bool = True,
        unknown_classes: Literal["error", "ignore"] = "error",
        **kwargs: Any,
    ) -> None:
        if unknown_classes not in ("error", "ignore"):
            raise ConfigError(f"unknown_classes must be 'error' or 'ignore', got {unknown_classes!r}")
        if not img_suffix.startswith("."):
            raise ConfigError(f"img_suffix must start with a dot, such as '.jpg', got {img_suffix!r}")
        if kwargs.get("test_mode") and (kwargs.get("filter_cfg") or {}).get("bbox_min_size") is not None:
            raise ConfigError(
                "filter_cfg.bbox_min_size cannot be used with test_mode=True: small ground truth would be counted as "
                "difficult. Remove it from the validation and test data"
            )
        self.img_suffix = img_suffix
        self.check_images = check_images
        self.unknown_classes = unknown_classes
        self.load_report: VOCLoadReport | None = None
        super().__init__(**kwargs)
        if self._metainfo["classes"] != VOCDataset.METAINFO["classes"]:
            # MMDetection guesses it from the path and then prints VOC's class names beside other classes' results.
            self._metainfo["dataset_type"] = None

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping[str, Any] | None = None) -> dict[str, Any]:
        old_style = {"CLASSES", "PALETTE"} & set(metainfo or {})
        if old_style:
            raise ConfigError(
                f"metainfo has {sorted(old_style)}, which nothing reads: write them in lower case"
            )
        loaded = super()._load_metainfo(metainfo)
        classes = loaded["classes"]
        if isinstance(classes, str) or not classes or not all(isinstance(name, str) for name in classes):
            raise ConfigError(
                f"metainfo.classes must be a sequence of names, or a file with one a line, got {classes!r}"
                + ("; a single class needs a comma: ('name',)" if isinstance(classes, str) else "")
            )
        classes = tuple(classes)
        duplicates = sorted(name for name, count in Counter(classes).items() if count > 1)
        if duplicates:
            raise ConfigError(f"metainfo.classes lists a class twice: {duplicates}")
        loaded["classes"] = classes
        if "palette" in (metainfo or {}):
            if isinstance(loaded["palette"], list) and len(loaded["palette"]) < len(classes):
                raise ConfigError(
                    f"metainfo.palette has {len(loaded['palette'])} colours for {len(classes)} classes; leave it out "
                    "to have them chosen"
                )
        else:
            loaded["palette"] = _palette(len(classes))
        return loaded

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the list and all annotations; fills :attr:`load_report` and logs what was changed.

        Raises:
            DataError: See the class.
        """
        classes = self._metainfo["classes"]
        self.cat2label = {name: label for label, name in enumerate(classes)}
        image_ids = self._read_image_ids()
        self.load_report = VOCLoadReport(num_images=len(image_ids), boxes_per_class=dict.fromkeys(classes, 0))
        if self.check_images:
            self._check_images_exist(image_ids)
        records = [
            self.parse_data_info(
                {
                    "img_id": image_id,
                    "file_name": osp.join(self.img_subdir, f"{image_id}{self.img_suffix}"),
                    "xml_path": self._xml_path(image_id),
                }
            )
            for image_id in image_ids
        ]
        self._log_report()
        return records

    def parse_data_info(self, img_info: dict[str, Any]) -> dict[str, Any]:
        """MMDetection's record of one image, from its XML file.

        Raises:
            DataError: If the file is missing or malformed, or gives no size and the image cannot be read either.
        """
        xml_path = img_info["xml_path"]
        try:
            content = get(xml_path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise DataError(
                f"{xml_path}: no such file, but {self.ann_file} lists the image {img_info['img_id']!r}. Expected one "
                f"XML file per listed image{self._second_column_hint(img_info['img_id'])}. {_HOW_TO_GET_DATA}"
            ) from error
        annotation = parse_voc_xml(content, xml_path)
        img_path = osp.join(self.sub_data_root, img_info["file_name"])
        width, height = annotation.size or self._decoded_size(img_path, xml_path)
        instances = []
        for obj in annotation.objects:
            if obj.name not in self.cat2label:
                counts = self.load_report.unknown_classes
                counts[obj.name] = counts.get(obj.name, 0) + 1
                continue
            # As MMDetection: fractions are cut off before anything else.
            written = [int(value) for value in obj.box]
            box = self._usable_box(written, width, height, (xml_path, obj.name, written))
            if box is not None:
                instances.append(self._instance(obj.name, obj.difficult, box))
        return {
            "img_path": img_path,
            "img_id": img_info["img_id"],
            "xml_path": xml_path,
            "height": height,
            "width": width,
            "instances": instances,
        }

    def filter_data(self) -> list[dict[str, Any]]:
        """MMDetection's filter (``filter_empty_gt``, ``min_size``), counted."""
        kept = super().filter_data()
        self.load_report.num_images_filtered = len(self.data_list) - len(kept)
        return kept

    def prepare_data(self, idx: int) -> Any:
        """Record ``idx`` after the pipeline.

        Raises:
            DataError: If the pipeline failed and the image turns out to be missing or undecodable. Any other failure
                is passed on, with a note that names the image.
        """
        try:
            return super().prepare_data(idx)
        except DataError:
            raise
        except Exception as error:
            img_path = self.get_data_info(idx)["img_path"]
            problem = self._image_problem(img_path)
            if problem is not None:
                raise DataError(
                    f"{img_path}: {problem}. Replace the file, or take it off {self.ann_file}"
                ) from error
            error.add_note(
                f"while preparing {img_path} (entry {idx} of {self.ann_file}); the image itself is readable"
            )
            raise

    def fingerprint(self) -> str:
        """Identity of the data for run records: which images, boxes and classes, whatever their order.

        Covers the configured classes and, of each record after filtering, the image's id and size and each box with its
        class and whether it is ignored. Does not cover paths or the images' content.

        Returns:
            SHA-256 in hexadecimal, 64 characters.
        """
        classes = self._metainfo["classes"]
        lines = []
        for index in range(len(self)):
            record = self.get_data_info(index)
            boxes = sorted(
                [classes[i["bbox_label"]], i["ignore_flag"], *i["bbox"]] for i in record["instances"]
            )
            lines.append(json.dumps([record["img_id"], record["width"], record["height"], boxes]))
        digest = hashlib.sha256(json.dumps(list(classes)).encode())
        for line in sorted(lines):
            digest.update(b"\n" + line.encode())
        return digest.hexdigest()

    @property
    def num_images(self) -> int:
        """Number of images after filtering; the same as ``len(dataset)``."""
        return len(self)

    def _xml_path(self, image_id: str) -> str:
        return osp.join(self.sub_data_root, self.ann_subdir, f"{image_id}.xml")

    def _read_image_ids(self) -> list[str]:
        for what, path in (("data_root", self.data_root), ("sub_data_root", self.sub_data_root)):
            if path and not isdir(path, backend_args=self.backend_args):
                raise DataError(f"{what}: {path}: no such folder. {_HOW_TO_GET_DATA}")
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
                f"{self.ann_file}: {len(repeated)} images are listed more than once: {_examples(repeated)}. To see "
                "images more often in training, wrap the data set in RepeatDataset"
            )
        return image_ids

    def _second_column_hint(self, image_id: str) -> str:
        if len(image_id.split()) == 2 and exists(
            self._xml_path(image_id.split()[0]), backend_args=self.backend_args
        ):
            return "; this list has a second column, as VOC's lists per class do: use the plain list"
        return ""

    def _check_images_exist(self, image_ids: list[str]) -> None:
        folder = osp.join(self.sub_data_root, self.img_subdir)
        if not isdir(folder, backend_args=self.backend_args):
            raise DataError(f"{folder}: no such folder; expected the images. {_HOW_TO_GET_DATA}")
        missing = [
            path
            for path in (osp.join(folder, f"{image_id}{self.img_suffix}") for image_id in image_ids)
            if not exists(path, backend_args=self.backend_args)
        ]
        if not missing:
            return
        stem = missing[0][: -len(self.img_suffix)]
        others = [
            s for s in (".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".PNG", ".bmp") if s != self.img_suffix
        ]
        found = next((s for s in others if exists(stem + s, backend_args=self.backend_args)), None)
        hint = (
            f"There is a {osp.basename(stem)}{found}: set img_suffix={found!r}" if found else _HOW_TO_GET_DATA
        )
        raise DataError(
            f"{len(missing)} of the {len(image_ids)} images listed in {self.ann_file} are missing: "
            f"{_examples(missing)}. {hint}"
        )

    def _decoded_size(self, img_path: str, xml_path: str) -> tuple[int, int]:
        problem = self._image_problem(img_path)
        if problem is not None:
            raise DataError(f"{img_path}: {problem}, and {xml_path} has no <size> to take its place")
        height, width = mmcv.imfrombytes(get(img_path, backend_args=self.backend_args), backend="cv2").shape[
            :2
        ]
        return width, height

    def _image_problem(self, img_path: str) -> str | None:
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

    def _usable_box(
        self, box: list[int], width: int, height: int, where: tuple[str, str, list[int]]
    ) -> list[int] | None:
        """The box (1-based, inclusive) inside the image, or None if nothing is left; counted in the report."""
        report = self.load_report
        xmin, ymin, xmax, ymax = box
        if xmax <= xmin or ymax <= ymin:
            report.num_degenerate += 1
            report.degenerate.append(where)
            return None
        clipped = [max(xmin, 1), max(ymin, 1), min(xmax, width), min(ymax, height)]
        if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            report.num_outside += 1
            report.outside.append(where)
            return None
        report.num_clipped += clipped != box
        return clipped

    def _instance(self, name: str, difficult: bool, box: list[int]) -> dict[str, Any]:
        """MMDetection's record of a box that is 1-based and inclusive."""
        report = self.load_report
        report.num_boxes += 1
        report.boxes_per_class[name] += 1
        report.num_difficult += difficult
        small = self.bbox_min_size is not None and min(box[2] - box[0], box[3] - box[1]) < self.bbox_min_size
        report.num_ignored_small += small and not difficult
        return {
            "ignore_flag": int(difficult or small),
            "bbox": [value - 1 for value in box],
            "bbox_label": self.cat2label[name],
        }

    def _log_report(self) -> None:
        report = self.load_report
        classes = list(self._metainfo["classes"])
        problems = []
        if report.unknown_classes:
            counts = ", ".join(
                f"{name!r} ({count})" for name, count in sorted(report.unknown_classes.items())
            )
            if self.unknown_classes == "error":
                raise DataError(
                    f"{self.ann_file}: objects of classes that are not configured: {counts}. Configured: {classes}. "
                    "Correct metainfo=dict(classes=...), or leave these objects out with unknown_classes='ignore'"
                )
            problems.append(f"objects of classes that are not configured, left out: {counts}")
        absent = [name for name, count in report.boxes_per_class.items() if count == 0]
        if absent:
            problems.append(f"no boxes of {len(absent)} of the {len(classes)} configured classes: {absent}")
        if report.num_degenerate:
            problems.append(
                f"degenerate boxes (xmax <= xmin or ymax <= ymin), left out: {report.num_degenerate} "
                f"({_examples([path for path, _, _ in report.degenerate])})"
            )
        if report.num_outside:
            problems.append(
                f"boxes wholly outside their image, left out: {report.num_outside} "
                f"({_examples([path for path, _, _ in report.outside])})"
            )
        if report.num_clipped:
            problems.append(f"boxes partly outside their image, cut off at its border: {report.num_clipped}")
        if problems:
            text = "\n".join(f"  - {problem}" for problem in problems)
            print_log(f"{self.ann_file}:\n{text}", logger="current", level=logging.WARNING)
        if self.bbox_min_size is not None:
            num_candidates = report.num_boxes - report.num_difficult
            print_log(
                f"{self.ann_file}: bbox_min_size={self.bbox_min_size} turns {report.num_ignored_small} of "
                f"{num_candidates} boxes that are not difficult into ignored ones",
                logger="current",
            )


def _examples(names: list[str]) -> str:
    shown = ", ".join(names[:_NUM_EXAMPLES])
    return shown if len(names) <= _NUM_EXAMPLES else f"{shown}, ... ({len(names)} in all)"


def _palette(num_classes: int) -> list[tuple[int, int, int]]:
    """VOC's colours, continued with distinct ones: a list, since MMDetection takes a tuple for one colour."""
    colours = list(VOCDataset.METAINFO["palette"])
    while len(colours) < num_classes:
        # Steps of the golden ratio around the colour circle never come close to a colour seen before.
        hue = len(colours) * 0.6180339887498949 % 1
        colours.append(tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.75, 0.9)))
    return colours[:num_classes]
