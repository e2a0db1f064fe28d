"""n, mean and spread of several runs of one config, from records made by hand."""

from __future__ import annotations

import json
import statistics

import pytest

from sosr_det.analysis.seed_table import collect_seeds, render_seeds
from sosr_det.errors import CheckpointError, ConfigError

NAME = "resnet56_sosr_1xb128-300e_cifar100"


@pytest.fixture
def make_run(tmp_path):
    def make(seed: int, top1: list[float], name: str = NAME, status: str = "completed", folder: str = ""):
        epochs = [
            {"epoch": i + 1, "val": {"accuracy/top1": value, "accuracy/ece": value / 1000}}
            for i, value in enumerate(top1)
        ]
        best = max(epochs, key=lambda epoch: epoch["val"]["accuracy/top1"])
        work_dir = tmp_path / (folder or f"{name}-{seed}")
        work_dir.mkdir()
        record = {
            "schema_version": 1,
            "stage": "pretrain",
            "config_name": name,
            "seed": seed,
            "status": status,
        }
        record |= {"epochs": epochs, "best": best, "finished": "2026-01-01"}
        (work_dir / "run.json").write_text(json.dumps(record))

    return make


def test_mean_and_sample_deviation_of_best_and_last_epoch(make_run, tmp_path):
    for seed, top1 in ((2, [70.0, 74.0, 73.0]), (0, [71.0, 73.0, 75.0]), (1, [72.0, 76.0, 74.5])):
        make_run(seed, top1)
    make_run(7, [10.0, 11.0, 12.0], status="failed")
    (row,) = collect_seeds([tmp_path])
    assert (row["n"], row["seeds"], row["epochs"]) == (3, [0, 1, 2], 3)
    assert row["best"]["accuracy/top1"]["values"] == [75.0, 76.0, 74.0]
    assert row["best"]["accuracy/top1"]["mean"] == 75.0
    assert row["best"]["accuracy/top1"]["std"] == 1.0
    assert row["last"]["accuracy/top1"]["mean"] == pytest.approx((75 + 74.5 + 73) / 3)
    assert row["last"]["accuracy/ece"]["std"] == pytest.approx(statistics.stdev([0.075, 0.0745, 0.073]))
    text = render_seeds([row])
    assert "n = 3 (seeds 0, 1, 2)" in text
    assert "top-1 % 75.00 ± 1.00; ECE 0.0750 ± 0.0010" in text
    assert "Table 1, ResNet-56 + Ours: 74.70±0.13" in text
    assert "Table 5, ResNet-56 +SOSR Acc.: 74.70" in text


def test_one_run_has_no_spread_and_other_lengths_are_other_rows(make_run, tmp_path):
    make_run(0, [50.0])
    make_run(1, [50.0, 60.0])
    make_run(0, [40.0], name="own")
    rows = collect_seeds([tmp_path])
    assert [(row["config"], row["epochs"], row["n"]) for row in rows] == [
        ("own", 1, 1),
        (NAME, 1, 1),
        (NAME, 2, 1),
    ]
    assert rows[0]["best"]["accuracy/top1"]["std"] is None
    assert rows[0]["paper"] == []
    assert "±" not in render_seeds([rows[0]])


def test_a_repeated_seed_is_no_second_sample(make_run, tmp_path):
    make_run(3, [50.0], folder="a")
    make_run(3, [51.0], folder="b")
    with pytest.raises(ConfigError, match=r"seed 3 was run more than once \(.*a.*b\)"):
        collect_seeds([tmp_path])


def test_nothing_to_report(tmp_path):
    with pytest.raises(CheckpointError, match="nothing to report"):
        collect_seeds([tmp_path])
