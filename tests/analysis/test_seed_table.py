"""n, mean and spread of several runs of one config, from records made by hand."""

from __future__ import annotations

import json
import statistics

import pytest

from sosr_det.analysis.run_settings import (
    _OWN_HOOKS,
    _shipped_settings,
    config_settings,
    differences,
    run_settings,
)
from sosr_det.analysis.seed_table import collect_seeds, render_seeds
from sosr_det.engine.configs import load_config
from sosr_det.errors import CheckpointError, ConfigError

NAME = "resnet56_sosr_1xb128-300e_cifar100"
OWN_TEXT = (
    "model = dict(loss=dict(type='SOSRLoss', weight=0.5))\noptim_wrapper = dict(optimizer=dict(lr=0.1))\n"
)


def resolved(overrides=(), changes=()):
    """The config of NAME as `sosr-det train` records it on a CPU, with --cfg-options and with lines replaced."""
    cfg = load_config(f"pretrain/{NAME}", overrides)
    cfg.launcher, cfg.resume, cfg.work_dir = "none", False, "work_dirs/x"
    cfg.randomness = {"seed": 3}
    cfg.env_cfg.dist_cfg.backend = "gloo"
    cfg.custom_hooks = [{"type": "ThroughputHook"}, {"type": "RunRecordHook", "backbone": None}]
    text = cfg.pretty_text
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def as_shipped():
    return resolved()


@pytest.fixture
def make_run(tmp_path, as_shipped):
    def make(
        seed: int,
        top1: list[float],
        name: str = NAME,
        status: str = "completed",
        folder: str = "",
        text: str = "",
        **more,
    ):
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
        record |= {"epochs": epochs, "best": best, "finished": "2026-01-01", "git_commit": folder}
        record |= {"config_text": text or (as_shipped if name == NAME else OWN_TEXT), **more}
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


# ---- what is one experiment ------------------------------------------------------------------------------------------


def test_a_sweep_is_not_averaged_and_its_points_are_named(make_run, tmp_path, as_shipped):
    """Trials share the config's stem, so the name and the seeds tell nothing."""
    wild = resolved(["model.loss.weight=50"])
    make_run(0, [70.0], folder="a")
    make_run(1, [72.0], folder="b")
    make_run(0, [10.0], folder="c", text=wild)
    make_run(2, [12.0], folder="d", text=wild)
    rows = {row["settings"]["model.loss.weight"]: row for row in collect_seeds([tmp_path])}
    assert {weight: row["settings"] for weight, row in rows.items()} == {
        "0.5": {"model.loss.weight": "0.5"},
        "50": {"model.loss.weight": "50"},
    }
    assert (rows["0.5"]["seeds"], rows["50"]["seeds"]) == ([0, 1], [0, 2])
    assert rows["0.5"]["best"]["accuracy/top1"]["mean"] == 71
    assert rows["50"]["best"]["accuracy/top1"]["mean"] == 11
    text = render_seeds(list(rows.values()))
    assert f"{NAME} [model.loss.weight=50]: 1 epochs, n = 2 (seeds 0, 2)" in text
    assert rows["0.5"]["paper"]
    assert rows["50"]["paper"] == []
    assert text.count("74.70±0.13") == 1
    assert "changed     model.loss.weight=50 (shipped: 0.5)" in text


@pytest.mark.parametrize(
    ("overrides", "changes", "key"),
    [
        (["optim_wrapper.optimizer.lr=0.05"], [], "optim_wrapper.optimizer.lr"),
        (["train_dataloader.batch_size=64"], [], "train_dataloader.batch_size"),
        ([], [("max_epochs=300", "max_epochs=1")], "train_cfg.max_epochs"),
        (
            [],
            [("milestones=[\n            150,", "milestones=[\n            100,")],
            "param_scheduler.0.milestones",
        ),
        ([], [("custom_hooks = [", "custom_hooks = [dict(type='EMAHook'),")], "custom_hooks.EMAHook"),
    ],
)
def test_other_settings_are_another_row_without_the_papers_number(
    make_run, tmp_path, overrides, changes, key
):
    make_run(0, [70.0], folder="a")
    make_run(1, [50.0], folder="b", text=resolved(overrides, changes))
    plain, other = sorted(collect_seeds([tmp_path]), key=lambda row: row["seeds"])
    assert (plain["n"], other["n"]) == (1, 1)
    assert list(plain["settings"]) == list(other["settings"]) == [key]
    assert plain["changed"] == {}
    assert list(other["changed"]) == [key]
    assert len(plain["paper"]) == 2
    assert other["paper"] == []
    text = render_seeds([other])
    assert "74.70" not in text
    assert "paper       not shown beside changed settings" in text


