"""The swap: any MMDetection config gets another backbone, with all that goes with it, or a refusal that says why."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.config import Config

import sosr_det.register  # noqa: F401  mmcv's ops, before mmdet
from sosr_det.engine.backbone.resnet_layout import resnet_layout
from sosr_det.engine.backbone.source import pin_checkpoints
from sosr_det.engine.backbone.swap import swap_backbone
from sosr_det.engine.configs import load_config
from sosr_det.errors import BackboneMismatchError, ConfigError, RegistryError
from sosr_det.models import build_backbone
from sosr_det.registry import Registry

FASTER = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
CAFFE = "mmdet::faster_rcnn/faster-rcnn_r50-caffe_fpn_1x_coco.py"
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def fields(depth=50, **changes):
    """A manifest's, of a network trained the way torchvision's are."""
    return {
        "arch": {
            "name": f"resnet{depth}",
            "library": "torchvision",
            "style": "pytorch",
            "stem": "7x7/2 conv, 3x3/2 max pool",
            "feature_channels": [64, 128, 256, 512] if depth < 50 else [256, 512, 1024, 2048],
        },
        "preprocessing": {
            "channel_order": "rgb", "mean": MEAN, "std": STD, "scale": "0-255",
            "interpolation": "bilinear", "input_size": [224, 224],
        },
        **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """`r50`, `r18`, and `other50`: BGR, mean 1-2-3, std 4-5-6 on the 0-1 scale, caffe style."""
    registry = Registry(tmp_path_factory.mktemp("swap") / "registry")
    for depth in (18, 50):
        torch.manual_seed(depth)
        registry.publish(build_backbone(f"resnet{depth}")[0].state_dict(), fields(depth), f"r{depth}")
    other = fields()
    other["arch"]["style"] = "caffe"
    other["preprocessing"].update(channel_order="bgr", mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6], scale="0-1")
    registry.publish(build_backbone("resnet50")[0].state_dict(), other, "other50")
    whole = fields(
        kind="detector", parents=[{"uri": "sosr://r50@latest", "digest": None, "relation": "detector-on"}]
    )
    registry.publish({"backbone.conv1.weight": torch.zeros(1)}, whole, "detector")
    return registry


@pytest.fixture(autouse=True)
def used(registry, monkeypatch):
    monkeypatch.setenv("SOSR_REGISTRY", str(registry.root))


def model(backbone=None, **changes):
    """The parts of a detector's config that a swap reads."""
    settings = {
        "type": "FasterRCNN",
        "data_preprocessor": {"type": "DetDataPreprocessor", "mean": MEAN, "std": STD, "bgr_to_rgb": True},
        "backbone": {"type": "ResNet", "depth": 50, "style": "pytorch", **(backbone or {})},
        "neck": {"type": "FPN", "in_channels": [256, 512, 1024, 2048], "out_channels": 256},
    }
    return Config({"model": {**settings, **changes}})


# ---- the layout is MMDetection's own -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"depth": 18}, {"depth": 34}, {"depth": 50}, {"depth": 101}, {"depth": 152},
        {"depth": 50, "num_stages": 3, "strides": (1, 2, 2), "dilations": (1, 1, 1), "out_indices": (2,)},
        {"depth": 50, "deep_stem": True, "avg_down": True, "stem_channels": 32, "base_channels": 32},
        {"type": "ResNetV1d", "depth": 50},
        {"type": "ResNeXt", "depth": 50, "groups": 32, "base_width": 4},
        {"type": "ResNeXt", "depth": 101, "groups": 32, "base_width": 8},
        {"depth": 50, "norm_cfg": {"type": "GN", "num_groups": 32}},
        {"depth": 50, "in_channels": 1, "strides": (2, 1, 2, 1), "dilations": (1, 2, 1, 2)},
        {"depth": 50, "dcn": {"type": "DCN", "deform_groups": 1}, "stage_with_dcn": (False, True, True, True)},
        {"depth": 50, "dcn": {"type": "DCNv2", "deform_groups": 4}, "stage_with_dcn": (False, False, False, True)},
    ],
)  # fmt: skip
def test_the_layout_is_that_of_the_built_network(settings):
    from mmdet.registry import MODELS

    settings = {"type": "ResNet", **settings}
    built = MODELS.build({**copy.deepcopy(settings), "type": f"mmdet.{settings['type']}"})
    layout = resnet_layout(settings, settings["type"])
    assert layout.shapes == {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}


