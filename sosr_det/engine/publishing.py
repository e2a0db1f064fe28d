"""From a training run to a registry entry: exact tensors plus everything needed to use them.

A classification run gives a backbone, a detection run a whole detector whose parent is the backbone under it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sosr_det.engine.run_record import FILE_NAME, kept_checkpoint, read_run_record, write_run_record
from sosr_det.errors import CheckpointError
from sosr_det.registry.config_text import config_values, walk
from sosr_det.registry.manifest import Preprocessing, Probe
from sosr_det.registry.names import DEFAULT_TAG, SCHEME, parse_uri, publishable_name
from sosr_det.registry.opening import open_registry

# MMDetection's spellings of what lists of entries have a column or a filter for.
_METRIC_NAMES = {"bbox_mAP": "map", "bbox_mAP_50": "ap50", "AP50": "ap50"}


def export_run(
    source: str | Path,
    name: str,
    *,
    registry_root: str | Path | None = None,
    license_name: str | None = None,
) -> dict[str, Any]:
    """Publish what a run trained as ``NAME[@TAG]``: the backbone of a classifier, or a detector as a whole.

    Args:
        source: a run folder, of which the best epoch is taken (the paper reports the best one; the last where no
            epoch was validated), or a checkpoint file with its ``run.json`` beside it.
        name: ``NAME`` or ``NAME@TAG``. ``latest`` is moved along with any other tag.
        registry_root: default ``$SOSR_REGISTRY``, else ``./registry``.
        license_name: SPDX identifier of the weights' licence, recorded in the manifest.

    Returns:
        Plain dict: kind, uri, pinned_uri, digest, tensors_digest, checkpoint, metrics, registry.

    Raises:
        CheckpointError: no run record, no checkpoint, a classifier's checkpoint without a ``backbone.`` or with another
            one than its record says, NaN weights, or a detector whose record does not say how images are prepared.
        RegistryError: bad name, no space, or see :meth:`Registry.publish`.
    """
    wanted = publishable_name(name)
    source = Path(source)
    run_dir = source if source.is_dir() else source.parent
    if not source.exists():
        raise CheckpointError(f"{source} does not exist; expected a run folder or a checkpoint file.")
    record = read_run_record(run_dir)
    is_detector = record.get("stage") == "detection"
    if not is_detector and "name" not in ((record.get("model") or {}).get("backbone") or {}):
        raise CheckpointError(
            f"{run_dir / FILE_NAME} is a {record.get('stage')} run without an exportable backbone; "
            "export a pretraining, fine-tuning or detection run."
        )
    checkpoint = _choose_checkpoint(source, record)
    fields = manifest_fields(record, checkpoint, license_name)
    tensors = _tensors(checkpoint, whole=is_detector)
    if not is_detector:
        fields["probe"] = _probe(fields, tensors, checkpoint)
    registry = open_registry(registry_root)
    tags = list(dict.fromkeys([wanted.tag or DEFAULT_TAG, DEFAULT_TAG]))
    entry = registry.publish(tensors, fields, str(wanted.name), tags)
    return {
        "kind": entry.manifest.kind,
        "uri": entry.uri,
        "pinned_uri": entry.pinned_uri,
        "digest": entry.digest,
        "tensors_digest": entry.tensors_digest,
        "checkpoint": str(checkpoint),
        "metrics": dict(entry.manifest.metrics),
        "registry": str(registry.root),
    }


def publish_name(cfg: Any, publish: bool, publish_as: str | None) -> str | None:
    """NAME[@TAG] that a run will publish under, or None when it will not."""
    if not publish:
        return None
    return publish_as or (cfg.get("publish") or {}).get("name")


def publish_run(work_dir: Path, name: str) -> dict:
    """Export the run's best epoch to the registry and note it in the run record.

    Raises:
        CheckpointError, RegistryError: see :func:`export_run`. The run itself is
            complete then; ``sosr-det export RUN --name NAME`` repeats this step alone.
    """
    entry = export_run(work_dir, name)
    record = read_run_record(work_dir)
    record["published"] = {key: entry[key] for key in ("uri", "pinned_uri", "digest", "tensors_digest")}
    write_run_record(work_dir, record)
    return entry


def manifest_fields(record: dict[str, Any], checkpoint: Path, license_name: str | None) -> dict[str, Any]:
    """The manifest's fields from a run record; ``checkpoint`` decides which epoch's metrics are meant.

    Raises:
        CheckpointError: the record of a detector does not say how images are prepared.
    """
    train, val = record["data"]["train"], record["data"].get("val")
    data = {"name": train["type"], "fingerprint": train["fingerprint"], "num_samples": train["num_samples"]}
    if val:
        data["evaluated_on"] = {key: val[key] for key in ("fingerprint", "num_samples")} | {
            "name": val["type"]
        }
    epoch = _epoch_of(checkpoint, record)
    measured = next((e.get("val") or {} for e in record["epochs"] if e["epoch"] == epoch), {})
    describe = _detector_fields if record["stage"] == "detection" else _backbone_fields
    return describe(record) | {
        "classes": train["classes"],
        "metrics": _metrics(measured),
        "recipe": {
            "config_name": record["config_name"],
            "config_text": record["config_text"],
            "config_digest": record["config_digest"],
        },
        "parents": _parents(record),
        "seed": record["seed"],
        "library_versions": record["library_versions"],
        "git_commit": record["git_commit"],
        "data": data,
        "license": license_name,
        "notes": f"{record['stage']} run, epoch {epoch}",
    }


def _backbone_fields(record: dict[str, Any]) -> dict[str, Any]:
    backbone, preprocessing = record["model"]["backbone"], record["model"]["preprocessing"]
    return {
        "kind": "backbone",
        "arch": {
            "name": backbone["name"],
            "library": backbone["source"],
            "style": backbone["style"],
            "stem": backbone["stem"],
            "feature_channels": backbone["stage_channels"],
        },
        "preprocessing": {
            "channel_order": preprocessing["channel_order"],
            "mean": preprocessing["mean"],
            "std": preprocessing["std"],
            "scale": "0-255",
            "interpolation": preprocessing["interpolation"],
            "input_size": preprocessing["input_size"],
        },
    }


def _detector_fields(record: dict[str, Any]) -> dict[str, Any]:
    """A detector is named by its type; how it is put together is in its recipe, which is stored whole."""
    preprocessing = record["model"].get("preprocessing") or {}
    settings = config_values(record["config_text"])
    model = settings.get("model") or {}
    backbone = model.get("backbone") or {}
    style = (
        backbone.get("style", "pytorch") if backbone.get("type") in ("ResNet", "ResNeXt", "Res2Net") else None
    )
    mean = preprocessing.get("mean") or [0.0, 0.0, 0.0]  # DetDataPreprocessor's default: no normalisation
    return {
        "kind": "detector",
        "arch": {
            "name": record["model"]["type"],
            "library": "mmdet",
            "style": style,
            "stem": "-",
            "feature_channels": [],
        },
        "preprocessing": {
            # MMDetection decodes to BGR; bgr_to_rgb decides what the model sees.
            "channel_order": "rgb" if preprocessing.get("bgr_to_rgb") else "bgr",
            "mean": mean,
            "std": preprocessing.get("std") or [1.0] * len(mean),
            "scale": "0-255",
            "interpolation": preprocessing.get("interpolation") or "bilinear",
            "input_size": _test_size(settings, record),
        },
    }


def _test_size(settings: dict[str, Any], record: dict[str, Any]) -> list[int]:
    """[height, width] in pixels that test images are resized to; MMDetection writes scales the other way round."""
    for step in walk(settings.get("val_dataloader") or settings.get("test_dataloader")):
        scale = step.get("scale")
        if "Resize" in str(step.get("type")) and isinstance(scale, (list, tuple)) and len(scale) == 2:
            return [int(scale[1]), int(scale[0])]
    raise CheckpointError(
        f"the config of the run {record['config_name']!r} resizes its validation images to no fixed scale "
        "(no Resize step with scale=(width, height)), so an entry could not say how to prepare images. "
        "Give the validation pipeline such a step."
    )


def _metrics(measured: dict[str, Any]) -> dict[str, float]:
    """Without the metric's own prefix: ``accuracy/top1`` is ``top1``, ``voc/ap_11point/dog`` is ``ap_11point/dog``."""
    metrics = {}
    for key, value in measured.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            name = key.partition("/")[2] or key
            metrics[_METRIC_NAMES.get(name, name)] = float(value)
    return metrics


