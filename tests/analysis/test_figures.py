"""Figures from made-up records: what is written is what was recorded, averaged as the captions say."""

from __future__ import annotations

import copy
import json
import shutil
import statistics

import numpy as np
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from sosr_det.analysis.figures import draw_figures
from sosr_det.analysis.figures.reliability import pooled_bins
from sosr_det.analysis.figures.runs import load_groups
from sosr_det.analysis.figures.series import series
from sosr_det.cli.figures import figures
from sosr_det.engine.dynamics_record import write_dynamics, write_features
from sosr_det.errors import CheckpointError, ConfigError

PROBABILITIES = [0.9, 0.99]
EPOCHS = [1, 2, 3]


def summary(generator, epoch, num_samples, with_entropy):
    counts = generator.integers(1, 20, 4).tolist()
    values = {
        name: float(generator.uniform(0.01, 0.9))
        for name in (
            "ece", "nll", "mean_confidence", "overconfident_fraction", "gradient_norm", "ce_gradient_norm",
            "overconfident_gradient_norm", "logit_spread", "overconfident_logit_spread", "mean_entropy_bits",
        )
    }  # fmt: skip
    rows = [{"p": p, "num_samples": int(generator.integers(5, 90))} for p in PROBABILITIES]
    if with_entropy:
        for row in rows:
            row["mean_entropy_bits"] = float(generator.uniform(5, 7))
        if epoch == 1:
            rows[1] |= {"num_samples": 0, "mean_entropy_bits": None}
    return values | {
        "num_samples": num_samples,
        "top1_percent": float(generator.uniform(20, 90)),
        "above_probability": rows,
        "calibration": {
            "lower_edge": [0.0, 0.5, 1.0],
            "num_samples": [0, counts[0], counts[1]],
            "mean_confidence": [None, float(generator.uniform(0.5, 1)), 1.0],
            "accuracy": [None, float(generator.uniform(0, 1)), float(generator.uniform(0, 1))],
        },
    }


def made_record(name, seed, **changes):
    generator = np.random.default_rng([len(name), seed])
    epochs = [
        {
            "epoch": epoch,
            "threshold": 0.99,
            "train": summary(generator, epoch, 100, True),
            "val": summary(generator, epoch, 40, False),
        }
        for epoch in EPOCHS
    ]
    record = {
        "config_name": name,
        "seed": seed,
        "loss": {"type": name},
        "num_classes": 3,
        "probabilities": PROBABILITIES,
        "max_samples": None,
        "num_bins": 2,
        "epochs": epochs,
    }
    return record | changes


def write_run(folder, record, features=None):
    folder.mkdir(parents=True)
    write_dynamics(folder, record)
    if features is not None:
        write_features(folder, **features)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    records = {
        (name, seed): made_record(f"resnet20_{name}_cifar", seed)
        for name in ("ce", "sosr")
        for seed in (0, 1, 2)
    }
    generator = np.random.default_rng(5)
    features = {
        "val_features": generator.normal(size=(30, 2)).astype(np.float32),
        "val_labels": np.arange(30) % 3,
        "classes": np.asarray(["cat", "dog", "ship"]),
        "epoch": np.asarray(3),
    }
    for (name, seed), record in records.items():
        write_run(root / f"{name}-{seed}", record, features if seed == 0 else None)
    return root, records, features


