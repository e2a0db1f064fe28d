"""Checkpoints as torchvision, timm, OpenMMLab, MoCo, DETR and DINO write them: the backbone arrives bit for bit.

The models are the libraries' own with random weights, saved the way the projects save theirs.
"""

import argparse
import copy
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from sosr_det.compat import install_mmcv_ops
from sosr_det.errors import CheckpointError
from sosr_det.registry.store import Registry
from sosr_det.transfer.foreign import ImportReport, import_checkpoint
from sosr_det.transfer.foreign.architectures import canonical_timm_name, recognise_resnet
from sosr_det.transfer.probe import compute_probe


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with running statistics and counters that tell its layers apart."""
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in network.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.fill_(int(torch.randint(1, 1000, (), generator=generator)))
        elif name.endswith(("running_mean", "running_var")):
            low = 0.5 if name.endswith("running_var") else -0.5  # a mean above all values leaves only zeros
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + low)
    return network.eval()


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(1)
    return shaken(torchvision.models.resnet18())


@pytest.fixture(scope="module")
def resnet50():
    torch.manual_seed(2)
    return shaken(torchvision.models.resnet50())


@pytest.fixture
def run(tmp_path):
    """Import into a fresh registry; returns the report, the manifest and the stored tensors."""

    def run(path, **options):
        result = import_checkpoint(str(path), "it@v1", tmp_path / "registry", **options)
        registry = Registry(tmp_path / "registry")
        entry = registry.resolve("sosr://it")
        assert entry.digest == result["digest"]
        assert entry.tensors_digest == result["tensors_digest"]
        return ImportReport(**result["report"]), entry.manifest, registry.load(entry)

    return run


def assert_is_backbone_of(stored, network, prefix=""):
    """``stored`` are exactly the network's tensors without its classifier."""
    expected = {k.removeprefix(prefix): v for k, v in network.state_dict().items() if k.startswith(prefix)}
    expected = {name: tensor for name, tensor in expected.items() if not name.startswith(("fc.", "head."))}
    assert stored.keys() == expected.keys()
    for name, tensor in stored.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name]), name


def save_legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [torch.save, save_legacy])
def test_a_plain_file(tmp_path, run, resnet18, save):
    save(resnet18.state_dict(), tmp_path / "mine.pth")
    state = torch.get_rng_state()
    report, manifest, stored = run(tmp_path / "mine.pth", preprocessing="torchvision", license_name="MIT")
    assert torch.equal(torch.get_rng_state(), state), "importing must not disturb a caller's random numbers"
    assert_is_backbone_of(stored, resnet18)
    assert (report.arch, report.key, report.prefix, report.num_tensors) == ("resnet18", ".", "", 120)
    assert report.left_out == {"fc": {"count": 2, "examples": ["fc.weight", "fc.bias"]}}
    assert manifest.arch.name == "resnet18"
    assert manifest.license == "MIT"
    assert manifest.preprocessing.mean == (123.675, 116.28, 103.53)
    (parent,) = manifest.parents
    assert (parent.uri, parent.relation) == ("mine.pth", "imported-from")
    assert parent.digest == report.file_sha256
    assert len(parent.digest) == 64
    assert "Assumed: the plain network of these shapes" in manifest.notes


def test_a_probe_of_the_original_network_is_stored(tmp_path, run, resnet50):
    torch.save(resnet50.state_dict(), tmp_path / "a.pth")
    _, manifest, _ = run(tmp_path / "a.pth", preprocessing="torchvision")
    assert manifest.arch.style == "pytorch"
    original = copy.deepcopy(resnet50)
    original.fc = nn.Identity()
    assert manifest.probe == compute_probe(original, manifest.preprocessing)


