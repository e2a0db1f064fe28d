"""The stages on drawn data: what a run leaves, what it hands over, and what it refuses."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from sosr_det.analysis.pipeline_table import collect_rows, render_rows
from sosr_det.engine.evaluate import TestOptions, run_test
from sosr_det.engine.publishing import export_run
from sosr_det.engine.run_record import read_run_record
from sosr_det.engine.train import run_training
from sosr_det.engine.train_options import TrainOptions
from sosr_det.errors import (
    BackboneMismatchError,
    CheckpointError,
    ConfigError,
    DataError,
    RegistryError,
    TrainingDivergedError,
)
from sosr_det.registry import Registry, tensors_digest

NO_WORKERS = ["train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"]
NO_VAL_WORKERS = ["val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False"]
PRETRAIN = "demo/resnet18_ce_1xb32-6e_demo-imagenet"
FINETUNE = "demo/resnet18-sosr-pre_sosr_1xb32-6e_demo-cub"
DETECT = "demo/retinanet_r18-sosr-pre_fpn_3e_demo-voc"


def options(config, work_dir, data_root, **changes):
    changes.setdefault("cfg_options", NO_WORKERS + NO_VAL_WORKERS)
    return TrainOptions(config, work_dir=work_dir, data_root=data_root, **changes)


# ---- pretraining, export, registry ---------------------------------------------------------------------------------


def test_pretraining_leaves_a_complete_record(pretrained, demo):
    record = read_run_record(pretrained[1])
    assert (record["stage"], record["status"], record["seed"]) == ("pretrain", "completed", 0)
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2]
    for epoch in record["epochs"]:
        assert {"loss", "loss_ce", "loss_sosr", "overconfident_fraction", "img_per_s"} <= epoch[
            "train"
        ].keys()
        assert epoch["train"]["loss"] == pytest.approx(
            epoch["train"]["loss_ce"] + epoch["train"]["loss_sosr"]
        )
        assert {"accuracy/top1", "accuracy/top5", "accuracy/ece"} <= epoch["val"].keys()
    assert record["data"]["train"]["num_samples"] == 80
    assert len(record["data"]["train"]["fingerprint"]) == 64
    assert record["library_versions"]["torch"] == torch.__version__.partition("+")[0]
    assert "SOSRLoss" in record["config_text"]
    assert record["wall_seconds"] > 0
    assert (pretrained[1] / record["best"]["checkpoint"]).is_file()
    assert (pretrained[1] / "epoch_2.pth").is_file()  # the last one as well


def test_checkpoints_load_without_any_allow_list(pretrained):
    for path in pretrained[1].glob("*.pth"):
        with torch.serialization.safe_globals([]):
            assert (
                "optimizer" in torch.load(path, weights_only=True, map_location="cpu") or "best" in path.name
            )


def test_published_tensors_are_the_best_epochs(pretrained, registry):
    record = read_run_record(pretrained[1])
    state = torch.load(pretrained[1] / record["best"]["checkpoint"], weights_only=True)["state_dict"]
    backbone = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    loaded = Registry().load("sosr://resnet18-demo-sosr")
    assert loaded.keys() == backbone.keys()
    assert all(torch.equal(loaded[name], backbone[name]) for name in backbone)
    manifest = Registry().resolve("sosr://resnet18-demo-sosr").manifest
    assert manifest.tensors_digest == tensors_digest(backbone)
    assert manifest.metrics["top1"] == record["best"]["value"]
    assert manifest.arch.name == "resnet18"
    assert manifest.preprocessing.channel_order == "rgb"
    assert manifest.preprocessing.input_size == (64, 64)
    assert len(manifest.classes) == 20
    assert manifest.recipe.config_text == record["config_text"]
    assert record["published"]["digest"] == manifest.digest


def test_export_of_a_chosen_epoch_and_tag(pretrained, tmp_path):
    entry = export_run(pretrained[1] / "epoch_2.pth", "mine@v2", registry_root=tmp_path / "r")
    registry = Registry(tmp_path / "r")
    assert registry.tags("mine") == ["latest", "v2"]
    record = read_run_record(pretrained[1])
    assert entry["metrics"]["top1"] == record["epochs"][1]["val"]["accuracy/top1"]


@pytest.mark.parametrize(
    ("source", "error"),
    [("nowhere", "does not exist"), ("empty", "no run record"), ("run/missing.pth", "does not exist")],
)
def test_export_refuses(pretrained, tmp_path, source, error):
    (tmp_path / "empty").mkdir()
    shutil.copytree(pretrained[1], tmp_path / "run")
    with pytest.raises(CheckpointError, match=error):
        export_run(tmp_path / source, "x", registry_root=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_export_refuses_a_text_file_named_checkpoint(pretrained, tmp_path):
    shutil.copytree(pretrained[1], tmp_path / "run")
    (tmp_path / "run" / "epoch_9.pth").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        export_run(tmp_path / "run" / "epoch_9.pth", "x", registry_root=tmp_path / "r")
    assert not (tmp_path / "r").exists()


# ---- fine-tuning ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finetuned(pretrained, demo, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOSR_REGISTRY", str(pretrained[0]))
        folder = tmp_path_factory.mktemp("finetuned")
        return run_training(options(FINETUNE, folder / "run", demo.cub, total_epochs=1))


def test_finetuning_starts_from_the_entry_and_records_its_parent(finetuned, registry):
    record = read_run_record(finetuned)
    parent = Registry().resolve("sosr://resnet18-demo-sosr")
    assert record["backbone"]["digest"] == parent.digest
    assert record["backbone"]["transfer"]["matched"] == 120
    assert parent.pinned_uri in record["config_text"]  # a moved tag would not change what this run means
    child = Registry().resolve("sosr://resnet18-demo-cub-sosr").manifest
    assert [p.digest for p in child.parents] == [parent.digest]


# ---- detection -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector(pretrained, demo, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOSR_REGISTRY", str(pretrained[0]))
        folder = tmp_path_factory.mktemp("detector")
        # On test, so that the recorded score can be compared with what a test gives.
        return run_training(
            options(DETECT, folder / "run", demo.voc_devkit, total_epochs=2, select_on="test")
        )


def test_detection_runs_from_the_registry(detector, registry):
    record = read_run_record(detector)
    assert record["stage"] == "detection"
    assert record["backbone"]["transfer"]["matched"] == 120
    assert 0 <= record["best"]["val"]["voc/map_11point"] <= 1
    assert record["data"]["train"]["num_samples"] == 40


def test_frozen_stages_are_still_the_entrys(detector, registry):
    record = read_run_record(detector)
    state = torch.load(detector / record["best"]["checkpoint"], weights_only=True)["state_dict"]
    entry = Registry().load("sosr://resnet18-demo-sosr")
    frozen = [n for n in entry if n.startswith(("conv1.", "bn1.", "layer1."))]
    assert all(torch.equal(state[f"backbone.{name}"], entry[name]) for name in frozen)
    assert not torch.equal(state["backbone.layer4.0.conv1.weight"], entry["layer4.0.conv1.weight"])


def test_testing_repeats_the_recorded_map(detector, demo, tmp_path):
    record = read_run_record(detector)
    metrics = run_test(
        TestOptions(
            DETECT,
            detector,
            work_dir=tmp_path,
            data_root=demo.voc_devkit,
            json_out=tmp_path / "out.json",
            cfg_options=["test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False"],
        )
    )
    assert metrics["voc/map_11point"] == pytest.approx(record["best"]["val"]["voc/map_11point"], abs=1e-12)
    assert json.loads((tmp_path / "out.json").read_text())["metrics"] == metrics


def test_testing_refuses_another_models_checkpoint(pretrained, demo, tmp_path):
    with pytest.raises(CheckpointError, match="does not hold this config's model"):
        run_test(TestOptions(DETECT, pretrained[1], work_dir=tmp_path, data_root=demo.voc_devkit))


def test_the_table_joins_the_stages_by_digest(pretrained, finetuned, detector):
    rows = collect_rows([pretrained[1], finetuned, detector])
    assert len(rows) == 1
    assert rows[0].keys() == {
        "backbone", "top-1 %", "ECE", "CUB top-1 %", "VOC2007 mAP 11-point", "area", "epoch chosen on",
    }  # fmt: skip
    assert rows[0]["epoch chosen on"] == "test"
    text = render_rows(rows)
    assert "sosr://resnet18-demo-sosr@latest" in text
    recorded = read_run_record(detector)["best"]["val"]["voc/map_11point"]
    assert rows[0]["VOC2007 mAP 11-point"] == pytest.approx(100 * recorded)
    assert f"{100 * recorded:.2f}" in text


def test_the_table_names_other_data_and_leaves_out_unfinished_runs(detector, tmp_path):
    for name, change in (("other", {}), ("failed", {"status": "failed"})):
        record = read_run_record(detector)
        record["data"]["val"]["classes"] = ["RBC", "WBC"]
        record.update(change)
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(record))
    (row,) = collect_rows([tmp_path])
    assert "VOC2007 mAP 11-point" not in row
    assert any(title.startswith("mAP 11-point (2 classes") for title in row)
    with pytest.raises(CheckpointError, match="no completed run"):
        collect_rows([tmp_path / "failed"])


# ---- refusals ------------------------------------------------------------------------------------------------------


def backbone_file(registry, path, change):
    state = Registry(registry).load("sosr://resnet18-demo-sosr")
    torch.save(change(state), path)
    return str(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: {f"backbone.{k}": v for k, v in s.items()}, "prefix 'backbone.'"),
        (lambda s: {"model": s}, "0 of 120"),
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith("layer4.")},
            "missing from the source: layer4",
        ),
        (
            lambda s: {
                k: torch.full_like(v, float("nan")) if k == "conv1.weight" else v for k, v in s.items()
            },
            "NaN",
        ),
    ],
)
def test_a_wrong_backbone_file_stops_the_detector(registry, demo, tmp_path, change, named):
    file = backbone_file(registry, tmp_path / "weights.pth", change)
    with pytest.raises(BackboneMismatchError, match=named):
        run_training(options(DETECT, tmp_path / "run", demo.voc_devkit, backbone=file))
    assert not (tmp_path / "run").exists()


def test_the_right_backbone_file_passes(registry, demo, tmp_path):
    file = backbone_file(registry, tmp_path / "weights.pth", lambda s: s)
    run_training(options(DETECT, tmp_path / "run", demo.voc_devkit, backbone=file, total_epochs=1))
    assert read_run_record(tmp_path / "run")["backbone"]["transfer"]["matched"] == 120


def test_a_hostile_backbone_file_never_runs(demo, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    torch.save({"conv1.weight": Hostile()}, tmp_path / "weights.pth")
    with pytest.raises(BackboneMismatchError, match="could run code"):
        run_training(
            options(DETECT, tmp_path / "run", demo.voc_devkit, backbone=str(tmp_path / "weights.pth"))
        )
    assert not (tmp_path / "touched").exists()


def test_a_flipped_bit_in_the_registry_stops_the_run(registry, demo, tmp_path, monkeypatch):
    shutil.copytree(registry, tmp_path / "registry")
    monkeypatch.setenv("SOSR_REGISTRY", str(tmp_path / "registry"))
    # By name: other tests publish whole detectors into the same registry.
    tampered = next(ref for ref in Registry().list_refs() if ref.name == "resnet18-demo-sosr")
    (blob,) = (tmp_path / "registry").rglob(f"{tampered.summary.tensors_digest}.safetensors")
    blob.chmod(0o644)
    content = bytearray(blob.read_bytes())
    content[-1000] ^= 1
    blob.write_bytes(content)
    with pytest.raises(RegistryError, match=blob.name):
        run_training(options(DETECT, tmp_path / "run", demo.voc_devkit, backbone=f"sosr://{tampered.name}"))
    assert not (tmp_path / "run").exists()


def test_another_depth_or_preprocessing_is_refused_before_building(registry, demo, tmp_path):
    with pytest.raises(ConfigError, match="depth 50"):
        run_training(
            options(DETECT, tmp_path / "run", demo.voc_devkit, cfg_options=["model.backbone.depth=50"])
        )
    with pytest.raises(ConfigError, match="channel order"):
        run_training(
            options(
                DETECT,
                tmp_path / "run",
                demo.voc_devkit,
                cfg_options=["model.data_preprocessor.bgr_to_rgb=False"],
            )
        )
    assert not (tmp_path / "run").exists()


def test_unknown_entry_lists_near_names(registry, demo, tmp_path):
    with pytest.raises(RegistryError, match="resnet18-demo-sosr"):
        run_training(
            options(DETECT, tmp_path / "run", demo.voc_devkit, backbone="sosr://resnet18-demo-sosrr")
        )


def test_frozen_random_backbone_is_refused_and_random_is_unfrozen(demo, tmp_path):
    with pytest.raises(BackboneMismatchError, match="frozen random layers cannot learn"):
        run_training(
            options(
                DETECT,
                tmp_path / "run",
                demo.voc_devkit,
                cfg_options=["model.backbone.init_cfg=None", *NO_WORKERS],
            )
        )
    run_training(options(DETECT, tmp_path / "run", demo.voc_devkit, backbone="random", total_epochs=1))
    text = read_run_record(tmp_path / "run")["config_text"]
    assert "frozen_stages=-1" in text
    assert "norm_eval=False" in text


def test_head_and_data_must_agree(demo, tmp_path):
    with pytest.raises(DataError, match=r"20 classes.*expects 7.*model.num_classes=20"):
        run_training(
            options(
                PRETRAIN, tmp_path / "run", demo.imagenet, cfg_options=["model.num_classes=7", *NO_WORKERS]
            )
        )
    assert not (tmp_path / "run").exists()


def test_missing_and_damaged_data(demo, tmp_path):
    with pytest.raises(DataError, match="not a folder"):
        run_training(options(PRETRAIN, tmp_path / "run", tmp_path / "nowhere"))
    data = tmp_path / "imagenet"
    shutil.copytree(demo.imagenet, data)
    victim = sorted((data / "train").rglob("*.JPEG"))[3]
    victim.write_bytes(victim.read_bytes()[:100])
    with_worker = ["train_dataloader.num_workers=1", "train_dataloader.persistent_workers=False"]
    # Two configs, because within one process mmengine keeps state under a run's name and second.
    for config, workers in ((PRETRAIN, NO_WORKERS), (PRETRAIN.replace("_ce_", "_sosr_"), with_worker)):
        with pytest.raises(DataError, match=victim.name):
            run_training(options(config, tmp_path / "run", data, cfg_options=workers))
        assert not (tmp_path / "run").exists()
    shutil.rmtree(victim.parent)
    victim.parent.mkdir()
    with pytest.raises(DataError, match=f"have no image: {victim.parent.name}"):
        run_training(options(PRETRAIN, tmp_path / "run", data))


def test_a_run_is_neither_overwritten_nor_resumed_by_accident(pretrained, demo, tmp_path):
    work_dir = tmp_path / "run"
    shutil.copytree(pretrained[1], work_dir)
    with pytest.raises(ConfigError, match=r"already holds a run \(completed, 2 epochs"):
        run_training(options(PRETRAIN, work_dir, demo.imagenet))
    with pytest.raises(CheckpointError, match="nothing to resume"):
        run_training(options(PRETRAIN, tmp_path / "new", demo.imagenet, resume=True))
    with pytest.raises(ConfigError, match="'SOSRLoss' -> 'CrossEntropyLoss'"):
        run_training(options(PRETRAIN, work_dir, demo.imagenet, resume=True))
    (work_dir / "last_checkpoint").write_text("gone.pth")
    for path in work_dir.glob("epoch_*.pth"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"'gone\.pth'"):
        run_training(options(PRETRAIN, work_dir, demo.imagenet, resume=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_resume_continues_the_record(demo, tmp_path):
    first = options(PRETRAIN, tmp_path / "run", demo.imagenet, total_epochs=2, publish=False)
    run_training(first)
    before = read_run_record(tmp_path / "run")
    (tmp_path / "run" / "last_checkpoint").write_text(str(tmp_path / "run" / "epoch_2.pth"))
    run_training(
        options(PRETRAIN, tmp_path / "run", demo.imagenet, total_epochs=3, publish=False, resume=True)
    )
    after = read_run_record(tmp_path / "run")
    assert [e["epoch"] for e in after["epochs"]] == [1, 2, 3]
    assert after["epochs"][:2] == before["epochs"]
    assert after["resumed_at_epochs"] == [2]
    assert after["wall_seconds"] > before["wall_seconds"]


def test_overwrite_keeps_the_old_run_until_the_new_one_starts(pretrained, demo, tmp_path):
    work_dir = tmp_path / "run"
    shutil.copytree(pretrained[1], work_dir)
    (work_dir / "mine.pth").write_bytes(b"kept")
    before = sorted(p.name for p in work_dir.glob("*.pth"))
    with pytest.raises(DataError):
        run_training(options(PRETRAIN, work_dir, demo.cub / "images", overwrite=True))
    assert sorted(p.name for p in work_dir.glob("*.pth")) == before
    assert read_run_record(work_dir)["status"] == "completed"
    run_training(options(PRETRAIN, work_dir, demo.imagenet, overwrite=True, total_epochs=1, publish=False))
    assert sorted(p.name for p in work_dir.glob("*.pth")) == [
        "best_accuracy_top1_epoch_1.pth",
        "epoch_1.pth",
        "mine.pth",
    ]


def test_a_resumed_run_keeps_its_backbone_when_the_tag_moves(
    finetuned, pretrained, demo, tmp_path, monkeypatch
):
    shutil.copytree(pretrained[0], tmp_path / "registry")
    shutil.copytree(finetuned, tmp_path / "run")
    monkeypatch.setenv("SOSR_REGISTRY", str(tmp_path / "registry"))
    original = read_run_record(finetuned)["backbone"]["digest"]
    export_run(pretrained[1] / "epoch_2.pth", "resnet18-demo-sosr", license_name="MIT")  # another manifest
    assert Registry().resolve("sosr://resnet18-demo-sosr").digest != original
    with pytest.raises(ConfigError, match="would be another run"):
        run_training(options(FINETUNE, tmp_path / "run", demo.cub, resume=True, backbone="random"))
    run_training(options(FINETUNE, tmp_path / "run", demo.cub, resume=True, total_epochs=2, publish=False))
    assert read_run_record(tmp_path / "run")["backbone"]["digest"] == original
    # The copy resumed from its own files: the original's are as they were.
    assert (finetuned / "epoch_1.pth").is_file()
    assert not (finetuned / "epoch_2.pth").exists()


def test_a_diverged_run_stops(demo, tmp_path):
    with pytest.raises(TrainingDivergedError, match="smaller learning rate"):
        run_training(
            options(
                PRETRAIN, tmp_path / "run", demo.imagenet, total_epochs=3, publish=False,
                cfg_options=[*NO_WORKERS, "optim_wrapper.optimizer.lr=1e12", "train_dataloader.batch_size=8"],
            )
        )  # fmt: skip


def test_mistakes_in_a_config_are_told_as_such(demo, tmp_path):
    for override, named in (
        ("model.loss.threshold=1.5", "threshold"),
        ("model.num_classes=1", "num_classes"),
        ("train_dataloader.dataset.type=NoSuchDataset", "NoSuchDataset"),
    ):
        with pytest.raises(ConfigError, match=named):
            run_training(
                options(
                    PRETRAIN.replace("_ce_", "_sosr_"), tmp_path / "run", demo.imagenet,
                    cfg_options=[*NO_WORKERS, override],
                )
            )  # fmt: skip
        assert not (tmp_path / "run").exists()


def test_publishing_under_a_digest_is_refused_at_once(demo, tmp_path):
    with pytest.raises(RegistryError, match="is a digest"):
        run_training(options(PRETRAIN, tmp_path / "run", demo.imagenet, publish_as="sha256:" + "0" * 64))


def test_a_full_disk_is_refused_before_training(demo, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(ConfigError, match="not enough disk space"):
        run_training(options(PRETRAIN, tmp_path / "run", demo.imagenet))
    assert not (tmp_path / "run").exists()
