"""The contract's hook in a real Runner: what stops a run, what is allowed by name, what is left at the end."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from torch import nn

import sosr_det.register  # noqa: F401  mmcv's ops, before mmdet
from sosr_det.engine.backbone.live_contract import check_backbone, load_weights
from sosr_det.engine.hooks import BackboneContractHook
from sosr_det.engine.hooks.backbone_contract import attach_to_every_runner
from sosr_det.errors import BackboneMismatchError, ConfigError, SosrError
from sosr_det.registry import Registry
from sosr_det.registry.manifest import Preprocessing
from sosr_det.transfer.contract import Allowance
from sosr_det.transfer.probe import compute_probe

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
RGB = {"type": "mmdet.DetDataPreprocessor", "mean": MEAN, "std": STD, "bgr_to_rgb": True}
WIDTH = 8
_numbers = itertools.count()


def resnet(depth=18, seed=0):
    """MMDetection's own with an eighth of the channels: the contract is about names and values, not about size."""
    torch.manual_seed(seed)
    return MODELS.build({"type": "mmdet.ResNet", "depth": depth, "base_channels": WIDTH, "norm_eval": False})


def publish(registry, name, network, probe=True, depth=18, kind="backbone"):
    preprocessing = Preprocessing("rgb", tuple(MEAN), tuple(STD), "0-255", "bilinear", (224, 224))
    fields = {
        "kind": kind,
        "arch": {
            "name": f"resnet{depth}", "library": "torchvision", "style": "pytorch", "stem": "7x7",
            "feature_channels": [],
        },
        "preprocessing": preprocessing,
        "probe": compute_probe(network, preprocessing) if probe else None,
    }  # fmt: skip
    return registry.publish(network.state_dict(), fields, name)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    registry = Registry(tmp_path_factory.mktemp("contract") / "registry")
    publish(registry, "r18", resnet())
    publish(registry, "unprobed", resnet(), probe=False)
    publish(registry, "r50", resnet(50), depth=50)
    return registry


@pytest.fixture(autouse=True)
def used(registry, monkeypatch):
    monkeypatch.setenv("SOSR_REGISTRY", str(registry.root))


@MODELS.register_module(name="ContractToy", force=True)
class ContractToy(BaseModel):
    """A backbone and a preprocessor, with a loss; ``nested`` puts both into a student and a teacher."""

    def __init__(self, backbone, nested=False, data_preprocessor=None, init_cfg=None):
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        if nested:
            self.student = nn.Module()
            self.teacher = nn.Module()
            self.student.backbone = MODELS.build(copy.deepcopy(backbone))
            self.teacher.backbone = MODELS.build(copy.deepcopy(backbone))
        else:
            self.backbone = MODELS.build(backbone)
        self.nested = nested

    def init_weights(self):
        for module in [self.student, self.teacher] if self.nested else [self]:
            module.backbone.init_weights()
        if self.init_cfg:
            super().init_weights()

    def forward(self, inputs, data_samples=None, mode="loss"):
        live = self.student.backbone if self.nested else self.backbone
        return {"loss": sum(feature.mean() for feature in live(torch.stack(list(inputs)).float()))}


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"inputs": torch.zeros(3, 64, 64)}


@HOOKS.register_module(name="Meddler", force=True)
class Meddler(Hook):
    """Runs ``do(model, step)`` after every step."""

    def __init__(self, do):
        self.do = do

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.do(runner.model, runner.iter)


