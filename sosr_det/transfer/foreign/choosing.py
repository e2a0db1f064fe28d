"""Which tensors of a checkpoint are the backbone: one place, or a refusal that lists them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from sosr_det.errors import CheckpointError
from sosr_det.registry.backbone_state import split_backbone
from sosr_det.transfer.foreign.architectures import FIRST_BLOCK, STEM
from sosr_det.transfer.foreign.states import State

# What a network is wrapped in, by people whose files are known: DataParallel, torch.compile, OpenMMLab, torchvision's
# and DETR's detectors, MoCo, DINO, semi-supervised detectors. Any other prefix has to be named by the caller, because
# a network that is one part of something unknown may have been trained on something else than RGB images.
WRAPPERS = frozenset(
    {"module", "_orig_mod", "backbone", "model", "net", "network", "encoder", "encoder_q", "base_encoder"}
    | {"student", "teacher", "ema", "model_ema", "ema_model", "detector", "body", "trunk", "resnet", "0"}
    | {"feature_extractor", "conv_encoder", "timm_model"}
)
# Two copies of one network under these names: the first is what the project's own conversion takes.
# https://github.com/facebookresearch/moco/blob/main/detection/convert-pretrain-to-detectron2.py
# https://github.com/facebookresearch/moco-v3/blob/main/main_lincls.py
_TWINS = {"encoder_q": ("encoder_k", "MoCo"), "base_encoder": ("momentum_encoder", "MoCo v3")}
# What a classifier or a self-supervised method puts behind a backbone.
HEADS = frozenset(
    {"fc", "head", "classifier", "last_linear", "output", "projector", "projection_head", "predictor"}
    | {"prototypes", "mlp", "last_layer"}
)


@dataclass
class Choice:
    """``state``'s tensors under ``prefix`` are the backbone; ``notes`` say what was decided."""

    state: State
    prefix: str
    notes: list[str] = field(default_factory=list)

    def inside(self) -> dict[str, Tensor]:
        """The tensors under the prefix, by their names without it."""
        return split_backbone(self.state.tensors, self.prefix)[0]

    def outside(self) -> list[str]:
        """Full names of the tensors that are not under the prefix."""
        return list(split_backbone(self.state.tensors, self.prefix)[1])

    def flags(self) -> str:
        """The options that choose it."""
        return f"--key {self.state.key} --prefix {self.prefix or repr('')}"


def choose(
    states: Sequence[State], expected: Iterable[str] | None, key: str | None = None, prefix: str | None = None
) -> Choice:
    """Find the one backbone.

    Args:
        states: what :func:`find_states` found.
        expected: the names that the wanted network must have, without prefix; None: any ResNet.
        key: take this place only.
        prefix: take the names under this prefix only.

    Raises:
        CheckpointError: no backbone (what is there instead is listed), or several that fit equally (all are listed with
            the options that choose one).
    """
    if key is not None:
        chosen = [state for state in states if state.key == key]
        if not chosen:
            raise CheckpointError(
                f"the file has no tensors under the key {key!r}; it has some under "
                f"{', '.join(repr(s.key) for s in states) or 'no key'}. Choose one of these with --key."
            )
        states = chosen
    if not states:
        raise CheckpointError("the file holds no network: no matrix or kernel is stored by name in it.")
    fits = [Choice(state, found) for state in states for found in _prefixes(state.tensors, expected)]
    if prefix is not None:
        fits = [choice for choice in fits if choice.prefix == prefix]
        if not fits and len(states) == 1:
            split_backbone(states[0].tensors, prefix)  # explains a prefix that nothing starts with
    if not fits:
        raise CheckpointError(_nothing(states, expected, prefix))
    if len(fits) > 1:
        fits = [_without_twin(fits)]
    (choice,) = fits
    odd = [part for part in choice.prefix.rstrip(".").split(".") if part and part not in WRAPPERS]
    if prefix is None and odd:
        raise CheckpointError(
            f"the only backbone in the file is under the prefix {choice.prefix!r}, and {odd[0]!r} is no usual wrapper, "
            f"so it may be a part of something else. If it is what you mean, say so: --prefix {choice.prefix}"
        )
    return choice


