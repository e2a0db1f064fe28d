"""Taking a backbone's tensors out of a whole model's state dict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sosr_det.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


def split_backbone(
    state_dict: Mapping[str, Tensor], prefix: str = "backbone."
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a state dict into the backbone (names without ``prefix``) and the rest (names unchanged).

    ``prefix`` ends with a dot, or is empty when the whole state dict is the backbone. The tensors are not
    copied.

    Raises:
        CheckpointError: the prefix does not end with a dot; no name starts with it (the prefixes that
            there are get listed); or a name is the bare prefix.
    """
    if prefix and not prefix.endswith("."):
        raise CheckpointError(
            f"the prefix {prefix!r} does not end with a dot; did you mean {prefix + '.'!r}?"
        )
    backbone: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        if not name.startswith(prefix):
            rest[name] = tensor
        elif name == prefix:
            raise CheckpointError(f"a tensor is named {name!r}, the bare prefix; expected a name after it.")
        else:
            backbone[name[len(prefix) :]] = tensor
    if backbone:
        return backbone, rest
    if not state_dict:
        raise CheckpointError("the state dict is empty; expected a model's tensors. Check the checkpoint.")
    counts = Counter(name.partition(".")[0] + ("." if "." in name else "") for name in state_dict)
    seen = ", ".join(f"{start!r} ({count} tensors)" for start, count in counts.most_common(8))
    nested = sorted({name[: name.index(prefix) + len(prefix)] for name in state_dict if f".{prefix}" in name})
    hint = (
        f"Did you mean the prefix {nested[0]!r}?"
        if nested
        else "Pass the prefix of the backbone ('' for all)."
    )
    raise CheckpointError(
        f"none of {len(state_dict)} tensor names starts with {prefix!r}; they start with {seen}. {hint}"
    )
