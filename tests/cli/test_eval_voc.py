"""``sosr-det eval-voc``: figures of real detections, output, JSON, errors and exit codes."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sosr_det.cli.detection_options import BoxFormatName
from sosr_det.cli.main import main
from sosr_det.evaluation.formats.box_formats import BOX_FORMATS
from sosr_det.evaluation.formats.devkit import read_detections
from sosr_det.evaluation.formats.voc_folder import read_image_set


def run(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["eval-voc", *map(str, arguments)])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


@pytest.fixture
def kit(tmp_path):
    """Ten cats and a dog, one an image; nine cats are found."""
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "found").mkdir()
    ids = [f"{number:06d}" for number in range(1, 12)]
    (folder / "ImageSets" / "Main" / "test.txt").write_text("\n".join(ids))
    for number, image_id in enumerate(ids):
        (folder / "Annotations" / f"{image_id}.xml").write_text(
            f"<annotation><object><name>{'dog' if number == 10 else 'cat'}</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
            "<xmax>10</xmax><ymax>10</ymax></bndbox></object></annotation>"
        )
    lines = [f"{image_id} 0.{9 - number} 1 1 10 10\n" for number, image_id in enumerate(ids[:9])]
    (tmp_path / "found" / "comp4_det_test_cat.txt").write_text("".join(lines))
    (tmp_path / "found" / "comp4_det_test_dog.txt").write_text("")
    return tmp_path


def arguments(kit, *more):
    return ("--detections", kit / "found", "--voc-root", kit / "VOCdevkit", "--classes", "cat,dog", *more)


def test_the_table_and_the_notes(kit, capsys):
    code, out, err = run(capsys, *arguments(kit))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("9 detections (devkit text files) in 11 images of ")
    assert lines[1] == "VOC average precision in percent, IoU > 0.5"
    # Recall 0.9 with precision 1: ten of eleven levels, and nine tenths of the area.
    assert re.search(r"^cat +10 +0 +9 +90\.91 +90\.00$", out, re.M)
    assert re.search(r"^dog +1 +0 +0 +0\.00 +0\.00$", out, re.M)
    assert re.search(r"^mean +11 +0 +9 +45\.45 +45\.00$", out, re.M)
    assert "note: nothing was detected of dog (1 objects): AP 0" in out


def test_one_metric_alone(kit, capsys):
    code, out, _ = run(capsys, *arguments(kit, "--metric", "area", "--json", kit / "o.json"))
    assert code == 0
    assert "11-point" not in out
    document = json.loads((kit / "o.json").read_text())
    assert document["ap_area"] == {"cat": 0.9, "dog": 0.0}
    assert not [key for key in document if "11point" in key]
    document = json.loads(run(capsys, *arguments(kit, "--metric", "11point", "--json", "-"))[1])
    assert document["ap_11point"] == {"cat": pytest.approx(10 / 11, abs=1e-15), "dog": 0.0}
    assert not [key for key in document if "area" in key]


def test_json_alone_on_stdout(kit, capsys):
    code, out, err = run(capsys, *arguments(kit, "--json", "-", "--year", "VOC2007"))
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["map_11point"] == pytest.approx(5 / 11, abs=1e-15)
    assert document["map_area"] == 0.45
    assert document["counts"]["cat"] == {
        "ground_truth": 10, "difficult": 0, "detections": 9, "true_positives": 9, "false_positives": 0, "ignored": 0,
    }  # fmt: skip
    assert document["settings"]["iou_thresholds"] == [0.5]
    assert document["inputs"]["ground_truth"]["split"] == "test"
    assert len(document["inputs"]["detections"]["sha256"]) == 64
    assert document["notes"] == ["nothing was detected of dog (1 objects): AP 0"]


def test_the_digest_is_that_of_the_files_together(kit, capsys):
    import hashlib

    document = json.loads(run(capsys, *arguments(kit, "--json", "-"))[1])
    content = (kit / "found" / "comp4_det_test_cat.txt").read_bytes()
    assert document["inputs"]["detections"]["sha256"] == hashlib.sha256(content).hexdigest()


def test_both_kinds_of_recall_thresholds_are_named(kit, capsys):
    """Three of ten found: the float level 0.30000000000000004 is missed."""
    path = kit / "found" / "comp4_det_test_cat.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    documents = {
        name: json.loads(run(capsys, *arguments(kit, "--json", "-", "--recall-thresholds", name))[1])
        for name in ("exact", "arange")
    }
    assert (
        documents["exact"]["ap_11point"]["cat"]
        == documents["arange"]["ap_11point_exact"]["cat"]
        == pytest.approx(4 / 11)
    )
    assert (
        documents["arange"]["ap_11point"]["cat"]
        == documents["exact"]["ap_11point_arange"]["cat"]
        == pytest.approx(3 / 11)
    )
    assert documents["exact"]["map_11point_arange"] == documents["arange"]["map_11point"]
    assert "cat 27.27 instead of 36.36 (ap_11point_arange in the JSON)" in documents["exact"]["notes"][-1]
    assert "cat 36.36 instead of 27.27 (ap_11point_exact in the JSON)" in documents["arange"]["notes"][-1]


def test_several_thresholds_and_coco(kit, capsys):
    code, out, _ = run(
        capsys, *arguments(kit, "--iou", 0.5, "--iou", 0.75, "--coco", "--json", kit / "o.json")
    )
    assert code == 0
    document = json.loads((kit / "o.json").read_text())
    assert [block["iou_threshold"] for block in document["at_iou"]] == [0.5, 0.75]
    assert document["at_iou"][0]["ap_area"] == document["ap_area"]
    assert document["mean_over_iou_thresholds"] == {"map_11point": pytest.approx(5 / 11), "map_area": 0.45}
    assert 0 < document["coco"]["ap"] < 1
    assert "at IoU > 0.75: mAP 11-point 45.45, mAP area 45.00" in out
    assert "COCO: AP " in out


def test_iou_of_exactly_the_threshold(kit, capsys):
    path = kit / "found" / "comp4_det_test_cat.txt"
    path.write_text("000001 0.5 1 1 10 5\n")  # half of the object
    values = [
        json.loads(run(capsys, *arguments(kit, "--json", "-", *more))[1])["ap_area"]["cat"]
        for more in ((), ("--iou-at-least",))
    ]
    assert values == [0.0, 0.1]


def test_a_class_without_ground_truth_has_no_ap(kit, capsys):
    (kit / "found" / "comp4_det_test_owl.txt").write_text("000001 0.5 1 1 2 2\n")
    code, out, _ = run(capsys, *arguments(kit, "--classes", "cat,owl", "--json", kit / "o.json"))
    document = json.loads((kit / "o.json").read_text())
    assert code == 0
    assert document["ap_area"] == {"cat": 0.9, "owl": None}
    assert document["map_area"] == 0.9
    assert document["classes_without_ground_truth"] == ["owl"]
    assert "no ground truth (or only difficult) for 1 of 2 classes: owl (1 detections)" in out
    assert re.search(r"^mean of 1 ", out, re.M)


# ---- errors: exit code 1, one message, nothing written


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("000001 nan 1 1 2 2", r"comp4_det_test_dog.txt:2: the score is not finite"),
        ("000001 0.5 1 1 2", r"comp4_det_test_dog.txt:2: expected 6 fields"),
        ("999999 0.5 1 1 2 2", r"comp4_det_test_dog.txt:2: image '999999' is not in the image set"),
    ],
)
def test_a_bad_line_stops_everything(kit, capsys, line, message):
    (kit / "found" / "comp4_det_test_dog.txt").write_text(f"000001 0.5 1 1 2 2\n{line}\n")
    (kit / "o.json").write_text("earlier")
    code, out, err = run(capsys, *arguments(kit, "--json", kit / "o.json"))
    assert (code, out) == (1, "")
    assert re.search(message, err)
    assert (kit / "o.json").read_text() == "earlier"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--classes", "cat,cat"), "each once"),
        (("--classes", "cat,"), "names with commas"),
        (("--iou", "1"), "from 0 to less than 1"),
        (("--iou", "nan"), "from 0 to less than 1"),
        (("--iou", "0", "--iou-at-least"), "more than 0"),
        (("--iou", "0.5", "--iou", "0.5"), "a threshold twice"),
        (("--year", "2012"), r"no VOC2012 in it. Looked for"),
        (("--year", "../Voc"), r"no VOC\.\./Voc in it"),
        (("--classes", "cat,d\udcffog"), "not text that can be written"),
        (("--split", "val"), r"val.txt: no such file. Splits that are there: test"),
        (("--classes", "cat,dog,owl"), r"no detection file for 1 of 3 classes: comp4_det_test_owl.txt"),
        (("--file-name", "x.txt"), r"--file-name must have {}"),
        (("--voc-root", "/nowhere"), "no such folder"),
        (("--detections", "/nowhere"), "no such file or folder"),
    ],
)
def test_unusable_options(kit, capsys, more, message):
    code, out, err = run(capsys, *arguments(kit, *more))
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert re.search(message, err)


def test_json_is_written_or_not_at_all(kit, capsys, monkeypatch):
    for target, message in ((kit, "is a folder"), (kit / "no" / "o.json", "there is no folder")):
        code, out, err = run(capsys, *arguments(kit, "--json", target))
        assert (code, out) == (1, "")
        assert message in err

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    code, _, err = run(capsys, *arguments(kit, "--json", kit / "o.json"))
    assert code == 1
    assert "o.json: cannot be written: No space left on device" in err
    assert not list(kit.glob("*.json")) + list(kit.glob(".o.json*"))


def test_json_never_replaces_what_was_read_or_a_special_file(kit, capsys):
    """Not even under another name."""
    cat = kit / "found" / "comp4_det_test_cat.txt"
    voc = kit / "VOCdevkit" / "VOC2007"
    (kit / "link").symlink_to(cat)
    (kit / "hard").hardlink_to(cat)
    (kit / "results.json").write_text(
        '[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 1}]'
    )
    (kit / "categories.json").write_text(
        '{"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}'
    )
    os.mkfifo(kit / "pipe")
    results = ("--detections", kit / "results.json", "--coco-annotations", kit / "categories.json")
    for more, target, message in (
        ((), cat, "is read"),
        ((), kit / "found" / ".." / "found" / "comp4_det_test_dog.txt", "is read"),
        ((), kit / "link", "is read"),
        ((), kit / "hard", "is read"),
        ((), voc / "ImageSets" / "Main" / "test.txt", "is read"),
        ((), voc / "Annotations" / "000001.xml", "is read"),
        (("--file-name", "comp4_det_test_{}.txt"), cat, "is read"),
        (results, kit / "results.json", "is read"),
        (results, kit / "categories.json", "is read"),
        ((), kit / "pipe", "not a regular file"),
    ):
        before = {path: path.read_bytes() for path in kit.rglob("*") if path.is_file()}
        code, out, err = run(capsys, *arguments(kit, *more, "--json", target))
        assert (code, out) == (1, ""), target
        assert message in err
        assert {path: path.read_bytes() for path in kit.rglob("*") if path.is_file()} == before
    for _ in range(2):  # an earlier JSON is replaced, wherever it lies
        assert run(capsys, *arguments(kit, "--json", kit / "found" / "ap.json"))[0] == 0
        assert run(capsys, *arguments(kit, "--json", kit / "VOCdevkit" / "ap.json"))[0] == 0


def test_names_that_are_no_utf8_are_written_escaped(kit, capsys):
    odd = kit / "od\udcffd"
    (kit / "found").rename(odd)
    code, _, err = run(capsys, *arguments(kit, "--json", kit / "o.json", "--detections", odd))
    assert (code, err) == (0, "")
    assert json.loads((kit / "o.json").read_text())["inputs"]["detections"]["path"] == str(odd)
    code, out, err = run(capsys, *arguments(kit, "--json", "-", "--detections", odd))
    assert json.loads(out)["inputs"]["detections"]["path"] == str(odd)


def test_nothing_to_be_found_is_an_error(kit, capsys):
    (kit / "found" / "comp4_det_test_owl.txt").write_text("000001 0.5 1 1 2 2\n")
    code, out, err = run(capsys, *arguments(kit, "--classes", "owl"))
    assert (code, out) == (1, "")
    assert "no object of owl to be found" in err


def test_names_of_classes_cannot_steer_the_terminal(kit, capsys):
    for path in (kit / "VOCdevkit" / "VOC2007" / "Annotations").iterdir():
        path.write_text(path.read_text().replace("cat", "c\u202eat").replace("dog", "dog"))
    (kit / "found" / "comp4_det_test_cat.txt").rename(kit / "found" / "comp4_det_test_c\u202eat.txt")
    code, out, _ = run(capsys, "--detections", kit / "found", "--voc-root", kit / "VOCdevkit")
    assert code == 0
    assert "c\N{REPLACEMENT CHARACTER}at" in out
    assert "\u202e" not in out


def test_the_names_of_box_formats_are_all_there():
    assert [each.value for each in BoxFormatName] == list(BOX_FORMATS)


def test_nothing_heavy_is_imported(kit):
    code = (
        "import sys\nfrom sosr_det.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'mmengine', 'mmdet', 'mmcv', 'cv2', 'faster_coco_eval', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\nassert 'numpy' in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code, "eval-voc", *map(str, arguments(kit))], check=True, capture_output=True
    )


# ---- the page


def commands_of(page):
    blocks = re.findall(r"```bash\n(.*?)```", page, re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith("sosr-det eval-voc")]


# ---- real detections


@pytest.fixture(scope="module")
def real(unpacked):
    """The folder of a YOLOv2's detections, golden_ap.json, and VOCdevkit."""
    folder = unpacked("yolov2-voc07-test")
    golden = json.loads((folder / "golden_ap.json").read_text())
    return folder, golden, unpacked("voc0712-annotations") / "VOCdevkit"