@pytest.fixture(scope="module")
def drawn(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "new"
    paths = draw_figures([runs[0]], folder)
    return folder, paths


def numbers(drawn, name):
    return json.loads((drawn[0] / f"{name}.json").read_text())


NAMES = ["fig1", "fig2", "fig3", "reliability", "curves"]


def test_every_figure_is_a_picture_with_its_numbers(drawn):
    folder, paths = drawn
    assert paths == [folder / f"{name}.{suffix}" for name in NAMES for suffix in ("png", "json")]
    for name in NAMES:
        pixels = imread(folder / f"{name}.png")[..., :3]
        assert pixels.shape[0] > 300
        assert pixels.shape[1] > 300
        assert (pixels < 0.9).any(axis=2).mean() > 0.01  # something is drawn


def expected(records, name, pick):
    values = [[pick(records[name, seed]["epochs"][i]) for seed in (0, 1, 2)] for i in range(len(EPOCHS))]
    return [statistics.fmean(v) for v in values], [statistics.stdev(v) for v in values]


def require_series(found, records, name, pick):
    mean, std = expected(records, name, pick)
    assert found["epoch"] == EPOCHS
    assert found["num_runs"] == [3, 3, 3]
    assert found["mean"] == pytest.approx(mean)
    assert found["std"] == pytest.approx(std)


def test_numbers_of_figure_1(drawn, runs):
    for group, name in zip(numbers(drawn, "fig1")["groups"], ("ce", "sosr"), strict=True):
        assert (group["label"], group["num_runs"], group["seeds"]) == (name, 3, [0, 1, 2])
        assert group["num_training_images"] == 100
        for i, line in enumerate(group["lines"]):
            assert line["p"] == PROBABILITIES[i]
            require_series(
                line["num_samples"],
                runs[1],
                name,
                lambda entry, i=i: entry["train"]["above_probability"][i]["num_samples"],
            )
        require_series(
            group["lines"][0]["mean_entropy_bits"],
            runs[1],
            name,
            lambda entry: entry["train"]["above_probability"][0]["mean_entropy_bits"],
        )
        # No sample above 0.99 in the first epoch: no entropy there, and no zero either.
        assert group["lines"][1]["mean_entropy_bits"]["epoch"] == [2, 3]


def test_numbers_of_figure_2_and_the_curves(drawn, runs):
    for i, name in enumerate(("ce", "sosr")):
        found = numbers(drawn, "fig2")["groups"][i]
        for key in ("gradient_norm", "ce_gradient_norm"):
            require_series(found[key], runs[1], name, lambda entry, key=key: entry["train"][key])
        lines = numbers(drawn, "curves")["groups"][i]["lines"]
        assert len(lines) == 6
        for path, line in lines.items():
            part, key = path.split("/")
            require_series(line, runs[1], name, lambda entry, part=part, key=key: entry[part][key])


def test_numbers_of_figure_3(drawn, runs):
    panels = numbers(drawn, "fig3")["panels"]
    assert [(panel["label"], panel["seed"]) for panel in panels] == [("ce", 0), ("sosr", 0)]
    for panel in panels:
        np.testing.assert_allclose(panel["features"], runs[2]["val_features"], atol=1e-5)
        assert panel["labels"] == runs[2]["val_labels"].tolist()
        assert panel["classes"] == ["cat", "dog", "ship"]
        record = runs[1][panel["label"], 0]
        assert panel["top1_percent"] == record["epochs"][-1]["val"]["top1_percent"]


def test_numbers_of_the_reliability_diagram(drawn, runs):
    for group, name in zip(numbers(drawn, "reliability")["groups"], ("ce", "sosr"), strict=True):
        last = [runs[1][name, seed]["epochs"][-1]["val"] for seed in (0, 1, 2)]
        assert group["ece"] == [entry["ece"] for entry in last]
        assert group["ece_mean"] == pytest.approx(statistics.fmean(group["ece"]))
        assert group["ece_std"] == pytest.approx(statistics.stdev(group["ece"]))
        assert sum(group["bins"]["num_samples"]) == sum(sum(e["calibration"]["num_samples"]) for e in last)


def test_pooled_bins_by_hand():
    first = {
        "lower_edge": [0.0, 0.5, 1.0],
        "num_samples": [0, 3, 1],
        "mean_confidence": [None, 0.6, 1.0],
        "accuracy": [None, 1 / 3, 1.0],
    }
    second = {
        "lower_edge": [0.0, 0.5, 1.0],
        "num_samples": [2, 4, 0],
        "mean_confidence": [0.4, 0.8, None],
        "accuracy": [0.5, 0.75, None],
    }
    pooled = pooled_bins([first, second])
    assert pooled["lower_edge"] == [0.0, 0.5]
    assert pooled["num_samples"] == [2, 8]
    assert pooled["mean_confidence"] == pytest.approx([0.4, (3 * 0.6 + 1 + 4 * 0.8) / 8])
    assert pooled["accuracy"] == pytest.approx([0.5, (1 + 1 + 3) / 8])


def test_the_shaded_area_is_three_standard_deviations(monkeypatch):
    from matplotlib.figure import Figure

    from sosr_det.analysis.figures.series import draw_series

    axes = Figure().subplots()
    draw_series(axes, {"epoch": [1, 2], "mean": [5.0, 6.0], "std": [0.5, 1.0], "num_runs": [4, 4]})
    (area,) = axes.collections
    corners = {tuple(point) for path in area.get_paths() for point in path.vertices.tolist()}
    assert {(1.0, 3.5), (1.0, 6.5), (2.0, 3.0), (2.0, 9.0)} <= corners


# ---- groups --------------------------------------------------------------------------------------------------------


def test_one_run_has_no_spread(runs, tmp_path):
    (group,) = load_groups([runs[0] / "ce-0"])
    rows = series(group, lambda entry: entry["val"]["ece"])
    assert rows["std"] == [None, None, None]
    assert group.label == "resnet20_ce_cifar"
    assert draw_figures([runs[0] / "ce-0"], tmp_path / "one")


def test_a_run_that_stopped_early_counts_where_it_was(tmp_path):
    write_run(tmp_path / "a", made_record("x", 0))
    short = made_record("x", 1)
    short["epochs"] = short["epochs"][:1]
    write_run(tmp_path / "b", short)
    (group,) = load_groups([tmp_path])
    assert series(group, lambda entry: entry["val"]["nll"])["num_runs"] == [2, 1, 1]


def test_a_run_given_twice_counts_once(runs):
    (group,) = load_groups([runs[0] / "ce-0", runs[0] / "ce-1", runs[0] / "ce-0"])
    assert [run.record["seed"] for run in group.runs] == [0, 1]


def test_labels(runs):
    assert [group.legend for group in load_groups([runs[0]], ["A", "B"])] == ["A (n=3)", "B (n=3)"]
    with pytest.raises(ConfigError, match="names 1 groups, but the runs have 2 configs"):
        load_groups([runs[0]], ["A"])


@pytest.mark.parametrize(
    "change",
    [
        {"loss": {"type": "other"}},
        {"max_samples": 10},
        {"probabilities": [0.5, 0.9]},
        "fewer training images",
    ],
)
def test_runs_that_are_no_repetitions_are_not_averaged(tmp_path, change):
    write_run(tmp_path / "a", made_record("x", 0))
    other = made_record("x", 1)
    if isinstance(change, dict):
        other |= change
    else:
        for entry in other["epochs"]:
            entry["train"]["num_samples"] = 50
    write_run(tmp_path / "b", other)
    with pytest.raises(ConfigError, match="differ in"):
        load_groups([tmp_path])


def write_run_record(folder, replace=("", "")):
    text = (
        f"work_dir = '{folder}'\nrandomness = dict(seed=0)\ntrain_cfg = dict(max_epochs=3)\n"
        "optim_wrapper = dict(optimizer=dict(lr=0.1))\ntrain_dataloader = dict(batch_size=8, num_workers=2)\n"
    )
    record = {"schema_version": 1, "config_text": text.replace(*replace) if replace[0] else text}
    (folder / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("lr=0.1", "lr=0.5"), r"optim_wrapper\.optimizer\.lr \(0\.1 and 0\.5\)"),
        (("batch_size=8", "batch_size=16"), r"train_dataloader\.batch_size \(8 and 16\)"),
        (("max_epochs=3", "max_epochs=2"), r"train_cfg\.max_epochs \(3 and 2\)"),
        (("dict(batch_size=8", "dict(drop_last=True, batch_size=8"), r"drop_last \(unset and True\)"),
    ],
)
def test_runs_of_one_name_with_other_settings_are_not_averaged(tmp_path, change, told):
    write_run_record(write_run(tmp_path / "a", made_record("x", 0)))
    write_run_record(write_run(tmp_path / "b", made_record("x", 1)))
    (group,) = load_groups([tmp_path])  # they differ in folder and seed
    assert len(group.runs) == 2
    write_run(tmp_path / "c", made_record("x", 2))  # its run.json is gone
    write_run_record(write_run(tmp_path / "d", made_record("x", 3)), replace=change)
    with pytest.raises(ConfigError, match=rf"a and .*d are both runs of x, but differ in .*{told}"):
        load_groups([tmp_path])
    assert len(load_groups([tmp_path / "d"])) == 1


