"""Who wrote a file that says nothing about itself, by how its tensors are named."""

from __future__ import annotations

from sosr_det.transfer.foreign.choosing import Choice
from sosr_det.transfer.foreign.evidence import Evidence
from sosr_det.transfer.foreign.preprocessing import TORCHVISION


def evidence_of_layout(choice: Choice) -> Evidence | None:
    """What the names of a whole model tell, where they are one project's own; else None.

    MoCo and DETR train torchvision's ResNet under torchvision's normalisation, see ``main_moco.py`` in
    https://github.com/facebookresearch/moco and ``datasets/coco.py`` in https://github.com/facebookresearch/detr;
    torchvision's own detectors normalise inside the model, with the same numbers.
    """
    parts = choice.prefix.split(".")
    names = choice.state.tensors
    if "encoder_q" in parts and any(".encoder_k." in f".{name}" or name.endswith("queue") for name in names):
        return _torchvision("MoCo", "it holds encoder_q beside encoder_k or a queue")
    if "base_encoder" in parts and any("momentum_encoder." in name for name in names):
        return _torchvision("MoCo v3", "it holds base_encoder beside momentum_encoder")
    if choice.prefix.endswith("backbone.0.body."):
        return _torchvision("DETR", "its backbone is under backbone.0.body")
    if choice.prefix.endswith("backbone.body."):
        return _torchvision("a detector of torchvision", "its backbone is under backbone.body")
    return None


def _torchvision(project: str, why: str) -> Evidence:
    said = f"{project} uses torchvision's ResNet and normalisation"
    return Evidence(
        project=project,
        why=why,
        style="pytorch",
        style_why=said,
        preprocessing=TORCHVISION,
        preprocessing_why=said,
        license_why="the file states none",
        assumptions=[
            f"the file was taken to be {project}'s because {why}; style and preprocessing follow from that"
        ],
    )
