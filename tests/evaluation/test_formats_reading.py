"""The same detections in every format are the same to the evaluator; and what is said about files and classes."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData

from sosr_det.errors import ConfigError, DataError
from sosr_det.evaluation.all_metrics import evaluate_detections
from sosr_det.evaluation.boxes import Detections
from sosr_det.evaluation.formats.box_formats import BOX_FORMATS
from sosr_det.evaluation.formats.ground_truth import read_ground_truth
from sosr_det.evaluation.formats.oddities import num_repeated, oddities
from sosr_det.evaluation.formats.reading import Reading, read_detection_files
from sosr_det.evaluation.formats.recognise import DetectionFormat, recognise
from sosr_det.evaluation.formats.voc_folder import find_voc_folder, image_set_file, read_image_set
from sosr_det.evaluation.saved_detections import write_detections
from sosr_det.evaluation.voc_metric import VOCDevkitMetric

CLASSES = ("RBC", "WBC")
IDS = ("000001", "000002", "000003")
SHIFTS = {
    "edges": (1, 0),
    "zero-based": (1, 1),
    "one-based": (0, 0),
    "one-based-pixels": (0, -1),
}  # see box_formats


def xml(objects, size=(90, 80)):
    body = "".join(
        f"<object><name>{name}</name><truncated>{truncated}</truncated><difficult>{difficult}</difficult><bndbox>"
        f"<xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for name, truncated, difficult, b in objects
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{body}</annotation>"


TRUTH = {
    "000001": [("RBC", 0, 0, (10, 10, 40, 40)), ("WBC", 1, 0, (50, 10, 80, 40)), ("RBC", 0, 1, (1, 1, 9, 9))],
    "000002": [("RBC", 0, 0, (5, 5, 25, 45))],
    "000003": [],
}
# (image, class, score, box 1-based); one RBC would be found with boxes off by a pixel, and is not
FOUND = [
    ("000001", "RBC", 0.875, (12, 11, 41, 42)),
    ("000001", "RBC", 0.5, (1, 1, 9, 8)),
    ("000002", "RBC", 0.75, (5, 5, 14, 45)),
    ("000002", "WBC", 0.25, (5, 5, 25, 45)),
    ("000001", "WBC", 0.625, (52, 12, 80, 40)),
    ("000003", "RBC", 0.125, (5.5, 5.25, 25.5, 45)),
]


@pytest.fixture
def root(tmp_path):
    """A VOCdevkit with three images of two classes that are not VOC's."""
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "test.txt").write_text("\n".join(IDS))
    for image_id, objects in TRUTH.items():
        (folder / "Annotations" / f"{image_id}.xml").write_text(xml(objects))
    return folder.parent


def rewrite(root, image_id, objects):
    (root / "VOC2007" / "Annotations" / f"{image_id}.xml").write_text(xml(objects))


def as_devkit(folder, found=FOUND, classes=CLASSES):
    folder.mkdir(exist_ok=True)
    for name in classes:
        lines = [f"{i} {s} {' '.join(map(str, b))}\n" for i, n, s, b in found if n == name]
        (folder / f"comp4_det_test_{name}.txt").write_text("".join(lines))
    return folder


def as_coco(path, box_format="edges", image_id=int, first=1):
    first_shift, last_shift = SHIFTS[box_format]
    results = []
    for i, name, score, (x1, y1, x2, y2) in FOUND:
        x, y = x1 - first_shift, y1 - first_shift
        box = [x, y, x2 - last_shift - x, y2 - last_shift - y]
        category = CLASSES.index(name) + first
        results.append({"image_id": image_id(i), "category_id": category, "bbox": box, "score": score})
    path.write_text(json.dumps(results))
    return path