def assert_golden(document, golden, eleven_point):
    for name in golden["ap_area"]:
        assert document["ap_area"][name] == pytest.approx(golden["ap_area"][name], abs=1e-9), name
        assert document[f"ap_{eleven_point}"][name] == pytest.approx(golden["ap_11point"][name], abs=1e-9), (
            name
        )
    assert document["map_area"] == pytest.approx(golden["map_area"], abs=1e-9)
    assert document[f"map_{eleven_point}"] == pytest.approx(golden["map_11point"], abs=1e-9)
    assert document["num_detections"] == golden["num_detections"]
    assert document["num_images"] == golden["num_images"]


def test_real_detections_give_the_golden_figures(real, capsys, tmp_path):
    folder, golden, devkit = real
    files = ("--detections", folder, "--voc-root", devkit, "--year", "2007", "--split", "test")
    assert run(capsys, *files, "--json", tmp_path / "o.json")[0] == 0
    assert_golden(json.loads((tmp_path / "o.json").read_text()), golden, "11point_arange")


def test_the_pages_command_gives_the_figures_of_the_ports(real, capsys, tmp_path, monkeypatch):
    """docs/evaluation.md, "Recall levels", as it stands there."""
    folder, golden, devkit = real
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    (command,) = [each for each in commands_of(page) if "--recall-thresholds" in each]
    (tmp_path / "detections").symlink_to(folder)
    (tmp_path / "VOCdevkit").symlink_to(devkit)
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, *shlex.split(command)[2:])
    assert code == 0
    assert_golden(json.loads((tmp_path / "ap.json").read_text()), golden, "11point")
    for name, value in re.findall(r"^mean +\d+ +\d+ +\d+ +([\d.]+) +([\d.]+)$", out, re.M):
        assert (float(name), float(value)) == tuple(
            round(100 * golden[f"map_{key}"], 2) for key in ("11point", "area")
        )


