"""What tells two registry entries apart: fields, recipe texts and tensors. Torch is needed for distances only."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sosr_det.registry.digest import TensorSpec
from sosr_det.registry.entry import Entry
from sosr_det.registry.manifest import Manifest

if TYPE_CHECKING:
    from torch import Tensor

    from sosr_det.registry.store import Registry

_OTHER_STAGE = "other"


@dataclass(frozen=True)
class Change:
    """A field that differs: its path, its value in A and in B (None where one has no such field)."""

    field: str
    a: Any
    b: Any


@dataclass(frozen=True)
class TensorDistance:
    """How far B's tensor lies from A's, computed in float64.

    ``relative_l2`` is ``|b - a| / |a|``: 0 for equal values, infinite where a is all 0 and b is not. ``max_abs`` is the
    largest difference of one value. ``cosine`` of the angle between them as vectors, -1 to 1; None where one of them is
    all 0. All three are NaN where a value is NaN or infinite.
    """

    name: str
    relative_l2: float
    max_abs: float
    cosine: float | None


@dataclass(frozen=True)
class StageDistance:
    """All tensors of a stage (``layer1`` …) as one vector: how many there are, how many differ, and how far."""

    stage: str
    num_tensors: int
    num_different: int
    relative_l2: float


@dataclass
class TensorDiff:
    """Names by what became of them; ``distances`` of the different ones, the largest relative distance first and
    counters (integers) last.

    ``distances`` and ``stages`` are None where only digests were compared.
    """

    identical: list[str]
    different: list[str]
    only_a: list[str]
    only_b: list[str]
    other_type: dict[str, tuple[str, str]]
    distances: list[TensorDistance] | None = None
    stages: list[StageDistance] | None = None


@dataclass
class EntryDiff:
    """Everything that tells entry A from entry B; ``same_weights`` compares every bit of the tensors."""

    same_weights: bool
    fields: list[Change]
    metrics: list[Change]
    recipe: list[str]
    tensors: TensorDiff

    @property
    def identical(self) -> bool:
        """Whether nothing differs but the time of publishing."""
        return self.same_weights and not (self.fields or self.metrics or self.recipe)


def diff_entries(registry: Registry, a: Entry, b: Entry, with_distances: bool = True) -> EntryDiff:
    """Compare two entries of one registry.

    ``with_distances`` loads the weights, verified, when they are not the same; without it only the tensors' digests in
    the manifests are compared, which tells apart but not how far. A backbone beside a detector is compared with the
    backbone in it.

    Raises:
        RegistryError, CorruptEntryError: see :meth:`sosr_det.registry.store.Registry.load`.
    """
    mixed = a.manifest.kind != b.manifest.kind

    def named(entry: Entry, table: Mapping[str, Any]) -> Mapping[str, Any]:
        if not mixed or entry.manifest.kind != "detector":
            return table
        return {name.removeprefix("backbone."): value for name, value in table.items()}

    tensors = compare_specs(named(a, a.manifest.tensors), named(b, b.manifest.tensors))
    if with_distances and tensors.different:
        values = [named(entry, registry.load(entry)) for entry in (a, b)]
        tensors.distances, tensors.stages = compare_values(*values, tensors)
    return EntryDiff(
        same_weights=a.tensors_digest == b.tensors_digest,
        fields=changed_fields(a.manifest, b.manifest),
        metrics=_changes("", dict(a.manifest.metrics), dict(b.manifest.metrics)),
        recipe=recipe_diff(a, b),
        tensors=tensors,
    )


def changed_fields(a: Manifest, b: Manifest) -> list[Change]:
    """Fields of two manifests that differ, by dotted path.

    Without metrics, tensors and the recipe's text, which are compared on their own; without the time of publishing; and
    without the probe's values where the weights differ, whose consequence they are.
    """
    described = [_described(manifest) for manifest in (a, b)]
    if a.tensors_digest != b.tensors_digest:
        for document in described:
            document["probe"] = (document.get("probe") or {}).get("input")
    return _changes("", *described)


def recipe_diff(a: Entry, b: Entry) -> list[str]:
    """Unified diff of the two recipes' texts, without line ends; empty when they are equal."""
    texts = [entry.manifest.recipe.config_text if entry.manifest.recipe else "" for entry in (a, b)]
    lines = difflib.unified_diff(texts[0].splitlines(), texts[1].splitlines(), a.uri, b.uri, n=2, lineterm="")
    return list(lines)