def test_repetitions_may_differ_in_where_and_how_they_ran(make_run, tmp_path):
    places = [
        ("work_dir = 'work_dirs/x'", "work_dir = '/elsewhere'"),
        ("data_root='data/cifar100'", "data_root='/disk/cifar100/'"),
        ("data_root = 'data/cifar100'", "data_root = '/disk/cifar100/'"),
        ("dict(seed=3)", "dict(deterministic=True, seed=4)"),
        ("resume = False", "resume = True"),
        ("launcher = 'none'", "launcher = 'pytorch'"),
        ("backend='gloo'", "backend='nccl'"),
        ("num_workers=0", "num_workers=8"),
        ("weight=0.5", "weight=5e-1"),
        ("custom_hooks = [", "custom_hooks = [dict(type='TrainingDynamicsHook', interval=2),"),
        ("publish = dict(name='", "publish = dict(name='my-"),
    ]
    make_run(0, [70.0], folder="a", data={"train": {"fingerprint": "f" * 64}})
    make_run(1, [71.0], folder="b", text=resolved([], places), data={"train": {"fingerprint": "f" * 64}})
    (row,) = collect_seeds([tmp_path])
    assert (row["n"], row["settings"], row["changed"]) == (2, {}, {})
    assert len(row["paper"]) == 2


def test_other_data_and_another_total_batch_size_are_other_experiments(make_run, tmp_path):
    make_run(0, [70.0], folder="a", world_size=1, data={"train": {"fingerprint": "a" * 64}, "val": None})
    make_run(1, [71.0], folder="b", world_size=1, data={"train": {"fingerprint": "b" * 64}, "val": None})
    make_run(2, [72.0], folder="c", world_size=4, data={"train": {"fingerprint": "a" * 64}, "val": None})
    rows = collect_seeds([tmp_path])
    assert sorted(tuple(row["settings"].values()) for row in rows) == [
        ("a" * 12, "1"),
        ("a" * 12, "4"),
        ("b" * 12, "1"),
    ]
    by_size = {row["settings"]["world_size"]: row for row in rows}
    assert by_size["1"]["paper"]
    assert by_size["4"]["paper"] == []
    assert by_size["4"]["changed"] == {"world_size": {"shipped": "1", "run": "4"}}


def test_a_backbone_by_name_is_the_shipped_one_and_another_digest_another_start(make_run, tmp_path):
    name = "resnet50-sosr-pre_sosr_1xb32-95e_cub200"
    cfg = load_config(f"finetune/{name}")
    asked = cfg.model.backbone.init_cfg.checkpoint
    for seed, digest in ((0, "1" * 64), (1, "2" * 64)):
        pinned = f"sosr://sha256:{digest}"
        cfg.model.backbone.init_cfg.checkpoint = pinned
        backbone = {"uri": f"{asked}@latest", "digest": digest, "pinned_uri": pinned}
        make_run(seed, [80.0], name=name, text=cfg.pretty_text, backbone=backbone)
    rows = collect_seeds([tmp_path])
    assert [row["settings"] for row in rows] == [
        {"model.backbone.init_cfg.checkpoint": f"'sosr://sha256:{digit * 12}'"} for digit in "12"
    ]
    assert all(row["changed"] == {} and row["paper"] for row in rows)


def test_the_shipped_configs_expect_the_processes_of_their_names():
    for name, processes in (
        ("resnet50_sosr_8xb32-90e_in1k", "8"),
        ("resnet18_sosr_1xb128-30e_tiny-imagenet", "1"),
        ("resnet50-sosr-pre_sosr_1xb32-95e_cub200", None),  # its learning rate is not for a total batch size
    ):
        assert _shipped_settings(name).get("world_size") == processes
    assert _shipped_settings("own") is None


def test_a_config_is_parsed_and_never_run(tmp_path):
    trap = tmp_path / "run"
    text = f"model = open({str(trap)!r}, 'w')\nimport os\ntrain_cfg = dict(max_epochs=__import__('os').getpid())\n"
    found = config_settings(text)
    assert not trap.exists()
    assert found["train_cfg.max_epochs"] == repr("__import__('os').getpid()")


def test_settings_by_hand():
    text = """
model = dict(a=dict({'x-y': 1.0}), b=[], c=(1, 2.0), d=[dict(p=None), dict(p=float('inf'))], e={}, f=-1)
lr = 0.3
load_from = None
optim_wrapper = dict(dict(lr=0.1), data_root='x', type=torch.optim.SGD)
custom_hooks = [dict(type='A', k=1), dict(type='A', k=2), dict(type='ThroughputHook')]
"""
    assert config_settings(text) == {
        "model.a.x-y": "1",
        "model.b": "[]",
        "model.c": "[1, 2]",
        "model.d.0.p": "None",
        "model.d.1.p": "\"float('inf')\"",
        "model.e": "{}",
        "model.f": "-1",
        "optim_wrapper.lr": "0.1",
        "optim_wrapper.type": "'torch.optim.SGD'",
        "custom_hooks.A.0.k": "1",
        "custom_hooks.A.1.k": "2",
    }
    assert differences([{"a": "1", "b": "2"}, {"a": "1", "c": "3"}]) == ["b", "c"]


@pytest.mark.parametrize(
    "record", [{}, {"config_text": None}, {"config_text": "a = ("}, {"config_text": "a = dict(b)"}]
)
def test_a_record_without_a_readable_config_is_refused(record, tmp_path):
    with pytest.raises(CheckpointError, match=r"run\.json: its config_text cannot be read"):
        run_settings(record, tmp_path / "run.json")


def test_every_hook_of_ours_is_known_to_leave_the_training_alone():
    from sosr_det.engine import hooks

    assert set(hooks.__all__) == _OWN_HOOKS
