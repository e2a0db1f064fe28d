"""``sosr-det registry import``: from somebody's checkpoint to a registry entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sosr_det.errors import ConfigError, RegistryError
from sosr_det.models.imagenet_resnets import set_style
from sosr_det.registry.digest import tensors_digest
from sosr_det.registry.manifest import Manifest, Parent, Preprocessing
from sosr_det.registry.names import DEFAULT_TAG, publishable_name
from sosr_det.registry.opening import open_registry
from sosr_det.registry.safe_load import load_state_file
from sosr_det.transfer.foreign import exported, openmmlab, timm_zoo, torchvision_zoo
from sosr_det.transfer.foreign.architectures import Network, build, recognise_resnet
from sosr_det.transfer.foreign.choosing import Choice, choose, group_of
from sosr_det.transfer.foreign.evidence import Evidence
from sosr_det.transfer.foreign.fitting import COUNTER, Fit, fit
from sosr_det.transfer.foreign.layouts import evidence_of_layout
from sosr_det.transfer.foreign.preprocessing import FORMS, describe, parse_preprocessing
from sosr_det.transfer.foreign.report import ImportReport
from sosr_det.transfer.foreign.source import Source, find_source
from sosr_det.transfer.foreign.states import find_states
from sosr_det.transfer.probe import compute_probe

if TYPE_CHECKING:
    from sosr_det.registry.remote.store import RemoteRegistry
    from sosr_det.registry.store import Registry

RELATION = "imported-from"
Given = tuple[Preprocessing, str | None, str]  # what parse_preprocessing returned


def import_checkpoint(
    source: str,
    name: str,
    registry_root: str | Path | None = None,
    *,
    arch: str | None = None,
    key: str | None = None,
    prefix: str | None = None,
    drop: Sequence[str] = (),
    preprocessing: str | None = None,
    style: str | None = None,
    license_name: str | None = None,
    metrics: Mapping[str, float] | None = None,
    data: str | None = None,
    notes: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Publish the backbone of a checkpoint by torchvision, timm, OpenMMLab, MoCo or others as ``NAME[@TAG]``.

    Pickles are read by :func:`sosr_det.registry.safe_load.load_state_file`, so nothing in the file runs. The tensors
    must be exactly those of the network, every key and every shape. What the file does not say has to be said by the
    caller; what is taken for granted is in the report and in the manifest's notes.

    Args:
        source: a file, ``torchvision://NAME`` or ``timm://NAME``.
        name: ``NAME`` or ``NAME@TAG``; ``latest`` is moved along with any other tag.
        registry_root: default ``$SOSR_REGISTRY``, else ``./registry``.
        arch: what :func:`sosr_det.models.build_backbone` takes; default: what the file says, or a ResNet by its shapes.
        key: where in the file the tensors are, dotted where nested, "." for the top level.
        prefix: what their names start with, "" for nothing.
        drop: first parts of names under the prefix that are no part of the backbone.
        preprocessing: see :func:`sosr_det.transfer.foreign.preprocessing.parse_preprocessing`.
        style: "pytorch" or "caffe", where a bottleneck strides.
        license_name: SPDX identifier of the weights' license.
        metrics: name -> value, besides and before those that the source states.
        data: name of the training data.
        notes: free text for the manifest.
        dry_run: do everything but publish.

    Returns:
        Plain dict: ``report`` (see :class:`ImportReport`), ``tensors_digest``, ``registry``, ``dry_run``, and unless
        it was a dry run ``uri``, ``pinned_uri`` and ``digest`` of the new entry, and ``tags``: per tag what it was.

    Raises:
        ConfigError: an option that cannot be used, or one that is missing because the file does not say it.
        CheckpointError: a file that is unsafe, damaged, ambiguous, or not such a network.
        RegistryError: bad name, no space, or see :meth:`Registry.publish`.
    """
    wanted = publishable_name(name)
    given = None if preprocessing is None else parse_preprocessing(preprocessing)
    if style not in (None, "pytorch", "caffe"):
        raise ConfigError(f"--style is {style!r}, expected 'pytorch' or 'caffe'.")
    found = find_source(source)
    content = load_state_file(found.path)
    found.require_unchanged()
    manifest = exported.manifest_in(found.path, content)
    evidence = _evidence(found, content, manifest)
    name_given = arch or (evidence.arch if evidence else None)
    network = None if name_given is None else build(name_given)
    choice = choose(find_states(content), None if network is None else _names(network), key, prefix)
    evidence = evidence or evidence_of_layout(choice) or Evidence()
    tensors = choice.inside()
    arch_name = name_given or recognise_resnet(tensors)
    arch_why = "--arch" if arch else evidence.why if evidence.arch else "from the tensors' shapes"
    network = network or build(arch_name)
    final_style, style_why = _style(style, given, evidence, network)
    pixels, pixels_why = _preprocessing(given, evidence)
    if network.needs_style and final_style is not None:
        set_style(network.network, final_style)
    fitted = fit(tensors, network.network, arch_name, evidence.head_names, drop)
    if manifest is not None:
        exported.require_same(manifest, fitted.taken)

    report = _report(found, choice, fitted, evidence)
    report.arch, report.arch_why = arch_name, arch_why
    report.style, report.style_why = final_style, style_why
    report.preprocessing, report.preprocessing_why = describe(pixels), pixels_why
    report.license = license_name or evidence.license
    report.license_why = "--license" if license_name else evidence.license_why
    report.metrics = evidence.metrics | dict(metrics or {})
    report.data = data or evidence.data
    report.assumptions += _assumptions(found, choice, evidence, arch_why, style, given, arch_name)
    fields = _fields(report, found, network, pixels, evidence, manifest, notes)
    fields["probe"] = compute_probe(network.network, pixels)

    registry = open_registry(registry_root)
    result: dict[str, Any] = {
        "report": report.to_dict(),
        "tensors_digest": tensors_digest(fitted.tensors),
        "registry": str(registry.root),
        "dry_run": dry_run,
    }
    if not dry_run:
        tags = list(dict.fromkeys([wanted.tag or DEFAULT_TAG, DEFAULT_TAG]))
        before = {tag: _digest_of(registry, str(wanted.name), tag) for tag in tags}
        entry = registry.publish(fitted.tensors, fields, str(wanted.name), tags)
        result |= {"uri": entry.uri, "pinned_uri": entry.pinned_uri, "digest": entry.digest}
        result["tags"] = [
            {"name": entry.name, "tag": tag, "digest": entry.digest, "previous": previous}
            for tag, previous in before.items()
        ]
    return result