def group_of(name: str, prefix: str) -> str:
    """Where a left-out tensor belongs, for counting: its path as far as the backbone's, and one part more."""
    parts, wrapper = name.split("."), prefix.rstrip(".").split(".") if prefix else []
    shared = 0
    while shared < min(len(wrapper), len(parts) - 1) and parts[shared] == wrapper[shared]:
        shared += 1
    return ".".join(parts[: shared + 1])


def _prefixes(tensors: Mapping[str, Tensor], expected: Iterable[str] | None) -> list[str]:
    wanted = [STEM, FIRST_BLOCK] if expected is None else list(expected)
    anchor = max(wanted, key=len)
    found = {name[: -len(anchor)] for name in tensors if name.endswith(anchor)}
    found = {prefix for prefix in found if not prefix or prefix.endswith(".")}
    return sorted(prefix for prefix in found if all(prefix + name in tensors for name in wanted))


def _without_twin(fits: list[Choice]) -> Choice:
    """The one that is meant where the others are its known copy, else a refusal."""
    for choice in fits:
        for name, (twin, project) in _TWINS.items():
            if f"{name}." not in choice.prefix:
                continue
            copy = choice.prefix.replace(f"{name}.", f"{twin}.")
            if {(c.state.key, c.prefix) for c in fits} == {
                (choice.state.key, p) for p in (choice.prefix, copy)
            }:
                choice.notes.append(
                    f"of {project}'s two copies {name} was taken, as {project}'s own conversion does"
                )
                return choice
    same_prefix = len({choice.prefix for choice in fits}) == 1
    same_key = len({choice.state.key for choice in fits}) == 1
    lines = []
    for choice in fits:
        flags = f"--prefix {choice.prefix or repr('')}" if same_key else choice.flags()
        flags = f"--key {choice.state.key}" if same_prefix else flags
        lines.append(f"  {flags}  ({len(choice.inside())} tensors under {choice.state.place})")
    keys = {choice.state.key for choice in fits}
    hint = (
        "\nMMEngine's EMAHook stores the averaged weights under 'state_dict' and the others under 'ema_state_dict'."
        if keys == {"state_dict", "ema_state_dict"}
        else ""
    )
    raise CheckpointError(
        f"the file holds {len(fits)} backbones that fit equally well; choose one:\n" + "\n".join(lines) + hint
    )


def _nothing(states: Sequence[State], expected: Iterable[str] | None, prefix: str | None) -> str:
    wanted = (
        "a ResNet's conv1.weight and layer1.0.conv1.weight"
        if expected is None
        else "the named network's tensors"
    )
    where = "" if prefix is None else f" under the prefix {prefix!r}"
    lines = [f"the file has no backbone that is known here{where}: nowhere are {wanted}. It holds"]
    for state in states:
        counts = Counter(name.partition(".")[0] for name in state.tensors)
        groups = ", ".join(f"{group} ({count})" for group, count in counts.most_common(8))
        lines.append(f"  in {state.place}: {groups}{', …' if len(counts) > 8 else ''}")
    names = [name for state in states for name in state.tensors]
    if all(name.partition(".")[0] in HEADS for name in names):
        lines.append("These are a classifier's head alone; the file with the whole network is needed.")
    elif expected is not None:
        missing = _closest(states, list(expected))
        lines.append(f"The closest place lacks {missing}; another --arch?" if missing else "")
    elif any(name.endswith(("conv1.0.weight", "stem.0.weight")) for name in names):
        lines.append(
            "It is a ResNet with a deep stem (ResNet-C or -D). If timm has it, name it: --arch timm/resnet50d"
        )
    else:
        lines.append("Networks other than ResNets need their name: --arch timm/NAME")
    return "\n".join(line for line in lines if line)


def _closest(states: Sequence[State], expected: list[str]) -> str:
    """The names that the place with most of the wanted ones lacks."""
    best: list[str] = expected
    for state in states:
        starts = {""} | {n[: -len(e)] for e in expected[:4] for n in state.tensors if n.endswith(f".{e}")}
        for prefix in starts:
            missing = [name for name in expected if prefix + name not in state.tensors]
            best = min(best, missing, key=len)
    shown = ", ".join(best[:4])
    return f"{len(best)} of {len(expected)} tensors ({shown}{', …' if len(best) > 4 else ''})"
