"""The eight ways to hand over a wrong backbone, and five wrong settings, on the command line: said, and no run left."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from sosr_det.cli.main import main
from sosr_det.engine.run_record import read_run_record
from sosr_det.models import build_backbone
from sosr_det.registry import Registry

DETECT = "demo/retinanet_r18-sosr-pre_fpn_3e_demo-voc"
NO_WORKERS = [
    "train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False",
]  # fmt: skip


def train(demo, work_dir, *arguments):
    """`sosr-det train`, in this process; returns the exit code."""
    with pytest.raises(SystemExit) as exit_:
        main(
            [
                "train", DETECT, "--work-dir", str(work_dir), "--data-root", str(demo.voc_devkit),
                *arguments, "--cfg-options", *NO_WORKERS,
            ]
        )  # fmt: skip
    return exit_.value.code or 0


def with_nan(state):
    return {k: torch.full_like(v, float("nan")) if k == "conv1.weight" else v for k, v in state.items()}


def with_negative_variance(state):
    return {k: -v if k == "layer2.0.bn1.running_var" else v for k, v in state.items()}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: {f"backbone.{k}": v for k, v in s.items()}, "the prefix 'backbone.'"),
        (lambda s: {f"module.backbone.{k}": v for k, v in s.items()}, "the prefix 'backbone.'"),
        (lambda s: {"model": s}, "0 of 120 tensors match"),
        (lambda s: build_backbone("resnet50")[0].state_dict(), "another architecture or depth"),
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith("layer4.")},
            "missing from the source: layer4",
        ),
        (with_nan, "conv1.weight (holds NaN"),
        (with_negative_variance, "layer2.0.bn1.running_var (holds negative variances)"),
    ],
    ids=["backbone.", "module.backbone.", "nested", "r50", "no-layer4", "nan", "negative-variance"],
)
def test_a_wrong_file_is_refused(registry, demo, tmp_path, capsys, change, named):
    torch.save(change(Registry(registry).load("sosr://resnet18-demo-sosr")), tmp_path / "weights.pth")
    assert train(demo, tmp_path / "run", "--backbone", str(tmp_path / "weights.pth")) == 1
    assert named in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_left_over_head_is_reported_and_trained_with(registry, demo, tmp_path, capsys):
    """And one missing tensor, allowed by name, is on record."""
    state = Registry(registry).load("sosr://resnet18-demo-sosr")
    del state["layer4.1.bn2.bias"]
    torch.save(
        state | {"fc.weight": torch.zeros(20, 512), "fc.bias": torch.zeros(20)}, tmp_path / "weights.pth"
    )
    arguments = ["--backbone", str(tmp_path / "weights.pth"), "--total-epochs", "1"]
    assert train(demo, tmp_path / "run", *arguments) == 1
    error = capsys.readouterr().err
    assert "2 classifier head left over" in error
    assert "--allow 'layer4.1.bn2.bias'" in error
    assert train(demo, tmp_path / "run", *arguments, "--allow", "layer4.1.bn2.bias") == 0
    record = read_run_record(tmp_path / "run")["backbone"]
    assert record["allowed"] == ["layer4.1.bn2.bias"]
    assert record["transfer"]["classifier_head_left_over"] == 2
    assert record["transfer"]["allowed_tensors"] == {"layer4.1.bn2.bias": "missing from the source"}
    assert record["transfer"]["matched"] == 119


# ---- the same through an entry: what the flag sets, and what without it is refused ---------------------------------


@pytest.fixture(scope="module")
def odd(pretrained, tmp_path_factory):
    """The demo registry with `odd18` (BGR, other mean and std) and `odd50` (caffe style)."""
    root = tmp_path_factory.mktemp("odd") / "registry"
    shutil.copytree(pretrained[0], root)
    registry = Registry(root)
    manifest = registry.resolve("sosr://resnet18-demo-sosr").manifest.to_dict()
    fields = {key: manifest[key] for key in ("arch", "preprocessing", "classes", "metrics")}
    odd = {**fields["preprocessing"], "channel_order": "bgr", "mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]}
    registry.publish(registry.load("sosr://resnet18-demo-sosr"), {**fields, "preprocessing": odd}, "odd18")
    torch.manual_seed(0)
    arch = {
        "name": "resnet50",
        "library": "torchvision",
        "style": "caffe",
        "stem": "7x7",
        "feature_channels": [],
    }
    registry.publish(build_backbone("resnet50")[0].state_dict(), {**fields, "arch": arch}, "odd50")
    return root


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["model.data_preprocessor.bgr_to_rgb=False"], "channel order is bgr"),
        (["model.data_preprocessor.mean=[1,2,3]"], "mean is [1, 2, 3]"),
        (["model.data_preprocessor.std=[1,1,1]"], "std is [1, 1, 1]"),
        (["model.backbone.depth=50"], "depth 50"),
        (
            [
                "model.backbone.depth=50", "model.neck.in_channels=[256,512,1024,2048]",
                "model.backbone.init_cfg.checkpoint=sosr://odd50",
            ],
            "style='caffe'",
        ),
    ],
    ids=["bgr", "mean", "std", "depth", "style"],
)  # fmt: skip
def test_a_config_that_does_not_fit_its_entry_is_refused(odd, demo, tmp_path, capsys, options, named):
    assert train(demo, tmp_path / "run", "--registry", str(odd), "--cfg-options", *options) == 1
    error = capsys.readouterr().err
    assert named in error
    assert "`--backbone sosr://" in error
    assert "`sosr-det swap`" in error
    assert not (tmp_path / "run").exists()


def test_the_flag_fits_the_config_to_its_entry(odd, demo, tmp_path):
    assert (
        train(
            demo,
            tmp_path / "run",
            "--backbone",
            "sosr://odd18",
            "--registry",
            str(odd),
            "--total-epochs",
            "1",
        )
        == 0
    )
    record = read_run_record(tmp_path / "run")
    assert record["model"]["preprocessing"]["bgr_to_rgb"] is False
    assert record["model"]["preprocessing"]["mean"] == [1.0, 2.0, 3.0]
    assert record["backbone"]["uri"] == "sosr://odd18@latest"
    assert record["backbone"]["allowed"] == []
    # Resumed without the flag, the run goes on with the backbone's preprocessing, not with the config's.
    assert train(demo, tmp_path / "run", "--registry", str(odd), "--resume", "--total-epochs", "2") == 0
    again = read_run_record(tmp_path / "run")
    assert again["model"]["preprocessing"] == record["model"]["preprocessing"]
    assert again["backbone"]["uri"] == "sosr://odd18@latest"
    assert [epoch["epoch"] for epoch in again["epochs"]] == [1, 2]


@pytest.mark.slow
def test_set_depth_belongs_to_train_too_and_survives_a_resume(registry, demo, tmp_path, capsys):
    """A config of depth 50 on the demo's resnet18: refused with an advice that works here, then trained and resumed."""
    deep = tmp_path / "deep.py"
    assert main_code("configs", "write", DETECT, "--out", deep) == 0
    deep.write_text(
        deep.read_text()
        + "\nmodel = dict(backbone=dict(depth=50), neck=dict(in_channels=[256, 512, 1024, 2048]))\n"
    )
    arguments = ["train", deep, "--work-dir", tmp_path / "run", "--data-root", demo.voc_devkit]
    backbone = ["--backbone", "sosr://resnet18-demo-sosr"]
    assert main_code(*arguments, *backbone, "--total-epochs", "1") == 1
    assert "--set-depth" in capsys.readouterr().err
    assert main_code(*arguments, "--set-depth", "--total-epochs", "1") == 1
    assert "give both" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    options = ["--cfg-options", *NO_WORKERS]
    assert main_code(*arguments, *backbone, "--set-depth", "--total-epochs", "1", *options) == 0
    assert main_code(*arguments, "--resume", "--total-epochs", "2", *options) == 0
    record = read_run_record(tmp_path / "run")
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2]
    assert record["backbone"]["transfer"]["matched"] == 120