def _digest_of(registry: Registry | RemoteRegistry, name: str, tag: str) -> str | None:
    """What a tag means now, so that a move can be told and undone; None for a new or unreadable one."""
    try:
        return registry.read_ref(name, tag).digest
    except RegistryError:
        return None


def _names(network: Network) -> list[str]:
    """What a file must hold of a network; its counters may be missing."""
    return [name for name in network.network.state_dict() if not name.endswith(COUNTER)]


def _evidence(found: Source, content: Mapping[str, Any], manifest: Manifest | None) -> Evidence | None:
    """What the name, the file or what lies beside it says; None when they say nothing."""
    if found.evidence is not None:
        return found.evidence
    if manifest is not None:
        return exported.evidence_of(manifest)
    if weights := torchvision_zoo.weights_of_file(found.sha256):
        return torchvision_zoo.evidence_of(weights, "the file's SHA-256 is the published one")
    return (
        openmmlab.evidence_of_checkpoint(content)
        or timm_zoo.evidence_of_checkpoint(content)
        or timm_zoo.evidence_of_config_json(found.path.parent)
    )


def _style(
    style: str | None, given: Given | None, evidence: Evidence, network: Network
) -> tuple[str | None, str]:
    if not network.needs_style:
        if style is not None:
            raise ConfigError(
                f"--style {style}: a {network.spec.name} has no bottlenecks to stride in; leave it out."
            )
        return network.spec.style, ""
    if style is not None:
        return style, "--style"
    if evidence.style is not None:
        if given is not None and given[1] not in (None, evidence.style):
            raise ConfigError(
                f"{evidence.style_why} says {evidence.style!r}, and {given[2]} stands for {given[1]!r}; "
                "decide with --style."
            )
        return evidence.style, evidence.style_why
    if given is not None and given[1] is not None:
        return given[1], given[2]
    raise ConfigError(
        f"nothing says where the bottlenecks of this {network.spec.name} stride, and its tensors cannot show it: "
        "--style pytorch (the 3x3 convolution: torchvision, timm, most others) or --style caffe (the first 1x1 "
        "convolution: Detectron's and MSRA's networks). --preprocessing torchvision or caffe decides both."
    )