def as_annotations(path, box_format, categories=((5, "WBC"), (3, "RBC"))):
    """With ids that are positions, and categories in another order."""
    first_shift, last_shift = SHIFTS[box_format]
    ids = {name: number for number, name in categories}
    annotations = []
    for number, image_id in enumerate(IDS):
        for name, _, _, (x1, y1, x2, y2) in TRUTH[image_id]:
            x, y = x1 - first_shift, y1 - first_shift
            box = [x, y, x2 - last_shift - x, y2 - last_shift - y]
            annotations.append({"image_id": number, "category_id": ids[name], "bbox": box})
    path.write_text(
        json.dumps(
            {
                "images": [{"id": n, "file_name": f"JPEGImages/{i}.jpg"} for n, i in enumerate(IDS)],
                "categories": [{"id": number, "name": name} for number, name in categories],
                "annotations": annotations,
            }
        )
    )
    return path


def samples(tensor=torch.tensor):
    """As MMDetection's detectors give them: 0-based, an entry per image."""
    entries = []
    for image_id in IDS:
        rows = [(CLASSES.index(n), [v - 1 for v in b], s) for i, n, s, b in FOUND if i == image_id]
        found = {
            "labels": tensor([r[0] for r in rows], dtype=torch.int64),
            "bboxes": tensor([r[1] for r in rows], dtype=torch.float32).reshape(-1, 4),
            "scores": tensor([r[2] for r in rows], dtype=torch.float32),
        }
        entries.append({"img_id": image_id, "pred_instances": found})
    return entries


def as_mmdet3(path):
    path.write_bytes(pickle.dumps(samples(), 2))
    return path


def as_mmdet2(path):
    entries = []
    for sample in samples():
        found = sample["pred_instances"]
        table = torch.cat([found["bboxes"], found["scores"][:, None]], dim=1).numpy()
        entries.append([table[found["labels"].numpy() == label] for label in range(len(CLASSES))])
    path.write_bytes(pickle.dumps(entries))
    return path


def assert_same(one, other):
    assert list(one.class_names) == list(other.class_names)
    assert list(one.image_ids) == list(other.image_ids)
    for name in one.class_names:
        for attribute in ("image_index", "boxes", "difficult", "truncated"):
            ours, theirs = (
                getattr(one.ground_truth[name], attribute),
                getattr(other.ground_truth[name], attribute),
            )
            np.testing.assert_array_equal(ours, theirs)
        # The order counts among equal scores alone.
        orders = [
            np.lexsort((d.image_index, d.scores)) for d in (one.detections[name], other.detections[name])
        ]
        for attribute in ("image_index", "boxes", "scores"):
            pair = (one.detections[name], other.detections[name])
            ours, theirs = (getattr(d, attribute)[o] for d, o in zip(pair, orders, strict=True))
            np.testing.assert_array_equal(ours, theirs)


def test_every_format_means_the_same(root, tmp_path):
    how, numbered = Reading(voc_root=root), Reading(voc_root=root, class_names=CLASSES)
    reference = read_detection_files(as_devkit(tmp_path / "devkit"), how)
    assert list(reference.data.class_names) == ["RBC", "WBC"]
    assert reference.data.image_sizes.tolist() == [[90, 80]] * 3
    assert reference.data.ground_truth["WBC"].truncated.tolist() == [True]
    expected = evaluate_detections(reference.data).to_dict()
    assert expected["voc"][0]["ap_area"] == {"RBC": pytest.approx(0.5), "WBC": 1.0}
    others = {
        as_coco(tmp_path / "a"): numbered,
        as_coco(tmp_path / "b", image_id=str): numbered,
        as_coco(tmp_path / "c", first=0): numbered,
        as_mmdet3(tmp_path / "d"): numbered,
        as_mmdet2(tmp_path / "e"): numbered,
        write_detections(tmp_path / "f", reference.data): Reading(),
    }
    for box_format in BOX_FORMATS:
        path = as_coco(tmp_path / box_format, box_format)
        others[path] = Reading(voc_root=root, class_names=CLASSES, box_format=box_format)
        by_position = as_coco(tmp_path / f"p-{box_format}", box_format, image_id=IDS.index, first=3)
        results = json.loads(by_position.read_text())
        for each in results:
            each["category_id"] = {3: 3, 4: 5}[each["category_id"]]
        by_position.write_text(json.dumps(results))
        annotations = as_annotations(tmp_path / f"annotations-{box_format}", box_format)
        others[by_position] = Reading(voc_root=root, coco_annotations=annotations)
    for path, options in others.items():
        read = read_detection_files(path, options)
        assert_same(read.data, reference.data)
        assert evaluate_detections(read.data).to_dict() == expected


