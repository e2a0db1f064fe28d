"""What import refuses: the message names what was found, and nothing is published."""

import argparse
import collections
import os
import subprocess
import sys

import pytest
import timm
import torch
import torchvision

from sosr_det.errors import CheckpointError, ConfigError, RegistryError, SosrError
from sosr_det.transfer.foreign import import_checkpoint


@pytest.fixture(scope="module")
def tensors():
    torch.manual_seed(0)
    return torchvision.models.resnet18().state_dict()


@pytest.fixture(scope="module")
def tensors50():
    torch.manual_seed(0)
    return torchvision.models.resnet50().state_dict()


@pytest.fixture
def refused(tmp_path):
    """Save content and expect its import to fail with the words, leaving no registry."""

    def refused(content, words, error=CheckpointError, file="a.pth", **options):
        if content is not None:
            torch.save(content, tmp_path / file)
        options = {"preprocessing": "torchvision"} | options
        source = options.pop("source", str(tmp_path / file))
        with pytest.raises(error, match=words) as caught:
            import_checkpoint(source, "it", tmp_path / "registry", **options)
        assert not (tmp_path / "registry").exists()
        return str(caught.value)

    return refused


def changed(tensors, **replaced):
    state = collections.OrderedDict(tensors)
    for name, change in replaced.items():
        name = name.replace("__", ".")
        state[name] = change(state[name].clone())
    return state


def poke(value):
    def change(tensor):
        tensor.view(-1)[-1] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("layer2__0__conv1__weight", poke(float("nan")), r"layer2\.0\.conv1\.weight holds NaN or infinite"),
        ("bn1__bias", poke(float("-inf")), r"bn1\.bias holds NaN or infinite"),
        ("layer4__1__bn2__running_var", poke(-1e-6), r"layer4\.1\.bn2\.running_var holds negative variances"),
        ("bn1__num_batches_tracked", lambda t: t - 1, r"bn1\.num_batches_tracked is negative"),
        (
            "conv1__weight",
            lambda t: t[:0],
            r"1 other shape: conv1\.weight \(\[0, 3, 7, 7\], expected \[64",
        ),
        ("conv1__weight", lambda t: t[:, :1], r"conv1\.weight \(\[64, 1, 7, 7\]"),
        ("conv1__weight", lambda t: (t * 100).to(torch.int8), r"conv1\.weight is torch\.int8"),
        ("conv1__weight", lambda t: t.to(torch.complex64), "complex64"),
        ("conv1__weight", lambda t: t.to_sparse(), "sparse"),
        ("bn1__weight", lambda t: t.half().fill_(float("nan")), r"bn1\.weight"),
    ],
)
def test_unusable_values(refused, tensors, name, change, words):
    refused(changed(tensors, **{name: change}), words, error=SosrError)


def test_zero_variance_is_a_value_as_any(tmp_path, tensors):
    torch.save(changed(tensors, bn1__running_var=poke(0.0)), tmp_path / "a.pth")
    assert import_checkpoint(str(tmp_path / "a.pth"), "it", tmp_path / "r", preprocessing="torchvision")[
        "digest"
    ]


