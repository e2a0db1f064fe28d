"""Evaluating a checkpoint: strict loading, the config's own metrics, a record of what was measured and how."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sosr_det.engine.backbone.source import check_detector
from sosr_det.engine.config_drift import drift, drift_line
from sosr_det.engine.configs import bare_type, load_config, walk_dicts
from sosr_det.engine.distribution import init_distributed
from sosr_det.engine.inference_settings import InferenceSettings, apply_inference_settings
from sosr_det.engine.predictions import name_images, save_predictions
from sosr_det.engine.provenance import dataset_record, utc_now
from sosr_det.engine.run_record import FILE_NAME as RUN_RECORD
from sosr_det.engine.run_record import kept_checkpoint, read_run_record
from sosr_det.engine.setup import (
    VOC_TYPES,
    apply_classes,
    apply_data_root,
    build_runner,
    fit_to_device,
)
from sosr_det.engine.test_record import TEST_FILE, add_to_run, file_digest, fill_truncated, write_test_record
from sosr_det.errors import CheckpointError, ConfigError
from sosr_det.evaluation.saved_detections import FILE_NAME as DETECTIONS_FILE
from sosr_det.registry.manifest import Manifest
from sosr_det.registry.names import SCHEME

logger = logging.getLogger("sosr_det")


@dataclass
class TestOptions:
    """What the command line can say about a test; see ``sosr-det test --help``."""

    __test__ = False  # not a test class, whatever its name begins with

    config: str
    checkpoint: Path | str
    work_dir: Path | None = None
    data_root: Path | None = None
    classes: Sequence[str] | None = None
    settings: InferenceSettings = field(default_factory=InferenceSettings)
    show_dir: Path | None = None
    json_out: Path | None = None
    registry: str | Path | None = None
    launcher: str = "none"
    cfg_options: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class TestOutcome:
    """What a test gave.

    Attributes:
        metrics: by name; average precisions and accuracies as the metric gives them.
        work_dir: the folder with ``test.json`` and, of a detector, ``detections.npz``.
        detections: that file, or None: of a classifier, or with a metric that saves none.
        is_main_process: whether this process is the one that wrote them.
    """

    __test__ = False

    metrics: dict[str, float]
    work_dir: Path
    detections: Path | None
    is_main_process: bool


def run_test(options: TestOptions) -> dict[str, float]:
    """The metrics of :func:`evaluate_checkpoint`."""
    return evaluate_checkpoint(options).metrics


def evaluate_checkpoint(options: TestOptions) -> TestOutcome:
    """Evaluate, print and record.

    ``work_dir`` gets ``test.json`` (settings, checkpoint and data by digest, metrics) and, with
    :class:`~sosr_det.evaluation.voc_metric.VOCDevkitMetric`, ``detections.npz``. The run that the checkpoint lies in
    gets the same entry under ``tests`` of its ``run.json``.

    Raises:
        CheckpointError: not a checkpoint, unsafe, or not this model's weights: every tensor of the model must be
            in the file with its shape, and nothing may be left over; a registry entry that is a backbone.
        SosrError: config and data errors.
    """
    if options.registry is not None:
        os.environ["SOSR_REGISTRY"] = str(options.registry)  # the sosr:// loader reads it
    from mmengine.model import BaseTTAModel, is_model_wrapper

    import sosr_det.register  # noqa: F401
    from sosr_det.engine.saved_weights import saved_weights

    cfg = load_config(options.config, options.cfg_options)
    if not cfg.get("test_dataloader"):
        raise ConfigError(
            f"the config {options.config} has no test_dataloader, so there is nothing to test on."
        )
    fit_to_device(cfg, options.launcher)
    init_distributed(cfg, options.launcher)
    checkpoint, loaded = _load(options.checkpoint, cfg)
    apply_data_root(cfg, options.data_root, options.cfg_options)
    apply_classes(cfg, options.classes or _trained_classes(cfg, loaded))
    drifted = _drift_from_run(checkpoint, cfg)
    used = _apply_settings(cfg, options.settings)
    cfg.launcher = options.launcher
    folder = Path("work_dirs") / Path(options.config).stem if "://" in checkpoint else Path(checkpoint).parent
    work_dir = Path(options.work_dir or folder / "test")
    cfg.work_dir = str(work_dir)
    cfg.load_from = checkpoint
    cfg.resume = False
    if options.show_dir is not None:
        _draw_predictions(cfg, options.show_dir)
    detections = _save_detections(cfg, work_dir / DETECTIONS_FILE)
    save_predictions(cfg, work_dir)
    runner = build_runner(cfg, for_training=False)
    name_images(runner)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    detector = model.module if isinstance(model, BaseTTAModel) else model
    require_same_weights(detector.state_dict(), saved_weights(loaded), checkpoint)
    _require_same_classes(loaded, runner, checkpoint)
    metrics = {key: float(value) for key, value in runner.test().items()}
    is_main = runner.rank == 0
    if is_main:
        if detections is not None:
            fill_truncated(detections, runner.test_dataloader.dataset)
        _record(options, checkpoint, used, drifted, metrics, runner, work_dir)
    return TestOutcome(metrics, work_dir, detections, is_main)


def _record(
    options: TestOptions,
    checkpoint: str,
    used: dict | None,
    drifted: dict,
    metrics: dict,
    runner: Any,
    work_dir: Path,
) -> None:
    is_uri = "://" in checkpoint
    digest = checkpoint.rpartition(":")[2] if is_uri else file_digest(Path(checkpoint))
    entry = {
        "date": utc_now(),
        "config": options.config,
        "checkpoint": checkpoint,
        "checkpoint_digest": digest,
        "data": dataset_record(runner.test_dataloader.dataset),
        "settings": used,
        "changed_settings": options.settings.to_dict() if options.settings.changed else None,
        "cfg_options": list(options.cfg_options),
        "config_drift": drifted,
        "metrics": metrics,
    }
    write_test_record([path for path in (work_dir / TEST_FILE, options.json_out) if path], entry)
    if not is_uri:
        add_to_run(Path(checkpoint).parent, {**entry, "checkpoint": Path(checkpoint).name})
    for key, value in metrics.items():
        if key.count("/") == 1:  # per-class figures are in the table that the metric printed
            print(f"{key}: {value:.6f}")
    print(f"test record: {work_dir / TEST_FILE}")


def _drift_from_run(checkpoint: str, cfg: Any) -> dict[str, list[str]]:
    """Where the config differs from that of the run that the checkpoint lies in; warns of it."""
    run_dir = Path(checkpoint).parent
    if "://" in checkpoint or not (run_dir / RUN_RECORD).is_file():
        return {}
    record = read_run_record(run_dir)
    found = drift(record, str(run_dir / RUN_RECORD), cfg)
    if found:
        logger.warning(drift_line(found, run_dir=run_dir))
    if record["status"] != "completed":
        logger.warning(
            f"the run in {run_dir} is {record['status']} after {len(record['epochs'])} epochs; testing "
            f"{Path(checkpoint).name} all the same."
        )
    return found


def _apply_settings(cfg: Any, settings: InferenceSettings) -> dict[str, Any] | None:
    if cfg.get("stage", "detection") == "detection":
        return apply_inference_settings(cfg, settings)
    if settings.changed:
        raise ConfigError(
            "--tta, --score-threshold, --nms-iou-threshold and --image-scale are for detectors; this config is of the "
            f"stage {cfg.stage}."
        )
    return None


def _trained_classes(cfg: Any, loaded: dict) -> Sequence[str] | None:
    """The classes that a VOC-format detector was trained on, where the config names others; says so."""
    from sosr_det.engine.saved_weights import saved_weights

    trained = ((loaded.get("meta") or {}).get("dataset_meta") or {}).get("classes")
    leaves = [n for n in walk_dicts(cfg.get("test_dataloader")) if bare_type(n.get("type")) in VOC_TYPES]
    if not trained or not leaves or not any("bbox_head" in name for name in saved_weights(loaded)):
        return (
            None  # nothing to go by, other data, or no detector, which the comparison of the weights will say
        )
    named = [(leaf.get("metainfo") or {}).get("classes") for leaf in leaves]
    if any(names is not None and tuple(names) == tuple(trained) for names in named):
        return None
    from sosr_det.data.voc_classes import VOC_CLASSES

    if None in named and tuple(trained) == tuple(VOC_CLASSES):
        return None
    print(f"classes, from the checkpoint: {', '.join(trained)}")
    return list(trained)


def _save_detections(cfg: Any, path: Path) -> Path | None:
    """Have the config's VOC metric save its detections; None where it has no such metric."""
    evaluators = cfg.get("test_evaluator")
    for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        if isinstance(evaluator, dict) and bare_type(evaluator.get("type")) == "VOCDevkitMetric":
            evaluator["save_to"] = str(path)
            return path
    return None