def test_a_wrong_box_format_is_noticed_here(root, tmp_path):
    """The control of the test above: boxes off by a pixel give other overlaps."""
    path = as_coco(tmp_path / "r", "edges")
    ious = []
    for box_format in BOX_FORMATS:
        how = Reading(voc_root=root, class_names=CLASSES, box_format=box_format)
        data = read_detection_files(path, how).data
        ious.append(tuple(map(tuple, data.detections["RBC"].boxes)))
    assert len(set(ious)) == len(BOX_FORMATS)


def test_pickles_give_what_the_metric_gives(root, tmp_path):
    """0-based detections and 1-based files against VOCDevkitMetric, which has both 0-based."""
    metric = VOCDevkitMetric(prefix="voc")
    metric.dataset_meta = {"classes": CLASSES}
    elements = []
    for entry, image_id in zip(samples(), IDS, strict=True):
        element = BaseDataElement(metainfo={"img_id": image_id, "ori_shape": (80, 90)})
        element.pred_instances = InstanceData(**entry["pred_instances"])
        for key, flag in (("gt_instances", 0), ("ignored_instances", 1)):
            rows = [(CLASSES.index(n), [v - 1 for v in b]) for n, _, d, b in TRUTH[image_id] if d == flag]
            boxes = torch.tensor([r[1] for r in rows], dtype=torch.float32).reshape(-1, 4)
            setattr(element, key, InstanceData(bboxes=boxes, labels=torch.tensor([r[0] for r in rows])))
        elements.append(element.to_dict())
    metric.process({}, elements)
    theirs = metric.evaluate(len(IDS))
    for path in (as_mmdet3(tmp_path / "3"), as_mmdet2(tmp_path / "2")):
        how = Reading(voc_root=root, class_names=CLASSES)
        ours = evaluate_detections(read_detection_files(path, how).data).first
        assert ours.map_11point == theirs["voc/map_11point"]
        assert ours.map_area == theirs["voc/map_area"]
        for name in CLASSES:
            assert ours.per_class[name].ap_area == theirs[f"voc/ap_area/{name}"]


# ---- what is said


def notes(path, **options):
    return "\n".join(read_detection_files(path, Reading(**options)).notes)


def test_choices_are_said(root, tmp_path):
    said = notes(as_coco(tmp_path / "r"), voc_root=root, class_names=CLASSES)
    assert "category ids: 1 is RBC, 2 is WBC" in said
    assert (
        "boxes are read as edges (COCO's definition; --box-format zero-based if MMDetection wrote them)"
        in said
    )
    how = Reading(voc_root=root, class_names=CLASSES, box_format="one-based")
    read = read_detection_files(tmp_path / "r", how)
    assert read.inputs["detections"]["box_format"] == "one-based"
    assert read.inputs["detections"]["first_category_id"] == 1
    said = notes(as_mmdet2(tmp_path / "m"), voc_root=root, class_names=CLASSES)
    assert "boxes are read as zero-based (as MMDetection has VOC)" in said
    assert "the 3 images in their order" in said
    assert "labels: 0 is RBC, 1 is WBC" in said
    (tmp_path / "nothing").write_text("[]")
    said = notes(tmp_path / "nothing", voc_root=root)
    assert "classes as found in the annotations: RBC, WBC" in said
    assert "category ids" not in said  # there are none


