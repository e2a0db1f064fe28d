"""The model-zoo sweep: discovery, inputs, one light family for real, negative controls, and the published page."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from sosr_det.analysis.zoo import report, trial
from sosr_det.analysis.zoo.adjust import NO_WHOLE_MODEL, adjust
from sosr_det.analysis.zoo.demo_backbone import publish_demo_backbone
from sosr_det.analysis.zoo.families import Family, family_names, find_families, plain_resnets, price, zoo_root
from sosr_det.analysis.zoo.result import STAGES, Trial
from sosr_det.analysis.zoo.results import Results
from sosr_det.analysis.zoo.sweep import Sweep
from sosr_det.analysis.zoo.table import render
from sosr_det.analysis.zoo.text_encoder import local_text_encoder
from sosr_det.analysis.zoo.tiny_inputs import needs_of, prediction_batch, training_batch
from sosr_det.errors import ConfigError
from sosr_det.registry.store import Registry

DOCS = Path(__file__).resolve().parents[2] / "docs"
LIGHT = "retinanet/retinanet_r18_fpn_1x_coco.py"  # a quarter of the cost of its ResNet-50 sibling


@pytest.fixture(scope="session")
def published() -> Results:
    """Return the results in docs/."""
    return Results.read(DOCS / "model_zoo.json")


@pytest.fixture(scope="session")
def chosen(published) -> dict[str, str]:
    """Return family -> config as found now; of the published families only, since the others take most of the time."""
    names = sorted({result.family for result in published.trials.values()})
    return {family.name: family.config for family in find_families(names)}


@pytest.fixture(scope="session")
def light(tmp_path_factory) -> tuple[str, Path]:
    """Return URI and registry of a random ResNet-18."""
    root = tmp_path_factory.mktemp("registry")
    return publish_demo_backbone(root, depth=18).pinned_uri, root


def try_light(light) -> Trial:
    """Return the light config's trial, in this process."""
    return trial.run_trial(Trial("retinanet", LIGHT), *light, image_size=64)


@pytest.fixture(scope="session")
def passed(light) -> Trial:
    """Return a trial that nothing disturbed."""
    return try_light(light)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Waiting for each other costs threads more than sharing these small steps gains, the more on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(name: str):
    from mmengine.config import Config

    return Config.fromfile(zoo_root() / name, import_custom_modules=False)


# ---- families


def test_every_family_with_a_resnet50_is_found(published, chosen):
    assert len(chosen) >= 75
    for name, found in chosen.items():
        assert found.startswith(f"{name}/")
        assert plain_resnets(config(found).model, 50)
    # Independently: a folder with a file named r50 has such a config, unless another kind of r50 is all there is
    # (of `misc`, Detectron2's).
    by_name = {path.relative_to(zoo_root()).parts[0] for path in zoo_root().rglob("*[-_]r50[-_]*.py")}
    assert by_name - chosen.keys() <= {
        "detectors",
        "reid",
        "tridentnet",
        "strongsort",
        "misc",
        "common",
        "_base_",
    }
    assert sorted([*chosen, *published.without]) == family_names(zoo_root())


def test_the_plainest_config_stands_for_a_family(chosen):
    assert chosen["faster_rcnn"] == "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
    assert chosen["retinanet"] == "retinanet/retinanet_r50_fpn_1x_coco.py"
    assert "caffe" not in chosen["mask_rcnn"]
    assert "fast-rcnn" not in chosen["libra_rcnn"]  # libra-fast-rcnn needs proposals from elsewhere
    # One of the two families of deformable layers has them in the backbone, the other behind it.
    assert plain_resnets(config(chosen["dcn"]).model)[0].settings.get("dcn")
    assert not plain_resnets(config(chosen["dcnv2"]).model)[0].settings.get("dcn")
    assert (
        price("x/x_r50_fpn_1x_coco.py")
        < price("x/x_r50-caffe_fpn_1x_coco.py")
        < price("x/x_r50-dconv_fpn_1x_coco.py")
    )


def test_a_family_without_such_a_resnet_says_what_it_has():
    (other,) = find_families(["tridentnet"])
    assert other == Family("tridentnet", None, "backbones: TridentResNet-50")


def test_another_depth_and_single_configs():
    (deep,) = find_families(["retinanet"], depth=101)
    assert deep.config == "retinanet/retinanet_r101_fpn_1x_coco.py"
    (one,) = find_families([f"mmdet::{LIGHT}"])
    assert one == Family("retinanet", LIGHT)
    with pytest.raises(ConfigError, match="'retinanett'; near families: retinanet"):
        find_families(["retinanett"])
    with pytest.raises(ConfigError, match=r"no_such\.py"):
        find_families(["retinanet/no_such.py"])