@pytest.mark.parametrize(
    ("plugin", "added"),
    [
        ({"type": "ContextBlock", "ratio": 0.25}, "context_block"),
        ({"type": "NonLocal2d", "postfix": "_a"}, "nonlocal_block_a"),
        ({"type": "mmdet.GeneralizedAttention", "num_heads": 8}, "gen_attention_block"),
    ],
)
def test_plugins_are_known_by_name(plugin, added):
    from mmdet.registry import MODELS

    stages = (False, False, True, True)
    settings = {"depth": 50, "plugins": [{"cfg": plugin, "stages": stages, "position": "after_conv3"}]}
    bare = copy.deepcopy(settings)  # inside of its own scope mmengine finds no name with that scope
    bare["plugins"][0]["cfg"]["type"] = plugin["type"].removeprefix("mmdet.")
    with MODELS.switch_scope_and_registry("mmdet"):
        built = MODELS.build({"type": "ResNet", **bare})
    blocks = {n.rpartition(".")[0] for n, m in built.named_modules() if n.endswith(f".{added}")}
    layout = resnet_layout(settings)
    assert {n.removesuffix(f".{added}.*") for n, shape in layout.shapes.items() if shape is None} == blocks
    assert list(layout.added) == [f"layer*.{added}.*"]
    assert len(blocks) == 9


def test_a_plugin_without_tensors_adds_none():
    plugin = {
        "cfg": {"type": "mmdet.DropBlock", "drop_prob": 0.1, "block_size": 7},
        "position": "after_conv3",
    }
    assert resnet_layout({"depth": 50, "plugins": [plugin]}).added == {}


# ---- what a swap changes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [FASTER, "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"])
def test_a_matching_config_changes_its_checkpoint_only(registry, config):
    cfg = load_config(config)
    before = copy.deepcopy(cfg.to_dict())
    report = swap_backbone(cfg, "sosr://r50")
    entry = registry.resolve("sosr://r50")
    before["model"]["backbone"]["init_cfg"]["checkpoint"] = entry.pinned_uri
    assert cfg.to_dict() == before
    assert (report.uri, report.digest, report.changes) == ("sosr://r50@latest", entry.digest, [])
    assert report.backbones == ["model.backbone"]
    assert report.load["model.backbone"]["matched"] == 318
    text = "\n".join(report.warnings)
    for named in (
        "frozen_stages=1",
        "norm_eval=True",
        "is for a batch of 16; on one GPU the batch is 2. Use",
        "no probe",
    ):
        assert named in text


def test_a_caffe_config_gets_style_and_preprocessing():
    cfg = load_config(CAFFE)
    report = swap_backbone(cfg, "sosr://r50")
    assert cfg.model.backbone.style == "pytorch"
    preprocessor = cfg.model.data_preprocessor
    assert (preprocessor.mean, preprocessor.std, preprocessor.bgr_to_rgb) == (MEAN, STD, True)
    assert len(report.changes) == 4
    assert "model.backbone.style: 'caffe' -> 'pytorch'" in report.changes
    assert any("requires_grad=False" in line for line in report.warnings)


def test_the_other_way_round_with_another_scale():
    cfg = load_config(FASTER)
    swap_backbone(cfg, "sosr://other50")
    assert cfg.model.backbone.style == "caffe"
    assert cfg.model.data_preprocessor.bgr_to_rgb is False
    assert cfg.model.data_preprocessor.mean == pytest.approx([25.5, 51.0, 76.5])
    assert cfg.model.data_preprocessor.std == pytest.approx([102.0, 127.5, 153.0])


def test_basic_blocks_have_no_style():
    cfg = model({"depth": 18, "style": "caffe"}, neck={"type": "FPN", "in_channels": [64, 128, 256, 512]})
    assert swap_backbone(cfg, "sosr://r18").changes == []