def test_odd_detections_are_said(root, tmp_path):
    rows = [("000001", "RBC", 0.5, (0.1, 0.1, -0.9, 0.4))] * 3
    said = notes(as_devkit(tmp_path / "d", rows), voc_root=root)
    assert "nothing was detected of WBC (1 objects): AP 0" in said
    assert "2 of 3 images have no detection at all" in said
    assert "3 of 3 detections cover no pixel (x2 <= x1 - 1 or y2 <= y1 - 1): they find nothing" in said
    assert "no coordinate is greater than 0.4" in said
    assert "2 detections repeat the box of another one of the same class in the same image (RBC: 2)" in said
    assert notes(as_devkit(tmp_path / "e"), voc_root=root) == "classes as found in the annotations: RBC, WBC"


def test_repeated_boxes_are_counted():
    rng = np.random.default_rng(0)
    boxes = rng.integers(0, 3, (2000, 4)).astype(float)
    index = rng.integers(0, 5, 2000)
    expected = 2000 - len({(i, *b) for i, b in zip(index.tolist(), boxes.tolist(), strict=True)})
    assert num_repeated(Detections(index, boxes, np.zeros(2000))) == expected > 1000
    assert num_repeated(Detections([0, 0], [[0.0, 1, 2, 3], [-0.0, 1, 2, 3]], [0, 0])) == 1
    assert num_repeated(Detections([0, 1], [[0.0, 1, 2, 3]] * 2, [0, 0])) == 0
    assert num_repeated(Detections.empty()) == 0


# ---- classes


def test_classes_are_vocs_unless_the_annotations_say_otherwise(root, tmp_path):
    for image_id in IDS:
        rewrite(root, image_id, [("cat", 0, 0, (1, 1, 5, 5))])
    with pytest.raises(
        DataError, match=r"no detection file for 19 of 20 classes: comp4_det_test_aeroplane.txt.*--classes"
    ):
        read_detection_files(as_devkit(tmp_path / "d", [], ["cat"]), Reading(voc_root=root))
    read = read_detection_files(tmp_path / "d", Reading(voc_root=root, missing_class="empty"))
    assert len(read.data.class_names) == 20
    assert "taken for empty" in "\n".join(read.notes)
    read = read_detection_files(tmp_path / "d", Reading(voc_root=root, class_names=["cat"]))
    assert list(read.data.class_names) == ["cat"]


def test_classes_may_be_chosen(root, tmp_path):
    read = read_detection_files(as_devkit(tmp_path / "d"), Reading(voc_root=root, class_names=["WBC"]))
    assert list(read.data.detections) == ["WBC"]
    assert "not evaluated: RBC (3 objects)" in read.notes
    assert "not read: comp4_det_test_RBC.txt" in read.notes


def test_a_file_of_an_unknown_class_is_an_error(root, tmp_path):
    folder = as_devkit(tmp_path / "d", FOUND, (*CLASSES, "wbc"))
    with pytest.raises(DataError, match=r"comp4_det_test_wbc.txt: no such class; expected RBC, WBC"):
        read_detection_files(folder, Reading(voc_root=root))


def test_annotations_without_objects_are_an_error(root, tmp_path):
    for image_id in IDS:
        rewrite(root, image_id, [])
    with pytest.raises(DataError, match="no objects in the annotations of 'test'"):
        read_detection_files(as_devkit(tmp_path / "d"), Reading(voc_root=root))
    with pytest.raises(DataError, match=r"no object of RBC, WBC to be found"):
        read_detection_files(tmp_path / "d", Reading(voc_root=root, class_names=CLASSES))
    rewrite(root, "000001", [("RBC", 0, 1, (10, 10, 40, 40))])  # a difficult one does not count
    with pytest.raises(
        DataError, match=r"no object of RBC, WBC to be found in the ground truth \(1 difficult"
    ):
        read_detection_files(tmp_path / "d", Reading(voc_root=root, class_names=CLASSES))
    rewrite(root, "000001", [("RBC", 0, 0, (10, 10, 40, 40))])
    read_detection_files(tmp_path / "d", Reading(voc_root=root, class_names=CLASSES))


