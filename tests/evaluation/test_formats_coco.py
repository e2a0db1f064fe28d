"""COCO results: ids of images and categories, ways of writing boxes, and what is refused with its place."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sosr_det.errors import DataError
from sosr_det.evaluation.formats.box_formats import BOX_FORMATS, corners_of, to_voc
from sosr_det.evaluation.formats.coco_categories import labels_by_name, labels_by_number
from sosr_det.evaluation.formats.coco_results import read_coco_results
from sosr_det.evaluation.formats.image_names import ImageNames

NAMES = ImageNames(["000001", "000012", "2008_000002", "kitchen"])


def result(**changes):
    return {"image_id": 1, "category_id": 3, "bbox": [1, 2.5, 3, 4], "score": 0.5} | changes


def write(path, *results):
    path.write_text(
        "[\n" + ",\n".join(each if isinstance(each, str) else json.dumps(each) for each in results) + "\n]"
    )
    return path


def test_what_is_written_is_read(tmp_path):
    path = write(
        tmp_path / "r.json",
        result(),
        result(image_id="2008_000002", category_id=20, score=1),
        result(image_id="kitchen", segmentation={"counts": "x"}),
    )
    results = read_coco_results(path, NAMES)
    assert results.image_index.tolist() == [0, 2, 3]
    assert results.category_ids.tolist() == [3, 20, 3]
    assert results.boxes.tolist() == [[1, 2.5, 3, 4]] * 3
    assert results.scores.tolist() == [0.5, 1, 0.5]
    assert results.place(2) == f"{path}:4: result 3 (counted from 1)"
    assert len(read_coco_results(write(path), NAMES).scores) == 0


# ---- images


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("000001", 0),
        (1, 0),
        ("1", 0),
        ("12", 1),
        (2008000002, 2),
        ("data/VOC2012/JPEGImages/2008_000002.jpg", 2),
        ("C:\\images\\kitchen.PNG", 3),
        ("kitchen.v2", None),
        (2, None),
        (-1, None),
        ("", None),
        (10**30, None),
        ("9" * 5000, None),
    ],
)
def test_images_by_id_file_or_number(name, index):
    assert NAMES.index(name) == index


def test_a_number_of_two_images_is_ambiguous(tmp_path):
    names = ImageNames(["1", "01", "2"])
    assert names.index("01") == 1
    assert names.index(2) == 2
    with pytest.raises(ValueError, match="1 may be '1' and '01'"):
        names.index(1)
    with pytest.raises(DataError, match=r"r.json:3: result 2 .* 1 may be '1' and '01'"):
        read_coco_results(write(tmp_path / "r.json", result(image_id=2), result(image_id=1)), names)


def test_unknown_images_are_counted(tmp_path):
    path = write(tmp_path / "r.json", *[result()] * 3, result(image_id="x7"), result(image_id="x7"))
    with pytest.raises(
        DataError, match=r"r.json:5: result 4 .*image 'x7' .* 2 of 5 results are of 1 unknown images$"
    ):
        read_coco_results(path, NAMES)
    path = write(path, result(), result(image_id=99), result(image_id=98))
    with pytest.raises(DataError, match=r"2 of 3 results .*positions in a list.*--coco-annotations"):
        read_coco_results(path, NAMES)
    path = write(path, result(image_id=55), result(image_id=99), result(image_id=98))
    with pytest.raises(DataError, match="detections of another split or year"):
        read_coco_results(path, NAMES)


def test_images_through_the_annotation_file(tmp_path):
    path = write(tmp_path / "r.json", result(image_id=0), result(image_id=1))
    known = {0: "VOC2007/JPEGImages/000012.jpg", 1: "kitchen.jpg"}
    assert read_coco_results(path, NAMES, known).image_index.tolist() == [1, 3]
    with pytest.raises(DataError, match=r"image 1 is not in the image set .*or not in the annotation file"):
        read_coco_results(path, NAMES, {0: "kitchen.jpg"})


# ---- what is refused


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (result(bbox=[1, 2, 3]), r":3: result 2 .*bbox must be four numbers"),
        (result(bbox=[1, 2, 3, "4"]), "bbox must be four numbers"),
        (result(bbox=[1, 2, 3, True]), "bbox must be four numbers"),
        (result(bbox=[1, 2, -3, 4]), r":3: result 2 .*negative width or height"),
        (result(score="0.5"), "score must be a number, got '0.5'"),
        (result(score=None), "score must be a number"),
        (result(score=10**400), ":3: result 2"),
        (result(image_id=1.0), "image_id must be a whole number or a text, got 1.0"),
        (result(image_id=True), "image_id must be a whole number or a text, got True"),
        (result(image_id=[1]), "image_id must be a whole number"),
        (result(category_id="3"), "category_id must be a whole number, got '3'"),
        (result(category_id=10**30), ":3: result 2"),
        ({"image_id": 1}, r"'category_id' is missing; its keys are 'image_id'"),
        (7, "expected an object with image_id"),
        (
            '{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": NaN}',
            r":3:66: not JSON: it holds NaN",
        ),
        (
            '{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, -Infinity], "score": 1}',
            r":3:53: .*-Infinity",
        ),
        ('{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 1e999], "score": 1}', "the box is not finite"),
        (
            '{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 1e999}',
            "the score is not finite",
        ),
        ('{"image_id": 1, "image_id": 2}', "holds a key twice"),
        ('{"image_id": 1', r":4:1: not JSON: Expecting ',' delimiter"),
        ('{"a": 1} 2', r":3: result 2 .*'image_id' is missing"),
        ("", r":4:1: not JSON here; is the file complete\?"),
        ("9" * 10_000, ":3:1: not JSON"),
    ],
)
def test_unusable_results_are_named_with_their_place(tmp_path, bad, message):
    with pytest.raises(DataError, match=message) as caught:
        read_coco_results(write(tmp_path / "r.json", result(), bad), NAMES)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": []}', "1:1: a JSON object, but COCO results are a list; is this the annotation file"),
        ("[" + json.dumps(result()) + " 2]", r":1:\d+: expected ',' or '\]'"),
        ("[] x", "1:4: more text after the list"),
        ("[" + json.dumps(result()), "is the file complete"),
        ("[", "is the file complete"),
        (b"[\xff]", "not JSON: 'utf-8'"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "r.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read_coco_results(tmp_path / "r.json", NAMES)


# ---- categories


def place(number):
    return f"r.json:{number}"


@pytest.mark.parametrize(
    ("ids", "first", "labels"),
    [
        ([3, 1], None, [2, 0]),  # 3 of 3 and no 0: from 1
        ([0, 2], None, [0, 2]),  # 0 and no 3: from 0
        ([1, 2], 1, [0, 1]),
        ([1, 2], 0, [1, 2]),
        ([], None, []),
    ],
)
def test_numbers_count_classes_where_they_tell_from_where(ids, first, labels):
    found, used = labels_by_number(np.array(ids, np.int64), "abc", first, place)
    assert found.tolist() == labels
    assert ids == [label + used for label in labels]


@pytest.mark.parametrize(
    ("ids", "first", "message"),
    [
        ([1, 2], None, r"neither 0 nor 3 is among them.*--first-category-id 0 or 1"),
        ([0, 3], None, r"0 and 3 are both among them"),
        ([1, 4], None, r"r.json:1: category_id 4 is outside of 0..3 \(3 classes\)"),
        ([0, 4], None, r"category_id 4 is outside of 0..2"),
        ([3, 2], 0, r"category_id 3 is outside of 0..2"),
        ([3, 0], 1, r"category_id 0 is outside of 1..3"),
        ([-1], None, "category_id -1"),
    ],
)
def test_numbers_that_do_not_tell_are_never_guessed(ids, first, message):
    with pytest.raises(DataError, match=message):
        labels_by_number(np.array(ids), "abc", first, place)


def test_names_of_categories_decide_where_there_are_any():
    names = {7: "b", 3: "a", 5: "other"}
    assert labels_by_name(np.array([3, 7, 5, 3]), names, ["a", "b"], place).tolist() == [0, 1, -1, 0]
    with pytest.raises(DataError, match=r"no category for 'c'; its categories are 'b', 'a', 'other'"):
        labels_by_name(np.array([3]), names, ["a", "c"], place)
    with pytest.raises(
        DataError, match=r"r.json:1: category_id 4 is not in the annotation file; its ids are 3, 5, 7"
    ):
        labels_by_name(np.array([3, 4]), names, ["a"], place)


# ---- boxes

# VOC2007 000012: <xmin>156</xmin><ymin>97</ymin><xmax>351</xmax><ymax>270</ymax>
VOC_BOX = [156, 97, 351, 270]
WRITTEN = {
    "edges": [155, 96, 196, 174],  # as in pascal_train2007.json
    "zero-based": [155, 96, 195, 173],  # MMDetection's pascal_voc.py
    "one-based": [156, 97, 195, 173],
    "one-based-pixels": [156, 97, 196, 174],
}


@pytest.mark.parametrize("box_format", BOX_FORMATS)
def test_every_way_of_writing_a_box_leads_to_vocs(box_format):
    written = np.array([WRITTEN[box_format]], float)
    assert to_voc(corners_of(written), box_format).tolist() == [VOC_BOX]
    others = {name for name in BOX_FORMATS if to_voc(corners_of(written), name).tolist() == [VOC_BOX]}
    assert others == {box_format}
