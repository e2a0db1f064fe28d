"""Model cards: Markdown with Hugging Face front matter, written from what a manifest says and from nothing else.

Every text of a manifest is shown in code spans or code blocks and, in the front matter, as a quoted YAML string, so
that nothing a publisher wrote can become markup, HTML, a link or another field. Front matter:
https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sosr_det.errors import RegistryError
from sosr_det.registry.config_text import config_values, walk
from sosr_det.registry.entry import Entry
from sosr_det.registry.lineage import Branch, family_tree
from sosr_det.registry.manifest import Manifest
from sosr_det.registry.metric_names import METRICS, metric_of, metric_text
from sosr_det.registry.plain_text import clean, clean_lines, code_block, code_span, size, yaml_lines
from sosr_det.registry.trees import tree_lines
from sosr_det.registry.usage import mmdetection_command, mmdetection_lines

if TYPE_CHECKING:
    from sosr_det.registry.store import Registry

# The Hub's own ids for licences, by SPDX id; any other is "other" with its name beside it.
_LICENSES = {
    name.lower(): name.lower()
    for name in (
        "Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0",
        "CC-BY-NC-SA-4.0", "GPL-3.0", "LGPL-3.0", "AGPL-3.0", "MPL-2.0", "Unlicense",
    )
}  # fmt: skip
_TASKS = {"backbone": "image-classification", "detector": "object-detection"}  # that the metrics are of
_PIPELINES = {"backbone": "image-feature-extraction", "detector": "object-detection"}
# The Hub's metric ids; the others go by the name that the manifest has.
_METRIC_TYPES = {"top1": "accuracy", "top5": "top_5_accuracy", "ece": "expected_calibration_error"}
_PER_CLASS = ("ap_11point/", "ap_area/")
_MOST_ANCESTORS = 100  # that are read for it
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CITATION = """@article{cheng2021sosr,
  title   = {Selective Output Smoothing Regularization: Regularize Neural Networks by Softening Output Distributions},
  author  = {Cheng, Xuan and Xie, Tianshu and Wang, Xiaomin and Liu, Minghui and Deng, Jiali and Liu, Ming},
  journal = {arXiv preprint arXiv:2103.15383},
  year    = {2021}
}"""


def model_card(registry: Registry, entry: Entry) -> str:
    """The card of an entry as the text of a ``README.md``.

    Metrics stand in the units that people read (percent for accuracies and average precisions). What the manifest does
    not say is called "not recorded", never guessed.

    Raises:
        RegistryError: the registry cannot be listed, which the lineage needs.
    """
    trees = family_tree(registry, entry)
    used_sosr = _used_sosr(registry, entry.manifest)
    sections = [
        ("", _headline(entry)),
        ("How it was trained", _training(entry)),
        ("Results", _results(entry.manifest)),
        ("Built on it", _built_on_it(trees)),
        ("Preprocessing", _preprocessing(entry.manifest)),
        ("How to use it", _usage(entry)),
        ("Lineage", code_block(tree_lines(trees), "text")),
        ("Limits", _limits(entry.manifest, used_sosr)),
        ("Integrity", _integrity(entry)),
        ("Citation", code_block(_CITATION.splitlines(), "bibtex") if used_sosr else []),
    ]
    lines = ["---", *yaml_lines(front_matter(entry)), "---", ""]
    for title, body in sections:
        if body:
            lines += [f"## {title}", "", *body, ""] if title else [*body, ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def front_matter(entry: Entry) -> dict[str, Any]:
    """The fields that the Hub reads, as plain data."""
    manifest = entry.manifest
    license_id = _LICENSES.get((manifest.license or "").lower())
    fields: dict[str, Any] = {"license": license_id or ("other" if manifest.license else "unknown")}
    if manifest.license and not license_id:
        fields["license_name"] = manifest.license
    fields["library_name"] = "sosr-det"
    fields["pipeline_tag"] = _PIPELINES[manifest.kind]
    fields["tags"] = ["sosr-det", manifest.kind, manifest.arch.name, manifest.arch.library]
    if manifest.data and _HUB_ID.fullmatch(manifest.data["name"]):
        fields["datasets"] = [manifest.data["name"]]
    results = _main_metrics(manifest)
    if results:
        fields["metrics"] = [_METRIC_TYPES.get(name, name) for name in results]
        measured_on = _measured_on(manifest)
        fields["model-index"] = [
            {
                "name": entry.name or entry.pinned_uri,
                "results": [
                    {
                        "task": {"type": _TASKS[manifest.kind]},
                        "dataset": {"type": measured_on, "name": measured_on},
                        "metrics": [_hub_metric(name, value) for name, value in results.items()],
                    }
                ],
            }
        ]
    return fields


def _hub_metric(name: str, value: float) -> dict[str, Any]:
    metric = metric_of(name)
    unit = f" ({metric.unit})" if metric.unit else ""
    return {
        "type": _METRIC_TYPES.get(name, name),
        "name": f"{metric.title}{unit}",
        "value": float(f"{metric.factor * value:.6g}"),
    }


def _used_sosr(registry: Registry, manifest: Manifest) -> bool:
    """Whether the recipe of an entry, or of what it was made from and the registry holds, names the SOSR loss."""
    waiting, seen = [manifest], {manifest.digest}
    while waiting and len(seen) < _MOST_ANCESTORS:
        current = waiting.pop()
        if current.recipe and "SOSRLoss" in current.recipe.config_text:
            return True
        for digest in {parent.digest for parent in current.parents if parent.digest} - seen:
            seen.add(digest)
            with suppress(FileNotFoundError, RegistryError):  # elsewhere, unreadable, or no entry but a file
                waiting.append(registry.read_manifest(digest))
    return False


def _main_metrics(manifest: Manifest) -> dict[str, float]:
    """Those that are results, not counts or per-class figures, in the order in which they are known."""
    return {name: manifest.metrics[name] for name in METRICS if name in manifest.metrics}


def _measured_on(manifest: Manifest) -> str:
    """Name of the data that the metrics were measured on, as far as the manifest says."""
    data = manifest.data or {}
    measured = data.get("evaluated_on")
    name = measured.get("name") if isinstance(measured, dict) else None
    return name if isinstance(name, str) and name.strip() else str(data.get("name") or "not recorded")


def _headline(entry: Entry) -> list[str]:
    manifest = entry.manifest
    name = entry.name or f"sha256:{entry.digest[:16]}…"
    arch = f"{code_span(manifest.arch.name)} with the parameter names of {code_span(manifest.arch.library)}"
    extent = f"{len(manifest.tensors)} tensors, {size(manifest.size_bytes)}"
    if manifest.kind == "detector":
        what = f"A whole object detector: {arch}, {len(manifest.classes)} classes, {extent}."
    else:
        what = f"An image backbone: {arch}, {extent}, without a classifier head."
    details = []
    if manifest.arch.stem != "-":
        details.append(f"stem {code_span(manifest.arch.stem)}")
    if manifest.arch.style:
        details.append(f"stride style {code_span(manifest.arch.style)}")
    if manifest.arch.feature_channels:
        details.append(f"feature channels {', '.join(map(str, manifest.arch.feature_channels))}")
    lines = [f"# {code_span(name)}", "", what]
    if details:
        text = "; ".join(details)
        lines += ["", f"{text[0].upper()}{text[1:]}."]
    return [
        *lines,
        "",
        f"Published {manifest.created} as {code_span(entry.uri)}. Licence: {_or_not(manifest.license)}.",
    ]


def _or_not(value: str | None) -> str:
    return code_span(value) if value else "not recorded"


def _training(entry: Entry) -> list[str]:
    manifest = entry.manifest
    recipe, data = manifest.recipe, manifest.data
    lines = []
    if recipe:
        digest = code_span(recipe.config_digest)
        lines.append(f"- Recipe: {code_span(recipe.config_name)}, SHA-256 of its text {digest}.")
        lines.append(f"  `sosr-det registry show {entry.uri} --config` prints it.")
        lines += _settings(recipe.config_text)
    else:
        lines.append("- Recipe: not recorded.")
    if data:
        count = data.get("num_samples")
        number = f", {count} samples" if isinstance(count, int) else ""
        lines.append(
            f"- Training data: {code_span(data['name'])}{number}, fingerprint {_or_not(data['fingerprint'])}."
        )
    else:
        lines.append("- Training data: not recorded.")
    lines.append(f"- Seed: {'not recorded' if manifest.seed is None else manifest.seed}.")
    for parent in manifest.parents:
        digest = f" ({code_span('sha256:' + parent.digest)})" if parent.digest else ""
        lines.append(
            f"- Started from: {code_span(parent.uri)}{digest}, relation {code_span(parent.relation)}."
        )
    versions = ", ".join(f"{name} {version}" for name, version in sorted(manifest.library_versions.items()))
    if manifest.is_imported:  # whoever trained it used others
        lines.append(f"- Imported with {_or_not(versions)}; what it was trained with is not recorded.")
    elif recipe:
        lines.append(f"- Code: commit {_or_not(manifest.git_commit)}, with {_or_not(versions)}.")
    else:
        lines.append(f"- Published with {_or_not(versions)}; what it was trained with is not recorded.")
    if manifest.notes:
        block = code_block(
            clean_lines(manifest.notes), "text"
        )  # inside the list's item, where no line ends it
        lines += ["- Notes of the publisher:", "", *(f"  {line}".rstrip() for line in block)]
    return lines


def _settings(config_text: str) -> list[str]:
    """What can be read out of the recipe without running it."""
    settings = config_values(config_text)
    lines = []
    epochs = (
        (settings.get("train_cfg") or {}).get("max_epochs")
        if isinstance(settings.get("train_cfg"), dict)
        else None
    )
    if isinstance(epochs, int):
        lines.append(f"- Epochs of the whole schedule: {epochs}.")
    model = settings.get("model")
    losses = model.get("loss") if isinstance(model, dict) else None
    for loss in walk(losses):
        if loss.get("type") == "SOSRLoss":
            stated = {
                key: loss[key] for key in ("threshold", "weight") if isinstance(loss.get(key), (int, float))
            }
            values = ", ".join(f"{key} {value:g}" for key, value in stated.items())
            lines.append(f"- Loss: with the SOSR term{f' ({values})' if values else ''}.")
            break
    return lines


def _results(manifest: Manifest) -> list[str]:
    if not manifest.metrics:
        return ["No metrics are recorded."]
    data = manifest.data or {}
    measured = data.get("evaluated_on") if isinstance(data.get("evaluated_on"), dict) else {}
    count, fingerprint = measured.get("num_samples"), measured.get("fingerprint")
    verb = (
        "Stated by whoever imported the weights, not measured here; data:"
        if manifest.is_imported
        else "Measured on"
    )
    lines = [f"{verb} {code_span(_measured_on(manifest))}"]
    lines[0] += f", {count} samples" if isinstance(count, int) else ""
    lines[0] += f", fingerprint {code_span(fingerprint)}" if isinstance(fingerprint, str) else ""
    lines[0] += (
        "." if measured or manifest.is_imported else "; the manifest does not say on which part of it."
    )
    main = _main_metrics(manifest)
    per_class = {name: value for name, value in manifest.metrics.items() if name.startswith(_PER_CLASS[0])}
    lines += [
        "",
        *_table(["metric", "value"], [[metric_of(n).title, metric_text(n, v)] for n, v in main.items()]),
    ]
    if per_class:
        rows = [
            [code_span(name.partition("/")[2]), metric_text(name, value)] for name, value in per_class.items()
        ]
        lines += ["", *_table(["class", "VOC AP, 11-point"], sorted(rows))]
    others = [
        name for name in sorted(manifest.metrics.keys() - main.keys()) if not name.startswith(_PER_CLASS)
    ]
    if others:
        texts = [f"{code_span(name)} {manifest.metrics[name]:.6g}" for name in others]
        lines += ["", f"Also recorded, as reported: {', '.join(texts)}."]
    return lines


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _built_on_it(trees: Sequence[Branch]) -> list[str]:
    """Detectors that stand on the entry, with what they reached."""
    found: dict[str, Branch] = {}

    def collect(branch: Branch, below: bool) -> None:
        if below and branch.digest and branch.node and branch.node.summary.kind == "detector":
            found.setdefault(branch.digest, branch)
        for child in branch.children:
            collect(child, below or branch.is_subject)

    for tree in trees:
        collect(tree, False)
    rows = []
    for branch in found.values():
        summary = branch.node.summary if branch.node else None
        if summary:
            value = summary.metrics.get("map_11point")
            data = code_span(summary.data) if summary.data else "not recorded"
            shown = "-" if value is None else metric_text("map_11point", value)
            rows.append([code_span(branch.label), code_span(summary.arch), data, shown])
    return _table(["detector", "model", "trained on", "VOC mAP, 11-point"], rows) if rows else []


def _preprocessing(manifest: Manifest) -> list[str]:
    prep = manifest.preprocessing
    height, width = prep.input_size
    return [
        f"`(pixel - mean) / std` per channel, with pixels in {prep.scale} and channels in {prep.channel_order.upper()} "
        "order:",
        "",
        *_table(
            ["setting", "value"],
            [
                ["mean", ", ".join(map(str, prep.mean))],
                ["std", ", ".join(map(str, prep.std))],
                ["input size", f"{height} x {width} pixels (height x width)"],
                ["interpolation", code_span(prep.interpolation)],
            ],
        ),
    ]


def _usage(entry: Entry) -> list[str]:
    lines = [
        "With the Python package `sosr-det` installed and the registry at `$SOSR_REGISTRY`:",
        "",
    ]
    config = mmdetection_lines(entry)
    if config:
        command = mmdetection_command(entry)
        lines += [
            f"In MMDetection, `{command}`, or in a config of your own:",
            "",
            *code_block(config, "python"),
            "",
        ]
    lines += ["In PyTorch, every bit verified:", "", *code_block(_torch_lines(entry), "python")]
    if config and entry.manifest.kind == "backbone":
        export = f"sosr-det registry export {entry.uri} --format torchvision --out weights.pth"
        lines += ["", f"As a file for torchvision: `{export}` (also `timm`, `mmdet`, `safetensors`, `onnx`)."]
    return lines


def _torch_lines(entry: Entry) -> list[str]:
    lines = [
        "from sosr_det.registry import open_registry",
        "",
        f'state_dict = open_registry().load("{entry.uri}")  # name -> tensor',
    ]
    if entry.manifest.kind == "backbone":
        lines[0:0] = ["from sosr_det.models import build_backbone"]
        arch = json.dumps(clean(entry.manifest.arch.name), ensure_ascii=False)
        lines += [f"backbone, spec = build_backbone({arch})", "backbone.load_state_dict(state_dict)"]
    return lines


def _limits(manifest: Manifest, used_sosr: bool) -> list[str]:
    lines = []
    if manifest.metrics and manifest.recipe:
        lines.append("- One run (n = 1): the figures come without a spread over seeds, so small differences to other "
                     "entries may be chance.")  # fmt: skip
    if used_sosr:
        lines.append(
            "- The figures of the SOSR paper are not this entry's: only those above were measured with it."
        )
    if "cub" in " ".join([_measured_on(manifest), str((manifest.data or {}).get("name", ""))]).lower():
        lines.append("- Some test images of CUB-200-2011 are in ImageNet: after pretraining on ImageNet, results on it "
                     "are too good by an unknown amount.")  # fmt: skip
    if manifest.kind == "detector":
        lines.append(
            "- Average precision is that of the data and classes above; it says nothing about other classes."
        )
    else:
        lines.append("- No classifier head: it gives features, not classes.")
    if manifest.license is None:
        lines.append("- No licence is recorded: ask the publisher before you use or pass on the weights.")
    return lines


def _integrity(entry: Entry) -> list[str]:
    manifest = entry.manifest
    rows = [
        ["manifest", code_span(f"sha256:{entry.digest}")],
        ["tensors (names, dtypes, shapes and values)", code_span(f"sha256:{manifest.tensors_digest}")],
    ]
    if manifest.classes:
        rows.append(["classes", code_span(f"sha256:{manifest.classes_sha256}")])
    return [
        *_table(["what", "digest"], rows),
        "",
        f"`sosr-det registry verify {entry.pinned_uri}` compares every bit. That URI means this entry for ever; a",
        "name may be moved.",
    ]
