"""The checked VOC data set's choices: unusable images, a part held out, image suffixes, truncated flags, the cache."""

from __future__ import annotations

import logging
import pickle
import shutil

import cv2
import numpy as np
import pytest
from mmengine.fileio import LocalBackend, register_backend
from mmengine.registry import DefaultScope

from sosr_det.data import voc
from sosr_det.data.holdout import is_held_out
from sosr_det.data.voc import CheckedVOCDataset
from sosr_det.data.voc_annotations import cache as kept
from sosr_det.errors import ConfigError, DataError

import mmdet.datasets  # isort: skip  # after sosr_det.data.voc, which makes mmcv.ops importable

IDS = [f"{number:03d}" for number in range(40)]


@pytest.fixture(autouse=True)
def mmdet_scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


@pytest.fixture
def warnings(monkeypatch):
    messages = []

    def print_log(text, logger=None, level=logging.INFO):
        if level >= logging.WARNING:
            messages.append(text)

    monkeypatch.setattr(voc, "print_log", print_log)
    return messages


def write_xml(kit, image_id, *objects, size=True):
    boxes = "".join(
        f"<object><name>{name}</name>{flags}<bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax>"
        f"<ymax>{b[3]}</ymax></bndbox></object>"
        for name, flags, b in objects
    )
    size_xml = "<size><width>80</width><height>60</height></size>" if size else ""
    (kit / "Annotations" / f"{image_id}.xml").write_text(f"<annotation>{size_xml}{boxes}</annotation>")


@pytest.fixture(scope="module")
def pristine_kit(tmp_path_factory):
    kit = tmp_path_factory.mktemp("kit") / "VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (kit / folder).mkdir(parents=True)
    (kit / "ImageSets" / "Main" / "train.txt").write_text("\n".join(IDS))
    image = cv2.imencode(".jpg", np.zeros((60, 80, 3), np.uint8))[1].tobytes()
    for number, image_id in enumerate(IDS):
        (kit / "JPEGImages" / f"{image_id}.jpg").write_bytes(image)
        write_xml(kit, image_id, ("cat", "", (1, 2, 20 + number, 30)), ("dog", "", (5, 5, 9, 9)))
    return kit


@pytest.fixture
def kit(pristine_kit, tmp_path):
    return shutil.copytree(pristine_kit, tmp_path / "VOC2007")


def arguments(kit, **options):
    return {
        "data_root": str(kit.parent),
        "ann_file": f"{kit.name}/ImageSets/Main/train.txt",
        "data_prefix": {"sub_data_root": f"{kit.name}/"},
        "metainfo": {"classes": ("cat", "dog")},
        **options,
    }


def load(kit, **options):
    return CheckedVOCDataset(**arguments(kit, **options))


def records(dataset):
    """All records, without their place in the data set, which MMEngine adds."""
    found = [dataset.get_data_info(index) for index in range(len(dataset))]
    return [{key: value for key, value in record.items() if key != "sample_idx"} for record in found]


# --- images that cannot be used


def damage(kit):
    """One of each kind, in four images."""
    (kit / "JPEGImages" / "003.jpg").unlink()
    (kit / "Annotations" / "005.xml").write_text("<annotation>\n<size>")
    (kit / "Annotations" / "007.xml").unlink()
    write_xml(kit, "009", ("cat", "", (1, 1, 5, 5)), ("cow", "", (1, 1, 5, 5)), ("cow", "", (2, 2, 5, 5)))
    return [3, 5, 7, 9]


def test_all_problems_are_in_one_error(kit):
    damage(kit)
    with pytest.raises(DataError) as caught:
        load(kit)
    text = str(caught.value)
    for part in (
        "train.txt: 4 of its 40 images cannot be used:",
        "1 of the 40 images listed in",
        "are missing: " + str(kit / "JPEGImages" / "003.jpg"),
        "2 of the 40 images listed in",
        f"{kit / 'Annotations' / '005.xml'}: not a readable XML file: no element found: line 2",
        f"{kit / 'Annotations' / '007.xml'}: no such file, but",
        "lists the image '007'",
        "objects of classes that are not configured: 'cow' (2). Configured: ['cat', 'dog']",
    ):
        assert part in text, text
    assert "on_problem" not in text  # 10 % are too many to leave out


