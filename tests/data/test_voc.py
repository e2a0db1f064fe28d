"""The checked VOC data set: MMDetection's records on clean data, and an answer to each kind of damage."""

from __future__ import annotations

import logging
import pickle
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from torch.utils.data import DataLoader

from sosr_det.data import voc
from sosr_det.data.voc import CheckedVOCDataset
from sosr_det.errors import ConfigError, DataError

import mmdet.datasets  # isort: skip  # after sosr_det.data.voc, which makes mmcv.ops importable

PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations", "with_bbox": True},
    {"type": "Resize", "scale": (40, 30), "keep_ratio": True},
    {"type": "PackDetInputs"},
]


@pytest.fixture(autouse=True)
def mmdet_scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


@pytest.fixture
def log(monkeypatch):
    """Messages as ``(level, text)``."""
    messages = []
    monkeypatch.setattr(
        voc, "print_log", lambda text, logger=None, level=logging.INFO: messages.append((level, text))
    )
    return messages


def warnings_of(log):
    return [text for level, text in log if level >= logging.WARNING]


def box_xml(name, box, extra="<difficult>0</difficult>"):
    xmin, ymin, xmax, ymax = box
    return (
        f"<object><name>{name}</name>{extra}<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
        f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
    )


def write_annotation(
    root, image_id, objects, size="<size><width>80</width><height>60</height><depth>3</depth></size>"
):
    (root / "Annotations" / f"{image_id}.xml").write_text(
        f"<annotation>{size}{''.join(objects)}</annotation>"
    )


@pytest.fixture
def kit(tmp_path):
    """A folder of two images, a cat in one, a cat and a dog in the other; ``VOC2007`` below ``tmp_path``."""
    root = tmp_path / "VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a01\nb02\n")
    for i, image_id in enumerate(("a01", "b02")):
        cv2.imwrite(str(root / "JPEGImages" / f"{image_id}.jpg"), np.full((60, 80, 3), 90 * i, np.uint8))
    write_annotation(root, "a01", [box_xml("cat", (11, 12, 50, 40))])
    write_annotation(root, "b02", [box_xml("cat", (1, 1, 80, 60)), box_xml("dog", (5, 6, 25, 36))])
    return root


def load(kit, classes=("cat", "dog"), ann_file="train", **options):
    return CheckedVOCDataset(
        data_root=str(kit.parent),
        ann_file=f"{kit.name}/ImageSets/Main/{ann_file}.txt",
        data_prefix={"sub_data_root": f"{kit.name}/"},
        metainfo={"classes": classes},
        **options,
    )


# --- clean data


def test_records_and_report(kit, log):
    dataset = load(kit)
    assert len(dataset) == dataset.num_images == 2
    record = dataset.get_data_info(1)
    assert record["img_id"] == "b02"
    assert Path(record["img_path"]) == kit / "JPEGImages" / "b02.jpg"
    assert (record["width"], record["height"]) == (80, 60)
    assert record["instances"] == [
        {"ignore_flag": 0, "bbox": [0, 0, 79, 59], "bbox_label": 0},
        {"ignore_flag": 0, "bbox": [4, 5, 24, 35], "bbox_label": 1},
    ]
    report = dataset.load_report
    assert (report.num_images, report.num_boxes, report.num_difficult) == (2, 3, 0)
    assert report.boxes_per_class == {"cat": 2, "dog": 1}
    assert log == []