def run(
    tmp_path, uri="sosr://r18", hook=None, backbone=None, preprocessor=None, do=None, load_from=None, **model
):
    """Three training steps; ``hook`` None leaves the hook to the import of sosr_det.register."""
    settings = {
        "type": "mmdet.ResNet", "depth": 18, "base_channels": WIDTH, "frozen_stages": 1, "norm_eval": True,
        **(backbone or {}),
    }  # fmt: skip
    if uri is not None:
        settings["init_cfg"] = {"type": "Pretrained", "checkpoint": uri}
    hooks = [] if hook is None else [{"type": "BackboneContractHook", **hook}]
    hooks += [] if do is None else [Meddler(do)]
    runner = Runner(
        model=MODELS.build(
            {
                "type": "ContractToy",
                "backbone": settings,
                "data_preprocessor": {**RGB, **(preprocessor or {})},
                **model,
            }
        ),
        work_dir=str(tmp_path / f"run{next(_numbers)}"),  # the log of one run alone
        train_dataloader={"dataset": Images(), "batch_size": 1, "sampler": {"type": "DefaultSampler"}},
        train_cfg={"by_epoch": False, "max_iters": 3},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 1e-3, "weight_decay": 0.1}},
        default_hooks={"checkpoint": None, "logger": None, "param_scheduler": None},
        custom_hooks=hooks,
        load_from=load_from,
        experiment_name=f"contract{next(_numbers)}",
        default_scope="mmdet",
    )
    runner.model.data_preprocessor.forward = lambda data, training=False: {"inputs": data["inputs"]}
    runner.train()
    return runner


def refused(tmp_path, error=BackboneMismatchError, **arguments) -> str:
    with pytest.raises(error) as caught:
        run(tmp_path, **arguments)
    return str(caught.value)


def log(runner) -> str:
    from pathlib import Path

    return "\n".join(path.read_text() for path in Path(runner.log_dir).glob("*.log"))


# ---- the hook comes along ------------------------------------------------------------------------------------------


def test_importing_register_is_enough(tmp_path):
    runner = run(tmp_path)
    assert [hook.automatic for hook in runner.hooks if isinstance(hook, BackboneContractHook)] == [True]
    text = log(runner)
    assert "contract kept: backbone from sosr://r18: 120 of 120 tensors match; nothing missing" in text
    assert "probe: the features agree (layer1, layer2, layer3, layer4)" in text
    assert "frozen tensors are still those of sosr://r18" in text


def test_a_config_that_names_the_hook_gets_no_second_one(tmp_path):
    attach_to_every_runner()
    attach_to_every_runner()
    runner = run(tmp_path, hook={})
    assert [hook.automatic for hook in runner.hooks if isinstance(hook, BackboneContractHook)] == [False]
    assert log(runner).count("contract kept: backbone") == 1


def test_runners_without_a_backbone_are_none_of_its_business(tmp_path):
    class Plain(BaseModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, inputs, mode="loss"):
            return {"loss": self.layer(torch.ones(1, 3)).mean()}

    Runner(
        model=Plain(),
        work_dir=str(tmp_path),
        train_dataloader={"dataset": Images(), "batch_size": 1, "sampler": {"type": "DefaultSampler"}},
        train_cfg={"by_epoch": False, "max_iters": 1},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
        default_hooks={"checkpoint": None},
        experiment_name=f"contract{next(_numbers)}",
    ).train()


# ---- what stops a run, with the hook named or not ------------------------------------------------------------------


@pytest.mark.parametrize("hook", [None, {}])
@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"uri": "sosr://r50"}, ConfigError, "depth 18"),
        ({"preprocessor": {"bgr_to_rgb": False}}, ConfigError, "channel order is bgr"),
        ({"preprocessor": {"std": [1.0, 1.0, 1.0]}}, ConfigError, "std is"),
        ({"preprocessor": {"mean": [1.0, 2.0, 3.0]}}, ConfigError, "mean is"),
        (
            {"backbone": {"norm_cfg": {"type": "BN", "eps": 1e-3}}},
            BackboneMismatchError,
            "computes something else",
        ),
        ({"backbone": {"dilations": (1, 1, 1, 2)}}, BackboneMismatchError, "--allow probe.layer4"),
        ({"uri": "sosr://r50", "backbone": {"depth": 50, "style": "caffe"}}, ConfigError, "style='pytorch'"),
        ({"nested": True, "preprocessor": {"bgr_to_rgb": False}}, ConfigError, "channel order is bgr"),
    ],
)
def test_a_wrong_entry_stops_the_run_before_its_first_step(tmp_path, hook, arguments, error, named):
    steps = []
    assert named in refused(
        tmp_path, error, hook=hook, do=lambda model, step: steps.append(step), **arguments
    )
    assert steps == []


