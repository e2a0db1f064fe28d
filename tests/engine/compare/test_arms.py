"""The arms of a comparison: products, names, pinned weights."""

from __future__ import annotations

import pytest

import sosr_det.register  # noqa: F401
from sosr_det.engine.compare.arms import make_arms
from sosr_det.engine.configs import load_config
from sosr_det.errors import ConfigError

CE, SOSR = "demo/resnet18-ce-pre_ce_1xb32-6e_demo-cub", "demo/resnet18-sosr-pre_sosr_1xb32-6e_demo-cub"


def arms(configs, backbones=(), pinned=None, known=()):
    loaded = {CE: load_config(CE), SOSR: load_config(SOSR)}
    return make_arms([(c, loaded[c]) for c in configs], backbones, {} if pinned is None else pinned, known)


def test_backbones_under_one_config():
    found = arms([SOSR], ["sosr://a", "sosr://b@v1", "torchvision://resnet18", "random"])
    assert [arm.name for arm in found] == ["a", "b@v1", "torchvision-resnet18", "random"]
    assert [arm.weights for arm in found] == [
        f"sosr://sha256:{'a' * 64}", f"sosr://sha256:{'b' * 64}", "torchvision://resnet18", "random"
    ]  # fmt: skip
    assert [arm.digest for arm in found] == ["a" * 64, "b" * 64, None, None]


def test_two_by_two():
    found = arms([CE, SOSR], ["sosr://a", "sosr://b@v1"])
    assert [(arm.config, arm.backbone) for arm in found] == [
        (CE, "sosr://a"), (CE, "sosr://b@v1"), (SOSR, "sosr://a"), (SOSR, "sosr://b@v1")
    ]  # fmt: skip
    assert [arm.name for arm in found[:2]] == ["resnet18-ce-pre_ce_on_a", "resnet18-ce-pre_ce_on_b@v1"]
    assert len({arm.config_digest for arm in found}) == 2


def test_configs_alone_bring_their_own_backbones():
    found = arms([CE, SOSR])
    assert [arm.backbone for arm in found] == ["sosr://resnet18-demo-ce", "sosr://resnet18-demo-sosr"]
    assert all(arm.weights.startswith("sosr://sha256:") for arm in found)
    assert [arm.name for arm in found] == ["resnet18-ce-pre_ce", "resnet18-sosr-pre_sosr"]


def test_names_never_share_a_folder(tmp_path):
    files = []
    for name in ("one/w.pth", "two/w.pth", "three/W.pth"):
        files.append(tmp_path / name)
        files[-1].parent.mkdir()
        files[-1].write_text(name)
    found = arms([CE], [*map(str, files), "sosr://n/../..", "sosr://" + "x" * 200])
    names = [arm.name for arm in found]
    assert len({name.lower() for name in names}) == 5
    assert all(len(name) < 80 and "/" not in name and name.strip(".") for name in names)
    assert len({arm.digest for arm in found[:3]}) == 3
    # A name stays when others join.
    more = arms([CE], [str(files[0]), "sosr://new"], known=found)
    assert more[0].name == names[0]
    assert more[1].name == "new"


@pytest.mark.parametrize(
    ("configs", "backbones", "message"),
    [
        ([CE], [], "needs two arms"), ([CE], ["random"], "needs two arms"),
        ([CE, CE], [], "--config .* given twice"), ([CE], ["random", "random"], "--backbones random is given twice"),
    ],
)  # fmt: skip
def test_no_comparison(configs, backbones, message):
    with pytest.raises(ConfigError, match=message):
        arms(configs, backbones)


def test_weights_are_pinned_once(registry, tmp_path):
    pinned = {}
    arms([CE], ["sosr://a", "random"], pinned)
    registry.digests["sosr://a"] = "d" * 64
    assert arms([CE], ["sosr://a", "random"], pinned)[0].digest == "a" * 64
    weights = tmp_path / "w.pth"
    weights.write_text("first")
    arms([CE], [str(weights), "random"], pinned)
    weights.write_text("second")
    with pytest.raises(ConfigError, match="changed since this comparison began"):
        arms([CE], [str(weights), "random"], pinned)
