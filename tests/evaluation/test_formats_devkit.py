"""Readers of the development kit's files, and the published detections of a YOLOv2 on VOC2007 test."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest

from sosr_det.errors import DataError
from sosr_det.evaluation.formats import devkit
from sosr_det.evaluation.formats.devkit import read_detections
from sosr_det.evaluation.formats.ground_truth import read_ground_truth
from sosr_det.evaluation.formats.voc_folder import find_voc_folder, image_set_file, read_image_set
from sosr_det.evaluation.voc_ap import evaluate_voc


def write_xml(path, objects):
    body = "".join(
        f"<object><name>{name}</name>{difficult}<bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
        f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>\n"
        for name, difficult, b in objects
    )
    path.write_text(f"<annotation>\n<size><width>50</width><height>40</height></size>\n{body}</annotation>\n")


@pytest.fixture
def kit(tmp_path):
    (tmp_path / "test.txt").write_text("b01\na02\n\n")
    write_xml(
        tmp_path / "b01.xml",
        [
            ("cat", "<difficult>1</difficult>", (1, 2, 30, 40)),
            ("dog", "<difficult>0</difficult>", (5.5, 6, 20, 30)),
        ],
    )
    write_xml(tmp_path / "a02.xml", [("cat", "", (7, 7, 7, 7))])
    (tmp_path / "comp4_det_test_cat.txt").write_text("a02 0.5 7 7 8 8\nb01 1e-3 1.25 2 30 40\n")
    (tmp_path / "comp4_det_test_dog.txt").write_text("")
    return tmp_path


def test_reads_what_is_written(kit):
    image_ids = read_image_set(kit / "test.txt")
    assert image_ids == ["b01", "a02"]
    ground_truth = read_ground_truth(kit, image_ids, ["dog", "cat"])
    assert list(ground_truth) == ["dog", "cat"]
    np.testing.assert_array_equal(ground_truth["cat"].image_index, [0, 1])
    np.testing.assert_array_equal(ground_truth["cat"].boxes, [[1, 2, 30, 40], [7, 7, 7, 7]])  # still 1-based
    np.testing.assert_array_equal(ground_truth["cat"].difficult, [True, False])
    np.testing.assert_array_equal(ground_truth["dog"].boxes, [[5.5, 6, 20, 30]])
    detections = read_detections(kit, image_ids, ["dog", "cat"])
    np.testing.assert_array_equal(detections["cat"].image_index, [1, 0])
    np.testing.assert_array_equal(detections["cat"].boxes, [[7, 7, 8, 8], [1.25, 2, 30, 40]])
    np.testing.assert_array_equal(detections["cat"].scores, [0.5, 0.001])
    assert len(detections["dog"]) == 0


def test_class_without_objects_is_empty(kit):
    assert len(read_ground_truth(kit, ["b01", "a02"], ["cat", "dog", "owl"])["owl"]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("b01\nb01 -1\n", r"test.txt:2: expected one image id, got 'b01 -1'"),
        ("b01\na02\nb01\n", r"test.txt:3: image 'b01' is listed twice, first in line 1"),
        ("\n \n", r"test.txt: no image ids"),
    ],
)
def test_unusable_image_set(kit, content, message):
    (kit / "test.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        read_image_set(kit / "test.txt")


def test_missing_image_set(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.txt: no such file; expected an image-set list"):
        read_image_set(tmp_path / "nowhere.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a02 0.5 7 7 8", r"cat.txt:2: expected 6 fields .* got 5: 'a02 0.5 7 7 8'"),
        ("a02 0.5 7 7 8 8 9", r"cat.txt:2: expected 6 fields .* got 7"),
        ("a02 high 7 7 8 8", r"cat.txt:2: 'high' is not a number: 'a02 high 7 7 8 8'"),
        ("a02 nan 7 7 8 8", r"cat.txt:2: the score is not finite: 'a02 nan 7 7 8 8'"),
        ("a02 0.5 7 inf 8 8", r"cat.txt:2: the box is not finite"),
        ("a2 0.5 7 7 8 8", r"cat.txt:2: image 'a2' is not in the image set \(2 images\)"),
    ],
)
def test_unusable_detection_line(kit, line, message):
    (kit / "comp4_det_test_cat.txt").write_text(f"b01 0.5 1 1 2 2\n{line}\n")
    with pytest.raises(DataError, match=message):
        read_detections(kit, ["b01", "a02"], ["cat", "dog"])


def test_missing_class_files_are_all_named(kit):
    with pytest.raises(DataError, match=r"2 of 3 classes: comp4_det_test_owl.txt, comp4_det_test_elk.txt"):
        read_detections(kit, ["b01", "a02"], ["cat", "owl", "elk"])


def test_detection_file_name(kit):
    (kit / "comp4_det_test_cat.txt").rename(kit / "comp3_det_val_cat.txt")
    assert len(read_detections(kit, ["b01", "a02"], ["cat"], file_name="comp3_det_val_{}.txt")["cat"]) == 2
    with pytest.raises(ValueError, match=r"file_name must have {} for the class"):
        read_detections(kit, ["b01", "a02"], ["cat"], file_name="cat.txt")


def test_unusable_annotations(kit):
    with pytest.raises(DataError, match=r"unknown classes: \{'dog': 1\}; expected only \['cat'\]"):
        read_ground_truth(kit, ["b01", "a02"], ["cat"])
    assert len(read_ground_truth(kit, ["b01", "a02"], ["cat"], unknown_classes="ignore")["cat"]) == 2
    with pytest.raises(ValueError, match="unknown_classes must be"):
        read_ground_truth(kit, ["b01", "a02"], ["cat"], unknown_classes="skip")
    with pytest.raises(DataError, match=r"c03.xml: no such file"):
        read_ground_truth(kit, ["b01", "c03"], ["cat", "dog"])
    with pytest.raises(DataError, match="no such folder"):
        read_ground_truth(kit / "Annotations", ["b01"], ["cat"])
    write_xml(kit / "a02.xml", [("cat", "", (9, 1, 8, 5))])
    with pytest.raises(DataError, match=r"a02.xml: 'cat' has the box \[9.0, 1.0, 8.0, 5.0\]: xmax < xmin"):
        read_ground_truth(kit, ["b01", "a02"], ["cat", "dog"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "<annotation>\n<object>\n</annotation>",
            r"a02.xml: not a readable XML file: mismatched tag: line 3",
        ),
        ("", r"a02.xml: not a readable XML file: no element found: line 1"),
        ("<annotation><object/></annotation>", r"a02.xml: object 1 .* has no <name>"),
        ("<annotation><object><name>cat</name></object></annotation>", r"object 1 \('cat'\) has no <bndbox>"),
        (
            "<annotation><object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object></annotation>",
            r"object 1 \('cat'\): <ymin> must be a finite number, is missing",
        ),
        (
            "<annotation><object><name>cat</name><bndbox><xmin>nan</xmin></bndbox></object></annotation>",
            r"<xmin> must be a finite number, is 'nan'",
        ),
        (
            "<annotation><object><name>cat</name><difficult>no</difficult></object></annotation>",
            r"<difficult> must be 0 or 1, got 'no'",
        ),
        (
            "<annotation><size><width>0</width><height>9</height></size></annotation>",
            r"<size> needs a positive whole number as <width>, is '0'",
        ),
        (
            "<annotation><size><width>9</width></size></annotation>",
            r"<size> needs a positive whole number as <height>, is missing",
        ),
    ],
)
def test_malformed_xml_is_named_with_its_place(kit, content, message):
    (kit / "a02.xml").write_text(content)
    with pytest.raises(DataError, match=message):
        read_ground_truth(kit, ["b01", "a02"], ["cat", "dog"])


# --- real detections


def test_real_data_is_complete(yolov2):
    data, golden = yolov2
    classes, ground_truth, detections = data.class_names, data.ground_truth, data.detections
    num_images = data.num_images
    assert len(classes) == 20
    assert num_images == golden["num_images"] == 4952
    assert sum(len(d) for d in detections.values()) == golden["num_detections"] == 101139
    # VOC2007 database statistics (voc2007/dbstats.html on the VOC site): 12,032 objects without the difficult ones.
    assert sum(len(g) for g in ground_truth.values()) == 14976
    assert sum(int((~g.difficult).sum()) for g in ground_truth.values()) == 12032


def test_real_detections_equal_the_independent_evaluator(yolov2):
    """Which, as the Python ports, takes its recall levels from ``np.arange``."""
    data, golden = yolov2
    classes, ground_truth, detections = data.class_names, data.ground_truth, data.detections
    num_images = data.num_images
    result = evaluate_voc(
        ground_truth, detections, classes, recall_thresholds="arange", num_images=num_images
    )
    for name in classes:
        assert result.per_class[name].ap_11point == pytest.approx(golden["ap_11point"][name], abs=1e-9), name
        assert result.per_class[name].ap_area == pytest.approx(golden["ap_area"][name], abs=1e-9), name
    assert result.map_11point == pytest.approx(golden["map_11point"], abs=1e-9)
    assert result.map_area == pytest.approx(golden["map_area"], abs=1e-9)
    assert result.classes_without_ground_truth == ()


def test_real_detections_with_exact_recall_levels(yolov2):
    """Only pottedplant differs from the ports: 480 objects, found in whole numbers at the levels 0.6 and 0.7."""
    data, golden = yolov2
    classes, ground_truth, detections = data.class_names, data.ground_truth, data.detections
    num_images = data.num_images
    result = evaluate_voc(ground_truth, detections, classes, num_images=num_images)
    for name in classes:
        ap = result.per_class[name]
        assert ap.ap_area == pytest.approx(golden["ap_area"][name], abs=1e-9), name
        if name != "pottedplant":
            assert ap.ap_11point == pytest.approx(golden["ap_11point"][name], abs=1e-9), name

    # Its value by fractions, from the curve alone.
    plant = result.per_class["pottedplant"]
    assert plant.num_ground_truth == 480
    tp = np.rint(plant.recall * 480).astype(int)
    expected = Fraction(0)
    for k in range(11):
        reached = [
            Fraction(int(t), i) for i, t in enumerate(tp, 1) if Fraction(int(t), 480) >= Fraction(k, 10)
        ]
        expected += max(reached, default=Fraction(0)) / 11
    assert plant.ap_11point == pytest.approx(float(expected), abs=1e-12)
    assert plant.ap_11point - golden["ap_11point"]["pottedplant"] == pytest.approx(0.0011240453839, abs=1e-12)
    assert result.map_11point == pytest.approx(0.7214368051042481, abs=1e-9)


# --- reading in blocks


def both_ways(monkeypatch, path, index_of):
    """What the fast and the line-by-line reader make of a file: arrays, or the message of the error."""
    results = []
    for fast in (True, False):
        with monkeypatch.context() as patch:
            if not fast:
                patch.setattr(devkit, "_whole_block", lambda *_: None)
            try:
                found = devkit.read_detection_file(path, index_of)
                results.append((found.image_index.tolist(), found.boxes.tolist(), found.scores.tolist()))
            except DataError as error:
                results.append(str(error))
    return results


@pytest.mark.parametrize("block", [1, 40, 1 << 20])
def test_fast_and_line_by_line_readers_agree(tmp_path, monkeypatch, block):
    monkeypatch.setattr(devkit, "_BLOCK", block)
    rng = random.Random(block)
    ids = ["000001", "2008_000002", "x", "7"]
    index_of = {each.encode(): number for number, each in enumerate(ids)}
    fields = ["7", "0.25", "-1e-3", "+3.", ".5", "1E2", "12345678901234567890", "0.1234567890123456789"]
    odd = ["nan", "-inf", "1_0", "high", "1,5", "0x1", "", "1 2", "\u0661", "1\x00", "1e999"]
    outcomes = set()
    for _ in range(150):
        lines = []
        for _ in range(rng.randrange(6)):
            numbers = [rng.choice(fields) for _ in range(5)]
            if rng.random() < 0.15:
                numbers[rng.randrange(5)] = rng.choice(odd)
            image = rng.choice(ids if rng.random() < 0.97 else ["unknown"])
            lines.append(rng.choice([" ", "\t", "  "]).join([image, *numbers]) + rng.choice(["", " ", "\r"]))
            lines += [""] * rng.randrange(2)
        path = tmp_path / "f.txt"
        path.write_bytes(("\n".join(lines) + rng.choice(["", "\n"])).encode())
        fast, slow = both_ways(monkeypatch, path, index_of)
        assert fast == slow
        outcomes.add(type(fast))
    assert outcomes == {tuple, str}


def test_line_numbers_count_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(devkit, "_BLOCK", 50)
    lines = ["a 0.5 1 1 2 2"] * 40
    lines[30] = "a 0.5 1 1 2"
    (tmp_path / "f.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"f.txt:31: expected 6 fields"):
        devkit.read_detection_file(tmp_path / "f.txt", {b"a": 0})


def test_fields_do_not_move_from_line_to_line(tmp_path):
    """Five fields and then seven are twelve, and the image has a number for a name: still an error."""
    (tmp_path / "f.txt").write_text("7 0.5 1 1 2\n7 7 0.5 1 1 2 2\n")
    with pytest.raises(DataError, match=r"f.txt:1: expected 6 fields .* got 5"):
        devkit.read_detection_file(tmp_path / "f.txt", {b"7": 0})


def test_a_byte_order_mark_is_no_part_of_an_id(tmp_path):
    (tmp_path / "f.txt").write_text("a 0.5 1 1 2 2\n", encoding="utf-8-sig")
    assert len(devkit.read_detection_file(tmp_path / "f.txt", {b"a": 0})) == 1


def test_lines_without_end_are_refused(tmp_path):
    (tmp_path / "f.txt").write_bytes(b"a 0.5 1 1 2 2\n" + b"9" * (3 << 20))
    with pytest.raises(DataError, match=r"f.txt:2: the line has more than 65536 bytes") as caught:
        devkit.read_detection_file(tmp_path / "f.txt", {b"a": 0})
    assert len(str(caught.value)) < 500


def test_detections_of_another_split_are_said_to_be(kit):
    (kit / "comp4_det_test_cat.txt").write_text("b01 0.5 1 1 2 2\n" + "c1 0.5 1 1 2 2\nc2 0.5 1 1 2 2\n")
    with pytest.raises(
        DataError, match=r"cat.txt:2: image 'c1' .* 2 of the file's 3 lines .* another split or year"
    ):
        read_detections(kit, ["b01", "a02"], ["cat", "dog"])
    (kit / "comp4_det_test_cat.txt").write_text("b01 0.5 1 1 2 2\n" * 3 + "c1 0.5 1 1 2 2\n")
    with pytest.raises(DataError, match=r"1 of the file's 4 lines name unknown images$"):
        read_detections(kit, ["b01", "a02"], ["cat", "dog"])


def test_a_byte_order_mark_is_no_part_of_an_image_set(tmp_path):
    (tmp_path / "test.txt").write_bytes(b"\xef\xbb\xbf000001\r\n000002\r\n")
    assert read_image_set(tmp_path / "test.txt") == ["000001", "000002"]


def test_a_missing_class_may_count_as_empty(kit):
    found = read_detections(kit, ["b01", "a02"], ["cat", "owl"], missing_class="empty")
    assert {name: len(each) for name, each in found.items()} == {"cat": 2, "owl": 0}
    with pytest.raises(DataError, match="no detection file for 1 of 1 classes"):  # that is no evaluation
        read_detections(kit, ["b01", "a02"], ["owl"], missing_class="empty")
    with pytest.raises(ValueError, match="missing_class"):
        read_detections(kit, ["b01", "a02"], ["cat"], missing_class="skip")


def test_the_files_name_themselves(kit):
    assert devkit.choose_file_name(kit, "test") == ("comp4_det_test_{}.txt", ["cat", "dog"])
    with pytest.raises(
        DataError, match=r"no detection file of the split 'val'.*comp4_det_test_cat.txt.*another split"
    ):
        devkit.choose_file_name(kit, "val")
    (kit / "comp3_det_test_cat.txt").write_text("")
    with pytest.raises(
        DataError, match=r"more than one kind.*comp3_det_test_\{\}.txt \(1 classes\).*--file-name"
    ):
        devkit.choose_file_name(kit, "test")
    for path in kit.glob("comp*"):
        path.unlink()
    (kit / "cat.txt").write_text("")
    with pytest.raises(
        DataError, match=r"it has cat.txt, test.txt; if .*--file-name 'comp4_det_test_\{\}.txt'"
    ):
        devkit.choose_file_name(kit, "test")


# --- the folder


def test_the_folder_of_a_year_is_found(tmp_path):
    folder = tmp_path / "data" / "VOCdevkit" / "VOC2007"
    for part in ("Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for root in (folder.parent, folder.parents[1], folder):
        assert find_voc_folder(root, "2007") == folder
    with pytest.raises(
        DataError, match=r"no VOC2012 in it. Looked for Annotations/ and ImageSets/Main/ in: .*VOC2012"
    ):
        find_voc_folder(folder.parent, "2012")
    with pytest.raises(DataError, match="no VOC2012 in it"):  # not another year's folder
        find_voc_folder(folder, "2012")
    with pytest.raises(DataError, match="no such folder"):
        find_voc_folder(tmp_path / "nowhere", "2007")
    folder.rename(tmp_path / "mine")
    assert find_voc_folder(tmp_path / "mine", "2007") == tmp_path / "mine"


def test_a_missing_split_names_those_that_are_there(tmp_path):
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for name in ("train", "val", "cat_train"):
        (tmp_path / "ImageSets" / "Main" / f"{name}.txt").write_text("")
    with pytest.raises(DataError, match=r"test.txt: no such file. Splits that are there: train, val$"):
        image_set_file(tmp_path, "test")
