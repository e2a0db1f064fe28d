"""Splitting a model's state dict into backbone and rest."""

import pytest
import torch

from sosr_det.errors import CheckpointError
from sosr_det.registry.backbone_state import split_backbone


def test_split_keeps_every_tensor_once():
    state = {
        "backbone.conv1.weight": torch.ones(1),
        "backbone.a.backbone.b": torch.ones(2),
        "head.fc": torch.ones(3),
    }
    backbone, rest = split_backbone(state)
    assert list(backbone) == ["conv1.weight", "a.backbone.b"]
    assert list(rest) == ["head.fc"]
    assert backbone["conv1.weight"] is state["backbone.conv1.weight"]
    assert split_backbone(state, "") == (state, {})


@pytest.mark.parametrize(
    ("names", "prefix", "said"),
    [
        (["conv1.weight", "fc.bias"], "backbone.", r"none of 2 .*'conv1\.' \(1 tensors\)"),
        (["module.backbone.conv1.weight"], "backbone.", r"Did you mean the prefix 'module\.backbone\.'"),
        (["backbone.conv1"], "backbone", r"did you mean 'backbone\.'"),
        (["backbone."], "backbone.", "bare prefix"),
        ([], "backbone.", "empty"),
    ],
)
def test_nothing_matching_is_explained(names, prefix, said):
    with pytest.raises(CheckpointError, match=said):
        split_backbone({name: torch.ones(1) for name in names}, prefix)
