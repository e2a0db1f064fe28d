"""The benchmark of VOC AP: it measures equal work on equal inputs, and its report says what was found."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from sosr_det.analysis import bench_eval_voc as bench
from sosr_det.cli.bench import app
from sosr_det.errors import ConfigError
from sosr_det.evaluation.all_metrics import evaluate_detections


@pytest.fixture(scope="module")
def small():
    return bench.synthetic_detections(3000, 120, 4, seed=3)


def test_synthetic_detections_are_as_many_as_asked_and_a_seed_repeats_them(small):
    assert (small.num_detections, small.num_images, len(small.class_names)) == (3000, 120, 4)
    assert bench.synthetic_detections(1003, 10, 4).num_detections == 1003
    again, other = (bench.synthetic_detections(3000, 120, 4, seed=seed) for seed in (3, 4))
    for name in small.class_names:
        np.testing.assert_array_equal(small.detections[name].boxes, again.detections[name].boxes)
        assert not np.array_equal(small.detections[name].boxes, other.detections[name].boxes)
    # Work for the matching: hits, misses and difficult objects.
    ap = evaluate_detections(small).first.per_class["class 0"]
    assert min(ap.num_true_positives, ap.num_false_positives, ap.num_ignored) > 10


def test_the_default_is_of_the_size_of_the_real_detections():
    data = bench.synthetic_detections()
    assert (data.num_detections, data.num_images, len(data.class_names)) == (101_139, 4952, 20)


def test_lists_for_the_peer_hold_the_same_rows(small):
    found, truth = bench.as_mmdet_lists(small)
    assert len(found) == len(truth) == 120
    for image in (0, 57, 119):
        for label, name in enumerate(small.class_names):
            given = small.detections[name]
            here = given.image_index == image
            expected = np.column_stack([given.boxes[here], given.scores[here]]).astype(np.float32)
            np.testing.assert_array_equal(found[image][label], expected)
            given = small.ground_truth[name]
            for suffix, difficult in (("", False), ("_ignore", True)):
                of_class = truth[image]["labels" + suffix] == label
                here = (given.image_index == image) & (given.difficult == difficult)
                np.testing.assert_array_equal(
                    truth[image]["bboxes" + suffix][of_class], given.boxes[here].astype(np.float32)
                )
    assert sum(len(image[label]) for image in found for label in range(4)) == 3000


def test_peers_find_the_same(small):
    result = bench.bench_peers(small, repeats=1, coco=True)
    assert list(result["peers"]) == [
        bench.OURS, "the same at 10 IoU thresholds", bench.PEER, "COCO AP", "COCO AP by pycocotools",
    ]  # fmt: skip
    assert result["largest_difference"] < 1e-5  # float32 and its >= on these boxes
    assert result["peers"][bench.PEER]["ratio"] > 1
    text = "\n".join(bench.report_lines({"peers": result}))
    assert "3,000 detections of 4 classes in 120 images, 1 rounds" in text
    assert "wanted: eval_map at least 20 times" in text
    with pytest.raises(ConfigError, match="repeats must be at least 1"):
        bench.bench_peers(small, repeats=0)


def test_curve_measures_each_size_in_its_own_process():
    rows = bench.bench_curve((500, 40_000), repeats=2)
    assert [row["num_detections"] for row in rows] == [500, 40_000]
    assert [row["num_images"] for row in rows] == [24, 1958]
    for row in rows:
        assert row["seconds_per_million"] == pytest.approx(row["seconds"] / row["num_detections"] * 1e6)
    if "peak_mb" in rows[1]:
        assert rows[1]["peak_mb"] > 20
        assert 1 <= rows[1]["times_input"] < 20
    text = "\n".join(bench.report_lines({"curve": rows}))
    assert "40,000" in text


def test_the_peak_is_that_of_the_evaluation(monkeypatch):
    """40 MB more for a moment while it runs are seen; what was used and given back before is not."""
    if bench._reset_peak() is None:
        pytest.skip("this system does not tell the peak")

    def evaluate_and_waste(data):
        np.ones(5_000_000)

    quiet = bench.measure(2000, 1)
    np.ones(20_000_000)
    monkeypatch.setattr(bench, "evaluate_detections", evaluate_and_waste)
    wasteful = bench.measure(2000, 1)
    assert wasteful["peak_mb"] >= quiet["peak_mb"] + 30
    assert wasteful["peak_mb"] <= quiet["peak_mb"] + 80
    of_input = bench._input_bytes(bench.synthetic_detections(2000, 97))
    assert wasteful["times_input"] == pytest.approx(1 + 40e6 / of_input, rel=0.1)


def test_command(monkeypatch, tmp_path):
    peers = {"num_detections": 7, "peers": {}}
    monkeypatch.setattr(bench, "bench_peers", lambda data, repeats, coco: peers | {"given": [repeats, coco]})
    monkeypatch.setattr(bench, "bench_curve", lambda sizes, repeats: [list(sizes), repeats])
    monkeypatch.setattr(bench, "synthetic_detections", lambda: None)
    monkeypatch.setattr(bench, "read_devkit_detections", lambda *given: list(map(str, given)))

    def run(*arguments):
        result = CliRunner().invoke(app, ["eval-voc", "--json", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    assert run()["peers"] == peers | {"given": [3, False], "detections": "synthetic"}
    shown = run("--detections", "d", "--voc-root", "v", "--coco", "--repeats", "5")["peers"]
    assert (shown["given"], shown["detections"]) == ([5, True], "d")
    assert run("--curve", "--largest", "1000000") == {"curve": [[10**4, 10**5, 10**6], 3]}
    assert run("--curve")["curve"][0][-1] == 10**7
    with pytest.raises(ConfigError, match="belong together"):
        run("--detections", "d")


def test_devkit_files_are_read(tmp_path):
    voc = tmp_path / "VOC2007"
    (voc / "Annotations").mkdir(parents=True)
    (voc / "ImageSets" / "Main").mkdir(parents=True)
    (voc / "ImageSets" / "Main" / "test.txt").write_text("a\n")
    (voc / "Annotations" / "a.xml").write_text(
        "<annotation><size><width>50</width><height>40</height></size>"
        + "".join(
            f"<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
            "</object>"
            for name in ("cat", "dog")
        )
        + "</annotation>"
    )
    (tmp_path / "comp4_det_test_cat.txt").write_text("a 0.5 1 1 9 9\n")
    data = bench.read_devkit_detections(tmp_path, tmp_path)
    assert data.class_names == ("cat",)
    assert evaluate_detections(data).first.map_area == 1.0