@pytest.mark.parametrize(
    ("image_set", "options"),
    [
        ("VOC2007/trainval", {"filter_cfg": {"filter_empty_gt": True, "min_size": 32, "bbox_min_size": 32}}),
        ("VOC2007/test", {"test_mode": True}),
        ("VOC2012/trainval", {}),
    ],
)
def test_real_records_equal_mmdetections(unpacked, image_set, options):
    year, name = image_set.split("/")
    common = {
        "data_root": str(unpacked("voc0712-annotations") / "VOCdevkit"),
        "ann_file": f"{year}/ImageSets/Main/{name}.txt",
        "data_prefix": {"sub_data_root": f"{year}/"},
        **options,
    }
    ours = CheckedVOCDataset(check_images=False, **common)
    from_the_cache = CheckedVOCDataset(check_images=False, **common)
    theirs = mmdet.datasets.VOCDataset(**common)
    assert len(ours) == len(theirs) > 4900
    assert ours.metainfo == theirs.metainfo
    num_ignored = 0
    for index in range(len(theirs)):
        expected = theirs.get_data_info(index)
        assert ours.get_data_info(index) == expected
        assert from_the_cache.get_data_info(index) == expected
        assert ours.get_cat_ids(index) == theirs.get_cat_ids(index)
        num_ignored += sum(instance["ignore_flag"] for instance in expected["instances"])
    report = ours.load_report
    assert report.num_difficult + report.num_ignored_small == num_ignored
    assert report.num_degenerate == report.num_clipped == report.num_outside == 0
    assert report.unknown_classes == {}


def test_missing_difficult_and_size_and_fractions_as_mmdetection(kit):
    objects = [
        box_xml("cat", ("10.9", "12.2", "50.5", "40"), extra=""),
        box_xml("dog", (9, 9, 20, 20), "<difficult>1</difficult>"),
    ]
    write_annotation(kit, "a01", objects, size="")
    ours = load(kit)
    common = {
        "ann_file": ours.ann_file,
        "data_prefix": ours.data_prefix,
        "metainfo": {"classes": ("cat", "dog")},
    }
    theirs = mmdet.datasets.VOCDataset(**common)
    assert ours.get_data_info(0) == theirs.get_data_info(0)
    assert (ours.get_data_info(0)["width"], ours.get_data_info(0)["height"]) == (80, 60)
    assert [i["ignore_flag"] for i in ours.get_data_info(0)["instances"]] == [0, 1]
    assert ours.load_report.num_difficult == 1


def test_small_boxes_made_ignored_are_told(kit, log):
    dataset = load(kit, filter_cfg={"bbox_min_size": 32})
    assert dataset.load_report.num_ignored_small == 2  # 39 x 28 and 20 x 30
    assert [(level, "turns 2 of 3 boxes" in text) for level, text in log] == [(logging.INFO, True)]


def test_filtered_images_are_counted(kit):
    write_annotation(kit, "a01", [])
    dataset = load(kit, filter_cfg={"filter_empty_gt": True})
    assert len(dataset) == 1
    assert (dataset.load_report.num_images, dataset.load_report.num_images_filtered) == (2, 1)


def test_suffix_and_lazy_init(kit):
    for path in sorted((kit / "JPEGImages").iterdir()):
        path.rename(path.with_suffix(".png"))
    with pytest.raises(
        DataError, match=r"2 of the 2 images .*a01.jpg.* There is a a01.png: set img_suffix='.png'"
    ):
        load(kit)
    dataset = load(kit, img_suffix=".png", lazy_init=True)
    assert dataset.load_report is None
    dataset.full_init()
    assert dataset.get_data_info(0)["img_path"].endswith("a01.png")


# --- classes


def test_bccd(unpacked, log):
    """Three classes, two boxes of a single pixel."""
    root = unpacked("bccd") / "VOCdevkit" / "VOC2007"
    dataset = load(root, classes=("RBC", "WBC", "Platelets"), ann_file="trainval", pipeline=PIPELINE)
    report = dataset.load_report
    assert (report.num_images, report.num_boxes, report.num_degenerate) == (292, 3941, 2)
    assert [(Path(path).stem, name, box) for path, name, box in report.degenerate] == [
        ("BloodImage_00338", "RBC", [504, 337, 504, 337]),
        ("BloodImage_00343", "RBC", [181, 329, 181, 329]),
    ]
    assert len(warnings_of(log)) == 1
    assert "degenerate boxes (xmax <= xmin or ymax <= ymin), left out: 2 (" in warnings_of(log)[0]
    assert "BloodImage_00338.xml" in warnings_of(log)[0]
    theirs = mmdet.datasets.VOCDataset(
        ann_file=dataset.ann_file, data_prefix=dataset.data_prefix, metainfo=dict(dataset.metainfo)
    )
    assert len(theirs) == len(dataset)
    for index in range(len(theirs)):
        expected = theirs.get_data_info(index)
        for instance in [i for i in expected["instances"] if i["bbox"][2:] == i["bbox"][:2]]:
            expected["instances"].remove(instance)
        assert dataset.get_data_info(index) == expected
    assert dataset.metainfo["dataset_type"] is None  # not VOC2007, whatever the folder's name
    assert len(dataset.metainfo["palette"]) == 3
    assert dataset[0]["inputs"].shape[0] == 3
    with pytest.raises(
        DataError, match=r"not configured: 'Platelets' \(292\)\. Configured: \['RBC', 'WBC'\]"
    ):
        load(root, classes=("RBC", "WBC"), ann_file="trainval")