@pytest.mark.parametrize("write", [as_coco, as_mmdet3, as_mmdet2])
def test_numbers_of_classes_found_by_a_scan_are_never_guessed(root, tmp_path, write):
    """A detector of WBC, RBC would get its classes exchanged, and an AP near 0 that looks like a bad detector."""
    path = write(tmp_path / "r")
    with pytest.raises(
        DataError, match=r"r: .*numbers.*do not say which class.*RBC, WBC.*--classes.*order of the detector's"
    ):
        read_detection_files(path, Reading(voc_root=root))
    for classes in (("RBC", "WBC"), ("WBC", "RBC")):
        data = read_detection_files(path, Reading(voc_root=root, class_names=classes)).data
        assert [len(data.detections[name]) for name in classes] == [4, 2]
    for image_id in IDS:  # of VOC's twenty the order is known
        rewrite(root, image_id, [("cat", 0, 0, (1, 1, 5, 5))])
    if write is as_mmdet3:
        assert "labels: 0 is aeroplane, 19 is tvmonitor" in notes(path, voc_root=root)


def test_a_scan_alone_is_refused_where_bccd_was_misread(unpacked, tmp_path):
    """Real data of three classes, detections of a detector that knows them as WBC, RBC, Platelets."""
    kit = unpacked("bccd") / "VOCdevkit"
    folder = find_voc_folder(kit, "2007")
    image_ids = read_image_set(image_set_file(folder, "test"))
    order = ["WBC", "RBC", "Platelets"]
    truth = read_ground_truth(folder / "Annotations", image_ids, order)
    entries = []
    for index, image_id in enumerate(image_ids):
        boxes = [truth[name].boxes[truth[name].image_index == index] - 1 for name in order]
        labels = np.repeat(np.arange(3), list(map(len, boxes)))
        found = {"bboxes": np.concatenate(boxes), "labels": labels, "scores": np.full(len(labels), 0.9)}
        entries.append({"img_id": image_id, "pred_instances": found})
    (tmp_path / "r.pkl").write_bytes(pickle.dumps(entries))
    with pytest.raises(DataError, match="do not say which class"):
        read_detection_files(tmp_path / "r.pkl", Reading(voc_root=kit))
    how = Reading(voc_root=kit, class_names=order)
    assert evaluate_detections(read_detection_files(tmp_path / "r.pkl", how).data).first.map_area > 0.99


# ---- COCO annotations


def test_annotations_of_another_data_set_are_refused(root, tmp_path):
    annotations = as_annotations(tmp_path / "a", "edges")
    document = json.loads(annotations.read_text())
    for each in document["annotations"]:
        each["bbox"][0] += 7
    annotations.write_text(json.dumps(document))
    path = as_coco(tmp_path / "r", image_id=IDS.index)
    with pytest.raises(DataError, match=r"not those of the XML files in any way.*edges 0%, zero-based 0%"):
        read_detection_files(path, Reading(voc_root=root, coco_annotations=annotations))


def test_an_option_against_the_annotations_is_refused(root, tmp_path):
    annotations = as_annotations(tmp_path / "a", "zero-based", ((1, "RBC"), (2, "WBC")))
    path = as_coco(tmp_path / "r", image_id=IDS.index)
    with pytest.raises(ConfigError, match="are those of the XML files as zero-based; leave the option out"):
        read_detection_files(path, Reading(voc_root=root, coco_annotations=annotations, box_format="edges"))


