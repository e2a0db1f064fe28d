"""Making a checkpoint's tensors exactly those of a network: every key, every shape, usable values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sosr_det.errors import CheckpointError
from sosr_det.registry.digest import tensor_type
from sosr_det.transfer.foreign.architectures import recognise_resnet
from sosr_det.transfer.foreign.choosing import HEADS

COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Fit:
    """``tensors`` by name, in the network's order and types, and what had to be done for it.

    ``taken``: the file's own tensors among them, as they were; ``left_out``: names of the head and of what the caller
    named; ``filled``: counters that the file lacked and that are 0; ``converted``: dtype in the file -> how many.
    """

    tensors: dict[str, Tensor]
    taken: dict[str, Tensor]
    left_out: list[str]
    filled: list[str]
    converted: dict[str, int]


def fit(
    tensors: Mapping[str, Tensor],
    network: nn.Module,
    arch: str,
    head_names: Collection[str] = (),
    drop: Collection[str] = (),
) -> Fit:
    """Compare tensors (names without prefix) with a network and load them into it, strictly.

    A missing ``num_batches_tracked`` becomes 0, as torch does it when it loads such a file: with a fixed momentum it
    enters no computation, old files lack it, and with it every consumer's keys are complete.

    Args:
        tensors: the file's.
        network: the backbone; gets the tensors.
        arch: its name, for messages.
        head_names: names of modules that are a classifier, besides the usual ones.
        drop: first parts of names that may be left out besides.

    Raises:
        CheckpointError: missing, unexpected or wrongly shaped tensors, types that cannot be kept exactly, NaN,
            infinite or negative where no network can use it.
    """
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in tensors and not name.endswith(COUNTER)]
    filled = [name for name in wanted if name not in tensors and name.endswith(COUNTER)]
    shapes = [
        f"{name} ({list(tensors[name].shape)}, expected {list(tensor.shape)})"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    left_over = [name for name in tensors if name not in wanted]
    allowed = [name for name in left_over if _is_head(name, head_names) or name.partition(".")[0] in drop]
    unexpected = [name for name in left_over if name not in set(allowed)]
    if missing or shapes or unexpected:
        raise CheckpointError(
            _mismatch(arch, len(wanted), missing, shapes, unexpected) + _other(tensors, arch)
        )
    taken = {name: tensors[name] for name in wanted if name in tensors}
    result: dict[str, Tensor] = {}
    converted: Counter[str] = Counter()
    for name, tensor in wanted.items():
        result[name] = (
            torch.zeros_like(tensor) if name not in taken else _converted(name, taken[name], tensor.dtype)
        )
        if name in taken and taken[name].dtype != tensor.dtype:
            converted[str(taken[name].dtype).removeprefix("torch.")] += 1
    _check_values(result)
    network.load_state_dict(result, strict=True)
    return Fit(result, taken, allowed, filled, dict(converted))


def _is_head(name: str, head_names: Collection[str]) -> bool:
    return name.partition(".")[0] in HEADS or any(name.startswith(f"{head}.") for head in head_names)


def _mismatch(arch: str, count: int, missing: list[str], shapes: list[str], unexpected: list[str]) -> str:
    lines = [f"the tensors are not those of {arch} ({count} tensors):"]
    for title, names in (("missing", missing), ("other shape", shapes), ("unexpected", unexpected)):
        if names:
            lines.append(f"  {len(names)} {title}: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}")
    if unexpected and not missing and not shapes:
        groups = sorted({name.partition(".")[0] for name in unexpected})
        inner = any(name.startswith("layer") for name in unexpected)
        lines.append(
            "The network has parts that this one lacks, so it computes something else; name the right one with --arch."
            if inner
            else "If they are no part of the backbone, leave them out by name: "
            + " ".join(f"--drop {group}" for group in groups[:8])
        )
    else:
        lines.append("Is the file complete, and is it this network? --arch names another one.")
    return "\n".join(lines)


def _other(tensors: Mapping[str, Tensor], arch: str) -> str:
    """What the tensors look like instead, where that is known."""
    try:
        found = recognise_resnet(tensors)
    except CheckpointError:
        return ""
    return "" if found == arch else f" The tensors look like those of {found}."


def _converted(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in the network's type, if that is exact."""
    tensor_type(name, tensor)
    tensor = tensor.detach().cpu()
    if tensor.dtype == dtype:
        return tensor
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise CheckpointError(f"no network can work with tensor {name}: it holds NaN or infinite values.")
    fine = tensor.is_floating_point() == dtype.is_floating_point or name.endswith(COUNTER)
    if fine and not tensor.is_complex():
        result = tensor.to(dtype)
        if torch.equal(result.to(torch.float64), tensor.to(torch.float64)):
            return result
    raise CheckpointError(
        f"tensor {name} is {tensor.dtype}, and its values cannot be kept exactly as {dtype}, which the network "
        "computes in. Convert the file yourself, so that the rounding is your decision."
    )


def _check_values(tensors: Mapping[str, Tensor]) -> None:
    reasons = []
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            reasons.append(f"{name} holds NaN or infinite values")
        elif name.endswith("running_var") and (tensor < 0).any():
            reasons.append(f"{name} holds negative variances")
        elif name.endswith(COUNTER) and (tensor < 0).any():
            reasons.append(f"{name} is negative")
    if reasons:
        raise CheckpointError(
            f"no network can work with these values: {'; '.join(reasons[:4])}"
            f"{f' and {len(reasons) - 4} more' if len(reasons) > 4 else ''}. "
            "Training diverged, or the file is damaged; take an earlier checkpoint or fetch it again."
        )
