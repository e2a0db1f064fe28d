"""What can be changed about a detector between training and testing: scale, thresholds, test-time augmentation.

Every setting is applied to the place where the config's own head reads it. A config without such a place is refused:
a threshold that nothing reads would be recorded as if it had been used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

from sosr_det.engine.configs import bare_type
from sosr_det.engine.selection import dataset_leaves
from sosr_det.errors import ConfigError

TTA_FACTORS = (1.0, 0.5, 1.5)  # of the test scale; those of mmdet::retinanet/retinanet_tta.py
SMALLEST_SIDE = 32  # pixels: the coarsest stride of a ResNet
LARGEST_SIDE = 10_000


@dataclass(frozen=True)
class InferenceSettings:
    """Overrides of a config's test settings; None and False leave what the config says.

    Attributes:
        tta: test-time augmentation: every image at 3 scales, each with its mirror image; merged by the head's NMS.
        score_threshold: detections at or below this score are dropped before NMS; 0 <= t < 1. 0 keeps all that the
            head gives (slow, and no average precision gets lower), close to 1 keeps next to none.
        nms_iou_threshold: of two boxes of a class that overlap by more than this IoU, the lower score goes;
            0 <= t <= 1. 0 lets no two boxes overlap at all, 1 removes nothing.
        image_scale: width, height in pixels of the box that images are fitted into (with ``keep_ratio``; MMDetection
            takes the two numbers in any order then), or are stretched to (without); each 32 to 10,000.
    """

    tta: bool = False
    score_threshold: float | None = None
    nms_iou_threshold: float | None = None
    image_scale: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _require_range(
            "--score-threshold", self.score_threshold, 1.0, "0 keeps all detections; 1 would keep none"
        )
        _require_range(
            "--nms-iou-threshold",
            self.nms_iou_threshold,
            math.nextafter(1.0, 2.0),
            "0 lets no two boxes of a class overlap, 1 removes no box",
        )
        if self.image_scale is not None and (
            len(self.image_scale) != 2
            or not all(
                isinstance(side, int) and SMALLEST_SIDE <= side <= LARGEST_SIDE for side in self.image_scale
            )
        ):
            raise ConfigError(
                f"--image-scale needs width and height in pixels, each {SMALLEST_SIDE} to {LARGEST_SIDE}, such as "
                f"1000,600; got {','.join(map(str, self.image_scale))}"
            )

    @property
    def changed(self) -> bool:
        """Whether anything differs from what the config says."""
        return self != InferenceSettings()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for run records."""
        return asdict(self)


def parse_image_scale(text: str) -> tuple[int, int]:
    """``1000,600`` (or ``1000x600``) as width and height.

    Raises:
        ConfigError: not two whole numbers.
    """
    parts = text.replace("x", ",").split(",")
    try:
        width, height = (int(part) for part in parts)
    except ValueError:
        raise ConfigError(f"--image-scale needs W,H in pixels, such as 1000,600; got {text!r}") from None
    return width, height


def apply_inference_settings(cfg: Any, settings: InferenceSettings) -> dict[str, Any]:
    """Change a config's test part.

    Args:
        cfg: ``mmengine.config.Config`` of a detector, changed in place; not changed where something is refused first.
        settings: what to change.

    Returns:
        What will be used, for the record: ``score_threshold``, ``nms_iou_threshold`` and ``image_scale`` of the config
        or the override (None where the config has no such place), and ``tta`` with its scales, or False.

    Raises:
        ConfigError: an override for which the config has no place; names what was looked for.
    """
    model = cfg.model
    scores = list(_places(model, "score_thr"))
    nms = list(_nms_places(model))
    resizes = list(resize_steps(cfg, "test_dataloader"))
    fixed = [step for step in resizes if is_scale(step.get("scale"))]
    if settings.score_threshold is not None:
        _require(scores, "--score-threshold", model, "test_cfg.score_thr or test_cfg.rcnn.score_thr")
        for node in scores:
            node["score_thr"] = settings.score_threshold
    if settings.nms_iou_threshold is not None:
        _require(
            nms, "--nms-iou-threshold", model, "test_cfg.nms.iou_threshold or test_cfg.rcnn.nms.iou_threshold"
        )
        for node in nms:
            node["nms"]["iou_threshold"] = settings.nms_iou_threshold
    if settings.image_scale is not None:
        if not fixed:
            kinds = ", ".join(bare_type(step["type"]) for step in resizes) or "no Resize step"
            raise ConfigError(
                f"--image-scale: the test pipeline resizes to no fixed scale (it has {kinds}), so there is nothing to "
                "set. It needs a step dict(type='Resize', scale=(W, H))."
            )
        for step in fixed:
            step["scale"] = tuple(settings.image_scale)
    used: dict[str, Any] = {
        "tta": False,
        "score_threshold": scores[0]["score_thr"] if scores else None,
        "nms_iou_threshold": nms[0]["nms"]["iou_threshold"] if nms else None,
        "image_scale": list(fixed[0]["scale"]) if fixed else None,
    }
    if settings.tta:
        used["tta"] = _add_tta(cfg, settings, nms, fixed)
    return used


# ---- test-time augmentation ----------------------------------------------------------------------------------------