def test_skip_leaves_out_and_says_so(kit, warnings):
    bad = damage(kit)
    expected = [r for i, r in enumerate(records(load(kit, check_images=False, unknown_classes="ignore",
                                                     on_problem="skip", max_skipped_fraction=0.1))) if r["img_id"]
                not in ("003", "009")]  # fmt: skip
    warnings.clear()
    dataset = load(kit, on_problem="skip", max_skipped_fraction=0.1)
    assert records(dataset) == expected
    assert [r["img_id"] for r in records(dataset)] == [i for n, i in enumerate(IDS) if n not in bad]
    report = dataset.load_report
    assert (report.num_listed, report.num_images, report.num_skipped) == (40, 36, 4)
    assert report.num_boxes == 72
    assert report.unknown_classes == {}
    assert [(file.rsplit("/", 1)[1], reason) for file, reason in report.skipped] == [
        ("003.jpg", "the image is missing"),
        ("005.xml", "not a readable XML file: no element found: line 2, column 6"),
        ("007.xml", f"no such file, but {dataset.ann_file} lists the image '007'"),
        ("009.xml", "objects of classes that are not configured: 'cow' (2)"),
    ]
    assert len(warnings) == 1
    assert "images that cannot be used, left out: 4 of 40 (" in warnings[0]
    assert "005.xml: not a readable XML file" in warnings[0]


def test_too_many_to_skip(kit):
    damage(kit)
    with pytest.raises(
        DataError, match=r"leaves out at most 0\.09 of the images, but 4 of 40 cannot be used"
    ):
        load(kit, on_problem="skip", max_skipped_fraction=0.09)
    with pytest.raises(DataError, match=r"leaves out at most 0\.01 of the images"):
        load(kit, on_problem="skip")
    shutil.rmtree(kit / "Annotations")
    (kit / "Annotations").mkdir()
    with pytest.raises(DataError, match=r"but 40 of 40 cannot be used"):
        load(kit, on_problem="skip", max_skipped_fraction=0.5)
    with pytest.raises(DataError, match=r"40 of the 40 images listed in .* have files that cannot be used"):
        load(kit, on_problem="skip", max_skipped_fraction=1)


def test_a_few_problems_name_the_way_out(kit):
    (kit / "JPEGImages" / "003.jpg").unlink()
    with pytest.raises(
        DataError, match=r"1 of the 40 images .* are missing(?s:.*)on_problem='skip' leaves such"
    ):
        load(kit, max_skipped_fraction=1 / 40)
    assert len(load(kit, max_skipped_fraction=1 / 40, on_problem="skip")) == 39


def test_no_size_and_no_image(kit):
    write_xml(kit, "004", ("cat", "", (1, 1, 5, 5)), size=False)
    assert (load(kit).get_data_info(4)["width"], load(kit).get_data_info(4)["height"]) == (80, 60)
    (kit / "JPEGImages" / "004.jpg").write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"004\.jpg: the image cannot be decoded, and .*004\.xml has no <size>"
    ):
        load(kit)
    dataset = load(kit, on_problem="skip", max_skipped_fraction=0.1)
    assert [file.rsplit("/", 1)[1] for file, _ in dataset.load_report.skipped] == ["004.jpg"]


def test_an_image_found_undecodable_in_training_is_an_error_whatever_the_policy(kit):
    (kit / "JPEGImages" / "004.jpg").write_bytes(b"no image")
    dataset = load(kit, on_problem="skip", pipeline=[{"type": "LoadImageFromFile"}])
    assert len(dataset) == 40
    with pytest.raises(DataError, match=r"004\.jpg: the image cannot be decoded"):
        dataset[4]


def test_unusable_options(kit):
    with pytest.raises(ConfigError, match="on_problem must be 'error' or 'skip', got 'ignore'"):
        load(kit, on_problem="ignore")
    for fraction in (-0.1, 1.1):
        with pytest.raises(ConfigError, match=r"max_skipped_fraction must lie in 0\.\.1"):
            load(kit, max_skipped_fraction=fraction)