def test_only_the_detectors_own_resnets_are_meant():
    lad = config("lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py").model
    assert [backbone.place for backbone in plain_resnets(lad)] == ["model.backbone"]
    assert lad.teacher_backbone.type == "ResNet"
    semi = config("soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py").model
    assert [backbone.place for backbone in plain_resnets(semi)] == ["model.detector.backbone"]
    assert plain_resnets(config("regnet/retinanet_regnetx-1.6GF_fpn_1x_coco.py").model) == []


# ---- inputs


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("retinanet", {"task": "detection", "masks": False, "semantic": False, "num_classes": 80}),
        ("mask_rcnn", {"masks": True, "semantic": False}),
        ("htc", {"masks": True, "semantic": True}),
        ("panoptic_fpn", {"masks": True, "semantic": True, "num_things": 80, "num_stuff": 53}),
        ("maskformer", {"masks": True, "semantic": True}),
        ("fast_rcnn", {"proposals": True}),
        ("wider_face", {"num_classes": 1}),
        ("qdtrack", {"task": "tracking", "num_classes": 1}),
        ("mask2former_vis", {"task": "tracking", "masks": True}),
        ("soft_teacher", {"task": "semi"}),
        ("clrnet", {"task": "lanes", "height": 320, "width": 800}),
        ("grounding_dino", {"text": True}),
    ],
)  # fmt: skip
def test_needs_are_read_from_the_config(chosen, name, expected):
    needs = needs_of(config(chosen[name]))
    assert {key: getattr(needs, key) for key in expected} == expected


def test_annotations_belong_to_the_images(chosen):
    """Masks fill their boxes, semantic maps show their classes, and equal seeds give equal batches."""
    needs = needs_of(config(chosen["panoptic_fpn"]))
    batch = training_batch(needs)
    assert [image.shape for image in batch["inputs"]] == [(3, 128, 128)] * 2
    for sample in batch["data_samples"]:
        objects = sample.gt_instances
        assert len(objects) == 3
        for box, mask in zip(objects.bboxes.tolist(), objects.masks.masks, strict=True):
            rows, columns = mask.nonzero()
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box
        assert (objects.bboxes[:, 2:] > objects.bboxes[:, :2]).all()
        assert sample.gt_sem_seg.sem_seg.shape == (1, 128, 128)
        assert set(sample.gt_sem_seg.sem_seg.unique().tolist()) == {
            0,
            1,
            80,
        }  # two things, the first stuff class
    again = training_batch(needs)
    assert torch.equal(batch["inputs"][0], again["inputs"][0])
    assert not torch.equal(batch["inputs"][0], batch["inputs"][1])
    assert "gt_instances" not in prediction_batch(needs)["data_samples"][0]


def test_objects_keep_their_ids_over_frames(chosen):
    batch = training_batch(needs_of(config(chosen["qdtrack"])))
    frames = batch["data_samples"][0].video_data_samples
    assert batch["inputs"][0].shape == (2, 3, 128, 128)
    assert [frame.frame_id for frame in frames] == [0, 1]
    first, second = (frame.gt_instances for frame in frames)
    assert first.instances_ids.tolist() == second.instances_ids.tolist() == [0, 1, 2]
    assert not torch.equal(first.bboxes, second.bboxes)


# ---- what is changed besides the backbone


def test_only_the_swapped_checkpoint_stays():
    cfg = config("faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py")
    ours = {"type": "Pretrained", "checkpoint": "sosr://sha256:12"}
    cfg.model.backbone.init_cfg = dict(ours)
    cfg.model.roi_head.shared_head.init_cfg = dict(ours)  # layer4, which a C4 detector has in its head
    cfg.model.init_cfg = {"type": "Pretrained", "checkpoint": "https://host/whole.pth"}
    phrases = adjust(cfg, ours["checkpoint"], 128)
    assert cfg.model.backbone.init_cfg == cfg.model.roi_head.shared_head.init_cfg == ours
    assert cfg.model.init_cfg is None
    assert NO_WHOLE_MODEL in phrases
    distilled = config("ld/ld_r50-gflv1-r101_fpn_1x_coco.py")
    assert any("teacher has random weights" in phrase for phrase in adjust(distilled, "sosr://x", 128))
    assert distilled.model.teacher_ckpt is None


