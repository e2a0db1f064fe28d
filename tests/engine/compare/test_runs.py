"""What a comparison runs, does not run again, and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

import sosr_det.register  # noqa: F401
from sosr_det.engine.compare import read_study
from sosr_det.engine.compare.cell import read_done
from sosr_det.engine.compare.compare import headline
from sosr_det.errors import ConfigError

CE, SOSR = "demo/resnet18-ce-pre_ce_1xb32-6e_demo-cub", "demo/resnet18-sosr-pre_sosr_1xb32-6e_demo-cub"
VOC = "demo/retinanet_r18-sosr-pre_fpn_3e_demo-voc"
ORDER = ["a/seed-0", "b@v1/seed-0", "a/seed-1", "b@v1/seed-1"]  # pairs first


def test_a_whole_comparison(runs, tmp_path, compare):
    study, failures = compare(
        tmp_path / "c",
        data_root=Path("data"),
        total_epochs=2,
        select_on="last",
        cfg_options=["model.num_classes=7"],
    )
    assert failures == {}
    assert runs.cells("train") == runs.cells("test") == ORDER
    train, test = runs.commands[:2]
    folder = tmp_path / "c" / "runs" / "a" / "seed-0"
    assert train[1:] == [
        "-m", "sosr_det.cli", "train", CE, "--work-dir", str(folder / "train"), "--seed", "0", "--paired",
        "--no-publish",
        "--backbone", f"sosr://sha256:{'a' * 64}", "--data-root", "data", "--total-epochs", "2", "--select-on", "last",
        "--cfg-options", "model.num_classes=7",
    ]  # fmt: skip
    assert test[1:] == [
        "-m", "sosr_det.cli", "test", str(folder / "test_config.py"), str(folder / "train" / "epoch_2.pth"),
        "--work-dir", str(folder / "test"), "--data-root", "data",
    ]  # fmt: skip
    assert (folder / "test_config.py").read_text() == "model = dict()\n"
    done = read_done(study.cell(study.arms[0], 0))
    assert done["metrics"] == {"accuracy/top1": 50.0}
    assert len(done["predictions_sha256"]) == 64
    assert read_study(tmp_path / "c") == study


@pytest.mark.parametrize(
    ("changes", "variables"),
    [
        ({"cfg_options": ["train_dataloader.dataset.data_root=/by/hand/"]}, {"SOSR_DATA": ""}),
        ({"cfg_options": ["model.num_classes=7"]}, None),
        ({"cfg_options": ["train_dataloader.dataset.data_root=/by/hand/"], "data_root": Path("data")}, None),
    ],
)
def test_the_test_reads_the_data_of_the_training(changes, variables, runs, tmp_path, compare):
    """In the training a data_root of --cfg-options stands against $SOSR_DATA; the test has no --cfg-options."""
    compare(tmp_path / "c", seeds="0", **changes)
    assert runs.environments == [None, variables] * 2


def test_a_weights_file_that_changes_meanwhile(runs, tmp_path, compare):
    """Every run must start from the file that the comparison began with."""
    weights, train = tmp_path / "w.pth", runs._train
    weights.write_text("first")

    def train_and_change(folder, cell, command):
        train(folder, cell, command)
        weights.write_text("second")

    runs._train = train_and_change
    _, failures = compare(tmp_path / "c", backbones=[str(weights), "sosr://a"])
    assert runs.cells("train") == ["w/seed-0", "a/seed-0", "a/seed-1"]
    assert list(failures) == ["w/seed-1"]
    assert f"the weights file {weights} changed since this comparison began" in str(failures["w/seed-1"])


def test_finished_runs_are_kept(runs, tmp_path, compare):
    compare(tmp_path / "c")
    compare(tmp_path / "c")
    assert len(runs.commands) == 8
    (tmp_path / "c" / "runs" / "a" / "seed-1" / "test" / "predictions.npz").unlink()  # only the test is lost
    compare(tmp_path / "c")
    assert (runs.cells("train"), runs.cells("test")[4:]) == (ORDER, ["a/seed-1"])


def test_moved_tags_change_nothing(runs, registry, tmp_path, compare):
    compare(tmp_path / "c", seeds="0")
    registry.digests["sosr://a"] = "d" * 64
    study, _ = compare(tmp_path / "c", seeds="0..1", extend=True)
    assert {c[c.index("--backbone") + 1][-64:] for c in runs.commands if c[3] == "train"} == {
        "a" * 64,
        "b" * 64,
    }
    assert study.grown == 1


def test_failures_are_told_and_the_rest_goes_on(runs, tmp_path, capsys, compare):
    runs.fails = {"b@v1/seed-0": "train", "a/seed-1": "test"}
    study, failures = compare(tmp_path / "c")
    assert set(failures) == {"b@v1/seed-0", "a/seed-1"}
    assert "the GPU is on fire" in str(failures["a/seed-1"])
    assert failures["b@v1/seed-0"].log == tmp_path / "c" / "logs" / "b@v1_seed-0.log"
    assert runs.cells("train") == ORDER
    assert (
        "[2/4] b@v1/seed-0: failed: training failed, exit code 1: the GPU is on fire"
        in capsys.readouterr().out
    )

    # Again: from its checkpoint first, from the start when that failed; of the other only the test.
    runs.commands.clear()
    compare(tmp_path / "c")
    compare(tmp_path / "c")
    runs.fails = {}
    compare(tmp_path / "c")
    trainings = [c for c in runs.commands if c[3] == "train"]
    assert runs.cells("train") == ["b@v1/seed-0"] * 3
    assert ["--resume" in c for c in trainings] == [True, False, True]
    assert ["--overwrite" in c for c in trainings] == [False, True, False]
    assert all(read_done(cell) for cell in study.cells())


def test_what_failed_further_on_is_resumed_again(runs, tmp_path, compare):
    """Only a run that failed at the very checkpoint it was resumed from starts over."""
    runs.fails, runs.progresses = {"a/seed-0": "train"}, True
    for _ in range(4):
        compare(tmp_path / "c", seeds="0")
    runs.progresses = False
    compare(tmp_path / "c", seeds="0")  # to epoch 1: not the checkpoint that it was resumed from
    compare(tmp_path / "c", seeds="0")
    compare(tmp_path / "c", seeds="0")
    trainings = [
        c for c in runs.commands if c[3] == "train" and "a" in Path(c[c.index("--work-dir") + 1]).parts
    ]
    assert ["--resume" in c for c in trainings] == [False, *[True] * 5, False]
    assert ["--overwrite" in c for c in trainings] == [*[False] * 6, True]


def test_an_interrupted_run_is_resumed(runs, tmp_path, compare):
    runs.cut_at = 3
    with pytest.raises(KeyboardInterrupt):
        compare(tmp_path / "c")
    compare(tmp_path / "c")
    assert runs.cells("train") == [*ORDER[:2], *ORDER[1:]]
    resumed = [c for c in runs.commands if "--resume" in c]
    assert [c[c.index("--seed") + 1] for c in resumed] == ["0"]


@pytest.fixture(autouse=True)
def no_gpus_chosen(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_several_gpus_within_those_of_a_cluster(runs, tmp_path, compare, monkeypatch):
    runs.pause = 0.05
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-5f1e")
    compare(tmp_path / "c", devices=["0", "1"])
    assert {e["CUDA_VISIBLE_DEVICES"] for e in runs.environments} == {"4", "GPU-5f1e"}


@pytest.mark.parametrize(
    ("before", "devices", "message"),
    [
        ("4,5", ["0", "2"], "CUDA_VISIBLE_DEVICES=4,5 leaves 2 GPU.*no 2"),
        ("4,-1,5", ["1"], "leaves 1 GPU"),
        ("", ["0"], "leaves 0 GPU"),
        (None, ["0", ""], "expected numbers of GPUs.*got ''"),
        (None, ["0", "00"], "one twice"),
        (None, ["cpu"], "got 'cpu'"),
    ],
)
def test_gpus_that_are_not_there(before, devices, message, runs, tmp_path, compare, monkeypatch):
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    with pytest.raises(ConfigError, match=message):
        compare(tmp_path / "c", devices=devices)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({"accuracy/top1": None}, "accuracy/top1 unknown %"),
        ({"accuracy/top1": 50.0}, "accuracy/top1 50.00 %"),
        ({"voc/map_11point": None, "voc/map_area": 0.25}, "voc/map_11point unknown %, voc/map_area 25.00 %"),
        ({"other": None, "more": 0.5}, "other unknown, more 0.5000"),
    ],
)
def test_a_metric_that_is_nan_is_told(metrics, told):
    assert headline(metrics) == told


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "null", "1", '"x"', "{", '{"predictions": "predictions.npz"}', "[" * 100_000],
    ids=range(8),
)
def test_a_damaged_note_of_what_is_done(text, runs, tmp_path, compare):
    study, _ = compare(tmp_path / "c", seeds="0")
    cell = study.cell(study.arms[0], 0)
    (cell.folder / "done.json").write_text(text)
    assert read_done(cell) is None
    compare(tmp_path / "c", seeds="0")
    assert (runs.cells("train"), runs.cells("test")) == (ORDER[:2], [*ORDER[:2], "a/seed-0"])
    assert read_done(cell)["predictions"] == "predictions.npz"


def test_several_gpus(runs, tmp_path, compare):
    runs.pause = 0.05
    compare(tmp_path / "c", devices=["0", "3"], seeds="0..2")
    assert {e["CUDA_VISIBLE_DEVICES"] for e in runs.environments} == {"0", "3"}
    assert sorted(runs.cells("train")) == sorted({*ORDER, "a/seed-2", "b@v1/seed-2"})


def test_a_dry_run_writes_nothing(runs, tmp_path, capsys, compare):
    compare(tmp_path / "c", dry_run=True)
    out = capsys.readouterr().out
    assert "[4/4] b@v1/seed-1: to run" in out
    assert "a: sosr://a = sosr://sha256:aaaa" in out
    assert "sosr_det.cli train" in out
    assert runs.commands == []
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_epochs": 3}, r"options of the comparison .*\(total_epochs: None became 3"),
        ({"cfg_options": ["train_dataloader.batch_size=2"]}, "options"),
        ({"seeds": "1"}, "without 0.*would bias"),
        ({"seeds": "0..2"}, "--extend"),
        ({"backbones": ["sosr://a", "sosr://c"], "extend": True}, "the arm b@v1, which is not asked for"),
        ({"backbones": ["sosr://b@v1", "sosr://a"]}, "keep it first"),
        ({"configs": [VOC]}, "options|another kind|changed"),
    ],
)
def test_another_comparison_in_the_folder_is_refused(changes, message, runs, tmp_path, compare):
    compare(tmp_path / "c")
    with pytest.raises(ConfigError, match=message):
        compare(tmp_path / "c", **changes)
    assert len(runs.commands) == 8


def test_it_may_grow(runs, tmp_path, compare):
    compare(tmp_path / "c")
    compare(tmp_path / "c", seeds="0..2", backbones=["sosr://a", "sosr://b@v1", "sosr://c"], extend=True)
    assert len(runs.cells("train")) == len(set(runs.cells("train"))) == 9
    assert read_study(tmp_path / "c").grown == 1
    # Where the data lie may change.
    compare(
        tmp_path / "c", seeds="0..2", backbones=["sosr://a", "sosr://b@v1", "sosr://c"], data_root=Path("new")
    )


def test_an_edited_config_is_refused(runs, tmp_path, compare):
    path = tmp_path / "mine.py"
    path.write_text(f"_base_ = {str(Path('configs', f'{CE}.py').resolve())!r}\nmodel = dict(num_classes=4)\n")
    compare(tmp_path / "c", configs=[str(path)])
    path.write_text(path.read_text().replace("=4", "=5"))
    with pytest.raises(ConfigError, match="the config of arm a changed"):
        compare(tmp_path / "c", configs=[str(path)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"configs": [CE, VOC]}, "not tested in the same way"),
        ({"cfg_options": ["randomness.seed=1"]}, "--seeds"),
        ({"cfg_options": ["test_evaluator.type=Accuracy"]}, "predictions of every image"),
        ({"seeds": "0..x"}, "--seeds"),
    ],
)
def test_what_cannot_be_compared(changes, message, runs, tmp_path, compare):
    with pytest.raises(ConfigError, match=message):
        compare(tmp_path / "c", **changes)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("text", ["{}", "[", '{"schema_version": 9}', '{"schema_version": 1, "kind": "x"}'])
def test_a_folder_of_something_else(text, runs, tmp_path, compare):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(ConfigError, match=r"study\.json"):
        compare(tmp_path)
    (tmp_path / "study.json").unlink()
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a run"):
        compare(tmp_path)


def test_an_unknown_metric_is_refused_before_anything_runs(tmp_path, runs, compare):
    with pytest.raises(ConfigError, match="--metric map: this comparison has top1"):
        compare(tmp_path / "c", metric="map")
    assert not runs.commands
    assert not (tmp_path / "c").exists()