def test_files_are_held_to_it_where_the_hook_is_named_and_reported_where_it_is_not(tmp_path):
    state = resnet().state_dict()
    torch.save({f"backbone.{k}": v for k, v in state.items()}, tmp_path / "prefixed.pth")
    file = str(tmp_path / "prefixed.pth")
    assert "prefix 'backbone.'" in refused(tmp_path, uri=file, hook={})
    text = log(run(tmp_path, uri=file))
    assert "WARNING" in text
    assert "0 of 120 tensors match" in text
    torch.save({"state_dict": state}, tmp_path / "right.pth")
    assert "contract kept" in log(run(tmp_path, uri=str(tmp_path / "right.pth"), hook={}))


def test_frozen_random_layers_stop_a_run_of_ours_and_warn_elsewhere(tmp_path):
    assert "frozen random layers cannot learn" in refused(tmp_path, uri=None, hook={})
    assert "frozen random layers cannot learn" in log(run(tmp_path, uri=None))


def test_a_checkpoint_of_the_whole_model_is_what_counts(tmp_path):
    other = {f"backbone.{name}": tensor for name, tensor in resnet(seed=1).state_dict().items()}
    torch.save({"state_dict": other}, tmp_path / "whole.pth")
    text = log(run(tmp_path, load_from=str(tmp_path / "whole.pth"), hook={}))
    assert f"contract kept: backbone from {tmp_path / 'whole.pth'}" in text
    torch.save({"state_dict": {"backbone.conv1.weight": torch.zeros(WIDTH, 3, 7, 7)}}, tmp_path / "part.pth")
    assert "119 missing" not in refused(tmp_path, load_from=str(tmp_path / "part.pth"), hook={})


def test_an_init_cfg_may_name_its_class(tmp_path):
    """As MMEngine's Python-style configs do; it is the same thing as its name."""
    from mmengine.model import PretrainedInit

    for kind in (PretrainedInit, "mmengine.Pretrained"):
        init_cfg = {"type": kind, "checkpoint": "sosr://r18"}
        text = log(run(tmp_path, uri=None, backbone={"init_cfg": init_cfg}))
        assert "contract kept: backbone from sosr://r18" in text
        assert "random weights" not in text
    text = log(run(tmp_path, uri=None, backbone={"init_cfg": [{**init_cfg, "type": PretrainedInit}]}))
    assert "contract kept: backbone from sosr://r18" in text
    wrong = {"init_cfg": init_cfg, "norm_cfg": {"type": "BN", "eps": 1e-3}}
    assert "computes something else" in refused(tmp_path, uri=None, backbone=wrong)


def test_frozen_tensors_of_others_files_are_reported_where_the_hook_is_not_named(tmp_path):
    """Somebody's momentum encoder is frozen and changes on purpose; their run must not end with an error for it."""
    torch.save(resnet().state_dict(), tmp_path / "weights.pth")

    def meddle(model, step):
        model.backbone.conv1.weight.data.add_(1)

    file = str(tmp_path / "weights.pth")
    assert "1 of 75 frozen tensors" in log(run(tmp_path, uri=file, do=meddle))
    assert "1 of 75 frozen tensors" in refused(tmp_path, uri=file, do=meddle, hook={})
    assert "1 of 75 frozen tensors" in refused(tmp_path, do=meddle)


def test_an_init_cfg_of_the_whole_model_is_what_counts(tmp_path):
    """MMEngine loads it last, over what the backbone's own brought."""
    other = {f"backbone.{name}": tensor for name, tensor in resnet(seed=1).state_dict().items()}
    torch.save(other, tmp_path / "whole.pth")
    init_cfg = {"type": "Pretrained", "checkpoint": str(tmp_path / "whole.pth")}
    for uri in (None, "sosr://r18"):
        text = log(run(tmp_path, uri=uri, init_cfg=init_cfg, hook={}))
        assert f"contract kept: backbone from {tmp_path / 'whole.pth'}: 120 of 120" in text
    init_cfg["checkpoint"] = "sosr://r18"  # no name of a backbone's fits a whole model
    for hook in (None, {}):
        assert "0 of 120 tensors match" in refused(tmp_path, uri=None, init_cfg=init_cfg, hook=hook)


def test_a_student_and_its_teacher_are_both_compared(tmp_path):
    text = log(run(tmp_path, nested=True))
    assert "contract kept (student.backbone)" in text
    assert "contract kept (teacher.backbone)" in text