def test_incomplete_and_other_networks(refused, tensors, tensors50):
    refused(
        {k: v for k, v in tensors.items() if not k.startswith("layer4")},
        r"basic blocks, \[2, 2, 2, 0\] per stage",
    )
    refused(
        {k: v for k, v in tensors.items() if k != "layer4.1.bn2.weight"}, r"1 missing: layer4\.1\.bn2\.weight"
    )
    refused(tensors50, r"not those of resnet18[^$]*look like those of resnet50", arch="resnet18")
    refused(tensors, r"lacks \d+ of \d+ tensors \(layer1", arch="resnet50")
    refused(
        timm.create_model("resnet26").state_dict(),
        r"bottleneck blocks, \[2, 2, 2, 2\] per stage.*--arch timm/NAME",
    )
    squeezed = timm.create_model("seresnet50").state_dict()
    said = refused(squeezed, r"unexpected: layer1\.0\.se\.fc1\.weight")
    assert "computes something else" in said
    assert "--drop" not in said
    refused(squeezed, "computes something else", drop=("fc",))
    refused(timm.create_model("resnet50d").state_dict(), r"deep stem.*--arch timm/resnet50d")
    refused({"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}, "classifier's head alone")
    refused({"epoch": 3, "lr": 0.1}, "holds no network")
    refused(timm.create_model("test_vit").state_dict(), r"blocks \(72\).*\n.*--arch timm/NAME")


def test_strangers_beside_the_backbone_are_dropped_by_name_only(refused, tmp_path, tensors):
    state = {**tensors, "criterion.weight": torch.ones(3, 3)}
    assert "--drop criterion" in refused(state, "unexpected: criterion.weight")
    result = import_checkpoint(
        str(tmp_path / "a.pth"), "it", tmp_path / "r", preprocessing="torchvision", drop=["criterion"]
    )
    assert result["report"]["left_out"]["criterion"]["count"] == 1


def test_unusual_wrappers_have_to_be_named(refused, tmp_path, tensors):
    state = {f"audio_net.{name}": tensor for name, tensor in tensors.items()}
    refused(state, r"'audio_net' is no usual wrapper.*--prefix audio_net\.")
    result = import_checkpoint(
        str(tmp_path / "a.pth"), "it", tmp_path / "r", preprocessing="torchvision", prefix="audio_net."
    )
    assert result["report"]["prefix"] == "audio_net."


def test_keys_and_prefixes_that_are_not_there(refused, tensors):
    refused({"model": tensors}, r"no tensors under the key 'ema'|no tensors under 'ema'|key 'ema'", key="ema")
    refused({"model": tensors}, r"did you mean 'backbone\.'", prefix="backbone")
    refused({"model": tensors}, r"none of 122 tensor names starts with 'backbone\.'", prefix="backbone.")
    refused({"model": tensors, "ema": dict(tensors)}, r"--key model .*\n  --key ema")
    refused({"model": tensors, **tensors}, r"--key \. .*\n  --key model")


def test_where_bottlenecks_stride_and_how_pixels_look_is_never_guessed(refused, tensors, tensors50):
    refused(tensors50, r"--style pytorch .* or --style caffe", ConfigError, preprocessing=None)
    values = "mean=123.675,116.28,103.53,std=58.395,57.12,57.375,order=rgb"
    refused(tensors50, r"--style pytorch .* or --style caffe", ConfigError, preprocessing=values)
    refused(tensors50, "how the pixels were prepared", ConfigError, preprocessing=None, style="pytorch")
    refused(tensors, "how the pixels were prepared", ConfigError, preprocessing=None)
    refused(tensors, "has no bottlenecks", ConfigError, style="pytorch")
    refused(tensors50, "expected 'pytorch' or 'caffe'", ConfigError, style="tf")
    config = "model = dict(type='X', backbone=dict(type='ResNet', depth=50, style='caffe'))"
    content = {"meta": {"cfg": config, "mmengine_version": "1"}, "state_dict": tensors50}
    refused(
        content,
        r"says 'caffe', and the preset 'torchvision' stands for 'pytorch'; decide with --style",
        ConfigError,
    )


@pytest.mark.parametrize(
    "text",
    ["imagenet", "mean=1,2,3", "mean=1,2,order=rgb,std=1,1,1", "mean=1,2,3,std=1,1,0,order=rgb",
     "mean=1,2,3,std=1,1,1,order=gbr", "mean=.4,.4,.4,std=.2,.2,.2,order=rgb", "mean=1,2,3,std=1,1,1,order=rgb,x=1",
     "mean=1,2,nan,std=1,1,1,order=rgb", "mean=1,2,3,std=1,1,1,order=rgb,size=0", "timm:no_such_net",
     "timm:resnet50.no_such_tag"],
)  # fmt: skip
def test_preprocessing_in_other_words(refused, tensors, text):
    refused(tensors, r"--preprocessing|timm", ConfigError, preprocessing=text)


def test_preprocessing_by_numbers(tmp_path, tensors):
    torch.save(tensors, tmp_path / "a.pth")
    text = "mean=.5,.4,.3,std=.2,.2,.1,order=bgr,scale=0-1,size=192,interpolation=bicubic"
    import_checkpoint(str(tmp_path / "a.pth"), "it", tmp_path / "r", preprocessing=text)
    from sosr_det.registry.store import Registry

    stored = Registry(tmp_path / "r").resolve("sosr://it").manifest.preprocessing
    assert (stored.channel_order, stored.mean, stored.std) == ("bgr", (0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert (stored.scale, stored.input_size, stored.interpolation) == ("0-1", (192, 192), "bicubic")


def test_sources_and_names_that_are_none(refused, tmp_path, tensors):
    refused(None, "does not exist", source=str(tmp_path / "absent.pth"))
    refused(None, "is a folder", source=str(tmp_path))
    refused(None, "no source that is known", ConfigError, source="ftp://host/file.pth")
    (tmp_path / "a.txt").write_text("hello, this is text")
    refused(None, "is text", source=str(tmp_path / "a.txt"))
    refused(
        None, "timm .* has no model 'resnet5O'; did you mean", ConfigError, source="timm://resnet5O.a1_in1k"
    )
    refused(
        None,
        r"has no pretrained weights 'resnet50\.x'; it has resnet50\.a1_in1k",
        ConfigError,
        source="timm://resnet50.x",
    )
    refused(None, r"did you mean torchvision://resnet50", ConfigError, source="torchvision://resnet5O")
    torch.save(tensors, tmp_path / "a.pth")
    for name in ("../x", "sha256:" + "0" * 64, ""):
        with pytest.raises(RegistryError):
            import_checkpoint(
                str(tmp_path / "a.pth"), name, tmp_path / "registry", preprocessing="torchvision"
            )
    assert not (tmp_path / "registry").exists()


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_hostile_file_is_refused_and_runs_nothing(refused, tmp_path, tensors):
    content = {"state_dict": tensors, "args": Hostile(tmp_path / "touched")}
    refused(
        content,
        r"could run code, so it was not loaded \(Trying to load unsupported GLOBAL (posix|nt)\.system",
    )
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "config",
    ["model = dict(backbone=dict(type='ResNet', style=__import__('os').system('touch touched')))",
     "import os; os.system('touch touched')", "(" * 300 + ")" * 300, "model = " + "-" * 50_000 + "1", "\0", "x = = 1",
     "model = dict(backbone=dict(type='ResNet', depth=[], strides=3, dilations=None, style=7))",
     "model = [" * 80 + "]" * 80, "model = 3", "model = dict(backbone=[1, 2])", "model = dict(**{'backbone': 1})"],
)  # fmt: skip
def test_configs_in_files_are_text(refused, tmp_path, monkeypatch, tensors50, config):
    monkeypatch.chdir(tmp_path)
    content = {"meta": {"cfg": config, "mmengine_version": "1"}, "state_dict": tensors50}
    refused(content, "how the pixels|--style pytorch", ConfigError, preprocessing=None)
    assert not (tmp_path / "touched").exists()


def test_a_tensor_that_is_all_shape_and_no_memory_is_refused_before_it_is_touched(tmp_path, tensors):
    huge = torch.zeros(1).expand(1 << 40)
    torch.save({**tensors, "bn1.weight": huge}, tmp_path / "a.pth")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))\n"
        "from sosr_det.transfer.foreign import import_checkpoint\n"
        "try: import_checkpoint(sys.argv[1], 'it', sys.argv[2], preprocessing='torchvision')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.pth"), str(tmp_path / "registry")],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert "CheckpointError the tensors are not those of resnet18" in result.stdout, result.stderr


def test_a_file_that_changes_while_it_is_read_is_noticed(refused, tmp_path, tensors, monkeypatch):
    from sosr_det.transfer.foreign import importing

    load = importing.load_state_file

    def load_and_touch(path):
        content = load(path)
        os.utime(path, (1, 1))
        return content

    monkeypatch.setattr(importing, "load_state_file", load_and_touch)
    refused(tensors, "changed while it was read")


@pytest.mark.parametrize("mean", ["abc", 3, [1, 2], [float("nan")] * 3, {"a": 1}])
def test_command_lines_that_make_no_sense_are_not_understood(refused, tensors, mean):
    args = argparse.Namespace(mean=mean, std=[0.0, 0.2, 0.2] if mean == [1, 2] else [0.2, 0.2, 0.2])
    content = {"args": args, "arch": "resnet18", "version": 2, "state_dict": tensors}
    refused(content, "how the pixels were prepared", SosrError, preprocessing=None)