def test_a_semi_supervised_config_is_swapped_inside(registry):
    cfg = load_config("mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py")
    report = swap_backbone(cfg, "sosr://r50")
    assert report.backbones == ["model.detector.backbone"]
    assert cfg.model.detector.backbone.init_cfg.checkpoint == registry.resolve("sosr://r50").pinned_uri
    assert cfg.model.detector.backbone.style == "pytorch"
    for preprocessor in (cfg.model.data_preprocessor.data_preprocessor, cfg.model.detector.data_preprocessor):
        assert (preprocessor.mean, preprocessor.bgr_to_rgb) == (MEAN, True)


def test_teachers_and_reid_networks_are_named_and_left():
    cfg = load_config("mmdet::lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py")
    teacher = copy.deepcopy(cfg.model.teacher_backbone.to_dict())
    report = swap_backbone(cfg, "sosr://r50")
    assert (report.backbones, report.left) == (["model.backbone"], ["model.teacher_backbone"])
    assert cfg.model.teacher_backbone.to_dict() == teacher
    cfg = load_config(
        "mmdet::deepsort/deepsort_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py"
    )
    report = swap_backbone(cfg, "sosr://r50")
    assert (report.backbones, report.left) == (["model.detector.backbone"], ["model.reid.backbone"])
    assert cfg.model.reid.init_cfg.checkpoint.startswith("https://")
    # the whole detector's checkpoint would have kept the backbone's own from being loaded
    assert cfg.model.detector.init_cfg is None
    assert any("model.detector.init_cfg" in line and "random weights" in line for line in report.warnings)


def test_a_c4_detector_gets_its_last_stage_too(registry):
    cfg = load_config("mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py")
    report = swap_backbone(cfg, "sosr://r50")
    pinned = registry.resolve("sosr://r50").pinned_uri
    assert cfg.model.roi_head.shared_head.init_cfg.checkpoint == pinned
    assert cfg.model.roi_head.shared_head.style == "pytorch"
    assert report.load["model.backbone"]["matched"] == 318


def test_old_settings_make_way(registry):
    cfg = model(
        {"pretrained": "torchvision://resnet50"}, init_cfg=[{"type": "Pretrained", "checkpoint": "x.pth"}]
    )
    cfg.load_from = "faster_rcnn_coco.pth"
    report = swap_backbone(cfg, "sosr://r50")
    assert cfg.model.backbone.pretrained is None
    assert cfg.model.backbone.init_cfg.checkpoint == registry.resolve("sosr://r50").pinned_uri
    assert cfg.load_from is None
    assert cfg.model.init_cfg is None
    assert sum("removed" in line for line in report.warnings) == 2


def test_eps_belongs_to_the_weights():
    cfg = model({"norm_cfg": {"type": "BN", "eps": 0, "requires_grad": False}})
    assert swap_backbone(cfg, "sosr://r50").changes == ["model.backbone.norm_cfg.eps: 0 -> 1e-05"]


def test_torchvision_weights_are_known():
    cfg = load_config(CAFFE)
    report = swap_backbone(cfg, "torchvision://resnet50")
    assert cfg.model.backbone.init_cfg.checkpoint == "torchvision://resnet50"
    assert (cfg.model.backbone.style, cfg.model.data_preprocessor.mean) == ("pytorch", MEAN)
    assert (report.kind, report.digest, report.load) == ("torchvision", None, {})
    with pytest.raises(ConfigError, match="depth 50"):
        swap_backbone(load_config(CAFFE), "torchvision://resnet18")


