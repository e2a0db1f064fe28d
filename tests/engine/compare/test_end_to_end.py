"""One real comparison of two starts of a classifier on drawn data."""

from __future__ import annotations

import json
import sys

import pytest

from sosr_det.cli.main import main
from sosr_det.data.demo import DemoSize, generate_demo_data

SIZE = DemoSize(
    imagenet_train_per_class=1, imagenet_val_per_class=1, cub_train_per_class=3, cub_test_per_class=2,
    voc2007_trainval=20, voc2007_test=20, voc2012_trainval=20,
)  # fmt: skip


@pytest.fixture
def registry():
    """Not the stand-in of the other tests here."""


@pytest.mark.slow
def test_two_configs_on_drawn_birds(tmp_path, capsys):
    """CE and SOSR from the same random start: a few steps are too few for over-confidence, so nothing may differ."""
    data = generate_demo_data(tmp_path / "data", size=SIZE)
    arguments = [
        "compare",
        "--work-dir",
        str(tmp_path / "c"),
        "--data-root",
        str(data.cub),
        "--seeds",
        "0..1",
    ]
    for loss in ("ce", "sosr"):
        arguments += ["--config", f"demo/resnet18-{loss}-pre_{loss}_1xb32-6e_demo-cub"]
    arguments += [
        "--backbones",
        "random",
        "--total-epochs",
        "1",
        "--cfg-options",
        "train_dataloader.batch_size=16",
    ]
    for part in ("train", "val", "test"):
        arguments += [f"{part}_dataloader.num_workers=0", f"{part}_dataloader.persistent_workers=False"]

    def run():
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0, capsys.readouterr()
        return capsys.readouterr().out

    out = run()
    result = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert result["pairing"]["paired"]
    assert [row["equal_weights_outside_backbone"] for row in result["pairing"]["seeds"]] == [True, True]
    first, second = (row["arms"] for row in result["pairing"]["seeds"])
    digests = [[epoch["digest"] for epoch in arm["epochs"]] for arm in (*first.values(), *second.values())]
    assert digests[0] == digests[1] != digests[2] == digests[3]
    (pair,) = result["metrics"]["top1"]["pairs"]
    assert pair["per_seed"] == [0.0, 0.0]
    for arm, spread in result["metrics"]["top1"]["arms"].items():
        for seed, value in zip(result["seeds"], spread["values"], strict=True):
            metrics = result["runs"][f"{arm}/seed-{seed}"]["metrics"]
            assert value == pytest.approx(metrics["accuracy/top1"] / 100)
    assert "+0.00 ± 0.00 top-1 (95 %, 2 seeds): not distinguishable" in out
    assert "done before" in run()
    assert "torch" in sys.modules