# ---- exceptions by name --------------------------------------------------------------------------------------------


def test_allowed_exceptions_are_used_and_recorded(tmp_path):
    state = resnet().state_dict()
    del state["layer3.0.bn1.bias"]
    torch.save(state, tmp_path / "weights.pth")
    file = str(tmp_path / "weights.pth")
    assert "missing from the source: layer3.0.bn1.bias" in refused(tmp_path, uri=file, hook={})
    runner = run(tmp_path, uri=file, hook={"allow": ["layer3.0.bn1.*", "layer9.*"]})
    transfer = runner.message_hub.get_info("backbone_transfer")
    assert transfer["allowed_names"] == ["layer3.0.bn1.*"]
    assert transfer["allowed_tensors"] == {"layer3.0.bn1.bias": "missing from the source"}
    assert (transfer["matched"], transfer["allowed"]) == (119, 1)
    assert "not needed: --allow layer9.*" in log(runner)


def test_a_frozen_tensor_that_was_allowed_to_differ_is_not_watched(tmp_path):
    state = resnet().state_dict()
    state["bn1.weight"][0] = float("nan")  # equals nothing, not even itself
    torch.save(state, tmp_path / "weights.pth")
    runner = run(tmp_path, uri=str(tmp_path / "weights.pth"), hook={"allow": ["bn1.weight"]})
    assert "contract kept: 74 frozen tensors" in log(runner)


@pytest.mark.parametrize(
    ("arguments", "allow", "said"),
    [
        (
            {"backbone": {"dilations": (1, 1, 1, 2)}},
            "probe.layer4",
            "(layer1, layer2, layer3); not compared: layer4",
        ),
        ({"backbone": {"norm_cfg": {"type": "BN", "eps": 1e-3}}}, "probe", "no stage was compared"),
        ({"preprocessor": {"bgr_to_rgb": False}}, "preprocessing", "(layer1, layer2, layer3, layer4)"),
    ],
)
def test_probe_and_preprocessing_are_allowed_by_word(tmp_path, arguments, allow, said):
    runner = run(tmp_path, hook={"allow": [allow]}, **arguments)
    assert said in log(runner)
    assert runner.message_hub.get_info("backbone_transfer")["allowed_names"] == [allow]


def test_a_deeper_stage_does_not_excuse_a_shallower_one(tmp_path):
    arguments = {"backbone": {"dilations": (1, 1, 2, 1)}, "hook": {"allow": ["probe.layer4"]}}
    assert "--allow probe.layer3" in refused(tmp_path, **arguments)


def test_an_entry_without_a_probe_is_compared_without_one(tmp_path):
    text = log(run(tmp_path, uri="sosr://unprobed"))
    assert "probe: skipped, sosr://unprobed has none" in text
    run(
        tmp_path, uri="sosr://unprobed", backbone={"norm_cfg": {"type": "BN", "eps": 1e-3}}
    )  # which is why probes exist


# ---- the end of a run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("layer1.0.conv1.weight", {}),
        ("bn1.running_mean", {}),
        ("layer4.0.bn1.running_var", {}),  # norm_eval
        ("layer1.0.bn1.num_batches_tracked", {"norm_eval": False}),  # frozen_stages
    ],
)
def test_a_frozen_tensor_that_changed_ends_the_run_with_its_name(tmp_path, name, backbone):
    def meddle(model, step):
        if step == 1:
            with torch.no_grad():
                model.backbone.state_dict()[name].add_(1)

    message = refused(tmp_path, do=meddle, backbone=backbone)
    assert f"{name} (by up to 1)" in message
    assert "1 of" in message


def test_the_smallest_change_counts(tmp_path):
    def meddle(model, step):
        weight = model.backbone.layer1[0].conv1.weight.data.view(torch.int32)
        weight.view(-1)[5] ^= 1

    refused(tmp_path, do=meddle)


def test_what_is_trained_may_change(tmp_path):
    def meddle(model, step):
        with torch.no_grad():
            model.backbone.layer3[0].conv1.weight.add_(1)
            model.backbone.layer3[0].bn1.running_mean.add_(1)

    runner = run(tmp_path, do=meddle, backbone={"norm_eval": False})
    # conv and norm of the stem and of layer1 (5 convolutions, 5 norms of 5 tensors); no statistics beyond
    assert "contract kept: 30 frozen tensors" in log(runner)
    # and with norm_eval the three statistics of each of the 15 other norms
    assert "contract kept: 75 frozen tensors" in log(run(tmp_path))


