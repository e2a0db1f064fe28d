"""Where a model's backbones stand: in its config, and in the built model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sosr_det.engine.configs import bare_type

# Networks that are no part of the detector that learns: a distillation teacher, a tracker's re-identification.
_OTHERS = ("teacher", "reid")


@dataclass(frozen=True)
class Backbone:
    """A backbone in a model's config: where it stands (``model.detector.backbone``), and its settings."""

    place: str
    settings: dict[str, Any] = field(hash=False)

    @property
    def type_name(self) -> str:
        """The class, without MMDetection's scope: "ResNet"; the architecture of a classifier of ours."""
        if self.is_ours:
            return str(self.settings["arch"])
        return bare_type(self.settings.get("type"), "mmdet")

    @property
    def is_ours(self) -> bool:
        """A classifier's of this project, built by :func:`sosr_det.models.build_backbone`."""
        return "arch" in self.settings and "type" not in self.settings


def find_backbones(model: Any, place: str = "model") -> Iterator[Backbone]:
    """Every backbone of the detector (or classifier) inside a model's config, nested ones too.

    Those of other networks in the same config are left out; :func:`other_backbones` names them.
    """
    yield from (backbone for backbone in _walk(model, place) if not _is_other(backbone.place))


def other_backbones(model: Any, place: str = "model") -> list[str]:
    """Places of networks that a swap leaves alone: ``model.teacher_backbone``, ``model.reid.backbone``."""
    return [backbone.place for backbone in _walk(model, place) if _is_other(backbone.place)]


def shared_stages(model: Any, place: str = "model") -> Iterator[Backbone]:
    """Stages of a ResNet that a detector has outside its backbone (``ResLayer``, as the C4 detectors do)."""
    if isinstance(model, dict):
        if bare_type(model.get("type")) == "ResLayer" and "depth" in model:
            yield Backbone(place, model)
        for key, value in model.items():
            yield from shared_stages(value, f"{place}.{key}")
    elif isinstance(model, (list, tuple)):
        for index, value in enumerate(model):
            yield from shared_stages(value, f"{place}.{index}")


def holders(model: Any, place: str) -> Iterator[tuple[str, dict]]:
    """The dicts around ``place``, outermost first, with their own places: ``model``, ``model.detector``."""
    node, path = model, "model"
    for key in place.split(".")[1:]:
        if isinstance(node, dict):
            yield path, node
            node = node.get(key)
        else:
            node = node[int(key)]
        path = f"{path}.{key}"


def live_backbones(model: Any) -> dict[str, Any]:
    """The detector's backbone modules in a built model, by their names in it.

    A semi-supervised model has two, ``student.backbone`` and ``teacher.backbone``, which start as the same.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "backbone" and not {"reid", "teacher_model"} & set(name.split("."))
    }


def live_shared_stages(model: Any, backbone_name: str) -> dict[str, Any]:
    """State dict of the ResNet stages that stand outside of a live backbone, under the names of a whole ResNet."""
    root = backbone_name.rpartition("backbone")[0]
    state: dict[str, Any] = {}
    for name, module in model.named_modules():
        stage = getattr(module, "stage", None)
        if name.startswith(root) and type(module).__name__ == "ResLayer" and isinstance(stage, int):
            state |= {
                key: value
                for key, value in module.state_dict().items()
                if key.startswith(f"layer{stage + 1}.")
            }
    return state


def _walk(node: Any, place: str) -> Iterator[Backbone]:
    if isinstance(node, dict):
        for key, value in node.items():
            inner = f"{place}.{key}"
            if str(key).endswith("backbone") and isinstance(value, dict) and {"type", "arch"} & value.keys():
                # `rfp_backbone` and the like belong to a neck, and are no backbone of a ResNet's layout.
                if key == "backbone" or _is_other(inner):
                    yield Backbone(inner, value)
            else:
                yield from _walk(value, inner)
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _walk(value, f"{place}.{index}")


def _is_other(place: str) -> bool:
    return any(part.startswith(_OTHERS) for part in place.split("."))