def test_unknown_classes(kit, log):
    with pytest.raises(
        DataError, match=r"train.txt: objects of classes .*: 'cat' \(2\), 'dog' \(1\)\. Configured: \['Cat'\]"
    ):
        load(kit, classes=("Cat",))
    dataset = load(kit, classes=("cat", "owl"), unknown_classes="ignore")
    assert dataset.load_report.unknown_classes == {"dog": 1}
    assert dataset.load_report.num_boxes == 2
    assert len(warnings_of(log)) == 1
    assert "left out: 'dog' (1)" in warnings_of(log)[0]
    assert "no boxes of 1 of the 2 configured classes: ['owl']" in warnings_of(log)[0]


def test_palette_has_a_colour_for_every_class(kit):
    from mmdet.visualization.palette import get_palette

    names = ["cat", "dog", *(f"class {i}" for i in range(48))]
    metainfo = load(kit, classes=names).metainfo
    assert metainfo["classes"] == tuple(names)
    assert len({tuple(colour) for colour in metainfo["palette"]}) == 50
    assert len(get_palette(metainfo["palette"], 50)) == 50
    assert all(0 <= channel <= 255 for colour in metainfo["palette"] for channel in colour)


def test_classes_from_a_config_and_from_a_file(kit):
    (kit / "classes.txt").write_text("cat\ndog\n")
    assert load(kit, classes=str(kit / "classes.txt")).metainfo["classes"] == ("cat", "dog")
    config = Config({"classes": ["cat", "dog"]})
    assert load(kit, classes=config.classes).metainfo["classes"] == ("cat", "dog")


@pytest.mark.parametrize(
    ("metainfo", "message"),
    [
        ({"classes": ("cat", "dog", "cat")}, r"lists a class twice: \['cat'\]"),
        ({"classes": "cat"}, r"must be a sequence of names.* got 'cat'; a single class needs a comma"),
        ({"classes": ()}, r"must be a sequence of names"),
        ({"classes": (1, 2)}, r"must be a sequence of names"),
        ({"CLASSES": ("cat",)}, r"metainfo has \['CLASSES'\], which nothing reads"),
        ({"classes": ("cat", "dog"), "palette": [(1, 2, 3)]}, r"palette has 1 colours for 2 classes"),
    ],
)
def test_unusable_metainfo(kit, metainfo, message):
    with pytest.raises(ConfigError, match=message):
        CheckedVOCDataset(metainfo=metainfo, data_root=str(kit.parent), lazy_init=True)


def test_unusable_options(kit):
    with pytest.raises(ConfigError, match="unknown_classes must be"):
        load(kit, unknown_classes="skip")
    with pytest.raises(ConfigError, match="img_suffix must start with a dot"):
        load(kit, img_suffix="jpg")
    with pytest.raises(ConfigError, match=r"bbox_min_size cannot be used with test_mode"):
        load(kit, test_mode=True, filter_cfg={"bbox_min_size": 32})


# --- boxes