def test_the_probe_of_a_caffe_style_network_is_another(tmp_path, run, resnet50):
    torch.save(resnet50.state_dict(), tmp_path / "a.pth")
    _, manifest, stored = run(tmp_path / "a.pth", preprocessing="caffe")
    assert (manifest.arch.style, manifest.preprocessing.channel_order) == ("caffe", "bgr")
    assert_is_backbone_of(stored, resnet50)
    strided = copy.deepcopy(resnet50)
    strided.fc = nn.Identity()
    assert manifest.probe != compute_probe(strided, manifest.preprocessing)
    for stage in (strided.layer2, strided.layer3, strided.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    assert manifest.probe == compute_probe(strided, manifest.preprocessing)


def test_counters_that_an_old_file_lacks_are_zero_as_torch_loads_them(tmp_path, run, resnet18):
    old = {k: v for k, v in resnet18.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    report, manifest, stored = run(tmp_path / "old.pth", preprocessing="torchvision")
    assert len(report.filled) == 20
    assert "20 num_batches_tracked that the file lacks are 0" in manifest.notes
    consumer = torchvision.models.resnet18()
    consumer.load_state_dict(old)
    assert_is_backbone_of(stored, consumer)


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, torch.compile, lambda n: nn.DataParallel(torch.compile(n))]
)
def test_wrappers_are_stripped(tmp_path, run, resnet18, wrap):
    torch.save({"model": wrap(resnet18).state_dict(), "epoch": 3}, tmp_path / "a.pth")
    report, _, stored = run(tmp_path / "a.pth", preprocessing="torchvision")
    assert_is_backbone_of(stored, resnet18)
    assert report.key == "model"
    assert set(report.prefix.split(".")) <= {"module", "_orig_mod", ""}


def timm_checkpoint(folder, model, ema, mean=None):
    """What ``timm/train.py`` saves, by its own class."""
    args = argparse.Namespace(
        model="resnet18", mean=mean, std=mean and [0.2, 0.2, 0.2], interpolation="", img_size=None, input_size=None,
        lr=0.1, opt_betas=None, output=Path("output") / "train", amp_scaler=True,
    )  # fmt: skip
    saver = timm.utils.CheckpointSaver(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        args,
        ema,
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
    )
    saver.save_checkpoint(0, metric=1.0)
    return folder / "last.pth.tar"


def test_timm_checkpoints_with_an_average_are_ambiguous_until_the_key_is_said(tmp_path, run):
    model = shaken(timm.create_model("resnet18"))
    ema = timm.utils.ModelEmaV3(model)
    with torch.no_grad():
        ema.module.conv1.weight.mul_(2)
    path = timm_checkpoint(tmp_path, model, ema, mean=[0.5, 0.4, 0.3])
    with pytest.raises(
        CheckpointError, match=r"2 backbones.*\n.*--key state_dict .*\n.*--key state_dict_ema"
    ):
        run(path)
    assert not (tmp_path / "registry").exists()
    report, manifest, stored = run(path, key="state_dict_ema")
    assert_is_backbone_of(stored, ema.module)
    assert manifest.arch.name == "resnet18"
    assert manifest.preprocessing.mean == (127.5, 102.0, 76.5)
    assert manifest.preprocessing.std == (51.0, 51.0, 51.0)
    assert "args" in report.preprocessing_why


def test_a_timm_checkpoint_without_an_average(tmp_path, run):
    model = shaken(timm.create_model("resnet18"))
    report, manifest, stored = run(timm_checkpoint(tmp_path, model, None))
    assert_is_backbone_of(stored, model)
    assert manifest.preprocessing.interpolation == timm.get_pretrained_cfg("resnet18").interpolation
    assert "set none" in report.preprocessing_why
    assert manifest.license is None, "weights that somebody trained do not have timm's license"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("resnet50", "resnet50"), ("resnetaa50", "timm/resnetaa50"), ("resnetblur50", "timm/resnetblur50"),
     ("resnet18", "resnet18"), ("test_vit", "timm/test_vit"), ("resnet26", "timm/resnet26"),
     ("resnext50_32x4d", "resnext50_32x4d"), ("resnet50d", "timm/resnet50d")],
)  # fmt: skip
def test_a_timm_network_is_called_torchvisions_only_if_it_computes_the_same(theirs, ours):
    assert canonical_timm_name(theirs) == ours


def test_a_folder_from_the_hugging_face_hub(tmp_path, run):
    model = shaken(timm.create_model("resnet18"))
    model.pretrained_cfg |= {"mean": (0.5, 0.5, 0.5), "license": "cc-by-4.0", "tag": "mine"}
    timm.models.save_for_hf(model, tmp_path / "hub", safe_serialization=True)
    _, manifest, stored = run(tmp_path / "hub" / "model.safetensors")
    assert_is_backbone_of(stored, model)
    assert manifest.license == "cc-by-4.0"
    assert manifest.preprocessing.mean == (127.5, 127.5, 127.5)


