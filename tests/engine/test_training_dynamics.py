"""TrainingDynamicsHook on drawn images: what it records, and that training does not notice it."""

from __future__ import annotations

import copy
import json
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import multiclass_calibration_error
from torchvision.io import ImageReadMode, decode_image

import sosr_det.register  # noqa: F401
from sosr_det.engine.clean_pass import evenly_spaced, unaugmented_training_set, undisturbed
from sosr_det.engine.dynamics_record import read_dynamics, read_features, write_dynamics
from sosr_det.engine.hooks import TrainingDynamicsHook
from sosr_det.engine.recompute import measure_unrecorded_runs
from sosr_det.engine.run_record import read_run_record
from sosr_det.engine.train import run_training
from sosr_det.engine.train_options import TrainOptions
from sosr_det.errors import CheckpointError, ConfigError, TrainingDivergedError

NUM_CLASSES, PER_CLASS = 3, {"train": 8, "val": 5}
PROBABILITIES = (0.3, 0.4, 0.9)

CONFIG = """
default_scope = "mmengine"
custom_imports = dict(imports=["sosr_det.register"], allow_failed_imports=False)
stage = "pretrain"
data_root = "{root}"
model = dict(
    type="BackboneClassifier",
    backbone=dict(arch="resnet20"),
    num_classes=3,
    loss=dict(type="SOSRLoss", threshold=0.4, weight=0.5),
    data_preprocessor=dict(type="ClassificationPreprocessor", mean=[127.5] * 3, std=[60.0] * 3),
)
loader = dict(batch_size=4, num_workers=0, collate_fn=dict(type="default_collate"))
train_dataloader = dict(
    **loader,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ImageNetFolder", data_root=data_root, split="train",
        pipeline=[
            dict(type="torchvision/RandomCrop", size=16, padding=4),
            dict(type="torchvision/RandomHorizontalFlip"),
        ],
    ),
)
val_dataloader = dict(
    **loader,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="ImageNetFolder", data_root=data_root, split="val",
                 pipeline=[dict(type="torchvision/CenterCrop", size=16)]),
)
val_evaluator = dict(type="ClassificationMetric", topk=(1,))
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.02, momentum=0.9))
train_cfg = dict(by_epoch=True, max_epochs=2)
val_cfg = dict()
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=1),
    checkpoint=dict(type="CheckpointHook", interval=1, save_best="accuracy/top1"),
)
env_cfg = dict(mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0), dist_cfg=dict(backend="gloo"))
vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
visualizer = dict(type="Visualizer", vis_backends=vis_backends)
randomness = dict(seed=3)
custom_hooks = [{hook}]
"""
HOOK = f"dict(type='TrainingDynamicsHook', probabilities={PROBABILITIES}, num_bins=10)"


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """20 px noise around one mean colour per class."""
    root = tmp_path_factory.mktemp("dynamics_data")
    noise = np.random.default_rng(0)
    for split, number in PER_CLASS.items():
        for label in range(NUM_CLASSES):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(number):
                pixels = noise.normal(60 + 60 * label, 5 + 15 * i, (20, 20, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def train(folder, folders, hook=HOOK, config=CONFIG, **changes):
    folder.mkdir(exist_ok=True)
    path = folder / "tiny.py"
    path.write_text(config.format(root=folders, hook=hook))
    return run_training(TrainOptions(str(path), work_dir=folder / "run", publish=False, **changes))


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    return train(tmp_path_factory.mktemp("with_hook"), folders)


def state_of(run, name="epoch_2.pth"):
    return torch.load(run / name, weights_only=True)


def test_training_does_not_notice_the_hook(run, folders, tmp_path):
    without = train(tmp_path, folders, hook="")
    assert not (without / "dynamics.json").exists()
    for part in ("state_dict", "optimizer"):
        ours, theirs = state_of(run)[part], state_of(without)[part]
        if part == "optimizer":
            ours, theirs = ours["state"], theirs["state"]
            ours = {k: v["momentum_buffer"] for k, v in ours.items()}
            theirs = {k: v["momentum_buffer"] for k, v in theirs.items()}
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    records = [read_run_record(path)["epochs"] for path in (run, without)]
    for ours, theirs in zip(*records, strict=True):
        assert ours["val"] == theirs["val"]
        assert ours["train"]["loss"] == theirs["train"]["loss"]


def literal_measures(run, folders, epoch, split):
    """Sample by sample from the checkpoint and the files, with none of the code under test."""
    from mmengine.config import Config
    from mmengine.registry import MODELS

    config = Config.fromfile(run.parent / "tiny.py")
    model = MODELS.build(config.model).eval()
    model.load_state_dict(state_of(run, f"epoch_{epoch}.pth")["state_dict"])
    samples = []
    for label in range(NUM_CLASSES):
        for path in sorted((folders / split / f"class{label}").iterdir()):
            image = decode_image(str(path), mode=ImageReadMode.RGB)[:, 2:18, 2:18]
            grey = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
            share = np.bincount(grey.ravel(), minlength=256) / grey.size
            with torch.no_grad():
                logits = model(((image.float() - 127.5) / 60.0)[None])
            logits.requires_grad_()
            target = torch.tensor([label])
            model.loss_module(logits, target).backward()
            probabilities = logits.detach().softmax(dim=1)[0]
            samples.append(
                {
                    "p": probabilities[label].item(),
                    "probabilities": probabilities,
                    "label": label,
                    "gradient": logits.grad.norm().item(),
                    "nll": -logits.detach().double().log_softmax(dim=1)[0, label].item(),
                    "entropy": -sum(s * np.log2(s) for s in share if s > 0),
                    "overconfident": probabilities.argmax() == label and probabilities.max() > 0.4,
                    "spread": np.std([logits[0, k].item() for k in range(NUM_CLASSES) if k != label]),
                }
            )
    return samples


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_record_equals_a_literal_pass(run, folders, epoch, split):
    entry = read_dynamics(run)["epochs"][epoch - 1]
    samples = literal_measures(run, folders, epoch, split)
    found = entry[split]
    assert (entry["epoch"], entry["threshold"]) == (epoch, 0.4)
    assert found["num_samples"] == len(samples) == NUM_CLASSES * PER_CLASS[split]
    for row, p in zip(found["above_probability"], PROBABILITIES, strict=True):
        above = [s for s in samples if s["p"] > p]
        assert (row["p"], row["num_samples"]) == (p, len(above))
        if split == "train" and above:
            assert row["mean_entropy_bits"] == pytest.approx(np.mean([s["entropy"] for s in above]))
    selected = [s for s in samples if s["overconfident"]]
    assert 0 < len(selected) < len(samples)  # or the next lines would prove little
    expected = {
        "gradient_norm": np.mean([s["gradient"] for s in samples]),
        "overconfident_gradient_norm": np.mean([s["gradient"] for s in selected]),
        "overconfident_fraction": len(selected) / len(samples),
        "logit_spread": np.mean([s["spread"] for s in samples]),
        "overconfident_logit_spread": np.mean([s["spread"] for s in selected]),
        "mean_confidence": np.mean([s["probabilities"].max().item() for s in samples]),
        "nll": np.mean([s["nll"] for s in samples]),
        "ece": multiclass_calibration_error(
            torch.stack([s["probabilities"] for s in samples]),
            torch.tensor([s["label"] for s in samples]),
            num_classes=NUM_CLASSES,
            n_bins=10,
        ).item(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert found["gradient_norm"] > found["ce_gradient_norm"]  # SOSR adds to it
    if split == "val":
        assert "mean_entropy_bits" not in found
        assert found["top1_percent"] == read_run_record(run)["epochs"][epoch - 1]["val"]["accuracy/top1"]


def test_record_describes_the_run(run):
    record = read_dynamics(run)
    assert (record["config_name"], record["seed"], record["num_classes"]) == ("tiny", 3, NUM_CLASSES)
    assert record["loss"] == {"type": "SOSRLoss", "threshold": 0.4, "weight": 0.5}
    assert (record["probabilities"], record["max_samples"]) == (list(PROBABILITIES), None)
    assert [entry["epoch"] for entry in record["epochs"]] == [1, 2]
    assert read_features(run) is None  # a model without 2-D features


def test_scalars_reach_the_visualisation_backends(run):
    (path,) = run.rglob("scalars.json")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    logged = {line["step"]: line for line in lines if "dynamics/train/gradient_norm" in line}
    for entry in read_dynamics(run)["epochs"]:
        line = logged[entry["epoch"]]
        assert line["dynamics/train/gradient_norm"] == entry["train"]["gradient_norm"]
        assert line["dynamics/val/ece"] == entry["val"]["ece"]
        assert line["dynamics/train/num_above_0.3"] == entry["train"]["above_probability"][0]["num_samples"]
    assert list(run.rglob("events.out.tfevents.*"))


def test_resume_continues_the_record_and_drops_what_was_not_kept(run, folders, tmp_path):
    shutil.copytree(run.parent, tmp_path / "copy")
    resumed = tmp_path / "copy" / "run"
    (resumed / "epoch_2.pth").unlink()
    stale = read_dynamics(resumed)
    stale["epochs"][1]["train"]["nll"] = -1.0
    write_dynamics(resumed, stale)
    train(tmp_path / "copy", folders, resume=True, total_epochs=3)
    before, after = read_dynamics(run)["epochs"], read_dynamics(resumed)["epochs"]
    assert [entry["epoch"] for entry in after] == [1, 2, 3]
    assert after[0] == before[0]
    assert after[1]["train"]["nll"] > 0  # measured again, not kept


def test_interval_max_samples_and_the_last_epoch(folders, tmp_path):
    hook = "dict(type='TrainingDynamicsHook', interval=2, max_samples=9)"
    record = read_dynamics(train(tmp_path, folders, hook=hook, cfg_options=["train_cfg.max_epochs=3"]))
    assert [entry["epoch"] for entry in record["epochs"]] == [2, 3]
    assert [record["epochs"][0][name]["num_samples"] for name in ("train", "val")] == [9, 15]


def test_a_new_run_replaces_the_record(run, folders, tmp_path):
    shutil.copytree(run.parent, tmp_path / "copy")
    train(tmp_path / "copy", folders, overwrite=True, total_epochs=1)
    assert [entry["epoch"] for entry in read_dynamics(tmp_path / "copy" / "run")["epochs"]] == [1]


def test_features_of_a_two_dimensional_model(folders, tmp_path):
    config = CONFIG.replace("num_classes=3,", "num_classes=3, feature_dim=2,")
    hook = "dict(type='TrainingDynamicsHook', max_points=10)"
    run = train(tmp_path, folders, hook=hook, config=config, total_epochs=1)
    features = read_features(run)
    assert features["epoch"] == 1
    assert features["classes"].tolist() == ["class0", "class1", "class2"]
    assert features["train_features"].shape == features["val_features"].shape == (10, 2)
    # 10 of 15: samples 0, 1, 3, 4, 6, … in the order of the files
    assert features["val_labels"].tolist() == [i * 15 // 10 // 5 for i in range(10)]
    from mmengine.config import Config
    from mmengine.registry import MODELS

    model = MODELS.build(Config.fromfile(tmp_path / "tiny.py").model).eval()
    model.load_state_dict(state_of(run, "epoch_1.pth")["state_dict"])
    image = decode_image(str(folders / "val" / "class0" / "3.png"), mode=ImageReadMode.RGB)[:, 2:18, 2:18]
    with torch.no_grad():
        expected = model.reduce(model.backbone(((image.float() - 127.5) / 60.0)[None]))[0]
    np.testing.assert_allclose(features["val_features"][2], expected, rtol=1e-4, atol=1e-5)


def test_images_held_in_memory_are_measured_without_augmentation(folders, tmp_path):
    """The training images are flipped in every batch; the clean pass must see them as they are on disk."""
    from mmengine.config import Config
    from mmengine.registry import DATASETS

    centre = {"type": "torchvision/CenterCrop", "size": 16}
    plain = {
        "type": "ImageNetFolder",
        "data_root": str(folders),
        "pipeline": [centre],
    }
    flip = [{"type": "BatchRandomHorizontalFlip", "p": 1.0}]
    train_set = {"type": "InMemoryDataset", "dataset": dict(plain, split="train"), "batch_pipeline": flip}
    val_set = {"type": "InMemoryDataset", "dataset": dict(plain, split="val"), "batch_pipeline": []}
    built = DATASETS.build(train_set)
    clean = unaugmented_training_set(train_set, val_set, built)
    assert clean.images is built.images  # neither decoded nor held twice
    assert torch.equal(clean.__getitems__([3, 1])["inputs"], built.images[[3, 1]])
    assert torch.equal(built.__getitems__([3, 1])["inputs"], built.images[[3, 1]].flip(-1))
    # Other steps before decoding: the held images are not what validation would see.
    other = copy.deepcopy(val_set)
    other["dataset"]["pipeline"][0]["size"] = 12
    assert unaugmented_training_set(train_set, other, built).images.shape[-1] == 12

    config = Config.fromstring(CONFIG.format(root=folders, hook=HOOK), ".py")
    for part, dataset in (("train", train_set), ("val", val_set)):
        loader = config[f"{part}_dataloader"]
        loader.dataset, loader.collate_fn = dataset, {"type": "already_collated"}
    run = train(
        tmp_path, folders, config=config.pretty_text.replace("{", "{{").replace("}", "}}"), total_epochs=1
    )
    found = read_dynamics(run)["epochs"][0]["train"]
    samples = literal_measures(run, folders, 1, "train")
    assert found["gradient_norm"] == pytest.approx(np.mean([s["gradient"] for s in samples]), rel=1e-4)


def test_recomputing_from_checkpoints_gives_what_was_recorded(run, folders, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    assert next(measure_unrecorded_runs([tmp_path])).endswith("keeps its recorded dynamics.json")
    (tmp_path / "run" / "dynamics.json").unlink()
    (line,) = measure_unrecorded_runs([tmp_path], data_root=folders)
    assert line.endswith("measured the checkpoints of epoch 1, 2")
    recorded, recomputed = read_dynamics(run), read_dynamics(tmp_path / "run")
    assert recomputed["config_name"] == "tiny"
    for theirs, ours in zip(recorded["epochs"], recomputed["epochs"], strict=True):
        for part in ("train", "val"):
            for name in ("gradient_norm", "ce_gradient_norm", "nll", "logit_spread", "top1_percent"):
                assert ours[part][name] == pytest.approx(theirs[part][name], rel=1e-6), (part, name)
        assert ours["train"]["mean_entropy_bits"] == theirs["train"]["mean_entropy_bits"]


def test_nothing_to_recompute_from(run, tmp_path):
    with pytest.raises(CheckpointError, match=r"no run record run\.json"):
        list(measure_unrecorded_runs([tmp_path]))
    shutil.copy(run / "run.json", tmp_path)
    with pytest.raises(CheckpointError, match="nothing to measure"):
        list(measure_unrecorded_runs([tmp_path]))


SMALL_SETS = """
import json, sys, torch, torch.nn as nn
from torch.utils.data import DataLoader, Dataset
from sosr_det.engine.clean_pass import CleanPass
from sosr_det.engine.hooks.training_dynamics import gather_features
from sosr_det.losses import SOSRLoss


class Images(Dataset):
    def __init__(self, number):
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, i):
        image = torch.randint(256, (3, 4, 4), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        return {"inputs": image, "labels": i % 3}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.reduce, self.head, self.loss_module = nn.Linear(48, 2), nn.Linear(2, 3), SOSRLoss(0.5)

    def data_preprocessor(self, batch, training):
        return {"inputs": batch["inputs"].float() / 60, "labels": batch["labels"]}

    def forward(self, inputs, mode):
        return self.head(self.reduce(inputs.flatten(1)))


def measure(number):
    loader = DataLoader(Images(number), batch_size=4)
    each = CleanPass(Images(number), loader, [0.3, 0.5], 5, with_entropy=True)
    first = each.run(Model())
    assert each.run(Model()).summary == first.summary  # the kept entropies belong to the same samples
    features = gather_features("val", first, 6)
    return [first.summary, {name: value.tolist() for name, value in features.items()}]
"""
TWO_RANKS = (
    SMALL_SETS
    + """
rank, store, numbers = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
results = [measure(number) for number in numbers]
torch.distributed.destroy_process_group()
if rank == 0:
    print(json.dumps(results))
"""
)


def test_two_ranks_count_every_sample_once(tmp_path):
    """11 samples on 2 ranks are uneven; with 1 sample one rank has none at all."""
    numbers = [11, 1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_RANKS, str(rank), str(tmp_path / "store"), json.dumps(numbers)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], [err[-2000:] for _, err in outputs]
    here: dict = {}
    exec(SMALL_SETS, here)
    for number, (joined, joined_features) in zip(numbers, json.loads(outputs[0][0]), strict=True):
        alone, alone_features = here["measure"](number)
        assert joined["num_samples"] == alone["num_samples"] == number
        for name, value in alone.items():
            if isinstance(value, float):
                assert joined[name] == pytest.approx(value, rel=1e-6), name
        assert joined["calibration"]["num_samples"] == alone["calibration"]["num_samples"]
        for ours, theirs in zip(joined["above_probability"], alone["above_probability"], strict=True):
            assert ours == pytest.approx(theirs)
        assert joined_features["val_labels"] == alone_features["val_labels"]
        np.testing.assert_allclose(
            joined_features["val_features"], alone_features["val_features"], rtol=1e-5, atol=1e-6
        )


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"interval": 0},
        {"num_bins": 0},
        {"max_samples": 0},
        {"probabilities": []},
        {"probabilities": [0.9, 1.0]},
    ],
)
def test_hook_refuses(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        TrainingDynamicsHook(**bad)


def test_no_validation_data_is_told_before_the_first_step(folders, tmp_path):
    config = CONFIG.replace("val_dataloader", "unused_dataloader")
    config = config.replace("val_evaluator", "unused_evaluator").replace("val_cfg", "unused_cfg")
    config = config.replace(', save_best="accuracy/top1"', "")
    with pytest.raises(ConfigError, match="the config needs a val_dataloader"):
        train(tmp_path, folders, config=config)
    assert not (tmp_path / "run").exists()


def test_diverged_outputs_stop_the_run_before_its_checkpoint(folders, tmp_path, monkeypatch):
    from sosr_det.models import BackboneClassifier

    plain = BackboneClassifier.forward

    def forward(self, inputs, labels=None, mode="tensor"):
        output = plain(self, inputs, labels, mode)
        return output * float("nan") if mode == "tensor" else output

    monkeypatch.setattr(BackboneClassifier, "forward", forward)
    with pytest.raises(TrainingDivergedError, match="NaN or infinite for 24 of 24 samples"):
        train(tmp_path, folders)
    assert not list(tmp_path.rglob("*.pth"))


def test_missing_and_damaged_records(tmp_path):
    with pytest.raises(CheckpointError, match="TrainingDynamicsHook"):
        read_dynamics(tmp_path)
    (tmp_path / "dynamics.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a record of training dynamics"):
        read_dynamics(tmp_path)
    (tmp_path / "dynamics.json").write_text('{"schema_version": 99, "epochs": []}')
    with pytest.raises(CheckpointError, match="schema version 99"):
        read_dynamics(tmp_path)
    (tmp_path / "features_2d.npz").write_bytes(b"PK damaged")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_features(tmp_path)


# ---- pieces --------------------------------------------------------------------------------------------------------


def test_undisturbed_restores_modes_and_random_states():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Dropout())
    model.train()
    model[1].eval()  # a frozen layer

    def draws():
        return random.random(), np.random.rand(), torch.rand(()).item()

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draws()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    buffers = [buffer.clone() for buffer in model.buffers()]

    def disturb():
        with undisturbed(model):
            draws()
            assert not model[2].training
            assert not torch.is_grad_enabled()
            model(torch.randn(4, 2))
            raise KeyError

    with pytest.raises(KeyError):
        disturb()
    assert draws() == expected
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))


def test_evenly_spaced():
    assert evenly_spaced(5, None) == evenly_spaced(5, 5) == evenly_spaced(5, 9) == [0, 1, 2, 3, 4]
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]