def compare_specs(a: Mapping[str, TensorSpec], b: Mapping[str, TensorSpec]) -> TensorDiff:
    """Sort names by what their types and digests say."""
    diff = TensorDiff([], [], sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys()), {})
    for name in sorted(a.keys() & b.keys()):
        if (a[name].dtype, a[name].shape) != (b[name].dtype, b[name].shape):
            diff.other_type[name] = (str(a[name]), str(b[name]))
        elif a[name].sha256 == b[name].sha256:
            diff.identical.append(name)
        else:
            diff.different.append(name)
    return diff


def compare_values(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], diff: TensorDiff
) -> tuple[list[TensorDistance], list[StageDistance]]:
    """Distances of the tensors that differ, and of whole stages over all tensors that can be compared.

    Counters (integers) come last and are left out of the stages' distances: both would show nothing else.
    """
    distances = []
    squares: dict[str, list[float]] = {}  # stage -> |b - a|^2, |a|^2, number, number of different ones
    for name in sorted(diff.identical + diff.different):
        sums = squares.setdefault(_stage(name), [0.0, 0.0, 0, 0])
        before, after = _float64(a[name]), _float64(b[name])
        gap, size = after - before, float(before.abs().square().sum())
        gap_size = float(gap.abs().square().sum())
        sums[2] += 1
        if name in diff.different:
            sums[3] += 1
            distances.append(
                TensorDistance(name, _relative(gap_size, size), _largest(gap), _cosine(before, after))
            )
        if a[name].is_floating_point():
            sums[0] += gap_size
            sums[1] += size
    far = {row.name: row.relative_l2 if row.relative_l2 == row.relative_l2 else math.inf for row in distances}
    distances.sort(key=lambda row: (not a[row.name].is_floating_point(), -far[row.name], row.name))
    stages = [
        StageDistance(stage, int(count), int(different), _relative(gap_size, size))
        for stage, (gap_size, size, count, different) in sorted(squares.items())
    ]
    return distances, stages


def _described(manifest: Manifest) -> dict[str, Any]:
    document = manifest.to_dict()
    for key in ("metrics", "tensors", "tensors_digest", "size_bytes", "schema_version", "created"):
        document.pop(key)
    if document["recipe"]:
        document["recipe"] = document["recipe"]["config_name"]  # the text is compared on its own
    if len(document["classes"]) > 0:  # their digest tells apart; a thousand names would not be read
        document["classes"] = f"{len(document['classes'])} classes"
    return document


def _changes(path: str, a: Any, b: Any) -> list[Change]:
    """Leaves that differ; a list is a leaf."""
    if isinstance(a, dict) and isinstance(b, dict):
        changes = []
        for key in sorted(a.keys() | b.keys()):
            changes += _changes(f"{path}.{key}" if path else key, a.get(key), b.get(key))
        return changes
    return [] if a == b else [Change(path, a, b)]


def _stage(name: str) -> str:
    """The first part of a name below a ``backbone.``: ``layer1``, ``stem``, ``bbox_head``; bare names share one."""
    parts = name.removeprefix("backbone.").split(".")
    return parts[0] if len(parts) > 1 else _OTHER_STAGE


def _float64(tensor: Tensor) -> Tensor:
    import torch

    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64).flatten()


def _relative(gap_square: float, square: float) -> float:
    if math.isnan(gap_square) or math.isnan(square) or math.isinf(gap_square) or math.isinf(square):
        return math.nan
    if square == 0:
        return math.inf if gap_square else 0.0
    return math.sqrt(gap_square / square)


def _largest(gap: Tensor) -> float:
    value = float(gap.abs().max()) if gap.numel() else 0.0
    return value if math.isfinite(value) else math.nan


def _cosine(a: Tensor, b: Tensor) -> float | None:
    norms = float(a.norm()) * float(b.norm())
    if norms == 0:
        return None
    value = float((a.conj() * b).sum().real) / norms
    return min(1.0, max(-1.0, value)) if math.isfinite(value) else math.nan