def test_any_timm_network_by_name(tmp_path, run):
    model = timm.create_model("test_vit").eval()
    torch.save({"state_dict": nn.DataParallel(model).state_dict()}, tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match="--arch timm/NAME"):
        run(tmp_path / "vit.pth", preprocessing="timm:test_vit")
    report, manifest, stored = run(tmp_path / "vit.pth", arch="timm/test_vit", preprocessing="timm:test_vit")
    assert_is_backbone_of(stored, model)
    assert manifest.preprocessing.input_size == (160, 160)
    assert manifest.arch.style is None
    assert report.left_out == {
        "module.head": {"count": 2, "examples": ["module.head.weight", "module.head.bias"]}
    }


MMPRETRAIN = """
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=50, num_stages=4, out_indices=(3, ), style='{style}'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=1000, in_channels=2048))
data_preprocessor = dict(
    num_classes=1000, mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
"""


def test_mmpretrain(tmp_path, run, resnet50):
    state = {f"backbone.{k}": v for k, v in resnet50.state_dict().items() if not k.startswith("fc.")}
    state |= {"head.fc.weight": torch.zeros(1000, 2048), "head.fc.bias": torch.zeros(1000)}
    meta = {
        "cfg": MMPRETRAIN.format(style="caffe"), "mmengine_version": "0.10.7", "mmpretrain_version": "1.2.0",
        "experiment_name": "resnet50_8xb32_in1k", "seed": 7, "dataset_meta": {"classes": ("tench", "goldfish")},
    }  # fmt: skip
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "epoch_100.pth")
    report, manifest, stored = run(tmp_path / "epoch_100.pth", metrics={"top1": 76.5}, data="imagenet-1k")
    assert_is_backbone_of(stored, resnet50)
    assert report.project == "OpenMMLab (mmpretrain 1.2.0)"
    assert report.left_out["head"]["count"] == 2
    assert (manifest.arch.style, manifest.preprocessing.channel_order) == ("caffe", "bgr")
    assert manifest.preprocessing.std == (1.0, 1.0, 1.0)
    assert manifest.classes == ("tench", "goldfish")
    assert manifest.recipe.config_name == "resnet50_8xb32_in1k"
    assert manifest.recipe.config_text == meta["cfg"]
    assert (manifest.metrics, manifest.seed) == ({"top1": 76.5}, 7)
    assert manifest.data == {"name": "imagenet-1k", "fingerprint": None}
    assert "decoded to BGR" in manifest.notes


def test_before_mmengine_configs_held_the_normalisation_elsewhere(tmp_path, run, resnet50):
    config = (
        "model = dict(type='RetinaNet', backbone=dict(type='ResNet', depth=50, dilations=(1, 1, 1, 2)))\n"
        "img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)\n"
        "import os\nos.mkdir('touched')\nwork_dir = os.path.join('a', 'b')\n"
    )
    state = {f"backbone.{k}": v for k, v in resnet50.state_dict().items() if not k.startswith("fc.")}
    torch.save(
        {"meta": {"config": config, "mmcv_version": "1.3.3"}, "state_dict": state}, tmp_path / "old.pth"
    )
    report, manifest, _ = run(tmp_path / "old.pth")
    assert (report.style, manifest.preprocessing.channel_order) == ("pytorch", "rgb")
    assert "default of ResNet" in report.style_why
    assert "dilations=(1, 1, 1, 2)" in manifest.notes
    assert not Path("touched").exists()


