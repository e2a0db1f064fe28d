"""MMDetection's own tools/train.py checks a registry backbone through one line, custom_imports of sosr_det.register."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sosr_det.models import build_backbone
from sosr_det.registry import Registry
from sosr_det.registry.manifest import Preprocessing
from sosr_det.transfer.probe import compute_probe

PREPROCESSING = Preprocessing(
    "rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "0-255", "bilinear", (224, 224)
)

# MMDetection's own config, made small; neither the hook nor anything else of ours but the import and the URI.
CONFIG = """
_base_ = "mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py"
custom_imports = dict(imports=["sosr_det.register"], allow_failed_imports=False)
data_root = {data_root!r}
pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(96, 96), keep_ratio=True),
    dict(type="PackDetInputs"),
]
model = dict(
    backbone=dict(depth=18, init_cfg=dict(checkpoint="sosr://tool18")),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1),
)
train_dataloader = dict(
    _delete_=True,
    batch_size=2,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="VOCDataset",
        data_root=data_root,
        ann_file="VOC2007/ImageSets/Main/trainval.txt",
        data_prefix=dict(sub_data_root="VOC2007/"),
        pipeline=pipeline,
    ),
)
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=1)
val_cfg = val_dataloader = val_evaluator = test_cfg = test_dataloader = test_evaluator = None
param_scheduler = []
default_hooks = dict(logger=dict(interval=1), checkpoint=None)
log_processor = dict(by_epoch=False)
"""


@pytest.fixture(scope="module")
def place(demo, tmp_path_factory):
    """A folder with a registry that holds `tool18` and a config `own.py` that uses it."""
    folder = tmp_path_factory.mktemp("mmdet_tools")
    torch.manual_seed(0)
    network = build_backbone("resnet18")[0]
    fields = {
        "arch": {
            "name": "resnet18", "library": "torchvision", "style": "pytorch", "stem": "7x7",
            "feature_channels": [64, 128, 256, 512],
        },
        "preprocessing": PREPROCESSING,
        "probe": compute_probe(network, PREPROCESSING),
    }  # fmt: skip
    Registry(folder / "registry").publish(network.state_dict(), fields, "tool18")
    (folder / "own.py").write_text(CONFIG.format(data_root=f"{demo.voc_devkit}/"))
    return folder


def tool(name: str) -> Path:
    """One of MMDetection's scripts, as it is installed."""
    package = Path(importlib.util.find_spec("mmdet").submodule_search_locations[0])
    return package / ".mim" / "tools" / name


def train(place: Path, name: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run MMDetection's script as it is, in a process of its own."""
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [
            sys.executable, str(tool("train.py")), "own.py", "--work-dir", name, *arguments,
        ],
        cwd=place, capture_output=True, text=True, timeout=300,
        env={**os.environ, "SOSR_REGISTRY": str(place / "registry"), "PYTHONPATH": str(root)},
    )  # fmt: skip


@pytest.mark.slow
def test_a_registry_backbone_is_checked_and_trained(place):
    result = train(place, "good")
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-3000:]
    assert "contract kept: backbone from sosr://tool18: 120 of 120 tensors match" in output
    assert "probe: the features agree (layer1, layer2, layer3, layer4)" in output
    assert "Iter(train) [1/1]" in output
    assert "frozen tensors are still those of sosr://tool18, bit for bit" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            "model.data_preprocessor.bgr_to_rgb=False",
            "the channel order is bgr, the backbone was trained with rgb",
        ),
        ("model.backbone.norm_cfg.eps=0.001", "computes something else with them: after layer1"),
    ],
)
def test_a_wrong_one_stops_before_the_first_step(place, change, named):
    result = train(place, "wrong", "--cfg-options", change)
    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert named in output
    assert "Iter(train)" not in output


def test_compat_comes_before_mmdets_models_in_a_notebook():
    """The order that docs/swap.md gives for code that imports mmdet itself."""
    code = (
        "import sosr_det.register\n"
        "from sosr_det.compat import mmcv_ops_provider\n"
        "import mmdet.models, mmcv.ops\n"
        "print(mmcv_ops_provider())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert result.stdout.strip() in ("torchvision", "compiled"), result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(["test.py", "--help"], 0, "MMDet test"), (["no.py"], 2, "usage"), ([], 2, "usage")],
)
def test_scripts_that_import_models_first_run_behind_compat(tmp_path, arguments, code, said):
    script = [str(tool(name)) if name == "test.py" else name for name in arguments]
    result = subprocess.run(
        [sys.executable, "-m", "sosr_det.compat", *script], capture_output=True, text=True, timeout=300,
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    assert result.returncode == code, result.stderr
    assert said in result.stdout + result.stderr
