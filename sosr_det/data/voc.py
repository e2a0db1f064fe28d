"""PASCAL VOC detection data as MMDetection reads it, with its silent steps checked and counted."""

from __future__ import annotations

import hashlib
import json
import logging
import os.path as osp
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from mmengine.dataset import force_full_init
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from sosr_det.compat import install_mmcv_ops
from sosr_det.data.holdout import check_holdout, holdout_part
from sosr_det.data.unreadable import check_file_end
from sosr_det.data.voc_dataset.files import VOCFiles
from sosr_det.data.voc_dataset.images import AUTO
from sosr_det.data.voc_dataset.metainfo import (
    check_old_style,
    check_palette,
    checked_classes,
    continued_palette,
)
from sosr_det.data.voc_dataset.records import VOCRecords, build_records, usable_boxes
from sosr_det.data.voc_dataset.report import VOCLoadReport
from sosr_det.errors import ConfigError, DataError, UnreadableImageError

install_mmcv_ops()  # mmdet.datasets imports mmcv.ops
from mmdet.datasets import VOCDataset  # noqa: E402

_POLICIES = ("error", "skip")


@DATASETS.register_module(force=True)  # sosr_det.register puts a lazy stand-in under this name
class CheckedVOCDataset(VOCDataset):
    """MMDetection's ``VOCDataset``, louder and faster: the same records, with every file and box checked on loading.

    A record is MMDetection's: 0-based integer boxes ``[xmin - 1, ymin - 1, xmax - 1, ymax - 1]``, difficult boxes
    with ``ignore_flag`` 1. On clean data (VOC2007, VOC2012) nothing differs. Otherwise:

    - a missing folder, list, XML file or image, malformed XML, and an undecodable image whose XML gives no size, are a
      :class:`DataError`;
    - objects of classes that are not configured are an error (MMDetection skips them);
    - boxes with ``xmax <= xmin`` or ``ymax <= ymin`` are left out (they make ``loss_bbox`` infinite), as are boxes
      wholly outside their image; boxes partly outside are cut off at its border;
    - all of this is counted in :attr:`load_report`, and what was changed is one warning in the log.

    This holds for validation data too: :mod:`sosr_det.evaluation.formats.ground_truth` counts a left-out box as ground
    truth.

    Annotations are read by :func:`sosr_det.data.voc_annotations.read_annotations`, in a fraction of the time of an XML
    parser per file, and from this user's cache where they have not changed.

    Args:
        img_suffix: Suffix of the image files, with the dot; or ``'auto'``: whichever image there is of that name (an
            error if there are several).
        check_images: Look for each listed image on loading. Their content is not read: ``sosr-det data verify`` does.
        unknown_classes: Objects of classes that are not configured make their image unusable (``'error'``), or are
            left out with one warning (``'ignore'``).
        on_problem: What to do about images that cannot be used: missing or with a bad annotation, or with objects of
            unknown classes under ``unknown_classes='error'``. ``'error'`` refuses the data set, with all of them
            counted and the first ones named. ``'skip'`` leaves them out, counted and listed in :attr:`load_report`
            and in one warning. An image that turns out to be undecodable only when it is used is an error either way
            (see :meth:`prepare_data`): leaving it out then would change what was announced to be trained on.
        max_skipped_fraction: More than this share of the images left out is an error even with ``'skip'``; 0 (none)
            to 1 (any number).
        holdout: ``dict(fraction=0.05, part='train')`` loads all but about 5 % of the list, ``part='val'`` these 5 %,
            ``part='all'`` both. Which ones depends on each image's id alone, see
            :func:`sosr_det.data.holdout.is_held_out`; so the parts of VOC2007's and VOC2012's lists never overlap.
        annotation_cache: Use the cache. ``SOSR_ANNOTATION_CACHE=0`` turns it off everywhere.
        **kwargs: MMDetection's: ``data_root``, ``ann_file``, ``data_prefix=dict(sub_data_root=...)``, ``metainfo``,
            ``filter_cfg``, ``pipeline``, ``test_mode``, ... ``metainfo=dict(classes=(...))`` sets the classes.

    Attributes:
        load_report: A :class:`VOCLoadReport`; None until the data is loaded (``lazy_init=True``).

    Raises:
        DataError: As above, for an image listed twice, and for an empty part.
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
        on_problem: Literal["error", "skip"] = "error",
        max_skipped_fraction: float = 0.01,
        holdout: Mapping[str, Any] | None = None,
        annotation_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        if unknown_classes not in ("error", "ignore"):
            raise ConfigError(f"unknown_classes must be 'error' or 'ignore', got {unknown_classes!r}")
        if on_problem not in _POLICIES:
            raise ConfigError(f"on_problem must be 'error' or 'skip', got {on_problem!r}")
        if not 0 <= max_skipped_fraction <= 1:
            raise ConfigError(f"max_skipped_fraction must lie in 0..1, got {max_skipped_fraction!r}")
        if not img_suffix.startswith(".") and img_suffix != AUTO:
            raise ConfigError(
                f"img_suffix must start with a dot, such as '.jpg', or be 'auto', got {img_suffix!r}"
            )
        if kwargs.get("test_mode") and (kwargs.get("filter_cfg") or {}).get("bbox_min_size") is not None:
            raise ConfigError(
                "filter_cfg.bbox_min_size cannot be used with test_mode=True: small ground truth would be counted as "
                "difficult. Remove it from the validation and test data"
            )
        self.img_suffix = img_suffix
        self.check_images = check_images
        self.unknown_classes = unknown_classes
        self.on_problem = on_problem
        self.max_skipped_fraction = max_skipped_fraction
        self.holdout = check_holdout(holdout)
        self.annotation_cache = annotation_cache
        self.load_report: VOCLoadReport | None = None
        self._records: VOCRecords | None = None
        self._made_on_demand = False
        super().__init__(**kwargs)
        if self._metainfo["classes"] != VOCDataset.METAINFO["classes"]:
            # MMDetection guesses it from the path and then prints VOC's class names beside other classes' results.
            self._metainfo["dataset_type"] = None

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping[str, Any] | None = None) -> dict[str, Any]:
        check_old_style(metainfo)
        loaded = super()._load_metainfo(metainfo)
        loaded["classes"] = checked_classes(loaded["classes"])
        if "palette" in (metainfo or {}):
            check_palette(loaded["palette"], len(loaded["classes"]))
        else:
            loaded["palette"] = continued_palette(VOCDataset.METAINFO["palette"], len(loaded["classes"]))
        return loaded

    def full_init(self) -> None:
        """Load everything, once; see :class:`~sosr_det.data.voc_dataset.records.VOCRecords` for how it is kept.

        With ``serialize_data=False`` or a ``proposal_file``, records are lists and pickles as in MMEngine's data sets.

        Raises:
            DataError: See the class; and if ``filter_cfg`` leaves no image.
        """
        if self._fully_initialized:
            return
        if not self.serialize_data or self.proposal_file is not None:
            super().full_init()
            return
        self._records = self._load_records()
        rows = np.arange(len(self._records))
        if not self.test_mode:
            options = self.filter_cfg or {}
            rows = self._records.unfiltered(options.get("filter_empty_gt", False), options.get("min_size", 0))
        self.load_report.num_images_filtered = len(self._records) - len(rows)
        if not len(rows):
            raise DataError(
                f"{self.ann_file}: filter_cfg={dict(self.filter_cfg)} leaves none of its {len(self._records)} images"
            )
        # MMEngine's names, so that its methods find the length: no bytes, and instead of addresses in them, rows.
        self.data_bytes = np.zeros(0, np.uint8)
        self.data_address = rows if self._indices is None else _chosen(rows, self._indices)
        self._made_on_demand = self._fully_initialized = True

    def load_data_list(self) -> list[dict[str, Any]]:
        """All records, before ``filter_cfg``; fills :attr:`load_report` and logs what was changed.

        Raises:
            DataError: See the class.
        """
        self._records = self._load_records()
        return [self._records.record(row) for row in range(len(self._records))]

    def filter_data(self) -> list[dict[str, Any]]:
        """MMDetection's filter (``filter_empty_gt``, ``min_size``), counted."""
        kept = super().filter_data()
        self.load_report.num_images_filtered = len(self.data_list) - len(kept)
        return kept

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """A copy of record ``idx``, for anyone to change."""
        if not self._made_on_demand:
            return super().get_data_info(idx)
        record = self._records.record(self.data_address[idx])
        record["sample_idx"] = idx if idx >= 0 else len(self) + idx
        return record

    @force_full_init
    def truncated(self, index: int) -> list[bool]:
        """Whether each of ``get_data_info(index)["instances"]`` is marked truncated: reaches beyond what is seen of it.

        Kept beside the records, which stay MMDetection's. False where the XML file does not say.
        """
        if self._made_on_demand:
            return self._records.truncated_flags(self.data_address[index])
        image_id = self.get_data_info(index)["img_id"]
        return self._records.truncated_flags(np.flatnonzero(self._records.image_ids == image_id)[0])

    def _get_serialized_subset(self, indices: Sequence[int] | int) -> tuple[np.ndarray, np.ndarray]:
        if not self._made_on_demand:
            return super()._get_serialized_subset(indices)
        return self.data_bytes, _chosen(self.data_address, indices)

    def _load_records(self) -> VOCRecords:
        classes = self._metainfo["classes"]
        self.cat2label = {name: label for label, name in enumerate(classes)}
        files = self._files()
        files.check_folders(data_root=self.data_root, sub_data_root=self.sub_data_root)
        listed = files.image_ids()
        image_ids = listed if self.holdout is None else holdout_part(listed, *self.holdout, self.ann_file)
        expected_classes = classes if self.unknown_classes == "error" else None
        names, table, problems = files.read(image_ids, expected_classes, self.max_skipped_fraction)
        num_chosen = len(image_ids)
        if problems:
            if self.on_problem == "error":
                raise problems.refuse()
            problems.check_limit()
            usable = [position for position in range(num_chosen) if position not in problems]
            if not usable:
                raise problems.refuse()
            image_ids, names = ([texts[position] for position in usable] for texts in (image_ids, names))
            table = table.take(np.array(usable, np.int64))
        report = self.load_report = VOCLoadReport(
            num_listed=len(listed),
            num_other_part=len(listed) - num_chosen,
            num_skipped=len(problems),
            skipped=problems.listed(),
            num_images=len(image_ids),
            boxes_per_class=dict.fromkeys(classes, 0),
        )
        boxes = usable_boxes(table, self.cat2label, lambda image: files.xml_path(image_ids[image]), report)
        records = build_records(
            table, boxes, (files.image_folder, files.xml_folder), image_ids, names, self.bbox_min_size, report
        )
        self._log_report()
        return records

    def _files(self) -> VOCFiles:
        return VOCFiles(
            ann_file=self.ann_file,
            image_folder=osp.join(self.sub_data_root, self.img_subdir),
            xml_folder=osp.join(self.sub_data_root, self.ann_subdir),
            img_suffix=self.img_suffix,
            check_images=self.check_images,
            cache=self.annotation_cache,
            backend_args=self.backend_args,
        )

    def prepare_data(self, idx: int) -> Any:
        """Record ``idx`` after the pipeline.

        Raises:
            DataError: If the pipeline failed and the image turns out to be missing or undecodable, whatever
                ``on_problem`` says. Any other failure is passed on, with a note that names the image.
        """
        try:
            if not self.backend_args:
                check_file_end(self.get_data_info(idx)["img_path"])
            return super().prepare_data(idx)
        except DataError:
            raise
        except Exception as error:
            img_path = self.get_data_info(idx)["img_path"]
            problem = self._files().image_problem(img_path)
            if problem is not None:
                raise UnreadableImageError(
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

    def _log_report(self) -> None:
        report = self.load_report
        if changes := report.changes():
            text = "\n".join(f"  - {change}" for change in changes)
            print_log(f"{self.ann_file}:\n{text}", logger="current", level=logging.WARNING)
        if self.bbox_min_size is not None:
            num_candidates = report.num_boxes - report.num_difficult
            print_log(
                f"{self.ann_file}: bbox_min_size={self.bbox_min_size} turns {report.num_ignored_small} of "
                f"{num_candidates} boxes that are not difficult into ignored ones",
                logger="current",
            )


def _chosen(rows: np.ndarray, indices: Sequence[int] | int) -> np.ndarray:
    """The first ``indices`` rows, the last ``-indices`` ones, or those at the ``indices``, as MMEngine has it."""
    if not isinstance(indices, int):
        return rows[np.array(indices, np.int64)]
    if abs(indices) > len(rows):
        raise ConfigError(f"indices={indices}, but there are {len(rows)} images")
    return rows[:indices] if indices >= 0 else rows[indices:]