def main_code(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main([*map(str, arguments)])
    return exit_.value.code or 0


# ---- sosr-det swap -------------------------------------------------------------------------------------------------


def swap(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main(["swap", *map(str, arguments)])
    return exit_.value.code or 0


CAFFE18 = """
_base_ = "mmdet::retinanet/retinanet_r50-caffe_fpn_1x_coco.py"
model = dict(backbone=dict(depth=18), neck=dict(in_channels=[64, 128, 256, 512]))
custom_hooks = [dict(type="NumClassCheckHook")]
"""


def test_swap_writes_a_small_config_that_loads_as_what_was_shown(registry, tmp_path, capsys):
    from mmengine.config import Config

    (tmp_path / "own.py").write_text(CAFFE18)
    out = tmp_path / "new" / "swapped.py"
    out.parent.mkdir()
    assert swap(tmp_path / "own.py", "--backbone", "sosr://resnet18-demo-sosr", "-o", out) == 0
    shown = capsys.readouterr().out
    for line in (
        "-        bgr_to_rgb=False,", "+        bgr_to_rgb=True,", "120 of 120 tensors match",
        "note: model.backbone.norm_cfg.requires_grad=False", f"wrote {out}",
    ):  # fmt: skip
        assert line in shown
    text = out.read_text()
    entry = Registry(registry).resolve("sosr://resnet18-demo-sosr")
    assert '_base_ = "../own.py"' in text
    assert f'"{entry.pinned_uri}",  # sosr://resnet18-demo-sosr@latest' in text
    assert len(text.splitlines()) < 25
    cfg = Config.fromfile(out)
    assert cfg.model.backbone.init_cfg.checkpoint == entry.pinned_uri
    assert cfg.model.backbone.frozen_stages == 1
    assert [hook.type for hook in cfg.custom_hooks] == ["NumClassCheckHook", "BackboneContractHook"]
    assert cfg.custom_imports.imports == ["sosr_det.register"]
    # again: not over the file, and with --force; nothing else is left in the folder
    assert swap(tmp_path / "own.py", "--backbone", "sosr://resnet18-demo-sosr", "-o", out) == 1
    assert "--force" in capsys.readouterr().err
    assert swap(out, "--backbone", "sosr://resnet18-demo-sosr", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["changes"], document["difference"], document["out"]) == ([], [], None)
    assert document["digest"] == entry.digest
    assert [path.name for path in out.parent.iterdir()] == ["swapped.py"]


def test_swap_refuses_without_writing(registry, tmp_path, capsys):
    for config, uri, named in (
        ("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", "sosr://resnet18-demo-sosr", "--set-depth"),
        ("mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py", "sosr://resnet18-demo-sosr", "SwinTransformer"),
        ("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", "sosr://resnet18-demo", "resnet18-demo-sosr"),
    ):
        assert swap(config, "--backbone", uri, "-o", tmp_path / "out.py") == 1
        assert named in capsys.readouterr().err
    assert (
        swap(
            "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py",
            "--backbone",
            "x.pth",
            "-o",
            tmp_path / "no" / "x.py",
        )
        == 1
    )
    assert "there is no folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_swap_writes_allowed_names_into_the_config_and_no_code_from_an_argument(registry, tmp_path, capsys):
    evil = tmp_path / "a\nraise SystemExit(7)\n.pth"
    state = Registry(registry).load("sosr://resnet18-demo-sosr")
    torch.save({k: v for k, v in state.items() if not k.startswith("layer4.1.")}, evil)
    out = tmp_path / "out.py"
    config = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"
    assert swap(config, "--backbone", evil, "-o", out, "--allow", "layer4.1.*", "--set-depth") == 1
    assert "does not say which depth" in capsys.readouterr().err
    assert swap(config, "--backbone", evil, "-o", out, "--allow", "layer4.1.*") == 0
    from mmengine.config import Config

    cfg = Config.fromfile(out)
    assert cfg.model.backbone.init_cfg.checkpoint == str(evil)
    assert cfg.custom_hooks[0]["allow"] == ["layer4.1.*"]
