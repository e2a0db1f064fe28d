"""One run with everything on: what it records, saves and publishes, and how it goes on."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from sosr_det.engine.train import run_training
from sosr_det.engine.train_options import TrainOptions
from sosr_det.errors import ConfigError
from sosr_det.registry.backbone_state import split_backbone
from sosr_det.registry.digest import tensors_digest
from sosr_det.registry.opening import open_registry

EXPECTED = {
    "precision": "bf16", "channels_last": True, "compile": None, "fused_optimizer": True,
    "tf32": True, "cudnn_benchmark": False, "ema": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small work, and other tests run beside it: threads that wait for each other would take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(demo, one_thread, tmp_path_factory):
    root = tmp_path_factory.mktemp("accelerated")
    options = TrainOptions(
        "demo/resnet18_sosr_1xb32-6e_demo-imagenet",
        work_dir=root / "run",
        data_root=demo.imagenet,
        registry=root / "registry",
        total_epochs=1,
        precision="bf16",
        channels_last=True,
        fused_optimizer=True,
        ema=0.1,
        cfg_options=[
            "acceleration.tf32=True",
            "train_dataloader.num_workers=0",
            "train_dataloader.persistent_workers=False",
            "val_dataloader.num_workers=0",
            "val_dataloader.persistent_workers=False",
        ],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOSR_REGISTRY", str(root / "registry"))
        run_training(options)
        yield options


def record_of(options):
    return json.loads((options.work_dir / "run.json").read_text())


def settings_of(options):
    return {name: record_of(options)["acceleration"][name] for name in EXPECTED}


def test_the_record_says_how_the_run_computed(run):
    record = record_of(run)
    assert settings_of(run) == EXPECTED
    origins = record["acceleration"]["origins"]
    assert (origins["precision"], origins["tf32"], origins["compile"]) == ("flag", "config", "device")
    assert "Bfloat16OptimWrapper" in record["config_text"]
    assert "fused" not in record["config_text"]  # how the optimizer computes is no part of the recipe


def test_the_averaged_weights_are_published_under_plain_names_whatever_their_layout(run):
    record = record_of(run)
    checkpoint = torch.load(run.work_dir / record["best"]["checkpoint"], weights_only=True)
    averaged, _ = split_backbone(checkpoint["state_dict"])
    trained, _ = split_backbone(
        {k.removeprefix("module."): v for k, v in checkpoint["ema_state_dict"].items() if k != "steps"}
    )
    published = record["published"]
    assert published["tensors_digest"] == tensors_digest(averaged) != tensors_digest(trained)
    convolution = averaged["layer1.0.conv1.weight"]
    assert convolution.stride()[1] == 1  # saved as it lay in memory
    entry = open_registry(run.registry).resolve(published["uri"])
    assert entry.tensors_digest == tensors_digest({k: v.contiguous() for k, v in averaged.items()})


def test_a_resumed_run_computes_as_it_began_and_refuses_to_do_otherwise(run):
    resumed = dataclasses.replace(
        run, precision=None, channels_last=None, fused_optimizer=None, ema=None, resume=True, total_epochs=2,
        publish=False,
    )  # fmt: skip
    before = record_of(run)
    for flags, message in [
        ({"precision": "fp32"}, "bf16 in the run"),
        ({"channels_last": False}, "on in the"),
    ]:
        with pytest.raises(ConfigError, match=message):
            run_training(dataclasses.replace(resumed, **flags))
    assert record_of(run) == before
    run_training(resumed)
    assert settings_of(run) == EXPECTED
    assert len(record_of(run)["epochs"]) == 2