def test_a_file_keeps_the_configs_preprocessing_and_says_so(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": build_backbone("resnet50")[0].state_dict()}, file)
    cfg = load_config(CAFFE)
    report = swap_backbone(cfg, str(file))
    assert (report.changes, report.load["model.backbone"]["matched"]) == ([], 318)
    assert any("registry import" in line for line in report.warnings)
    assert cfg.model.backbone.style == "caffe"


def test_another_depth_can_be_set_with_the_neck():
    cfg = load_config(FASTER)
    with pytest.raises(ConfigError, match=r"--set-depth sets model.backbone.depth=18.*\[64, 128, 256, 512\]"):
        swap_backbone(cfg, "sosr://r18")
    cfg = load_config("mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py")
    swap_backbone(cfg, "sosr://r18", set_depth=True)
    assert (cfg.model.backbone.depth, cfg.model.neck.in_channels) == (18, 512)
    cfg = load_config(FASTER)
    report = swap_backbone(cfg, "sosr://r18", set_depth=True)
    assert (cfg.model.backbone.depth, cfg.model.neck.in_channels) == (18, [64, 128, 256, 512])
    assert len(report.changes) == 2


# ---- what a swap refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "uri", "named"),
    [
        ("mmdet::dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py", "sosr://r50", "layer*.conv2.conv_offset.*"),
        ("mmdet::gcnet/mask-rcnn_r50-gcb-r4-c3-c5_fpn_1x_coco.py", "sosr://r50", "layer*.context_block.*"),
        ("mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py", "sosr://r50", "probe.layer4"),
        ("mmdet::rpn/rpn_r50-caffe-c4_1x_coco.py", "sosr://r50", "layer4.*"),
    ],
)
def test_what_does_not_fit_is_refused_until_it_is_named(config, uri, named):
    with pytest.raises(BackboneMismatchError) as error:
        swap_backbone(load_config(config), uri)
    assert error.value.allow == (named,)
    assert f"--allow '{named}'" in str(error.value)
    report = swap_backbone(load_config(config), uri, allow=[named])
    assert report.allowed == [named]
    with pytest.raises(BackboneMismatchError):
        swap_backbone(load_config(config), uri, allow=["layer9.*"])


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("mmdet::retinanet/retinanet_x101-32x4d_fpn_1x_coco.py", "depth 101"),
        ("mmdet::retinanet/retinanet_r101_fpn_1x_coco.py", "depth 101"),
        ("mmdet::detectors/cascade-rcnn_r50-sac_1x_coco.py", "DetectoRS_ResNet"),
        ("mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py", "SwinTransformer"),
        ("mmdet::yolox/yolox_s_8xb8-300e_coco.py", "CSPDarknet"),
        ("mmdet::gn/mask-rcnn_r50_fpn_gn-all_2x_coco.py", "norm_cfg is GN"),
    ],
)
def test_other_networks_are_refused_by_name(config, named):
    with pytest.raises(ConfigError, match=named):
        swap_backbone(load_config(config), "sosr://r50")


def test_a_grouped_network_of_the_same_depth_is_refused():
    cfg = model({"type": "ResNeXt", "groups": 32, "base_width": 4})
    with pytest.raises(ConfigError, match=r"ResNeXt-50 with groups=32.*plain resnet50"):
        swap_backbone(cfg, "sosr://r50")


def test_a_deep_stem_is_refused_with_its_tensors():
    with pytest.raises(BackboneMismatchError, match=r"stem\.0\.weight"):
        swap_backbone(model({"type": "ResNetV1d"}), "sosr://r50")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: {f"backbone.{k}": v for k, v in s.items()}, "prefix 'backbone.'"),
        (lambda s: {f"module.backbone.{k}": v for k, v in s.items()}, "prefix 'backbone.'"),
        (lambda s: {"model": s}, "0 of 318"),
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith("layer4.")},
            "missing from the source: layer4",
        ),
        (lambda s: build_backbone("resnet18")[0].state_dict(), "shape mismatched"),
    ],
)
def test_wrong_files_are_refused_before_anything_is_built(tmp_path, change, named):
    torch.save(change(build_backbone("resnet50")[0].state_dict()), tmp_path / "weights.pth")
    with pytest.raises(BackboneMismatchError, match=named):
        swap_backbone(load_config(FASTER), str(tmp_path / "weights.pth"))


def test_a_classifier_head_may_be_left_over(tmp_path):
    state = build_backbone("resnet50")[0].state_dict() | {
        "fc.weight": torch.zeros(9, 2048),
        "fc.bias": torch.zeros(9),
    }
    torch.save(state, tmp_path / "weights.pth")
    report = swap_backbone(load_config(FASTER), str(tmp_path / "weights.pth"))
    assert report.load["model.backbone"]["classifier_head_left_over"] == 2


@pytest.mark.parametrize(
    ("uri", "error", "named"),
    [
        ("timm://resnet50", ConfigError, "registry import"),
        ("sosr://r55", RegistryError, "r50"),
        ("sosr://detector", RegistryError, "whole detector.*sosr://r50"),
        ("nowhere.pth", BackboneMismatchError, "does not exist"),
    ],
)
def test_bad_uris_are_refused(uri, error, named):
    with pytest.raises(error, match=named):
        swap_backbone(load_config(FASTER), uri)


