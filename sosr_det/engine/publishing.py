"""From a training run to a registry entry: exact backbone tensors plus everything needed to use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sosr_det.engine.run_record import FILE_NAME, read_run_record, write_run_record
from sosr_det.errors import CheckpointError
from sosr_det.registry.names import DEFAULT_TAG, publishable_name
from sosr_det.registry.opening import open_registry


def export_run(
    source: str | Path,
    name: str,
    *,
    registry_root: str | Path | None = None,
    license_name: str | None = None,
) -> dict[str, Any]:
    """Publish the backbone of a run as ``NAME[@TAG]``.

    Args:
        source: a run folder, of which the best epoch is taken (the paper reports the best one; the last where no
            epoch was validated), or a checkpoint file with its ``run.json`` beside it.
        name: ``NAME`` or ``NAME@TAG``. ``latest`` is moved along with any other tag.
        registry_root: default ``$SOSR_REGISTRY``, else ``./registry``.
        license_name: SPDX identifier of the weights' licence, recorded in the manifest.

    Returns:
        Plain dict: uri, pinned_uri, digest, tensors_digest, checkpoint, metrics, registry.

    Raises:
        CheckpointError: no run record, no checkpoint, a checkpoint without a ``backbone.``, NaN weights.
        RegistryError: bad name, no space, or see :meth:`Registry.publish`.
    """
    wanted = publishable_name(name)
    source = Path(source)
    run_dir = source if source.is_dir() else source.parent
    if not source.exists():
        raise CheckpointError(f"{source} does not exist; expected a run folder or a checkpoint file.")
    record = read_run_record(run_dir)
    if "backbone" not in (record.get("model") or {}) or "name" not in record["model"]["backbone"]:
        raise CheckpointError(
            f"{run_dir / FILE_NAME} is a {record.get('stage')} run without an exportable backbone; "
            "export a pretraining or fine-tuning run."
        )
    checkpoint = _choose_checkpoint(source, record)
    tensors = _backbone_tensors(checkpoint)
    registry = open_registry(registry_root)
    tags = list(dict.fromkeys([wanted.tag or DEFAULT_TAG, DEFAULT_TAG]))
    fields = manifest_fields(record, checkpoint, license_name)
    entry = registry.publish(tensors, fields, str(wanted.name), tags)
    return {
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
    """The manifest's fields from a run record; ``checkpoint`` decides which epoch's metrics are meant."""
    backbone, preprocessing = record["model"]["backbone"], record["model"]["preprocessing"]
    data = record["data"]["train"]
    parent = record.get("backbone")
    parents = []
    if parent and parent.get("digest"):
        parents = [{"uri": parent["uri"], "digest": parent["digest"], "relation": "finetuned-from"}]
    epoch = _epoch_of(checkpoint, record)
    val = next((e.get("val") or {} for e in record["epochs"] if e["epoch"] == epoch), {})
    return {
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
        "classes": data["classes"],
        "metrics": {k.rpartition("/")[2]: float(v) for k, v in val.items() if isinstance(v, (int, float))},
        "recipe": {
            "config_name": record["config_name"],
            "config_text": record["config_text"],
            "config_digest": record["config_digest"],
        },
        "parents": parents,
        "seed": record["seed"],
        "library_versions": record["library_versions"],
        "git_commit": record["git_commit"],
        "data": {
            "name": data["type"],
            "fingerprint": data["fingerprint"],
            "num_samples": data["num_samples"],
        },
        "license": license_name,
        "notes": f"{record['stage']} run, epoch {epoch}",
    }


def _choose_checkpoint(source: Path, record: dict[str, Any]) -> Path:
    if source.is_file():
        return source
    best = (record.get("best") or {}).get("checkpoint")
    if best:
        if not (source / best).is_file():
            raise CheckpointError(
                f"the run's best checkpoint {source / best} is missing; name another file to export."
            )
        return source / best
    files = sorted(source.glob("epoch_*.pth"), key=lambda p: int(p.stem.rpartition("_")[2]))
    if not files:
        raise CheckpointError(f"no checkpoint in {source}: the run stopped before its first one.")
    return files[-1]


def _epoch_of(checkpoint: Path, record: dict[str, Any]) -> int | None:
    """mmengine names its files ``epoch_7.pth`` and ``best_<metric>_epoch_7.pth``."""
    _, _, number = checkpoint.stem.rpartition("epoch_")
    if number.isdigit():
        return int(number)
    return (record.get("best") or {}).get("epoch")


def _backbone_tensors(checkpoint: Path) -> dict:
    import torch

    from sosr_det.registry.backbone_state import split_backbone
    from sosr_det.registry.safe_load import extract_state_dict, load_state_file

    tensors, _ = split_backbone(extract_state_dict(load_state_file(checkpoint)))
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{checkpoint}: tensor {name} holds NaN or infinite values, so training diverged; "
                "export an earlier checkpoint."
            )
    return tensors