def test_a_copied_run_is_no_second_sample(runs, tmp_path):
    shutil.copytree(runs[0] / "ce-1", tmp_path / "copy")
    with pytest.raises(ConfigError, match=r"seed 1 was run more than once \(.*ce-1.*, .*copy\)"):
        load_groups([runs[0], tmp_path / "copy"])
    assert len(load_groups([runs[0] / "ce-0", tmp_path / "copy", runs[0] / "sosr-1"])) == 2


@pytest.mark.parametrize("inside", ["", "deeper/still"])
def test_figures_do_not_go_into_a_file(runs, tmp_path, inside):
    file = tmp_path / "taken"
    file.write_text("mine")
    with pytest.raises(ConfigError, match=r"--out .*taken is a file, expected a folder"):
        draw_figures([runs[0]], file / inside)
    assert file.read_text() == "mine"


def test_nothing_is_measured_for_figures_that_cannot_be_written(runs, tmp_path, monkeypatch):
    import typer

    from sosr_det.engine import recompute

    monkeypatch.setattr(recompute, "measure_unrecorded_runs", lambda *_: pytest.fail("measured"))
    (tmp_path / "taken").touch()
    app = typer.Typer()
    app.command()(figures)
    result = CliRunner().invoke(app, [str(runs[0]), "--out", str(tmp_path / "taken"), "--recompute"])
    assert isinstance(result.exception, ConfigError)


def test_missing_records_are_told(tmp_path):
    with pytest.raises(CheckpointError, match="no run in"):
        draw_figures([tmp_path], tmp_path / "out")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(CheckpointError, match="--dynamics"):
        draw_figures([tmp_path / "run"], tmp_path / "out")
    empty = copy.deepcopy(made_record("x", 0)) | {"epochs": []}
    write_run(tmp_path / "empty", empty)
    with pytest.raises(CheckpointError, match="no epoch yet"):
        draw_figures([tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_line(runs, tmp_path):
    import typer

    app = typer.Typer()
    app.command()(figures)
    result = CliRunner().invoke(app, [str(runs[0]), "--out", str(tmp_path / "out"), "--labels", "A,B"])
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "out" / "fig1.png") in result.output.replace("\n", "")
    data = json.loads((tmp_path / "out" / "fig2.json").read_text())
    assert [group["label"] for group in data["groups"]] == ["A", "B"]