def test_a_layer_that_thaws_on_the_way_is_trained(tmp_path):
    def thaw(model, step):
        model.backbone.layer1[0].conv1.weight.requires_grad = True
        with torch.no_grad():
            model.backbone.layer1[0].conv1.weight.add_(1)

    run(tmp_path, do=thaw)


def test_a_teacher_follows_its_student(tmp_path):
    def follow(model, step):
        for parameter in model.teacher.parameters():
            parameter.requires_grad = False
            with torch.no_grad():
                parameter.mul_(0.999)

    run(tmp_path, do=follow, nested=True)


# ---- the entry is pinned while it is used --------------------------------------------------------------------------


def test_the_entry_is_held_while_the_run_uses_it(tmp_path, registry):
    digest = registry.resolve("sosr://r18").digest
    pins = registry.root / "pins" / digest
    seen = []
    run(tmp_path, do=lambda model, step: seen.append(len(list(pins.iterdir()))))
    assert set(seen) == {1}
    assert not pins.exists()


def test_collection_spares_a_running_job(tmp_path):
    own = Registry(tmp_path / "registry")
    entry = publish(own, "mine", resnet(seed=3), probe=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOSR_REGISTRY", str(own.root))

        def collect(model, step):
            if step == 1:
                own.remove("mine")
                own.collect(grace_seconds=0, dry_run=False)
                own.verify(entry.pinned_uri)

        run(tmp_path, uri=entry.pinned_uri, do=collect)
    own.collect(grace_seconds=0, dry_run=False)
    with pytest.raises(SosrError):
        own.resolve(entry.pinned_uri)


def test_a_stage_outside_of_the_backbone_must_stride_as_the_entry_does():
    """A live ``ResLayer`` does not remember its style; the config says it."""
    model = MODELS.build(
        {"type": "ContractToy", "backbone": {"type": "mmdet.ResNet", "depth": 50, "base_channels": 8}}
    )
    model.backbone.load_state_dict(resnet(50).state_dict())
    head = {"type": "ResLayer", "depth": 50, "stage": 3, "style": "caffe"}
    cfg = {"model": {"roi_head": {"shared_head": head}}}
    with pytest.raises(ConfigError, match=r"model\.roi_head\.shared_head\.style='pytorch'"):
        check_backbone(model, "backbone", model.backbone, load_weights("sosr://r50"), Allowance(), cfg)


# ---- classifiers of ours -------------------------------------------------------------------------------------------


def test_a_network_without_stages_is_compared_by_its_pooled_features(registry, tmp_path):
    """Small networks have no ``layer1`` … ``layer4``: their probe is the pooled output, and it must count."""
    from sosr_det.models import build_backbone

    torch.manual_seed(0)
    network = build_backbone("resnet20")[0]
    preprocessing = Preprocessing("rgb", tuple(MEAN), tuple(STD), "0-255", "bilinear", (32, 32))
    arch = {"name": "resnet20", "library": "pytorchcv", "style": None, "stem": "3x3", "feature_channels": []}
    fields = {"arch": arch, "preprocessing": preprocessing, "probe": compute_probe(network, preprocessing)}
    registry.publish(network.state_dict(), fields, "small")
    model = MODELS.build(
        {
            "type": "BackboneClassifier", "backbone": {"arch": "resnet20"}, "num_classes": 3,
            "loss": {"type": "CrossEntropy"},
            "data_preprocessor": {"type": "ClassificationPreprocessor", "mean": MEAN, "std": STD},
        }
    )  # fmt: skip
    model.backbone.load_state_dict(network.state_dict())
    weights = load_weights("sosr://small")

    def check(*allow):
        return check_backbone(model, "backbone", model.backbone, weights, Allowance(allow), {}).lines

    assert check() == ["probe: the features agree (pooled)"]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    with pytest.raises(BackboneMismatchError, match="after pooled, the features differ"):
        check()
    assert "not compared: pooled" in check("probe")[0]