def test_categories_alone_are_enough_for_names(root, tmp_path):
    (tmp_path / "a").write_text('{"categories": [{"id": 2, "name": "RBC"}, {"id": 1, "name": "WBC"}]}')
    path = as_coco(tmp_path / "r")
    how = Reading(voc_root=root, coco_annotations=tmp_path / "a", first_category_id=1)
    with pytest.raises(ConfigError, match=r"--first-category-id.*--coco-annotations.*leave one out"):
        read_detection_files(path, how)
    data = read_detection_files(path, Reading(voc_root=root, coco_annotations=tmp_path / "a")).data
    assert len(data.detections["WBC"]) == 4  # exchanged, as the file says


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not a COCO annotation file"),
        ("{}", r"'categories' is missing"),
        ('{"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}', "same id or name"),
        ('{"categories": [{"id": "1", "name": "a"}]}', "not a whole number"),
        (
            '{"categories": [], "annotations": [{"image_id": [], "category_id": 1, "bbox": []}]}',
            "not an image's id",
        ),
        (
            '{"categories": [], "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 1e999, 1]}]}',
            "not COCO|greater than 1e",
        ),
        ('{"categories": NaN}', "not JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_other_files_than_annotations_are_refused(root, tmp_path, text, message):
    (tmp_path / "a").write_text(text)
    path = as_coco(tmp_path / "r")
    with pytest.raises(DataError, match=message):
        read_detection_files(path, Reading(voc_root=root, coco_annotations=tmp_path / "a"))


# ---- absurd boxes


def test_absurd_boxes_are_refused_by_every_reader(root, tmp_path):
    """Their areas overflow, so that no IoU is defined."""
    how = Reading(voc_root=root, class_names=CLASSES)
    beyond = r"coordinate.* greater than 1e\+09"
    for box in ((1, 1, 1e200, 5), (-2e9, 1, 5, 5)):
        folder = as_devkit(tmp_path / "d", [*FOUND, ("000001", "RBC", 0.5, box)])
        with pytest.raises(DataError, match=rf"_RBC.txt:5: .*{beyond}"):
            read_detection_files(folder, how)
    as_devkit(tmp_path / "d", [*FOUND, ("000001", "RBC", 0.5, (-1e9, 1, 1e9, 5))])
    evaluate_detections(read_detection_files(tmp_path / "d", how).data, coco=True)
    for box in ([1e200, 1, 5, 5], [6e8, 1, 6e8, 5], [1e308, 1, 1e308, 5]):
        results = json.loads(as_coco(tmp_path / "r").read_text())
        results[2]["bbox"] = box
        (tmp_path / "r").write_text("[" + ",\n".join(map(json.dumps, results)) + "]")
        with pytest.raises(DataError, match=rf"r:3: result 3.*{beyond}"):
            read_detection_files(tmp_path / "r", how)
    entries = samples(lambda *values, **how: torch.tensor(*values, **how).numpy())
    entries[1]["pred_instances"]["bboxes"][0, 2] = 1e30
    (tmp_path / "p").write_bytes(pickle.dumps(entries))
    with pytest.raises(DataError, match=rf"entry 2 .*detection 1 .*{beyond}"):
        read_detection_files(tmp_path / "p", how)
    rewrite(root, "000002", [("RBC", 0, 0, (5, 5, 1e200, 45))])
    with pytest.raises(DataError, match=rf"000002.xml: 'RBC' .*{beyond}"):
        read_detection_files(as_devkit(tmp_path / "d"), how)


def test_only_boxes_that_cover_nothing_are_said_to(root, tmp_path):
    """x2 = x1 - 0.5 covers half a pixel."""
    for x2, said in ((9.5, False), (9.0, True), (8.0, True)):
        rows = [("000001", "RBC", 0.5, (10, 10, x2, 40))]
        data = read_detection_files(as_devkit(tmp_path / "d", rows), Reading(voc_root=root)).data
        assert any("cover no pixel" in note for note in oddities(data)) is said, x2


# ---- which format


def test_the_format_is_in_the_content(root, tmp_path):
    data = read_detection_files(as_devkit(tmp_path / "d"), Reading(voc_root=root)).data
    (tmp_path / "work").mkdir()
    write_detections(tmp_path / "work" / "detections.npz", data)
    for path, kind in {
        as_coco(tmp_path / "r.txt"): DetectionFormat.COCO,
        as_mmdet3(tmp_path / "r.json"): DetectionFormat.MMDET,
        as_devkit(tmp_path / "d"): DetectionFormat.DEVKIT,
        write_detections(tmp_path / "r.pkl", data): DetectionFormat.SAVED,
    }.items():
        assert recognise(path) == (kind, path)
    for protocol in range(3):
        (tmp_path / "p").write_bytes(pickle.dumps([[np.zeros((0, 5))]], protocol))
        assert recognise(tmp_path / "p")[0] is DetectionFormat.MMDET
    saved = (DetectionFormat.SAVED, tmp_path / "work" / "detections.npz")
    assert recognise(tmp_path / "work") == saved
    (tmp_path / "work" / "requirements.txt").write_text("torch")  # no text file of detections
    assert recognise(tmp_path / "work") == saved
    as_devkit(tmp_path / "work")
    assert recognise(tmp_path / "work") == (DetectionFormat.DEVKIT, tmp_path / "work")
    assert "detections.npz beside the text files is not read; give it itself to read it" in notes(
        tmp_path / "work", voc_root=root
    )
    (tmp_path / "work" / "RBC.txt").write_text("000001 0.5 1 1 9 9\n")
    how = Reading(voc_root=root, class_names=["RBC"], file_name="{}.txt")
    assert len(read_detection_files(tmp_path / "work", how).data.detections["RBC"]) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"000001 0.5 1 1 2 2\n", "one class's text file; give the folder that holds it"),
        (b"hello", "no detections in a format that is known"),
        (b"\x1f\x8b\x08", "packed with gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_unknown_formats_list_the_known_ones(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(
        DataError, match=rf"{message}.*comp4_det_test_<class>.txt.*JSON.*tools/test.py.*detections.npz"
    ):
        recognise(tmp_path / "x")