def _preprocessing(given: Given | None, evidence: Evidence) -> tuple[Preprocessing, str]:
    if given is not None:
        return given[0], given[2]
    if evidence.preprocessing is not None:
        return evidence.preprocessing, evidence.preprocessing_why
    raise ConfigError(
        f"nothing says how the pixels were prepared for this network ({evidence.preprocessing_why or evidence.why}); "
        f"give --preprocessing: {FORMS}."
    )


def _report(found: Source, choice: Choice, fitted: Fit, evidence: Evidence) -> ImportReport:
    report = ImportReport(
        source=found.uri,
        file=found.path.name,
        file_sha256=found.sha256,
        file_bytes=found.size_bytes,
        project=evidence.project,
        project_why=evidence.why,
        key=choice.state.key,
        prefix=choice.prefix,
        num_tensors=len(fitted.tensors),
        num_parameters=sum(t.numel() for t in fitted.tensors.values() if t.is_floating_point()),
        filled=fitted.filled,
        converted=fitted.converted,
        num_classes=len(evidence.classes),
    )
    for name in [choice.prefix + name for name in fitted.left_out] + choice.outside():
        report.leave_out(group_of(name, choice.prefix), name)
    for name in choice.state.others:
        report.leave_out(f"no tensors in {choice.state.place}", name)
    return report


def _assumptions(
    found: Source,
    choice: Choice,
    evidence: Evidence,
    arch_why: str,
    style: str | None,
    given: Given | None,
    arch: str,
) -> list[str]:
    said = [*found.notes, *evidence.assumptions, *choice.notes]
    if arch_why == "from the tensors' shapes":
        said.append("the plain network of these shapes was taken; variants that differ in layers without parameters "
                    "(timm's resnetaa50, resnetblur50) look the same")  # fmt: skip
    if style is not None and evidence.style not in (None, style):
        said.append(f"--style {style} was given although {evidence.style_why} says {evidence.style}")
    if given is not None and evidence.preprocessing is not None and given[0] != evidence.preprocessing:
        theirs = describe(evidence.preprocessing)
        said.append(f"--preprocessing was given although {evidence.preprocessing_why} says {theirs}")
    if arch_why == "--arch" and evidence.arch not in (None, arch):
        said.append(f"--arch {arch} was given although the file says {evidence.arch} ({evidence.why})")
    return said


def _fields(
    report: ImportReport,
    found: Source,
    network: Network,
    pixels: Preprocessing,
    evidence: Evidence,
    manifest: Manifest | None,
    notes: str,
) -> dict[str, Any]:
    lines = [notes, f"Imported from {report.source} by {report.project}: {report.num_tensors} tensors."]
    lines += [f"Taken from the prefix {report.prefix!r}."] if report.prefix else []
    lines += [f"{len(report.filled)} num_batches_tracked that the file lacks are 0."] if report.filled else []
    lines += [
        f"{count} tensors converted from {dtype}, exactly."
        for dtype, count in sorted(report.converted.items())
    ]
    if report.style_why:
        lines.append(f"Style: {report.style_why}.")
    lines.append(f"Preprocessing: {report.preprocessing_why}.")
    lines += [f"Assumed: {text}." for text in report.assumptions]
    parents: list[Parent] = []
    if manifest is not None:
        parents = [*manifest.parents, Parent(f"sosr://sha256:{manifest.digest}", manifest.digest, RELATION)]
    spec = network.spec
    return {
        "arch": {
            "name": spec.name,
            "library": spec.source,
            "style": report.style,
            "stem": spec.stem,
            "feature_channels": list(spec.stage_channels),
        },
        "preprocessing": pixels,
        "classes": list(evidence.classes),
        "metrics": report.metrics,
        "recipe": evidence.recipe,
        "seed": evidence.seed,
        "parents": [*parents, Parent(found.uri, found.sha256, RELATION)],
        "data": {"name": report.data, "fingerprint": None} if report.data else None,
        "license": report.license,
        "notes": "\n".join(line for line in lines if line),
    }