def _add_tta(cfg: Any, settings: InferenceSettings, nms: list[dict], fixed: list[dict]) -> dict[str, Any]:
    """Wrap the model and replace the test pipeline: by the config's own ``tta_model`` and ``tta_pipeline``, or ours."""
    from mmengine.config import ConfigDict

    if cfg.get("tta_pipeline") is not None:
        if settings.image_scale is not None:
            raise ConfigError(
                "--tta --image-scale: the config has a tta_pipeline with scales of its own; change those."
            )
        pipeline = deepcopy(cfg.tta_pipeline)
    else:
        pipeline = _tta_pipeline(cfg, fixed)
    tta_model = deepcopy(cfg.get("tta_model"))
    if tta_model is None:
        _require(nms, "--tta", cfg.model, "test_cfg.nms or test_cfg.rcnn.nms, which merges the views,")
        tta_model = {
            "type": "DetTTAModel",
            "tta_cfg": {
                "nms": deepcopy(dict(nms[0]["nms"])),
                "max_per_img": nms[0].get("max_per_img", 100),
            },
        }
    elif settings.nms_iou_threshold is not None:
        merging = (tta_model.get("tta_cfg") or {}).get("nms") or {}
        merging["iou_threshold"] = settings.nms_iou_threshold
    for leaf in dataset_leaves(cfg.test_dataloader.get("dataset")):
        leaf["pipeline"] = deepcopy(pipeline)
    cfg.model = ConfigDict(**tta_model, module=cfg.model)
    scales = [list(step["scale"]) for step in _walk_steps(pipeline) if is_scale(step.get("scale"))]
    return {"scales": scales, "flip": True}


def _tta_pipeline(cfg: Any, fixed: list[dict]) -> list:
    from mmengine.config import ConfigDict

    for leaf in dataset_leaves(cfg.test_dataloader.get("dataset")):
        steps = leaf.get("pipeline") or []
        place = next((i for i, step in enumerate(steps) if any(step is one for one in fixed)), None)
        if place is None or bare_type(steps[-1]["type"]) != "PackDetInputs":
            break
        resize, *middle, pack = steps[place:]
        sizes = [tuple(round(side * factor) for side in resize["scale"]) for factor in TTA_FACTORS]
        if min(map(min, sizes)) < SMALLEST_SIDE:
            raise ConfigError(
                f"--tta: half of the scale {tuple(resize['scale'])} is below {SMALLEST_SIDE} px; give a larger "
                "--image-scale."
            )
        keys = [*dict.fromkeys([*pack.get("meta_keys", _META_KEYS), "flip", "flip_direction"])]
        views = {
            "type": "TestTimeAug",
            "transforms": [
                [{**deepcopy(dict(resize)), "scale": size} for size in sizes],
                [{"type": "RandomFlip", "prob": 0.0}, {"type": "RandomFlip", "prob": 1.0}],
                # Ground truth is loaded last: it is not resized or mirrored along.
                *([deepcopy(dict(step))] for step in middle),
                [{**deepcopy(dict(pack)), "meta_keys": tuple(keys)}],
            ],
        }
        return [*deepcopy(list(steps[:place])), ConfigDict(views)]
    raise ConfigError(
        "--tta: the test pipeline is not one of loading, Resize to a fixed scale, …, PackDetInputs; give the config "
        "a tta_pipeline (see mmdet::retinanet/retinanet_tta.py)."
    )


_META_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")


# ---- places --------------------------------------------------------------------------------------------------------


def _test_cfgs(model: Any) -> Iterator[dict]:
    """The settings that decide about the final detections: ``test_cfg``, or its ``rcnn`` part; not those of proposals.

    A cascade's stages share one ``rcnn``; a wrapper (semi-supervised, tracking) holds the detector one level down.
    """
    test_cfg = model.get("test_cfg")
    if isinstance(test_cfg, dict):
        rcnn = test_cfg.get("rcnn")
        if isinstance(rcnn, dict):
            yield rcnn
        elif "rpn" not in test_cfg:
            yield test_cfg
    if isinstance(model.get("detector"), dict):
        yield from _test_cfgs(model["detector"])


def _places(model: Any, key: str) -> Iterator[dict]:
    return (node for node in _test_cfgs(model) if node.get(key) is not None)


def _nms_places(model: Any) -> Iterator[dict]:
    for node in _test_cfgs(model):
        nms = node.get("nms")
        if isinstance(nms, dict) and "iou_threshold" in nms:
            yield node


def resize_steps(cfg: Any, section: str) -> Iterator[dict]:
    """Every step of a section's pipelines whose type has ``Resize`` in its name."""
    loader = cfg.get(section) or {}
    for leaf in dataset_leaves(loader.get("dataset")):
        for step in _walk_steps(leaf.get("pipeline")):
            if "Resize" in bare_type(step.get("type")):
                yield step


def _walk_steps(node: Any) -> Iterator[dict]:
    if isinstance(node, dict):
        if "type" in node:
            yield node
        for value in node.values():
            yield from _walk_steps(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _walk_steps(value)


def is_scale(value: Any) -> bool:
    """Whether it is one width and height."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(v, int) for v in value)


def _require(found: list, flag: str, model: Any, wanted: str) -> None:
    if not found:
        raise ConfigError(
            f"{flag}: this config's {bare_type(model.get('type'))} has no {wanted}; nothing would read the setting."
        )


def _require_range(flag: str, value: float | None, below: float, ends: str) -> None:
    if value is None or (isinstance(value, (int, float)) and 0 <= value < below):
        return
    raise ConfigError(f"{flag} must lie between 0 and 1, got {value} ({ends}).")