# --- a part held out


def test_holdout(kit):
    whole = load(kit)
    parts = {p: load(kit, holdout={"fraction": 0.2, "part": p}) for p in ("train", "val", "all")}
    assert records(parts["all"]) == records(whole)
    assert records(parts["val"]) == [r for r in records(whole) if is_held_out(r["img_id"], 0.2)]
    assert records(parts["train"]) == [r for r in records(whole) if not is_held_out(r["img_id"], 0.2)]
    assert 1 < len(parts["val"]) < 20
    report = parts["val"].load_report
    assert (report.num_listed, report.num_images) == (40, len(parts["val"]))
    assert report.num_other_part == len(parts["train"])
    assert report.num_boxes == 2 * len(parts["val"])
    assert len({part.fingerprint() for part in parts.values()}) == 3
    assert parts["all"].fingerprint() == whole.fingerprint()
    with pytest.raises(DataError, match=r"train\.txt: with holdout fraction 1e-09, none of its 40 images"):
        load(kit, holdout={"fraction": 1e-9, "part": "val"})
    with pytest.raises(ConfigError, match=r"holdout\.fraction must lie between 0 and 1"):
        load(kit, holdout={"fraction": 1.0, "part": "val"})


def test_the_other_part_is_not_even_read(kit):
    """A problem in the part that is not loaded is that part's problem."""
    held_out = next(i for i in IDS if is_held_out(i, 0.2))
    (kit / "Annotations" / f"{held_out}.xml").unlink()
    assert len(load(kit, holdout={"fraction": 0.2, "part": "train"})) > 20
    with pytest.raises(DataError, match="no such file"):
        load(kit, holdout={"fraction": 0.2, "part": "val"})


def test_parts_of_the_real_lists(unpacked):
    root = unpacked("voc0712-annotations") / "VOCdevkit"
    lists = {
        year: (root / year / "ImageSets/Main/trainval.txt").read_text().split()
        for year in ("VOC2007", "VOC2012")
    }
    assert not set(lists["VOC2007"]) & set(lists["VOC2012"])
    held_out = {year: sum(is_held_out(i, 0.05) for i in ids) for year, ids in lists.items()}
    assert held_out == {"VOC2007": 232, "VOC2012": 594}


# --- image files


def test_suffix_found_per_image(kit):
    (kit / "JPEGImages" / "001.jpg").rename(kit / "JPEGImages" / "001.PNG")
    (kit / "JPEGImages" / "002.jpg").rename(kit / "JPEGImages" / "002.png")
    with pytest.raises(
        DataError, match=r"2 of the 40 .* are missing.*There is a 001\.PNG: set img_suffix='\.PNG'"
    ):
        load(kit)
    dataset = load(kit, img_suffix="auto")
    names = [record["img_path"].rsplit("/", 1)[1] for record in records(dataset)]
    assert names[:4] == ["000.jpg", "001.PNG", "002.png", "003.jpg"]
    assert records(load(kit, img_suffix="auto", check_images=False)) == records(dataset)
    (kit / "JPEGImages" / "003.png").touch()
    with pytest.raises(DataError, match=r"003\.jpg: several images could be meant: 003\.jpg, 003\.png"):
        load(kit, img_suffix="auto")
    (kit / "JPEGImages" / "003.png").unlink()
    (kit / "JPEGImages" / "003.jpg").rename(kit / "JPEGImages" / "003.txt")
    with pytest.raises(DataError, match=r"1 of the 40 images .* are missing: .*003"):
        load(kit, img_suffix="auto")


