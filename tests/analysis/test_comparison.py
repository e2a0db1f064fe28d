"""What a comparison says: numbers, verdicts at both sides, unfinished and unpaired ones, names of other people."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from sosr_det.analysis.comparison import report, write_comparison
from sosr_det.analysis.comparison.result import two_by_two
from sosr_det.analysis.comparison.text import points, verdict
from sosr_det.analysis.figures.canvas import COLOURS
from sosr_det.engine.compare.arms import Arm
from sosr_det.engine.compare.study import Study
from sosr_det.engine.run_record import write_run_record
from sosr_det.errors import ConfigError, DataError
from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.saved_detections import write_detections
from sosr_det.evaluation.saved_predictions import Predictions, write_predictions
from sosr_det.evaluation.voc_ap import evaluate_voc

NUM_IMAGES = 40
OPTIONS = {"data_root": None, "cfg_options": ["a.b=1"], "total_epochs": 2}


def make_study(folder, kind, names=("old", "new"), seeds=(0, 1, 2)):
    arms = [Arm(name, "config", "c" * 64, f"sosr://{name}", f"sosr://sha256:{name}", name) for name in names]
    return Study(folder, kind, arms, list(seeds), OPTIONS)


def finish(study, cell, *, digest=None, record=None):
    """What a run and its test leave beside the predictions."""
    name = {"detection": "detections.npz", "classification": "predictions.npz"}[study.kind]
    batches = [{"epoch": 1, "digest": digest or f"{cell.seed}" * 64, "num_batches": 3, "random_state": "r"}]
    cell.run_dir.mkdir(parents=True)
    write_run_record(
        cell.run_dir,
        {
            "schema_version": 1, "status": "completed", "epochs": [], "config_text": "", "batches": batches,
            "backbone": {"digest": cell.arm.digest}, "initial_weights": {"outside_backbone": "w"},
            "data": {"train": {"fingerprint": "t"}, "val": None}, **(record or {}),
        },
    )  # fmt: skip
    note_done(cell, name)


def note_done(cell, name):
    digest = hashlib.sha256((cell.test_dir / name).read_bytes()).hexdigest()
    (cell.folder / "done.json").write_text(
        json.dumps({"predictions": name, "predictions_sha256": digest, "checkpoint": "x", "metrics": {}})
    )


def classified(folder, right, names=("old", "new"), **others):
    """A comparison of classifiers: ``right[arm][seed]`` images of 40 are right; two classes in turns."""
    study = make_study(folder, "classification", names, range(len(right[0])))
    labels = np.arange(NUM_IMAGES) % 2
    for arm, row in zip(study.arms, right, strict=True):
        for seed, count in zip(study.seeds, row, strict=True):
            cell = study.cell(arm, seed)
            predicted = np.where(np.arange(NUM_IMAGES) < count, labels, 1 - labels)
            ids = [f"image{i}" for i in range(NUM_IMAGES)]
            write_predictions(
                cell.test_dir / "predictions.npz", Predictions(ids, ["cat", "dog"], labels, predicted)
            )
            finish(study, cell, **others)
    return study


def result_of(study, **options):
    text, problems = write_comparison(study, num_resamples=200, **options)
    return json.loads((study.folder / "compare.json").read_text()), text, problems


# ---- the verdict ---------------------------------------------------------------------------------------------------


def pair(difference, half, seeds=3, distinguishable=False):
    return {
        "difference": difference, "half_width": half, "num_seeds": seeds, "level": 0.95,
        "distinguishable": distinguishable, "images": {"percentile_low": -0.01, "percentile_high": 0.02},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "metric", "paired", "expected"),
    [
        (pair(0.004, 0.006), "map_11point", True, "+0.40 ± 0.60 mAP (11-point, 95 %, 3 seeds): not distinguishable"),
        (pair(-0.01, 0.006, 5, True), "map_area", True, "-1.00 ± 0.60 mAP (area, 95 %, 5 seeds): distinguishable"),
        (pair(0.01, 0.006, 3, True), "top1", True, "+1.00 ± 0.60 top-1 (95 %, 3 seeds): distinguishable"),
        (
            pair(0.01, 0.006, 2), "top1", True,
            "+1.00 ± 0.60 top-1 (95 %, 2 seeds): not distinguishable, as 2 seeds are fewer than 3",
        ),
        (
            pair(0.01, None, 1), "map_11point", True,
            "+1.00 mAP (11-point, one seed; -1.00 to +2.00 over images alone): not distinguishable, since the spread "
            "over seeds is unknown",
        ),
        (pair(0.01, 0.006, 3, True), "map_11point", False, "+1.00 mAP (11-point, 3 seeds): NOT PAIRED, no verdict"),
        ({"difference": None}, "map_11point", True, "no mAP: the test set has nothing to be found"),
    ],
)  # fmt: skip
def test_one_line(given, metric, paired, expected):
    assert verdict(given, metric, paired=paired) == expected


def test_points_have_a_sign_and_zero_has_one():
    assert [points(v) for v in (0.00404, -0.1, 0.0, -0.0000001)] == ["+0.40", "-10.00", "+0.00", "+0.00"]


# ---- whole comparisons ---------------------------------------------------------------------------------------------


def test_classifiers(tmp_path):
    result, text, problems = result_of(classified(tmp_path, [[10, 12, 14], [20, 22, 24]]))
    assert problems == []
    numbers = result["metrics"]["top1"]
    assert numbers["arms"]["old"] == {
        "n": 3, "mean": pytest.approx(12 / 40), "std": pytest.approx(2 / 40), "values": [10 / 40, 12 / 40, 14 / 40],
        "per_class_mean": {"cat": pytest.approx(12 / 40), "dog": pytest.approx(12 / 40)},
    }  # fmt: skip
    (found,) = numbers["pairs"]
    assert (found["reference"], found["arm"]) == ("old", "new")
    assert found["difference"] == pytest.approx(10 / 40)
    assert found["seeds"]["std"] == pytest.approx(0, abs=1e-12)
    assert found["low"] == pytest.approx(found["difference"] - found["half_width"])
    # 10 of 40 images differ in every seed: variance of a mean of 40 draws of a 0-1 variable of 1/4.
    assert found["images"]["std"] == pytest.approx((0.25 * 0.75 / 40) ** 0.5, rel=0.2)
    assert found["distinguishable"] is True
    assert set(found["per_class"]) == {"cat", "dog"}
    assert "old  3  30.00 ± 5.00" in text
    assert "new against old: +25.00 ± " in text
    assert "distinguishable" in result["verdicts"][0]
    page = (tmp_path / "report.md").read_text()
    assert result["verdicts"][0] in page
    assert "| 0 | 1 | 3 | yes | yes |" in page
    for name in ("seeds.png", "classes.png", "seeds.json", "classes.json"):
        assert (tmp_path / "plots" / name).stat().st_size > 0
    again, _, _ = result_of(make_study(tmp_path, "classification"))
    assert again["metrics"] == result["metrics"]


def test_more_arms_than_colours(tmp_path):
    count = len(COLOURS) + 2
    study = classified(
        tmp_path, [[10 + arm, 12 + arm] for arm in range(count)], [f"arm{i}" for i in range(count)]
    )
    result, _, _ = result_of(study)
    assert len(result["verdicts"]) == count - 1
    assert (tmp_path / "plots" / "seeds.png").stat().st_size > 0


def test_no_difference(tmp_path):
    result, text, _ = result_of(classified(tmp_path, [[20, 22, 24], [20, 22, 24]]))
    assert result["verdicts"] == ["new against old: +0.00 ± 0.00 top-1 (95 %, 3 seeds): not distinguishable"]
    assert result["verdicts"][0] in text


def detected(study, arm_index, seed, shift):
    """One class that is found where the shift is small, one that is not in the test set."""
    generator = np.random.default_rng(seed)
    boxes = generator.uniform(0, 50, (NUM_IMAGES, 4))
    boxes[:, 2:] = boxes[:, :2] + 20
    truth = np.random.default_rng(99).uniform(0, 50, (NUM_IMAGES, 4))
    truth[:, 2:] = truth[:, :2] + 20
    found = truth + generator.normal(0, shift, truth.shape)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2])
    images = np.arange(NUM_IMAGES)
    data = EvaluationSet(
        ("cat", "ghost"),
        [f"image{i}" for i in images],
        {"cat": GroundTruth(images, truth, np.zeros(NUM_IMAGES, bool)), "ghost": GroundTruth.empty()},
        {"cat": Detections(images, found, generator.random(NUM_IMAGES)), "ghost": Detections.empty()},
    )
    cell = study.cell(study.arms[arm_index], seed)
    write_detections(cell.test_dir / "detections.npz", data)
    finish(study, cell)
    return evaluate_voc(data.ground_truth, data.detections, data.class_names)


def test_detectors(tmp_path):
    study = make_study(tmp_path, "detection")
    expected = [[detected(study, arm, seed, 3 - arm) for seed in study.seeds] for arm in (0, 1)]
    result, text, _ = result_of(study, metric="map_area")
    for metric in ("map_11point", "map_area"):
        for arm, row in zip(("old", "new"), expected, strict=True):
            values = result["metrics"][metric]["arms"][arm]["values"]
            assert values == pytest.approx([getattr(each, metric) for each in row], abs=1e-12)
        (found,) = result["metrics"][metric]["pairs"]
        assert found["per_class"]["ghost"] is None
        assert found["per_class"]["cat"]["difference"] == pytest.approx(found["difference"])
    assert "mAP (area, 95 %, 3 seeds)" in text
    assert "| `ghost` | – | – |" in (tmp_path / "report.md").read_text()
    with pytest.raises(ConfigError, match="--metric top1: this comparison has map_11point, map_area"):
        write_comparison(study, metric="top1")


def test_one_seed_and_two(tmp_path):
    result, text, _ = result_of(classified(tmp_path / "one", [[10], [30]]))
    assert "since the spread over seeds is unknown" in text
    assert result["metrics"]["top1"]["pairs"][0]["half_width"] is None
    assert result["metrics"]["top1"]["arms"]["old"]["std"] is None
    assert "unknown with one seed" in (tmp_path / "one" / "report.md").read_text()
    result, text, _ = result_of(classified(tmp_path / "two", [[10, 10], [30, 30]]))
    assert "as 2 seeds are fewer than 3" in text
    assert not result["metrics"]["top1"]["pairs"][0]["distinguishable"]


def test_unfinished_seeds_are_left_out_and_named(tmp_path):
    study = classified(tmp_path, [[10, 12, 14, 16], [20, 22, 24, 26]])
    (study.cell(study.arms[1], 2).folder / "done.json").unlink()
    result, text, _ = result_of(study)
    assert (result["seeds"], result["missing"]) == ([0, 1, 3], ["new/seed-2"])
    assert result["metrics"]["top1"]["arms"]["old"]["values"] == [10 / 40, 12 / 40, 16 / 40]
    assert "NOT FINISHED, left out: new/seed-2" in text
    assert "new/seed-2" in (tmp_path / "report.md").read_text()


def test_nothing_finished(tmp_path):
    result, text, problems = result_of(make_study(tmp_path, "classification"))
    assert "no seed of which every arm is finished" in text
    assert (problems, result["verdicts"], result["pairing"]["paired"]) == ([], [], False)


def test_twins_with_other_batches_get_no_verdict(tmp_path):
    study = classified(tmp_path, [[10, 12, 14], [20, 22, 24]])
    cell = study.cell(study.arms[1], 1)
    record = json.loads((cell.run_dir / "run.json").read_text())
    record["batches"][0]["digest"] = "e" * 64
    write_run_record(cell.run_dir, record)
    result, _, problems = result_of(study)
    assert problems == [f"old and new, seed 1: other batches in epoch 1 (3 of {'1' * 12}…, 3 of {'e' * 12}…)"]
    assert result["verdicts"] == ["new against old: +25.00 top-1 (3 seeds): NOT PAIRED, no verdict"]
    page = (tmp_path / "report.md").read_text()
    assert "NOT PAIRED: old and new, seed 1" in page
    assert "| 1 | 1 | 3 | NO | yes |" in page


def test_other_images_are_refused(tmp_path):
    study = classified(tmp_path, [[10, 12], [20, 22]])
    labels = np.arange(NUM_IMAGES) % 2
    path = study.cell(study.arms[1], 1).test_dir / "predictions.npz"
    ids = [f"image{i}" for i in range(NUM_IMAGES)]
    for data, what in (
        (Predictions([f"other{i}" for i in range(NUM_IMAGES)], ["cat", "dog"], labels, labels), "images"),
        (Predictions(ids, ["cat", "cow"], labels, labels), "classes"),
        (Predictions(ids, ["cat", "dog"], 1 - labels, labels), "labels"),
    ):
        write_predictions(path, data)
        note_done(study.cell(study.arms[1], 1), path.name)
        with pytest.raises(DataError, match=f"old/seed-0 and new/seed-1 were tested on other {what}"):
            write_comparison(study)


def test_predictions_that_changed_since_the_test_are_refused(tmp_path):
    study = classified(tmp_path, [[10, 12], [20, 22]])
    result_of(study)
    cell = study.cell(study.arms[1], 0)
    labels = np.arange(NUM_IMAGES) % 2
    better = Predictions([f"image{i}" for i in range(NUM_IMAGES)], ["cat", "dog"], labels, labels)
    write_predictions(cell.test_dir / "predictions.npz", better)
    with pytest.raises(DataError, match=r"predictions\.npz changed since the test; delete .*done\.json"):
        write_comparison(study)


def test_what_a_reader_must_know(tmp_path):
    study = classified(
        tmp_path, [[10, 12], [20, 22], [20, 23]], ("a", "b", "c"), record={"selection": {"on": "test"}}
    )
    study.grown = 1
    result, text, _ = result_of(study)
    notes = "\n".join(result["notes"])
    for part in (
        "at least 3 are needed",
        "chosen on the test images",
        "added after",
        "2 arms are compared with the first",
    ):
        assert part in notes
        assert part in text
    pairs = [(pair["reference"], pair["arm"]) for pair in result["metrics"]["top1"]["pairs"]]
    assert pairs == [("a", "b"), ("a", "c"), ("b", "c")]
    assert len(result["verdicts"]) == 2
    cell = study.cell(study.arms[2], 1)
    record = json.loads((cell.run_dir / "run.json").read_text())
    write_run_record(cell.run_dir, {**record, "data": {"train": {"fingerprint": "other"}}})
    assert "did not have the same train data" in "\n".join(result_of(study)[0]["notes"])


CIRCUMSTANCES = {
    "git_commit": "1" * 40, "device": "cpu", "world_size": 1, "library_versions": {"torch": "2.0", "numpy": "2.2"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({}, None),
        (
            {"git_commit": "2" * 40},
            f"same code: git_commit is {'1' * 40} in a/seed-0, a/seed-1, b/seed-0 and {'2' * 40} ",
        ),
        (
            {"git_commit": None},
            f"same code: git_commit is {'1' * 40} in a/seed-0, a/seed-1, b/seed-0 and unknown in ",
        ),
        (
            {"device": "cuda"},
            "same device: device is cpu in a/seed-0, a/seed-1, b/seed-0 and cuda in b/seed-1",
        ),
        (
            {"world_size": 2},
            "as many processes: world_size is 1 in a/seed-0, a/seed-1, b/seed-0 and 2 in b/seed-1",
        ),
        (
            {"library_versions": {"torch": "2.1", "numpy": "2.2", "timm": "1"}},
            "same libraries: timm is unknown in a/seed-0, a/seed-1, b/seed-0 and 1 in b/seed-1; "
            "torch is 2.0 in a/seed-0, a/seed-1, b/seed-0 and 2.1 in b/seed-1",
        ),
    ],
)
def test_runs_made_in_other_circumstances_are_told(change, note, tmp_path):
    study = classified(tmp_path, [[10, 12], [20, 22]], ("a", "b"), record=CIRCUMSTANCES)
    cell = study.cell(study.arms[1], 1)
    record = json.loads((cell.run_dir / "run.json").read_text())
    write_run_record(cell.run_dir, {**record, **change})
    result, text, _ = result_of(study)
    found = [each for each in result["notes"] if "runs were not made" in each]
    assert len(found) == (note is not None)
    if note:
        assert note in found[0]
        assert found[0] in text


def test_the_commits_on_the_page_are_of_the_runs(tmp_path, monkeypatch):
    """Not of the process that writes the report, which may be of another day."""
    monkeypatch.setattr(report, "git_commit", lambda: "9" * 40)
    study = classified(tmp_path, [[10], [20]], record=CIRCUMSTANCES)
    cell = study.cell(study.arms[1], 0)
    record = json.loads((cell.run_dir / "run.json").read_text())
    write_run_record(cell.run_dir, {**record, "git_commit": "2" * 40})
    result_of(study)
    page = (tmp_path / "report.md").read_text()
    assert f"- commit of the runs: `{'1' * 40}`, `{'2' * 40}`" in page
    assert "- device: `cpu`" in page
    assert "9" * 40 not in page


def test_lost_validations_are_among_the_notes(tmp_path):
    study = classified(tmp_path, [[10], [20]])
    cell = study.cell(study.arms[1], 0)
    record = json.loads((cell.run_dir / "run.json").read_text())
    write_run_record(cell.run_dir, {**record, "epochs": [{"epoch": 1, "val": {"m": 0.5}}]})
    result, text, _ = result_of(study)
    assert "not the same epochs were validated (epoch 1 only in the second)" in result["notes"][0]
    assert result["notes"][0] in text


def test_two_by_two_effects(tmp_path):
    """Accuracies 0.25, 0.30 with the first config, 0.40, 0.55 with the second."""
    study = classified(tmp_path, [[10] * 3, [12] * 3, [16] * 3, [22] * 3], ("a", "b", "c", "d"))
    study.arms[:] = [
        Arm(arm.name, config, "c" * 64, backbone, arm.weights, arm.digest)
        for arm, (config, backbone) in zip(
            study.arms, [("x", "1"), ("x", "2"), ("y", "1"), ("y", "2")], strict=True
        )
    ]
    result, text, _ = result_of(study)
    effects = {
        each["effect"].partition(":")[0]: each["difference"] for each in result["metrics"]["top1"]["effects"]
    }
    assert effects == {
        "config": pytest.approx(((0.40 - 0.25) + (0.55 - 0.30)) / 2),
        "backbone": pytest.approx(((0.30 - 0.25) + (0.55 - 0.40)) / 2),
        "interaction of both": pytest.approx((0.55 - 0.40) - (0.30 - 0.25)),
    }
    assert "config: y instead of x: +20.00 ± " in text
    study.arms.pop()
    assert two_by_two(study) == []


def test_names_of_other_people_do_nothing(tmp_path):
    nasty = "x|y<img src=1>`![a](b)$\\frac$"
    study = classified(tmp_path, [[10, 12, 14], [20, 22, 24]], ("old", nasty.replace("/", "")))
    result_of(study)
    page = (tmp_path / "report.md").read_text()
    for line in page.splitlines():
        outside = "".join(part for part in line.split("`")[::2]) if "``" not in line else ""
        assert "<img" not in outside.replace("\\<", "")
    assert (tmp_path / "plots" / "seeds.png").is_file()
