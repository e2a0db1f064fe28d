"""``sosr-det analyze-errors`` on a test's detections and on the development kit's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from sosr_det.cli.main import main
from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.errors import analyze_errors
from sosr_det.evaluation.saved_detections import read_detections_file, write_detections


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["analyze-errors", *map(str, arguments)])
    return stopped.value.code


@pytest.fixture
def saved(tmp_path):
    data = EvaluationSet(
        ["cat", "dog"],
        ["a", "b"],
        {"cat": GroundTruth([0, 1], [[0, 0, 9, 9], [0, 0, 9, 9]], [0, 0]), "dog": GroundTruth.empty()},
        {"cat": Detections([0], [[0, 0, 9, 9]], [0.9]), "dog": Detections([0], [[0, 0, 9, 9]], [0.95])},
    )
    return write_detections(tmp_path / "test" / "detections.npz", data)


def test_a_tests_folder_without_torch(saved, capsys):
    code = (
        "import sys\nfrom sosr_det.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'mmengine', 'mmdet', 'torchvision'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "analyze-errors", str(saved.parent)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "mAP 50.00 (area), 54.55 (11-point)" in done.stdout
    assert "do not say where the images are" in (saved.parent / "report" / "index.html").read_text()
    assert done.stdout.splitlines()[-1] == f"report: {saved.parent / 'report' / 'index.html'}"
    (line,) = [each for each in done.stdout.splitlines() if each.startswith("classification")]
    assert line.split()[:4] == ["classification", "0.00", "1", "1"]
    assert "no ground truth (or only difficult) for 1 of 2 classes: dog (1 detections)" in done.stdout


def test_numbers_alone(saved, capsys, tmp_path):
    assert run(saved, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out) == analyze_errors(read_detections_file(saved)).to_dict()
    assert [p.name for p in saved.parent.iterdir()] == ["detections.npz"]
    out = tmp_path / "numbers.json"
    assert run(saved, "--json", out, "--out", tmp_path / "elsewhere", "--max-pictures", 0) == 0
    assert json.loads(out.read_text()) == json.loads((tmp_path / "elsewhere/report/errors.json").read_text())
    assert [p.name for p in saved.parent.iterdir()] == ["detections.npz"]


def test_the_kits_files_with_their_images(tmp_path, capsys):
    import cv2

    voc = tmp_path / "VOCdevkit" / "VOC2007"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (voc / folder).mkdir(parents=True)
    (voc / "ImageSets/Main/test.txt").write_text("000001\n")
    (voc / "Annotations/000001.xml").write_text(
        "<annotation><size><width>200</width><height>100</height><depth>3</depth></size>"
        "<object><name>cat</name><truncated>1</truncated><difficult>0</difficult><bndbox><xmin>1</xmin>"
        "<ymin>1</ymin><xmax>50</xmax><ymax>50</ymax></bndbox></object></annotation>"
    )
    cv2.imwrite(str(voc / "JPEGImages/000001.jpg"), np.full((100, 200, 3), 128, np.uint8))
    found = tmp_path / "found"
    found.mkdir()
    (found / "comp4_det_test_cat.txt").write_text("000001 0.9 1 1 50 50\n000001 0.95 101 1 150 50\n")
    assert run(found, "--voc-root", voc.parent, "--classes", "cat", "--out", tmp_path) == 0
    report = tmp_path / "report"
    assert cv2.imread(str(report / "worst/01.jpg")) is not None
    numbers = json.loads((report / "errors.json").read_text())
    assert numbers["classes"]["cat"]["groups"]["truncated"] | {"num_ground_truth": 0} == {
        "ap_11point": 0.5, "ap_area": 0.5, "recall": 1.0, "num_ground_truth": 0,
    }  # fmt: skip
    assert numbers["all_classes"]["errors"]["background"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "nowhere"], "--images nowhere: no such folder"),
        (["--classes", "owl"], "no class owl"),
        (["--json", "nowhere/x.json"], "there is no folder nowhere"),
        (["--json", "-", "--out", "x"], "--out has no effect with --json -"),
        (["--json", "-", "--title", "x"], "--title has no effect with --json -"),
        (["--out", "/proc/x"], "--out /proc/x"),
        (["--first-category-id", "1"], "--first-category-id is for COCO results"),
        (["--missing-class", "empty"], "--missing-class empty is for devkit"),
        (["--file-name", "{}.txt"], "--file-name is for devkit"),
        (["--classes", "dog"], "no object of dog to be found"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(saved, capsys, arguments, message):
    assert run(saved, *arguments) == 1
    assert message in capsys.readouterr().err
    assert [p.name for p in saved.parent.iterdir()] == ["detections.npz"]


def test_json_does_not_replace_the_detections(saved, capsys, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert run(saved, "--json", tmp_path / "pipe") == 1
    assert "not a regular file" in capsys.readouterr().err
    before = saved.read_bytes()
    for detections in (saved, saved.parent):
        assert run(detections, "--json", saved) == 1
        assert "is read" in capsys.readouterr().err
        assert saved.read_bytes() == before


def test_the_place_is_looked_at_before_the_work_and_named_after_it(saved, capsys, tmp_path, monkeypatch):
    read = "sosr_det.evaluation.formats.reading.read_detection_files"
    with monkeypatch.context() as patched:
        patched.setattr(read, lambda *_: 1 / 0)
        assert run(saved, "--out", "/proc/x") == 1
        assert "error: --out /proc/x" in capsys.readouterr().err

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sosr_det.analysis.detection_report.report.draw_plots", full)
    assert run(saved, "--out", tmp_path / "o") == 1
    err = capsys.readouterr().err
    assert f"--out {tmp_path / 'o'}: the report cannot be written: No space left on device" in err
    assert "--resume" not in err
    assert not (tmp_path / "o" / "report").exists()


def test_real_detections(unpacked, tmp_path, capsys):
    """Counts of a public YOLOv2 on VOC2007 test; the parts add up to what the evaluation counts."""
    found = unpacked("yolov2-voc07-test")
    root = unpacked("voc0712-annotations") / "VOCdevkit"
    assert run(found, "--voc-root", root, "--json", "-") == 0
    numbers = json.loads(capsys.readouterr().out)
    golden = json.loads((found / "golden_ap.json").read_text())
    assert 100 * numbers["all_classes"]["map_area"] == pytest.approx(74.5179, abs=1e-4), golden
    kinds = ("classification", "localisation", "both", "duplicate", "background")
    for entry in numbers["classes"].values():
        assert sum(entry["errors"][kind] for kind in kinds) == entry["num_false_positives"]
        assert all(gain >= 0 for gain in entry["ap_area_gain"].values())
        truncated, whole = entry["groups"]["truncated"], entry["groups"]["whole"]
        assert truncated["num_ground_truth"] + whole["num_ground_truth"] == entry["num_ground_truth"]
    assert numbers["num_detections"] == 101_139
    assert numbers["all_classes"]["groups"]["truncated"]["num_ground_truth"] == 5765