def test_costs_are_cut_and_layers_stay():
    cfg = config("centernet/centernet-update_r50_fpn_8xb8-amp-lsj-200e_coco.py")
    before = copy.deepcopy(cfg.model)
    adjust(cfg, "sosr://x", 128)
    assert cfg.model.data_preprocessor.batch_augments[0]["size"] == (128, 128)
    assert cfg.model.test_cfg.score_thr == 1e-3
    assert cfg.optim_wrapper.type == "OptimWrapper"
    assert "loss_scale" not in cfg.optim_wrapper
    for part in ("neck", "bbox_head"):
        assert cfg.model[part] == before[part]
    detr = config("dino/dino-4scale_r50_8xb2-12e_coco.py")
    adjust(detr, "sosr://x", 128)
    assert detr.model.num_queries == 100
    few = config("detr/detr_r50_8xb2-150e_coco.py")
    few.model.num_queries = 7
    adjust(few, "sosr://x", 128)
    assert few.model.num_queries == 7  # lowered, never raised


# ---- one trial


def test_a_family_passes(passed, light):
    uri, root = light
    assert passed.passed, passed.reason
    assert passed.tensors == len(Registry(root).load(uri))
    assert passed.backbones == ["model.backbone"]
    assert passed.extra == []
    assert passed.predicted == "100 pred_instances"
    updated, trainable = map(int, passed.updated.split(" of "))
    assert 0 < updated <= trainable
    assert any("score threshold" in phrase for phrase in passed.adjusted)


def test_a_trial_is_repeatable(passed, light):
    again = try_light(light)
    assert (again.loss, again.updated, again.predicted) == (passed.loss, passed.updated, passed.predicted)


def test_a_backbone_that_is_not_loaded_fails(light, monkeypatch):
    """Negative control: the config says what to load, but the model never loads it."""
    build = trial._build

    def build_without_loading(cfg):
        init_cfg = dict(cfg.model.backbone.init_cfg)
        cfg.model.backbone.init_cfg = None
        model = build(cfg)
        model.backbone.init_cfg = init_cfg
        return model

    monkeypatch.setattr(trial, "_build", build_without_loading)
    result = try_light(light)
    assert not result.passed
    assert result.failed == "transfer"
    assert "does not match" in result.reason
    assert result.tensors == 0
    assert set(result.seconds) == {"load", "swap", "build"}


def test_one_wrong_bit_fails(light, monkeypatch):
    build = trial._build

    def build_with_a_scratch(cfg):
        model = build(cfg)
        with torch.no_grad():
            weight = model.backbone.layer4[1].conv2.weight.view(-1)
            weight[7] = torch.nextafter(weight[7], torch.tensor(9.0))
        return model

    monkeypatch.setattr(trial, "_build", build_with_a_scratch)
    assert try_light(light).failed == "transfer"


def test_tensors_in_place_but_another_network_fails(light, monkeypatch):
    """The probe tells what names and values cannot: here, a stage that strides twice as far."""
    build = trial._build

    def build_with_another_stride(cfg):
        model = build(cfg)
        model.backbone.layer2[0].conv1.stride = (4, 4)
        model.backbone.layer2[0].downsample[0].stride = (4, 4)
        return model

    monkeypatch.setattr(trial, "_build", build_with_another_stride)
    result = try_light(light)
    assert result.failed == "transfer"
    assert "computes something else" in result.reason


