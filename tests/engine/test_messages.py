"""Mistakes that a newcomer makes with swaps and data: the message names the mistake and the way out."""

from __future__ import annotations

import pytest
import torch

import sosr_det.register  # noqa: F401
from sosr_det.engine.backbone.swap import swap_backbone
from sosr_det.engine.backbone.swapped_config import swap_config, write_swapped
from sosr_det.engine.configs import find_config, load_config
from sosr_det.engine.setup import _missing_annotations, apply_data_root, build_runner
from sosr_det.errors import BackboneMismatchError, ConfigError, DataError
from sosr_det.models import build_backbone
from sosr_det.registry import Registry

FASTER = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"


def fields(name):
    return {
        "arch": {
            "name": name, "library": name.partition("/")[0], "style": "pytorch", "stem": "7x7/2 conv",
            "feature_channels": [256, 512, 1024, 2048],
        },
        "preprocessing": {
            "channel_order": "rgb", "mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "scale": "0-255",
            "interpolation": "bilinear", "input_size": [224, 224],
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    registry = Registry(tmp_path_factory.mktemp("newcomer") / "registry")
    registry.publish({"patch_embed.proj.weight": torch.zeros(2, 3, 2, 2)}, fields("timm/vit_tiny"), "vit")
    torch.manual_seed(0)
    registry.publish(build_backbone("resnet50")[0].state_dict(), fields("resnet50"), "mine")
    return registry.root


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch, store):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOSR_REGISTRY", str(store))
    monkeypatch.delenv("SOSR_DATA", raising=False)


def test_another_kind_of_network_is_called_by_its_name():
    for set_depth in (False, True):
        with pytest.raises(ConfigError, match=r"holds a timm/vit_tiny, and model\.backbone is a ResNet-50"):
            swap_backbone(load_config(FASTER), "sosr://vit", set_depth=set_depth)


@pytest.mark.parametrize("name", ["mine", "mine@latest"])
def test_a_name_without_its_scheme_is_recognised(name, tmp_path):
    with pytest.raises(ConfigError, match=f"did you mean sosr://{name}"):
        swap_backbone(load_config(FASTER), name)
    with pytest.raises(ConfigError, match=f"did you mean sosr://{name}"):
        swap_config(FASTER, name)
    with pytest.raises(BackboneMismatchError, match="cannot be used"):
        swap_backbone(load_config(FASTER), "mine2")
    (tmp_path / name).write_bytes(b"no checkpoint")  # a file of that name is meant
    with pytest.raises(BackboneMismatchError) as error:
        swap_backbone(load_config(FASTER), name)
    assert "did you mean" not in str(error.value)


def test_a_misspelt_package_config_lists_near_names():
    with pytest.raises(ConfigError, match=r"Near names: mmdet::retinanet/retinanet_r50_fpn_1x_coco\.py"):
        find_config("mmdet::retinanet/retinanet_r50_fpn_1x_coc.py")
    with pytest.raises(ConfigError, match=r"mmdet::retinanet/retinanet_r50_fpn_1x_coco\.py"):
        find_config("mmdet::retinanett/retinanet_r50_fpn_1x_coco")
    with pytest.raises(ConfigError, match="cannot be found") as error:
        find_config("nopackage::a/b.py")
    assert "Near names" not in str(error.value)


def test_absent_coco_annotations_are_a_data_error(tmp_path, monkeypatch):
    cfg = load_config(FASTER)
    cfg.work_dir = str(tmp_path / "run")
    cfg.model.backbone.init_cfg = None
    with pytest.raises(DataError) as error:
        build_runner(cfg, for_training=True)
    text = str(error.value)
    for named in (
        "there is no data/coco/annotations/instances_train2017.json",
        "annotation file of the config's train_dataloader under its data_root data/coco/", "--data-root",
    ):  # fmt: skip
        assert named in text
    assert "replaced" not in text


def test_sosr_data_is_named_where_it_replaced_the_root(tmp_path, monkeypatch):
    monkeypatch.setenv("SOSR_DATA", str(tmp_path))
    cfg = load_config(FASTER)
    apply_data_root(cfg, None)
    assert cfg.val_evaluator.ann_file == f"{tmp_path}/annotations/instances_val2017.json"
    missing = FileNotFoundError(2, "gone", f"{tmp_path}/annotations/instances_train2017.json")
    assert "$SOSR_DATA replaced the data_root" in _missing_annotations(cfg, missing)
    assert _missing_annotations(cfg, FileNotFoundError(2, "gone", "/other.json")) is None
    assert _missing_annotations(cfg, FileNotFoundError("no file name")) is None


def test_a_written_config_names_the_registry_of_its_digest(tmp_path, monkeypatch, store):
    def header(root):
        write_swapped(swap_config(FASTER, "sosr://mine", registry_root=root), tmp_path / "out.py", force=True)
        return [line for line in (tmp_path / "out.py").read_text().splitlines() if line.startswith("# ")]

    (tmp_path / "link").symlink_to(store)
    assert header("link")[2].startswith("# The digest is in the registry link (")  # as it was typed
    assert header(None)[2].startswith(f"# The digest is in the registry {store} (")
    monkeypatch.delenv("SOSR_REGISTRY")
    (tmp_path / "registry").symlink_to(store)
    assert len(header(None)) == 2