def _parents(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What the run started from: its ``load_from``, which replaces every weight, else what lay under the backbone."""
    whole, backbone = record.get("load_from"), record.get("backbone")
    if whole:
        return [_parent(whole, None, "finetuned-from")]
    if not backbone:
        return []
    relation = "detector-on" if record["stage"] == "detection" else "finetuned-from"
    return [_parent(backbone["uri"], backbone.get("digest"), relation)]


def _parent(uri: str, digest: str | None, relation: str) -> dict[str, Any]:
    if uri.startswith(SCHEME):
        digest = digest or parse_uri(uri).digest
    elif "://" not in uri:
        uri = Path(uri).name  # the folders of one machine mean nothing on another
    return {"uri": uri, "digest": digest, "relation": relation}


def _choose_checkpoint(source: Path, record: dict[str, Any]) -> Path:
    return source if source.is_file() else kept_checkpoint(source, record)


def _epoch_of(checkpoint: Path, record: dict[str, Any]) -> int | None:
    """mmengine names its files ``epoch_7.pth`` and ``best_<metric>_epoch_7.pth``."""
    _, _, number = checkpoint.stem.rpartition("epoch_")
    if number.isdigit():
        return int(number)
    return (record.get("best") or {}).get("epoch")


def _tensors(checkpoint: Path, *, whole: bool) -> dict:
    """The model's tensors, or those of its backbone, none of them NaN or infinite."""
    import torch

    from sosr_det.engine.saved_weights import saved_weights
    from sosr_det.registry.backbone_state import split_backbone
    from sosr_det.registry.safe_load import load_state_file

    tensors = saved_weights(load_state_file(checkpoint))
    if not whole:
        tensors, _ = split_backbone(tensors)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{checkpoint}: tensor {name} holds NaN or infinite values, so training diverged; "
                "export an earlier checkpoint."
            )
    return tensors


def _probe(fields: dict[str, Any], tensors: dict, checkpoint: Path) -> Probe:
    """What the named architecture computes with these tensors, which also shows that they are its."""
    from sosr_det.models import build_backbone
    from sosr_det.transfer.probe import compute_probe

    name = fields["arch"]["name"]
    backbone, _ = build_backbone(name)
    try:
        backbone.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint} does not hold the {name} that its run record names: {str(error)[:400]}. "
            "Export a checkpoint of the run that lies beside its run.json."
        ) from error
    return compute_probe(backbone.eval(), Preprocessing(**fields["preprocessing"]))