@pytest.mark.parametrize(
    ("rate", "reason"), [(0.0, "changed no parameter"), (float("inf"), "parameters are not finite")]
)
def test_a_step_must_change_parameters_and_keep_them_finite(light, monkeypatch, rate, reason):
    monkeypatch.setattr(
        trial,
        "_first_step_settings",
        lambda cfg: {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": rate}},
    )
    result = try_light(light)
    assert result.failed == "train"
    assert reason in result.reason


def test_the_first_step_of_a_warm_up_is_small():
    settings = trial._first_step_settings(config(LIGHT))
    assert settings["optimizer"]["lr"] == pytest.approx(0.01 * 0.001)


def test_another_depth_is_refused_at_the_swap(light):
    result = trial.run_trial(Trial("retinanet", "retinanet/retinanet_r50_fpn_1x_coco.py"), *light)
    assert result.failed == "swap"
    assert "depth 50" in result.reason


def test_without_transformers_the_text_encoder_is_left_to_mmdet(monkeypatch, tmp_path):
    cfg = config("grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco.py")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert local_text_encoder(cfg, tmp_path) == []
    assert cfg.model.language_model.name == "bert-base-uncased"
    assert list(tmp_path.iterdir()) == []


# ---- sweeps


def test_no_family_ends_the_sweep(light, tmp_path):
    """A killed process, an endless one, one that eats memory, one that raises: each is reported, and the next runs."""
    bodies = {
        "killed": "import os\nprint('last words', flush=True)\nos.kill(os.getpid(), 9)",
        "endless": "while True:\n    pass",
        "hungry": "x = bytearray(12 * 2**30)",  # which is not touched, so it costs nothing where it is allowed
        "broken": "x = 1 / 0",
    }
    for name, body in bodies.items():
        (tmp_path / f"{name}.py").write_text(f"{body}\nmodel = dict()\n")
    wanted = [Family(name, str(tmp_path / f"{name}.py")) for name in bodies]
    uri, root = light
    found: dict[str, Trial] = {}

    def keep(result: Trial) -> None:
        found[result.family] = result

    bounds = {"image_size": 64, "memory_limit": 6, "jobs": 2}
    Sweep(uri, str(root), time_limit=3, **bounds).run([*wanted, Family("skipped", None, "no backbone")], keep)
    Sweep(uri, str(root), **bounds).run([Family("retinanet", LIGHT)], keep)
    assert {name: result.failed for name, result in found.items()} == dict.fromkeys(bodies, "load") | {
        "retinanet": None
    }
    assert found["killed"].reason == "the process ended with signal SIGKILL: last words"
    assert found["endless"].reason == "took longer than 3 s"
    assert found["hungry"].reason.startswith("MemoryError")
    assert found["broken"].reason.startswith("ZeroDivisionError: division by zero")
    assert found["retinanet"].passed, found["retinanet"].reason


def passing(family: str, config_name: str) -> Trial:
    result = Trial(family, config_name, dict.fromkeys(STAGES, 1.0), backbones=["model.backbone"], tensors=318)
    result.loss, result.updated, result.predicted = 1.5, "3 of 4", "7 pred_instances"
    return result


@pytest.fixture
def fake_sweep(monkeypatch) -> list[str]:
    """Replace the trials: every config passes but those of fcos; returns the configs that were tried."""
    tried: list[str] = []

    def run(self, wanted, on_result):
        for family in wanted:
            tried.append(family.config)
            result = passing(family.name, family.config)
            if family.name == "fcos":
                result.failed, result.reason = "train", "RuntimeError: a | b"
                result.seconds = {"load": 1.0}
            on_result(result)

    monkeypatch.setattr(Sweep, "run", run)
    return tried


def test_results_are_kept_and_gone_on_with(light, tmp_path, fake_sweep):
    file, page, lines = tmp_path / "zoo.json", tmp_path / "zoo.md", []
    options = {"backbone": light[0], "registry": str(light[1]), "json_file": file, "say": lines.append}
    configs = [LIGHT, "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"]
    failed = report.run_and_report(configs, markdown=page, **options)
    assert [result.family for result in failed] == ["fcos"]
    assert lines[-1] == "1 of 2 passed"
    assert fake_sweep == configs
    with pytest.raises(ConfigError, match=r"exists\. Go on with it by --resume"):
        report.run_and_report(configs, **options)

    kept = Results.read(file)
    assert kept.passed_families() == {"retinanet"}
    assert page.read_text() == render(kept)
    assert "| fcos | train | `RuntimeError: a \\| b` |" in page.read_text()

    # Named again: tried again. Not named: what passed is left alone, what failed is not.
    report.run_and_report([LIGHT], resume=True, **options)
    assert fake_sweep[2:] == [LIGHT]
    assert Results.read(file) == kept


def test_resume_tries_what_is_missing_or_failed(light, tmp_path, fake_sweep, monkeypatch):
    two = [
        Family("retinanet", LIGHT),
        Family("fcos", "fcos/fcos_r50.py"),
        Family("hrnet", None, "backbones: HRNet"),
    ]
    monkeypatch.setattr(report, "find_families", lambda names, depth: two)
    options = {"backbone": light[0], "registry": str(light[1]), "json_file": tmp_path / "zoo.json"}
    report.run_and_report([], **options)
    report.run_and_report([], resume=True, **options)
    assert fake_sweep == [LIGHT, "fcos/fcos_r50.py", "fcos/fcos_r50.py"]
    assert Results.read(tmp_path / "zoo.json").without == {"hrnet": "backbones: HRNet"}


def test_results_of_another_backbone_are_not_mixed(light, tmp_path, fake_sweep):
    file = tmp_path / "zoo.json"
    options = {"backbone": light[0], "registry": str(light[1]), "json_file": file}
    report.run_and_report([LIGHT], **options)
    document = json.loads(file.read_text())
    document["environment"]["backbone"]["tensors_digest"] = "0" * 64
    file.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"its backbone is .*0000"):
        report.run_and_report([LIGHT], resume=True, **options)
    file.write_text("{}")
    with pytest.raises(ConfigError, match="holds no results"):
        report.run_and_report([LIGHT], resume=True, **options)


