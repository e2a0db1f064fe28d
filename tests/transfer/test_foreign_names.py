"""Weights by torchvision's and timm's names: found in the libraries' caches, compared with the published hash."""

import hashlib
import json
import os
from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models import ResNet18_Weights, ResNet50_Weights

from sosr_det.errors import CheckpointError, SosrError
from sosr_det.registry.store import Registry
from sosr_det.transfer.foreign import import_checkpoint, timm_zoo, torchvision_zoo


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A ResNet-18 file in torch.hub's cache that torchvision's ResNet18_Weights.IMAGENET1K_V1 points to."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SOSR_OFFLINE", "1")
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    path = (folder / "new.pth").rename(folder / f"resnet18-{digest[:8]}.pth")
    url = f"https://download.pytorch.org/models/{path.name}"
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", url)
    return model, path, digest


@pytest.mark.parametrize(
    "name",
    ["ResNet18_Weights.IMAGENET1K_V1", "resnet18", "resnet18.imagenet1k_v1"],
)
def test_torchvision_names(tmp_path, published, name):
    model, _, digest = published
    result = import_checkpoint(f"torchvision://{name}", "it", tmp_path / "registry")
    registry = Registry(tmp_path / "registry")
    manifest = registry.resolve("sosr://it").manifest
    stored = registry.load("sosr://it")
    expected = model.state_dict()
    assert all(torch.equal(stored[key], expected[key]) for key in expected.keys() - {"fc.weight", "fc.bias"})
    (parent,) = manifest.parents
    assert (parent.uri, parent.digest) == ("torchvision://ResNet18_Weights.IMAGENET1K_V1", digest)
    # The figures of https://pytorch.org/vision/stable/models.html
    assert manifest.metrics == {"top1": 69.758, "top5": 89.078}
    assert manifest.data["name"] == "ImageNet-1K"
    assert len(manifest.classes) == 1000
    assert manifest.classes[0] == "tench"
    assert manifest.preprocessing.mean == (123.675, 116.28, 103.53)
    assert manifest.preprocessing.std == (58.395, 57.12, 57.375)
    assert manifest.preprocessing.interpolation == "bilinear"
    assert manifest.license is None
    said = "torchvision://resnet18 means torchvision://ResNet18_Weights.IMAGENET1K_V1"
    assert any(said in text for text in result["report"]["assumptions"]) == (name == "resnet18")


def test_what_mmdetection_means_by_resnet50_is_version_1():
    from mmengine.runner.checkpoint import get_torchvision_models

    weights, (said,) = torchvision_zoo.find_weights("resnet50")
    assert weights is ResNet50_Weights.IMAGENET1K_V1
    assert weights.url == get_torchvision_models()["resnet50"]
    assert "ResNet50_Weights.IMAGENET1K_V2" in said
    assert torchvision_zoo.find_weights("ResNet50_Weights.IMAGENET1K_V2") == (
        ResNet50_Weights.IMAGENET1K_V2,
        [],
    )


def test_a_damaged_file_in_the_cache_is_noticed(tmp_path, published):
    _, path, _ = published
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="its name promises"):
        import_checkpoint("torchvision://resnet18", "it", tmp_path / "registry")


def test_without_a_connection_the_message_says_where_the_file_belongs(tmp_path, published):
    _, path, _ = published
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"SOSR_OFFLINE is set.*{path.name}"):
        import_checkpoint("torchvision://resnet18", "it", tmp_path / "registry")


def test_a_published_file_is_known_by_its_hash_wherever_it_lies(tmp_path, published):
    _, path, _ = published
    path.rename(tmp_path / "some.pth")
    result = import_checkpoint(str(tmp_path / "some.pth"), "it", tmp_path / "registry", dry_run=True)
    assert result["report"]["project"] == "torchvision (ResNet18_Weights.IMAGENET1K_V1)"
    assert result["report"]["metrics"] == {"top1": 69.758, "top5": 89.078}
    other = torch.load(tmp_path / "some.pth", weights_only=True)
    other["conv1.weight"][0, 0, 0, 0] += 1
    torch.save(other, tmp_path / "some.pth")
    with pytest.raises(SosrError, match="nothing in the file says who wrote it"):
        import_checkpoint(str(tmp_path / "some.pth"), "it", tmp_path / "registry", dry_run=True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """timm's test_vit in a Hugging Face cache, as ``hf_hub_download`` lays it out, and no connection."""
    import huggingface_hub.constants

    torch.manual_seed(0)
    model = timm.create_model("test_vit")
    repo = tmp_path / "hub" / "models--timm--test_vit.r160_in1k"
    for name in ("blobs", "refs", "snapshots/0123456789abcdef0123456789abcdef01234567"):
        (repo / name).mkdir(parents=True)
    save_file(model.state_dict(), repo / "blobs" / "new", metadata={"format": "pt"})
    digest = hashlib.sha256((repo / "blobs" / "new").read_bytes()).hexdigest()
    (repo / "blobs" / "new").rename(repo / "blobs" / digest)
    (repo / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")
    snapshot = repo / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    os.symlink(f"../../blobs/{digest}", snapshot / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("SOSR_OFFLINE", "1")
    return model, repo / "blobs" / digest


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_vit"])
def test_timm_names(tmp_path, hub, name):
    model, _ = hub
    result = import_checkpoint(f"timm://{name}", "it", tmp_path / "registry")
    registry = Registry(tmp_path / "registry")
    manifest = registry.resolve("sosr://it").manifest
    stored = registry.load("sosr://it")
    expected = {key: value for key, value in model.state_dict().items() if not key.startswith("head.")}
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[key], expected[key]) for key in expected)
    assert manifest.arch.name == "timm/test_vit"
    assert manifest.parents[0].uri == "timm://test_vit.r160_in1k"
    assert manifest.license == "apache-2.0"
    assert manifest.preprocessing.mean == (127.5, 127.5, 127.5)
    assert manifest.preprocessing.input_size == (160, 160)
    assert bool(result["report"]["assumptions"]) == (name == "test_vit")


def test_timm_files_that_are_absent_or_damaged(tmp_path, hub):
    _, blob = hub
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(CheckpointError, match="Hugging Face cache promises"):
        import_checkpoint("timm://test_vit", "it", tmp_path / "registry")
    with pytest.raises(
        CheckpointError, match=r"hf download timm/resnet18\.a1_in1k.*--preprocessing timm:resnet18"
    ):
        import_checkpoint("timm://resnet18.a1_in1k", "it", tmp_path / "registry")
    assert not (tmp_path / "registry").exists()


def test_a_file_that_timms_settings_name(tmp_path, monkeypatch):
    """As with ``pretrained_cfg_overlay=dict(file=…)``."""
    model = timm.create_model("resnet18")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    cfg = replace(timm.get_pretrained_cfg("resnet18"), file=str(tmp_path / "weights.pth"))
    monkeypatch.setattr(timm_zoo, "pretrained_cfg", lambda name: cfg)
    result = import_checkpoint("timm://resnet18", "it", tmp_path / "registry")
    manifest = Registry(tmp_path / "registry").resolve("sosr://it").manifest
    assert (manifest.arch.name, manifest.preprocessing.interpolation) == ("resnet18", cfg.interpolation)
    assert result["report"]["left_out"]["fc"]["count"] == 2
    json.dumps(result, allow_nan=False)