def test_boxes_beyond_the_image(kit, log):
    objects = [
        box_xml("cat", (0, -5, 40, 30)),  # partly outside, left and above
        box_xml("cat", (70, 50, 81, 70)),  # right and below
        box_xml("dog", (81, 1, 90, 20)),  # wholly outside
        box_xml("dog", (80, 1, 90, 20)),  # one column of pixels inside: no width left
        box_xml("cat", (1, 1, 80, 60)),
        box_xml("dog", (7, 9, 7, 20)),  # degenerate
        box_xml("dog", (9, 9, 20, 8)),
    ]
    write_annotation(kit, "a01", objects)
    dataset = load(kit)
    boxes = [instance["bbox"] for instance in dataset.get_data_info(0)["instances"]]
    assert boxes == [[0, 0, 39, 29], [69, 49, 79, 59], [0, 0, 79, 59]]
    report = dataset.load_report
    assert (report.num_clipped, report.num_outside, report.num_degenerate) == (2, 2, 2)
    assert [box for _, _, box in report.outside] == [[81, 1, 90, 20], [80, 1, 90, 20]]
    assert report.num_boxes == 5
    assert len(warnings_of(log)) == 1
    for text in (
        "degenerate boxes (xmax <= xmin or ymax <= ymin), left out: 2",
        "wholly outside their image, left out: 2",
        "partly outside their image, cut off at its border: 2",
    ):
        assert text in warnings_of(log)[0]


# --- missing and damaged files


def test_missing_files(kit, tmp_path):
    with pytest.raises(DataError, match=r"data_root: .*nowhere: no such folder.*sosr-det data demo"):
        load(tmp_path / "nowhere" / "VOC2007")
    with pytest.raises(DataError, match=r"sub_data_root: .*VOC2012.*: no such folder"):
        load(kit.parent / "VOC2012")
    with pytest.raises(DataError, match=r"ann_file: .*Main/val.txt: no such file"):
        load(kit, ann_file="val")
    (kit / "JPEGImages" / "b02.jpg").unlink()
    with pytest.raises(
        DataError, match=r"1 of the 2 images listed in .*train.txt are missing: .*JPEGImages/b02.jpg"
    ):
        load(kit)
    assert len(load(kit, check_images=False)) == 2
    shutil.rmtree(kit / "JPEGImages")
    with pytest.raises(DataError, match=r"JPEGImages: no such folder; expected the images"):
        load(kit)
    (kit / "Annotations" / "a01.xml").unlink()
    with pytest.raises(
        DataError, match=r"Annotations/a01.xml: no such file, but .*train.txt lists the image 'a01'"
    ):
        load(kit, check_images=False)


def test_unusable_lists(kit):
    train = kit / "ImageSets" / "Main" / "train.txt"
    train.write_text("a01\nb02\na01\n")
    with pytest.raises(DataError, match=r"1 images are listed more than once: a01\. .*RepeatDataset"):
        load(kit)
    train.write_text("\n")
    with pytest.raises(DataError, match="no image ids in it"):
        load(kit)
    train.write_text("a01 -1\nb02  1\n")
    with pytest.raises(DataError, match=r"this list has a second column"):
        load(kit, check_images=False)
    train.write_text("a01 \n\nb02\n\n")
    assert len(load(kit)) == 2


def test_malformed_xml(kit):
    (kit / "Annotations" / "b02.xml").write_text("<annotation>\n<size>\n</annotation>")
    with pytest.raises(DataError, match=r"b02.xml: not a readable XML file: mismatched tag: line 3"):
        load(kit)
    write_annotation(kit, "b02", [], size="<size><width>0</width><height>0</height></size>")
    with pytest.raises(DataError, match=r"b02.xml: <size> needs a positive whole number as <width>, is '0'"):
        load(kit)
    write_annotation(kit, "b02", [], size="")
    (kit / "JPEGImages" / "b02.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b02.jpg: the image cannot be decoded, and .*b02.xml has no <size>"):
        load(kit)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"no image", "cannot be decoded"), (b"", "file is empty"), (None, "cannot be read")],
)
@pytest.mark.parametrize("test_mode", [False, True])
def test_undecodable_image(kit, content, problem, test_mode):
    dataset = load(kit, pipeline=PIPELINE, test_mode=test_mode)
    assert dataset[1]["inputs"].shape == (3, 30, 40)
    path = kit / "JPEGImages" / "b02.jpg"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    dataset[0]
    with pytest.raises(DataError, match=rf"b02.jpg: the image {problem}"):
        dataset[1]