def test_links_and_ids_with_folders(kit):
    images = kit / "JPEGImages"
    (images / "a01.jpg").symlink_to(images / "000.jpg")
    (images / "more").mkdir()
    (images / "000.jpg").rename(images / "more" / "x.jpg")
    (kit / "Annotations" / "more").mkdir()
    (kit / "Annotations" / "000.xml").rename(kit / "Annotations" / "more" / "x.xml")
    write_xml(kit, "a01")
    (kit / "ImageSets" / "Main" / "train.txt").write_text("more/x\n001\na01\n")
    with pytest.raises(DataError, match=r"1 of the 3 images .* are missing: .*a01\.jpg"):  # a link to nothing
        load(kit)
    (images / "000.jpg").symlink_to(images / "more" / "x.jpg")
    ours, theirs = load(kit), mmdet.datasets.VOCDataset(**arguments(kit))
    assert records(ours) == records(theirs)
    assert records(load(kit, img_suffix="auto")) == records(theirs)
    assert len(ours) == 3


# --- the side table


def test_truncated_goes_with_the_instances(kit):
    write_xml(
        kit, "001",
        ("cat", "<truncated>1</truncated>", (1, 1, 5, 5)),
        ("dog", "<truncated>1</truncated>", (5, 5, 5, 9)),  # degenerate, left out
        ("cow", "<truncated>1</truncated>", (1, 1, 5, 5)),  # not configured, left out
        ("dog", "<truncated>0</truncated><difficult>1</difficult>", (5, 5, 9, 9)),
        ("dog", "<truncated>maybe</truncated>", (5, 5, 9, 9)),
        ("cat", "<truncated>1</truncated>", (1, 1, 99, 99)),  # cut off at the border
    )  # fmt: skip
    write_xml(kit, "000")
    dataset = load(kit, unknown_classes="ignore", filter_cfg={"filter_empty_gt": True})
    assert len(dataset) == 39
    assert dataset.truncated(0) == [True, False, False, True]
    assert [i["bbox_label"] for i in dataset.get_data_info(0)["instances"]] == [0, 1, 1, 0]
    assert dataset.truncated(1) == [False, False]
    assert dataset.load_report.num_truncated == 2
    assert pickle.loads(pickle.dumps(dataset)).truncated(0) == dataset.truncated(0)
    assert dataset.get_subset([5, 0]).truncated(1) == dataset.truncated(0)
    assert load(kit, unknown_classes="ignore", serialize_data=False).truncated(0) == []


# --- where annotations come from


@register_backend("elsewhere", prefixes="elsewhere", force=True)
class ElsewhereBackend(LocalBackend):
    """A storage that must be asked: every path begins with ``elsewhere://``."""

    calls = 0

    def _count(self, path):
        ElsewhereBackend.calls += 1
        return str(path).removeprefix("elsewhere://")

    def get(self, filepath):
        return super().get(self._count(filepath))

    def get_text(self, filepath, encoding="utf-8"):
        return super().get_text(self._count(filepath), encoding)

    def exists(self, filepath):
        return super().exists(self._count(filepath))

    def isdir(self, filepath):
        return super().isdir(self._count(filepath))

    def isfile(self, filepath):
        return super().isfile(self._count(filepath))


@pytest.mark.parametrize("img_suffix", [".jpg", "auto"])
def test_other_storages(kit, img_suffix):
    expected = records(load(kit))
    options = arguments(kit, img_suffix=img_suffix)
    options |= {"data_root": "", "data_prefix": {"sub_data_root": f"elsewhere://{kit}/"}}
    options |= {"ann_file": f"elsewhere://{kit}/ImageSets/Main/train.txt"}
    ElsewhereBackend.calls = 0
    dataset = CheckedVOCDataset(**options)
    assert ElsewhereBackend.calls >= 80
    for record in expected:
        for key in ("img_path", "xml_path"):
            record[key] = f"elsewhere://{record[key]}"
    assert records(dataset) == expected
    (kit / "Annotations" / "005.xml").unlink()
    (kit / "JPEGImages" / "006.jpg").unlink()
    with pytest.raises(
        DataError, match=r"2 of its 40 images(?s:.*)006\.jpg(?s:.*)005\.xml: no such file, but else"
    ):
        CheckedVOCDataset(**options)
    assert len(CheckedVOCDataset(**options, on_problem="skip", max_skipped_fraction=0.1)) == 38