def require_same_weights(model_state: dict[str, Any], file_state: dict[str, Any], source: str) -> None:
    """mmengine loads checkpoints non-strictly: check first that the file is this model's.

    Raises:
        CheckpointError: counts and examples of missing, left-over and misshapen tensors.
    """
    file_state = {name.removeprefix("module."): value for name, value in file_state.items()}
    missing = sorted(model_state.keys() - file_state.keys())
    extra = sorted(file_state.keys() - model_state.keys())
    shapes = [
        f"{name} {list(file_state[name].shape)} for {list(value.shape)}"
        for name, value in model_state.items()
        if name in file_state and file_state[name].shape != value.shape
    ]
    if missing or extra or shapes:
        raise CheckpointError(
            f"{source} does not hold this config's model: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(extra)} left over {extra[:3]}, {len(shapes)} of another shape {shapes[:3]}. "
            "Test with the config (and --classes) that the checkpoint was trained with."
        )


def _load(source: Path | str, cfg: Any) -> tuple[str, dict]:
    """Path or pinned URI, and content, of a checkpoint: a file, a run folder (its kept epoch) or a detector's URI.

    In a distributed run every rank must call this; a URI means the same entry on all of them.
    """
    from sosr_det.registry.safe_load import load_state_file
    from sosr_det.registry.scheme import load_from_sosr

    if not str(source).startswith(SCHEME):
        file = Path(source)
        if file.is_dir():
            file = kept_checkpoint(file, read_run_record(file))
        return str(file), load_state_file(file)
    loaded = load_from_sosr(str(source))
    manifest = Manifest.from_dict(loaded["meta"]["manifest"])
    if manifest.kind != "detector":
        raise CheckpointError(
            f"{source} holds a backbone ({manifest.arch.name}) without a head, which predicts nothing that could be "
            "tested. Name a detector's entry, a run folder or a checkpoint file."
        )
    check_detector(cfg.model, manifest, str(source))
    loaded["meta"]["dataset_meta"] = {"classes": manifest.classes}
    return f"{SCHEME}sha256:{loaded['meta']['sosr_digest']}", loaded


def _require_same_classes(loaded: dict, runner: Any, checkpoint: str) -> None:
    trained = ((loaded.get("meta") or {}).get("dataset_meta") or {}).get("classes")
    tested = (getattr(runner.test_dataloader.dataset, "metainfo", None) or {}).get("classes")
    if trained and tested and tuple(trained) != tuple(tested):
        raise CheckpointError(
            f"{checkpoint} was trained on the classes {tuple(trained)[:5]}, the test data has {tuple(tested)[:5]}: "
            "the outputs would be read as other classes. Use the same class list, in the same order."
        )


def _draw_predictions(cfg: Any, folder: Path) -> None:
    hook = (cfg.get("default_hooks") or {}).get("visualization")
    if hook is None:
        raise CheckpointError("--show-dir needs a detection config: this one has no visualization hook.")
    hook.update(draw=True, test_out_dir=str(folder.resolve()), interval=1)