def test_an_mmdetection_checkpoint(tmp_path, run):
    install_mmcv_ops()
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.hub import get_config
    from mmengine.logging import HistoryBuffer
    from mmengine.runner import save_checkpoint

    register_all_modules(init_default_scope=True)
    cfg = get_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")
    cfg.model.backbone.init_cfg = None
    detector = shaken(MODELS.build(cfg.model))
    checkpoint = {
        "meta": {"cfg": cfg.pretty_text, "mmengine_version": "0.10.12", "experiment_name": "retinanet_20261125",
                 "dataset_meta": {"classes": ("cat", "dog")}},
        "state_dict": detector.state_dict(),
        "message_hub": {"log_scalars": {"loss": HistoryBuffer([1.0], [1])}},
        "optimizer": torch.optim.SGD(detector.parameters(), 0.1).state_dict(),
    }  # fmt: skip
    save_checkpoint(checkpoint, str(tmp_path / "epoch_12.pth"))
    report, manifest, stored = run(tmp_path / "epoch_12.pth")
    assert_is_backbone_of(stored, detector, "backbone.")
    assert report.prefix == "backbone."
    assert (report.arch, report.arch_why) == ("resnet50", "its 'meta'")
    assert {group: entry["count"] for group, entry in report.left_out.items()} == {
        "neck": 16,
        "bbox_head": 20,
    }
    assert (manifest.arch.style, manifest.preprocessing.channel_order) == ("pytorch", "rgb")
    assert manifest.classes == (), "what the detector tells apart is not what the backbone was trained to"
    assert manifest.probe == compute_probe(detector.backbone, manifest.preprocessing)
    assert "neck: 16 (neck.lateral_convs.0.conv.weight" in report.describe()


class MoCo(nn.Module):
    """The module of https://github.com/facebookresearch/moco/blob/main/moco/builder.py, mlp=True (v2)."""

    def __init__(self):
        super().__init__()
        for name in ("encoder_q", "encoder_k"):
            encoder = shaken(torchvision.models.resnet50(num_classes=128), seed=len(name))
            encoder.fc = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), encoder.fc)
            setattr(self, name, encoder)
        self.register_buffer("queue", torch.randn(128, 64))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))


def test_moco(tmp_path, run):
    model = MoCo()
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 200, "arch": "resnet50", "state_dict": state}, tmp_path / "moco.pth.tar")
    report, manifest, stored = run(tmp_path / "moco.pth.tar")
    assert_is_backbone_of(stored, model.encoder_q)
    assert not torch.equal(stored["conv1.weight"], model.encoder_k.conv1.weight)
    assert report.prefix == "module.encoder_q."
    assert {group: entry["count"] for group, entry in report.left_out.items()} == {
        "module.encoder_q.fc": 4, "module.encoder_k": 322, "module.queue": 1, "module.queue_ptr": 1,
    }  # fmt: skip
    assert "MoCo's own conversion" in manifest.notes
    assert manifest.arch.style == "pytorch"
    _, _, copy_ = run(tmp_path / "moco.pth.tar", prefix="module.encoder_k.", preprocessing="torchvision")
    assert_is_backbone_of(copy_, model.encoder_k)


def test_torchvisions_own_detectors_and_detr(tmp_path, run):
    from torchvision.models.detection import retinanet_resnet50_fpn

    detector = retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    torch.save(detector.state_dict(), tmp_path / "tv.pth")
    report, manifest, stored = run(tmp_path / "tv.pth")
    body = detector.backbone.body.state_dict()
    for name, tensor in stored.items():  # its batch norms are not frozen here, whatever it was trained with
        assert torch.equal(tensor, body.get(name, torch.tensor(0))), name
    assert report.prefix == "backbone.body."
    assert report.left_out["backbone.fpn"]["count"] == 16
    assert manifest.arch.style == "pytorch"
    frozen = {k: v for k, v in body.items() if not k.endswith("num_batches_tracked")}
    detr = {f"backbone.0.body.{k}": v for k, v in frozen.items()} | {
        "query_embed.weight": torch.zeros(100, 256)
    }
    torch.save({"model": detr, "args": argparse.Namespace(lr=1e-4, device="cuda")}, tmp_path / "detr.pth")
    report, _, again = run(tmp_path / "detr.pth")
    assert report.project == "DETR"
    assert len(report.filled) == 53
    assert all(torch.equal(again[name], tensor) for name, tensor in frozen.items())