def test_real_detections_in_other_formats(real, capsys, tmp_path):
    """As MMDetection's and COCO's tools would have written them: the same figures."""
    folder, golden, devkit = real
    classes = list(golden["ap_area"])
    image_ids = read_image_set(devkit / "VOC2007" / "ImageSets" / "Main" / "test.txt")
    detections = read_detections(folder, image_ids, classes)
    results = []
    entries = [[np.zeros((0, 5))] * len(classes) for _ in image_ids]
    for label, name in enumerate(classes):
        found = detections[name]
        edges = found.boxes - [1, 1, 0, 0]
        sizes = edges[:, 2:] - edges[:, :2]
        boxes = np.concatenate([edges[:, :2], sizes], axis=1).tolist()
        rows = zip(found.image_index.tolist(), boxes, found.scores.tolist(), strict=True)
        results += [
            {"image_id": int(image_ids[i]), "category_id": label + 1, "bbox": box, "score": score}
            for i, box, score in rows
        ]
        table = np.concatenate([found.boxes - 1, found.scores[:, None]], axis=1)
        for index in np.unique(found.image_index).tolist():
            entries[index][label] = table[found.image_index == index]
    (tmp_path / "r.json").write_text(json.dumps(results))
    (tmp_path / "r.pkl").write_bytes(pickle.dumps(entries))
    for name in ("r.json", "r.pkl"):
        code, out, _ = run(capsys, "--detections", tmp_path / name, "--voc-root", devkit, "--json", "-")
        assert code == 0
        assert_golden(json.loads(out), golden, "11point_arange")