def test_undecodable_image_in_a_loader_worker(kit):
    dataset = load(kit, pipeline=PIPELINE)
    loader = DataLoader(dataset, num_workers=1, collate_fn=pseudo_collate)
    assert len(list(loader)) == 2
    (kit / "JPEGImages" / "b02.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b02.jpg: the image cannot be decoded"):
        list(loader)


def test_other_failures_stay_what_they_are(kit):
    def broken(results):
        raise KeyError("scale")

    dataset = load(kit, pipeline=[broken])
    with pytest.raises(KeyError, match="scale") as caught:
        dataset[1]
    assert "b02.jpg (entry 1" in caught.value.__notes__[0]


# --- with the rest of the stack


def test_mmdetections_own_config_with_the_type_replaced(kit, log):
    """RepeatDataset of ConcatDataset, from ``mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py``."""
    from mmengine.hub import get_config

    config = get_config("mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py").train_dataloader.dataset
    for year, part in zip(("VOC2007", "VOC2012"), config.dataset.datasets, strict=True):
        if year == "VOC2012":
            shutil.copytree(kit, kit.parent / year)
        (kit.parent / year / "ImageSets" / "Main" / "trainval.txt").write_text("a01\nb02\n")
        part.update(type="CheckedVOCDataset", data_root=str(kit.parent), metainfo={"classes": ("cat", "dog")})
    dataset = DATASETS.build(config)
    assert len(dataset) == 12
    assert dataset.metainfo["classes"] == ("cat", "dog")
    assert [type(part) for part in dataset.dataset.datasets] == [CheckedVOCDataset] * 2
    # bbox_min_size=32 of that config ignores two of three boxes.
    assert [part.load_report.num_ignored_small for part in dataset.dataset.datasets] == [2, 2]
    sample = dataset[11]
    assert sample["data_samples"].img_path.endswith("VOC2012/JPEGImages/b02.jpg")


def test_pickled_and_subset(kit):
    dataset = pickle.loads(pickle.dumps(load(kit, pipeline=PIPELINE)))
    assert dataset.load_report.num_boxes == 3
    assert dataset[1]["inputs"].shape == (3, 30, 40)
    assert len(dataset.get_subset([1])) == 1
    assert len(load(kit, indices=1)) == 1


def test_the_images_reach_the_pipeline_with_their_boxes(kit):
    dataset = load(kit, pipeline=[TRANSFORMS.build({"type": "LoadImageFromFile"})])
    results = dataset[1]
    assert results["img"].shape == (60, 80, 3)
    assert results["instances"][1]["bbox"] == [4, 5, 24, 35]


def test_fingerprint(kit, tmp_path):
    def fingerprint(**options):
        return load(kit, **options).fingerprint()

    original = fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", original)
    assert fingerprint() == original
    # Neither the order of the list, nor that of the objects, nor the place on disk counts.
    (kit / "ImageSets" / "Main" / "train.txt").write_text("b02\na01\n")
    write_annotation(kit, "b02", [box_xml("dog", (5, 6, 25, 36)), box_xml("cat", (1, 1, 80, 60))])
    assert fingerprint() == original
    moved = tmp_path / "elsewhere" / "VOC2007"
    shutil.copytree(kit, moved)
    assert load(moved).fingerprint() == original
    # Everything else does.
    changed = {
        fingerprint(classes=("dog", "cat")),
        fingerprint(indices=1),
        fingerprint(filter_cfg={"bbox_min_size": 32}),
    }
    write_annotation(kit, "b02", [box_xml("dog", (5, 6, 25, 37)), box_xml("cat", (1, 1, 80, 60))])
    changed.add(fingerprint())
    write_annotation(kit, "b02", [box_xml("cat", (5, 6, 25, 36)), box_xml("cat", (1, 1, 80, 60))])
    changed.add(fingerprint())
    assert len(changed - {original}) == 5