def test_student_and_teacher_are_never_chosen_between(tmp_path, run, resnet18):
    teacher = shaken(copy.deepcopy(resnet18), seed=5)
    pair = {"student": nn.DataParallel(resnet18).state_dict(), "teacher": teacher.state_dict()}
    torch.save(pair | {"args": argparse.Namespace(arch="resnet18")}, tmp_path / "dino.pth")
    with pytest.raises(CheckpointError, match=r"--key student --prefix module\.[^\n]*\n  --key teacher"):
        run(tmp_path / "dino.pth", preprocessing="torchvision")
    _, _, stored = run(tmp_path / "dino.pth", preprocessing="torchvision", key="teacher")
    assert_is_backbone_of(stored, teacher)
    semi = {
        f"{who}.backbone.{name}": tensor
        for who, network in (("student", resnet18), ("teacher", teacher))
        for name, tensor in network.state_dict().items()
        if not name.startswith("fc.")
    }
    torch.save({"state_dict": semi}, tmp_path / "semi.pth")
    with pytest.raises(
        CheckpointError, match=r"--prefix student\.backbone\..*\n.*--prefix teacher\.backbone\."
    ):
        run(tmp_path / "semi.pth", preprocessing="torchvision")
    report, _, stored = run(tmp_path / "semi.pth", preprocessing="torchvision", prefix="teacher.backbone.")
    assert_is_backbone_of(stored, teacher)
    assert report.left_out == {"student": {"count": 120, "examples": list(semi)[:3]}}


def test_mmengines_average_is_ambiguous_and_explained(tmp_path, run, resnet18):
    state = {f"backbone.{k}": v for k, v in resnet18.state_dict().items() if not k.startswith("fc.")}
    ema = {f"module.{name}": tensor for name, tensor in state.items()} | {"steps": torch.tensor(9)}
    torch.save({"meta": {}, "state_dict": state, "ema_state_dict": ema}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="EMAHook stores the averaged weights under 'state_dict'"):
        run(tmp_path / "a.pth", preprocessing="torchvision")


def test_our_own_training_checkpoints(tmp_path, run):
    from sosr_det.models import BackboneClassifier

    model = BackboneClassifier({"arch": "resnet20"}, 10, {"type": "CrossEntropyLoss"})
    shaken(model)
    config = (
        "model = dict(type='BackboneClassifier', backbone=dict(arch='resnet20'), num_classes=10,\n"
        "    data_preprocessor=dict(type='ClassificationPreprocessor', mean=[1., 2., 3.], std=[4., 5., 6.]))\n"
    )
    meta = {"cfg": config, "mmengine_version": "0.10.12", "dataset_meta": {"classes": ["a", "b"]}}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, tmp_path / "epoch_1.pth")
    report, manifest, stored = run(tmp_path / "epoch_1.pth")
    assert_is_backbone_of(stored, model, "backbone.")
    assert (manifest.arch.name, report.project) == ("resnet20", "sosr-det")
    assert manifest.preprocessing.mean == (1.0, 2.0, 3.0)
    assert manifest.preprocessing.channel_order == "rgb"
    assert manifest.classes == ("a", "b")


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
     "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"],
)  # fmt: skip
def test_every_resnet_of_torchvision_is_recognised(name):
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    assert recognise_resnet(network.state_dict()) == name


def test_half_precision_is_widened_exactly_and_said(tmp_path, run, resnet18):
    half = copy.deepcopy(resnet18).half()
    torch.save(half.state_dict(), tmp_path / "half.pth")
    report, manifest, stored = run(tmp_path / "half.pth", preprocessing="torchvision")
    assert report.converted == {"float16": 100}
    assert "100 tensors converted from float16, exactly" in manifest.notes
    assert_is_backbone_of(stored, half.float())
    double = {name: t.double() if t.is_floating_point() else t for name, t in resnet18.state_dict().items()}
    torch.save(double, tmp_path / "double.pth")
    assert run(tmp_path / "double.pth", preprocessing="torchvision")[0].converted == {"float64": 100}
    double["layer1.0.conv1.weight"][0, 0, 0, 0] = 1 / 3
    torch.save(double, tmp_path / "double.pth")
    with pytest.raises(
        CheckpointError, match=r"layer1\.0\.conv1\.weight is torch\.float64.*cannot be kept exactly"
    ):
        run(tmp_path / "double.pth", preprocessing="torchvision")


def test_nothing_is_published_by_a_dry_run(tmp_path, resnet18):
    torch.save(resnet18.state_dict(), tmp_path / "a.pth")
    result = import_checkpoint(
        str(tmp_path / "a.pth"), "it", tmp_path / "registry", preprocessing="torchvision", dry_run=True
    )
    assert result["dry_run"]
    assert "uri" not in result
    assert not (tmp_path / "registry").exists()
    again = import_checkpoint(
        str(tmp_path / "a.pth"), "it", tmp_path / "registry", preprocessing="torchvision"
    )
    assert again["tensors_digest"] == result["tensors_digest"]