def test_bad_places_are_refused_before_any_trial(tmp_path, fake_sweep):
    with pytest.raises(ConfigError, match="--resume goes on with a file"):
        report.run_and_report([LIGHT], None, None, resume=True)
    with pytest.raises(ConfigError, match="--markdown"):
        report.run_and_report([LIGHT], None, None, markdown=tmp_path / "no" / "zoo.md")
    assert fake_sweep == []


# ---- the published page


def test_the_page_is_the_rendering_of_its_results(published):
    assert (DOCS / "model_zoo.md").read_text() == render(published), (
        "docs/model_zoo.md is generated: "
        "run `sosr-det zoo --json docs/model_zoo.json --markdown docs/model_zoo.md --resume`"
    )


def test_at_least_75_families_pass(published):
    assert len(published.passed_families()) >= 75
    for result in published.passed():
        assert result.failed is None
        assert result.tensors >= 265  # at least the parameters and statistics of a ResNet-50
        assert result.backbones
        assert result.loss == result.loss
        assert int(result.updated.split()[0]) > 0
        assert result.predicted
    for result in published.failed():
        assert result.failed in STAGES
        assert len(result.reason) > 10


def test_the_page_is_about_the_configs_that_are_found(published, chosen):
    assert {result.family: result.config for result in published.trials.values()} == chosen


@pytest.mark.slow
def test_the_other_families_have_no_resnet50(published):
    """Their descriptions may differ: some configs load only where mmpretrain is installed."""
    others = find_families(sorted(published.without))
    assert [family.config for family in others] == [None] * len(published.without)
    assert all(family.why_none.startswith(("backbones: ", "no backbone")) for family in others)


def test_the_page_names_no_machine(published):
    text = (DOCS / "model_zoo.json").read_text() + (DOCS / "model_zoo.md").read_text()
    assert "site-packages" not in text
    assert str(Path.home()) + "/" not in text
    assert str(DOCS.parent) not in text


def test_the_page_marks_what_failed():
    """A rendering in miniature: stages, notes, reasons, places that are not the usual one."""
    results = Results(
        {"backbone": {"arch": "resnet50"}, "image_size": 128, "mmcv_ops": "torchvision", "versions": {}}
    )
    good, bad = passing("a", "a/a_r50.py"), Trial("b", "b/b_r50.py", {"load": 0.1, "swap": 0.2})
    good.backbones, good.adjusted, good.extra = (
        ["model.detector.backbone"],
        ["less of it"],
        ["layer3.*.conv_offset.*"],
    )
    bad.failed, bad.reason, bad.adjusted = "build", "KeyError: 'x'", ["other", "less of it"]
    for result in (bad, good):
        results.add(result)
    results.note([Family("c", None, "backbones: HRNet")])
    page = render(results)
    assert "**1 of 2 families pass.**" in page
    assert (
        "| a | `a_r50.py` | ✓ | ✓ | ✓ | ✓ | ✓ | 318 | 1.5 | 3 of 4 | 7 pred_instances | 6.0 | "
        "a, allowed: `layer3.*.conv_offset.*`, backbone: `model.detector.backbone` |" in page
    )
    assert "| b | `b_r50.py` | ✓ | ✗ |  |  |  |  |  |  |  | 0.3 | b, a |" in page
    assert "- **a**: less of it\n- **b**: other" in page
    assert "| b | build | `KeyError: 'x'` |" in page
    assert "| c | backbones: HRNet |" in page


# ---- many families for real


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        ["faster_rcnn", "fcos", "cascade_rcnn", "mask_rcnn", "point_rend", "reppoints"],
        ["deformable_detr", "dino", "sparse_rcnn", "mask2former", "condinst", "boxinst"],
        ["htc", "panoptic_fpn", "maskformer", "fast_rcnn", "yolact", "clrnet"],
        ["qdtrack", "masktrack_rcnn", "soft_teacher", "ld", "tood", "gn"],
        ["carafe", "guided_anchoring", "dcn", "dcnv2", "dyhead", "gcnet"],
    ],
    ids=["detectors", "queries", "annotations", "tasks", "ops"],
)
def test_a_spread_of_families_passes(names, tmp_path):
    lines = []
    assert (
        report.run_and_report(names, None, None, json_file=tmp_path / "zoo.json", say=lines.append) == []
    ), lines
    assert Results.read(tmp_path / "zoo.json").passed_families() == set(names)