def test_the_cache_changes_nothing_but_the_time(kit, monkeypatch, tmp_path):
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "RACY_SECONDS", -100)
    without = load(kit, annotation_cache=False)
    assert not (tmp_path / "cache").exists()
    first, second = load(kit), load(kit)
    assert list((tmp_path / "cache" / "voc-annotations").iterdir())
    assert records(without) == records(first) == records(second)
    assert without.load_report == first.load_report == second.load_report
    assert without.fingerprint() == second.fingerprint()
    write_xml(kit, "000", ("dog", "", (1, 2, 3, 4)))
    assert records(load(kit))[0]["instances"] == [{"ignore_flag": 0, "bbox": [0, 1, 2, 3], "bbox_label": 1}]
    shutil.rmtree(kit / "Annotations")
    with pytest.raises(DataError, match="40 of the 40 images"):
        load(kit)


def deep_types(value):
    """The types in a record, which equality does not compare: 1 == True == np.int64(1)."""
    if isinstance(value, dict):
        return {key: deep_types(part) for key, part in value.items()}
    if isinstance(value, list):
        return [deep_types(part) for part in value]
    return type(value)


SIZES = {"filter_empty_gt": True, "min_size": 60}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"serialize_data": False},
        {"indices": 7},
        {"indices": -7},
        {"indices": [3, 1, -1]},
        {"indices": [3, 1, -1], "serialize_data": False},
        {"filter_cfg": SIZES},
        {"filter_cfg": {"filter_empty_gt": False, "min_size": 60}},
        {"filter_cfg": SIZES | {"min_size": 61}, "test_mode": True},
    ],
)
def test_a_data_set_as_mmdetections(kit, options):
    write_xml(kit, "002")
    write_xml(kit, "003", ("cat", "<difficult>1</difficult><truncated>1</truncated>", (1, 2, 3, 4)))
    ours, theirs = load(kit, **options), mmdet.datasets.VOCDataset(**arguments(kit, **options))
    assert len(ours) == len(theirs)
    for index in [*range(len(theirs)), -1]:
        record = ours.get_data_info(index)
        assert record == theirs.get_data_info(index)
        assert deep_types(record) == deep_types(theirs.get_data_info(index))
        assert ours.truncated(index) == [record["img_id"] == "003"] * len(record["instances"])
    for chosen in [[2, 0, -1], 3, -3] if len(theirs) > 3 else []:
        sub_ours, sub_theirs = ours.get_subset(chosen), theirs.get_subset(chosen)
        assert len(sub_ours) == len(sub_theirs)
        for index in range(len(sub_ours)):
            assert sub_ours.get_data_info(index)["img_id"] == sub_theirs.get_data_info(index)["img_id"]
    ours.get_data_info(0)["instances"].append(None)  # a copy: pipelines change records
    assert ours.get_data_info(0) == theirs.get_data_info(0)
    with pytest.raises((IndexError, AssertionError)):
        ours.get_data_info(len(ours))


def test_a_filter_that_leaves_nothing(kit):
    with pytest.raises(
        DataError, match=r"train\.txt: filter_cfg=\{.*'min_size': 61.*\} leaves none of its 40 images"
    ):
        load(kit, filter_cfg=SIZES | {"min_size": 61})


def test_proposals(kit, tmp_path):
    """A file of proposals is added to records, which MMDetection does in a list of all."""
    proposals = {f"JPEGImages/{image_id}.jpg": number for number, image_id in enumerate(IDS)}
    (tmp_path / "proposals.pkl").write_bytes(pickle.dumps(proposals))
    dataset = load(kit, proposal_file=str(tmp_path / "proposals.pkl"))
    assert [dataset.get_data_info(index)["proposals"] for index in range(40)] == list(range(40))
    assert dataset.truncated(3) == [False, False]


def test_indices_out_of_range(kit):
    with pytest.raises(ConfigError, match=r"indices=41, but there are 40 images"):
        load(kit, indices=41)
    assert len(load(kit, indices=40)) == 40
    assert len(load(kit, lazy_init=True)) == 40