def test_channels_that_the_neck_does_not_take_are_refused():
    with pytest.raises(ConfigError, match=r"model.neck.in_channels is \[64, 128, 256, 512\].*gives \[256"):
        swap_backbone(model(neck={"type": "FPN", "in_channels": [64, 128, 256, 512]}), "sosr://r50")


def test_a_model_without_a_backbone_is_refused():
    with pytest.raises(ConfigError, match="no `backbone`"):
        swap_backbone(Config({"model": {"type": "X"}}), "sosr://r50")


def test_normalisation_in_the_pipeline_is_compared():
    step = {"type": "Normalize", "mean": MEAN, "std": STD, "to_rgb": True}

    def config(step, preprocessor):
        cfg = model(data_preprocessor=preprocessor)
        cfg.train_dataloader = {"dataset": {"pipeline": [{"type": "LoadImageFromFile"}, step]}}
        return cfg

    plain = {"type": "DetDataPreprocessor"}
    assert swap_backbone(config(step, plain), "sosr://r50").changes == []
    with pytest.raises(ConfigError, match=r"train_dataloader.dataset.pipeline.1 normalises.*mean is \[1"):
        swap_backbone(config({**step, "mean": [1.0, 2.0, 3.0]}, plain), "sosr://r50")
    both = model().model.data_preprocessor.to_dict()
    with pytest.raises(ConfigError, match="normalised twice"):
        swap_backbone(config(step, both), "sosr://r50")
    report = swap_backbone(config(step, both), "sosr://r50", allow=["preprocessing"])
    assert report.allowed == ["preprocessing"]


def test_allowed_style_and_preprocessing_stay_the_configs():
    cfg = load_config(CAFFE)
    report = swap_backbone(cfg, "sosr://r50", allow=["style", "preprocessing"])
    assert report.changes == []
    assert report.allowed == ["style", "preprocessing"]
    assert cfg.model.backbone.style == "caffe"


@pytest.mark.parametrize("name", ["*", "**", "", "*.*"])
def test_nobody_allows_everything(name):
    with pytest.raises(ConfigError, match="would allow anything"):
        swap_backbone(load_config(FASTER), "sosr://r50", allow=[name])


def test_an_exception_that_nothing_needed_is_said():
    report = swap_backbone(load_config(FASTER), "sosr://r50", allow=["layer9.*"])
    assert report.allowed == []
    assert "--allow 'layer9.*' was not needed" in report.warnings


# ---- what is compared where nothing is swapped ---------------------------------------------------------------------


def test_the_style_of_a_c4_detectors_last_stage_is_compared():
    cfg = load_config("mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py")
    swap_backbone(cfg, "sosr://r50")
    pin_checkpoints(cfg)
    cfg.model.roi_head.shared_head.style = "caffe"
    with pytest.raises(ConfigError, match=r"shared_head.*style='pytorch'"):
        pin_checkpoints(cfg)
    pin_checkpoints(cfg, ["style"])


def test_a_detectors_backbone_keeps_its_style(registry):
    """A whole detector's entry says how its backbone strides; so does one that is loaded for its backbone alone."""
    whole = fields(kind="detector")
    whole["arch"].update(name="FasterRCNN", library="mmdet", style="caffe")
    registry.publish({"backbone.conv1.weight": torch.zeros(2)}, whole, "caffe-detector")
    init_cfg = {"type": "Pretrained", "checkpoint": "sosr://caffe-detector", "prefix": "backbone."}
    pin_checkpoints(model({"style": "caffe", "init_cfg": init_cfg}))
    with pytest.raises(ConfigError, match="style='caffe'"):
        pin_checkpoints(model({"style": "pytorch", "init_cfg": dict(init_cfg)}))
    cfg = model({"style": "pytorch"})
    cfg.load_from = "sosr://caffe-detector"
    with pytest.raises(ConfigError, match="style='caffe'"):
        pin_checkpoints(cfg)


def test_a_backbone_is_no_checkpoint_of_a_whole_model():
    """MMEngine would find none of its tensors there, keep the backbone's own from loading, and say nothing."""
    cfg = model(init_cfg={"type": "Pretrained", "checkpoint": "sosr://r50"})
    with pytest.raises(ConfigError, match="holds a backbone"):
        pin_checkpoints(cfg)
