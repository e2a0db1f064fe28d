"""Export: each format loads where it should, computes the same, comes back bit for bit, and overwrites nothing."""

import os
import stat

import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from sosr_det.compat import install_mmcv_ops
from sosr_det.errors import CheckpointError, ConfigError
from sosr_det.registry.store import Registry
from sosr_det.transfer.foreign import import_checkpoint
from sosr_det.transfer.formats import export_entry, onnx_file

VALUES = "mean=103.53,116.28,123.675,std=57.375,57.12,58.395,order=bgr"
FILES = {
    "safetensors": "a.safetensors", "torchvision": "a.pth", "timm": "b.safetensors", "mmdet": "c.pth", "onnx": "d.onnx",
}  # fmt: skip


def network_of(name, **options):
    """A network with batch norms that are not the identity, and small enough features for a comparison in fp32."""
    torch.manual_seed(3)
    network = torchvision.models.get_model(name, **options)
    generator = torch.Generator().manual_seed(4)
    for key, buffer in network.named_buffers():
        if not key.endswith("num_batches_tracked"):
            low = (
                0.5 if key.endswith("running_var") else -0.5
            )  # a mean above all values would leave nothing but zeros
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + low)
    network.fc = nn.Identity()
    return network.eval()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A registry with a ResNet-18, a BGR caffe-style ResNet-50, a ResNeXt, a wide ResNet, a timm and a CIFAR one."""
    from sosr_det.models import build_backbone

    folder = tmp_path_factory.mktemp("formats")
    for name, options in {
        "resnet18": {"preprocessing": "torchvision"},
        "resnet50": {"preprocessing": VALUES, "style": "caffe"},
        "resnext50_32x4d": {"preprocessing": "torchvision"},
        "wide_resnet50_2": {"preprocessing": "torchvision"},
    }.items():
        torch.save(network_of(name).state_dict(), folder / "file.pth")
        import_checkpoint(str(folder / "file.pth"), name, folder / "registry", **options)
    for name, arch in (("vit", "timm/test_vit"), ("cifar", "resnet20")):
        torch.save(build_backbone(arch)[0].state_dict(), folder / "file.pth")
        import_checkpoint(
            str(folder / "file.pth"), name, folder / "registry", arch=arch, preprocessing="timm:test_vit"
        )
    return folder / "registry"


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit", "cifar"])
@pytest.mark.parametrize("format_name", ["safetensors", "torchvision", "timm", "mmdet"])
def test_round_trip(tmp_path, root, name, format_name):
    before = Registry(root).resolve(f"sosr://{name}")
    possible = {"resnet18": FILES, "resnet50": ("safetensors", "mmdet"), "vit": ("safetensors", "timm")}
    if format_name not in possible.get(name, ("safetensors",)):
        with pytest.raises(ConfigError, match=r"[eE]xport it as"):
            export_entry(f"sosr://{name}", format_name, tmp_path / FILES[format_name], root)
        assert not list(tmp_path.iterdir())
        return
    result = export_entry(f"sosr://{name}", format_name, tmp_path / FILES[format_name], root)
    assert result["size_bytes"] == (tmp_path / FILES[format_name]).stat().st_size
    # A torchvision file is a plain state dict and says nothing about itself; all others carry the manifest.
    options = {"preprocessing": "torchvision"} if format_name == "torchvision" else {}
    again = import_checkpoint(str(tmp_path / FILES[format_name]), "back", tmp_path / "registry", **options)
    assert again["tensors_digest"] == before.tensors_digest
    after = Registry(tmp_path / "registry").resolve("sosr://back").manifest
    assert after.arch == before.manifest.arch
    assert after.preprocessing == before.manifest.preprocessing
    assert after.probe == before.manifest.probe
    if not options:
        assert before.digest in [parent.digest for parent in after.parents]


def test_a_safetensors_file_says_what_it_is(tmp_path, root):
    export_entry("sosr://resnet50", "safetensors", tmp_path / "a.safetensors", root)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        said = file.metadata()
    assert said["sosr_digest"] == f"sha256:{Registry(root).resolve('sosr://resnet50').digest}"
    assert '"channel_order":"bgr"' in said["sosr_preprocessing"]
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def test_a_file_changed_after_its_export_is_not_taken_for_the_entry(tmp_path, root):
    export_entry("sosr://resnet18", "mmdet", tmp_path / "a.pth", root)
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    content["state_dict"]["backbone.bn1.bias"][0] += 1e-3
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="changed or damaged after its export"):
        import_checkpoint(str(tmp_path / "a.pth"), "back", tmp_path / "registry")
    content["meta"]["sosr_manifest"] = content["meta"]["sosr_manifest"].replace("resnet18", "resnet")[:-2]
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="manifest in it is damaged"):
        import_checkpoint(str(tmp_path / "a.pth"), "back", tmp_path / "registry")


def test_torchvision_and_timm_load_their_files(tmp_path, root):
    expected = network_of("resnet18")
    images = torch.randn(2, 3, 64, 64)
    export_entry("sosr://resnet18", "torchvision", tmp_path / "a.pth", root)
    theirs = torchvision.models.resnet18().eval()
    result = theirs.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True), strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    theirs.fc = nn.Identity()
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"timm{suffix}"
        export_entry("sosr://resnet18", "timm", path, root)
        state = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
        model = timm.create_model("resnet18", num_classes=0).eval()
        model.load_state_dict(state, strict=True)
        # timm's own way to a local file
        own = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(path)).eval()
        with torch.no_grad():
            for network in (theirs, model, own):
                torch.testing.assert_close(network(images), expected(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet50", pytest.param("resnext50_32x4d", marks=pytest.mark.slow)])
def test_mmdetection_loads_its_files_with_a_prefix_and_computes_the_same(tmp_path, root, name):
    install_mmcv_ops()
    from mmdet.models.backbones import ResNet, ResNeXt

    usage = export_entry(f"sosr://{name}", "mmdet", tmp_path / "a.pth", root)["usage"]
    settings = eval(
        usage.partition("data_preprocessor=")[0].strip().removeprefix("backbone="), {"dict": dict}
    )
    kind = {"ResNet": ResNet, "ResNeXt": ResNeXt}[settings.pop("type")]
    network = kind(**settings)
    network.init_weights()
    network.eval()
    stored = Registry(root).load(f"sosr://{name}")
    live = network.state_dict()
    assert live.keys() == stored.keys()
    assert all(torch.equal(live[key], stored[key]) for key in stored)
    assert ("bgr_to_rgb=False" in usage) == (name == "resnet50")

    export_entry(f"sosr://{name}", "onnx", tmp_path / "a.onnx", root)
    images = torch.randn(1, 3, 96, 64)
    found = onnx_outputs(tmp_path / "a.onnx", images)
    with torch.no_grad():
        for ours, theirs in zip(found, network(images), strict=False):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def onnx_outputs(path, images):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(output) for output in session.run(None, {"images": images.numpy()})]


def test_onnx(tmp_path, root):
    onnx = pytest.importorskip("onnx")
    result = export_entry("sosr://resnet18", "onnx", tmp_path / "a.onnx", root)
    assert result["opset"] == 17
    assert result["outputs"] == ["layer1", "layer2", "layer3", "layer4", "features"]
    assert 0 <= result["check"]["max_rel_difference"] < 1e-4
    network = network_of("resnet18")
    for shape in ((1, 3, 64, 64), (5, 3, 97, 130)):
        images = torch.randn(*shape)
        with torch.no_grad():
            expected = network(images)
        torch.testing.assert_close(
            onnx_outputs(tmp_path / "a.onnx", images)[-1], expected, rtol=1e-4, atol=1e-4
        )
    said = {each.key: each.value for each in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert said["sosr_digest"] == f"sha256:{Registry(root).resolve('sosr://resnet18').digest}"
    assert said["input"] == "normalised rgb"


def test_onnx_with_preprocessing_takes_rgb_pixels(tmp_path, root):
    pytest.importorskip("onnx")
    export_entry("sosr://resnet50", "onnx", tmp_path / "a.onnx", root, include_preprocessing=True)
    network = network_of("resnet50")  # caffe style: the first 1x1 convolution strides
    for stage in (network.layer2, network.layer3, network.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    pixels = torch.randint(0, 256, (2, 3, 64, 64)).float()
    mean, std = torch.tensor([103.53, 116.28, 123.675]), torch.tensor([57.375, 57.12, 58.395])
    normalised = (pixels.flip(1) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        expected = network(normalised)
    found = onnx_outputs(tmp_path / "a.onnx", pixels)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_onnx_of_another_network_has_its_pooled_features(tmp_path, root):
    pytest.importorskip("onnx")
    assert export_entry("sosr://cifar", "onnx", tmp_path / "a.onnx", root)["outputs"] == ["features"]


def test_a_graph_that_computes_something_else_is_not_kept(tmp_path, root, monkeypatch):
    pytest.importorskip("onnxruntime")
    describe = onnx_file._describe_in_file

    def spoil(path, *rest):
        import onnx

        describe(path, *rest)
        graph = onnx.load(path)
        weights = next(each for each in graph.graph.initializer if list(each.dims) == [512, 512, 3, 3])
        values = onnx.numpy_helper.to_array(weights) * 1.1
        weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
        onnx.save(graph, path)

    monkeypatch.setattr(onnx_file, "_describe_in_file", spoil)
    with pytest.raises(CheckpointError, match=r"something else than torch: output layer4 differs"):
        export_entry("sosr://resnet18", "onnx", tmp_path / "a.onnx", root)
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime_the_result_says_that_nothing_was_checked(tmp_path, root, monkeypatch):
    find = onnx_file.importlib.util.find_spec
    monkeypatch.setattr(
        onnx_file.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    assert export_entry("sosr://resnet18", "onnx", tmp_path / "a.onnx", root)["check"]["runtime"] is None


def test_nothing_is_overwritten_without_force(tmp_path, root):
    (tmp_path / "a.pth").write_text("mine")
    with pytest.raises(CheckpointError, match=r"exists already.*--force"):
        export_entry("sosr://resnet18", "torchvision", tmp_path / "a.pth", root)
    assert (tmp_path / "a.pth").read_text() == "mine"
    (tmp_path / "link.pth").symlink_to(tmp_path / "a.pth")
    export_entry("sosr://resnet18", "torchvision", tmp_path / "link.pth", root, force=True)
    assert (tmp_path / "a.pth").read_text() == "mine"
    assert not (tmp_path / "link.pth").is_symlink()
    export_entry("sosr://resnet18", "torchvision", tmp_path / "a.pth", root, force=True)
    assert "conv1.weight" in torch.load(tmp_path / "a.pth", weights_only=True)


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path, root, monkeypatch):
    save = torch.save

    def save_and_race(content, path):
        save(content, path)
        (tmp_path / "a.pth").write_text("theirs")

    monkeypatch.setattr(torch, "save", save_and_race)
    with pytest.raises(CheckpointError, match="exists already"):
        export_entry("sosr://resnet18", "torchvision", tmp_path / "a.pth", root)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
    assert (tmp_path / "a.pth").read_text() == "theirs"


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), RuntimeError("write failed: no space")]
)
def test_a_failed_write_leaves_nothing(tmp_path, root, monkeypatch, failure):
    def fail(content, path):
        path.write_bytes(b"half")
        raise failure

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(CheckpointError, match=r"cannot write.*space"):
        export_entry("sosr://resnet18", "mmdet", tmp_path / "a.pth", root)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("uri", "format_name", "file", "options", "words"),
    [
        ("resnet18", "h5", "a.h5", {}, "expected one of safetensors"),
        ("resnet18", "onnx", "a.pth", {}, r"does not end in \.onnx"),
        ("resnet18", "mmdet", "a.pth", {"include_preprocessing": True}, "is for onnx"),
        ("wide_resnet50_2", "mmdet", "a.pth", {}, "no backbone of MMDetection"),
        ("resnet50", "timm", "a.pth", {}, "caffe style"),
        ("resnet18", "mmdet", "absent/a.pth", {}, "does not exist; create it"),
        ("resnet18", "mmdet", "folder.pth", {}, "is a folder"),
    ],
)
def test_what_cannot_be_exported(tmp_path, root, uri, format_name, file, options, words):
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises((ConfigError, CheckpointError), match=words):
        export_entry(f"sosr://{uri}", format_name, tmp_path / file, root, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.pth"]


def test_damaged_entries_are_not_exported(tmp_path, root):
    import shutil

    from sosr_det.errors import CorruptEntryError

    shutil.copytree(root, tmp_path / "registry")
    blob = Registry(tmp_path / "registry").resolve("sosr://resnet18").blob_path
    blob.chmod(0o644)
    content = bytearray(blob.read_bytes())
    content[-5] ^= 1
    blob.write_bytes(content)
    with pytest.raises(CorruptEntryError):
        export_entry("sosr://resnet18", "safetensors", tmp_path / "a.safetensors", tmp_path / "registry")
    assert not (tmp_path / "a.safetensors").exists()


def test_the_networks_of_these_tests_can_be_told_apart():
    """Guards the fixtures: networks of one name are equal, and their features are not zero for all images."""
    one, two = network_of("resnet18"), network_of("resnet18")
    assert all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in one.state_dict().items())
    for network in (one, network_of("resnet50")):
        with torch.no_grad():
            features = network(torch.randn(2, 3, 64, 64))
        assert (features > 0).float().mean() > 0.3
        assert (features[0] - features[1]).abs().max() > 0.1


def test_whole_detectors_are_exported_under_their_own_names_and_not_imported_as_backbones(tmp_path, root):
    backbone = Registry(root).resolve("sosr://resnet18").manifest
    tensors = {"backbone.conv1.weight": torch.ones(2, 2), "bbox_head.fc.weight": torch.ones(3)}
    fields = {"kind": "detector", "arch": backbone.arch, "preprocessing": backbone.preprocessing}
    Registry(tmp_path / "registry").publish(tensors, fields, "detector")
    export_entry("sosr://detector", "mmdet", tmp_path / "a.pth", tmp_path / "registry")
    state = torch.load(tmp_path / "a.pth", weights_only=True)["state_dict"]
    assert state.keys() == tensors.keys()
    for format_name in ("torchvision", "timm", "onnx"):
        with pytest.raises(ConfigError, match="whole detector"):
            export_entry("sosr://detector", format_name, tmp_path / FILES[format_name], tmp_path / "registry")
    with pytest.raises(CheckpointError, match="holds a whole detector; import takes backbones"):
        import_checkpoint(str(tmp_path / "a.pth"), "back", tmp_path / "other")