def test_folders_without_detections(tmp_path):
    with pytest.raises(DataError, match=r"no detection files in this folder\. Known are"):
        recognise(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(DataError, match=r"it has results\.json: give the file itself"):
        recognise(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        recognise(tmp_path / "nowhere")


def test_options_of_other_formats_are_refused(root, tmp_path):
    folder = as_devkit(tmp_path / "d")
    for option, value in (("box_format", "edges"), ("first_category_id", 0), ("coco_annotations", tmp_path)):
        with pytest.raises(
            ConfigError, match=f"--{option.replace('_', '-')} is for .*the detections are: devkit"
        ):
            read_detection_files(folder, Reading(voc_root=root, **{option: value}))
    for option, value in (("file_name", "a{}"), ("missing_class", "empty")):
        with pytest.raises(ConfigError, match="is for devkit text files"):
            read_detection_files(as_coco(tmp_path / "r"), Reading(voc_root=root, **{option: value}))
    with pytest.raises(ConfigError, match=r"holds no ground truth.*--voc-root"):
        read_detection_files(folder, Reading())


# ---- detections.npz


def test_saved_detections_bring_their_ground_truth(root, tmp_path):
    data = read_detection_files(as_devkit(tmp_path / "d"), Reading(voc_root=root)).data
    path = write_detections(tmp_path / "s.npz", data)
    assert "--voc-root, --year and --split are not used" in notes(path, voc_root=root)
    assert list(read_detection_files(path, Reading(class_names=["WBC"])).data.class_names) == ["WBC"]
    with pytest.raises(DataError, match="no class owl; its classes are RBC, WBC"):
        read_detection_files(path, Reading(class_names=["owl"]))


def test_labels_beyond_the_classes_do_not_vanish(root, tmp_path):
    data = read_detection_files(as_devkit(tmp_path / "d"), Reading(voc_root=root)).data
    path = write_detections(tmp_path / "s.npz", data)
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **arrays | {"label": arrays["label"] + 1})
    with pytest.raises(DataError, match=r"label .* its 2 classes"):
        read_detection_files(path, Reading())
