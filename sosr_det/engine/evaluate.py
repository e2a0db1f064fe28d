"""Evaluating a checkpoint: strict loading, the config's own metrics, a JSON file with all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sosr_det.engine.backbone.source import check_detector
from sosr_det.engine.configs import load_config
from sosr_det.engine.run_record import read_run_record
from sosr_det.engine.setup import (
    apply_classes,
    apply_data_root,
    build_runner,
    fit_to_device,
    init_distributed,
)
from sosr_det.errors import CheckpointError
from sosr_det.registry.manifest import Manifest
from sosr_det.registry.names import SCHEME


@dataclass
class TestOptions:
    """What the command line can say about a test; see ``sosr-det test --help``."""

    __test__ = False  # not a test class, whatever its name begins with

    config: str
    checkpoint: Path | str
    work_dir: Path | None = None
    data_root: Path | None = None
    classes: Sequence[str] | None = None
    show_dir: Path | None = None
    json_out: Path | None = None
    registry: str | Path | None = None
    launcher: str = "none"
    cfg_options: Sequence[str] = field(default_factory=list)


def run_test(options: TestOptions) -> dict[str, float]:
    """Evaluate and print; returns the metrics, which are also written to ``work_dir/test.json``.

    Raises:
        CheckpointError: not a checkpoint, unsafe, or not this model's weights: every tensor of the model must be
            in the file with its shape, and nothing may be left over; a registry entry that is a backbone.
        SosrError: config and data errors.
    """
    if options.registry is not None:
        os.environ["SOSR_REGISTRY"] = str(options.registry)  # the sosr:// loader reads it
    from mmengine.model import is_model_wrapper

    import sosr_det.register  # noqa: F401
    from sosr_det.registry.safe_load import extract_state_dict

    cfg = load_config(options.config, options.cfg_options)
    fit_to_device(cfg, options.launcher)
    init_distributed(cfg, options.launcher)
    checkpoint, loaded = _load(options.checkpoint, cfg)
    apply_data_root(cfg, options.data_root, options.cfg_options)
    apply_classes(cfg, options.classes)
    cfg.launcher = options.launcher
    folder = Path("work_dirs") / Path(options.config).stem if "://" in checkpoint else Path(checkpoint).parent
    cfg.work_dir = str(options.work_dir or folder / "test")
    cfg.load_from = checkpoint
    cfg.resume = False
    if options.show_dir is not None:
        _draw_predictions(cfg, options.show_dir)
    runner = build_runner(cfg, for_training=False)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    require_same_weights(model.state_dict(), extract_state_dict(loaded), checkpoint)
    _require_same_classes(loaded, runner, checkpoint)
    metrics = {key: float(value) for key, value in runner.test().items()}
    if runner.rank == 0:
        text = json.dumps({"config": options.config, "checkpoint": checkpoint, "metrics": metrics}, indent=1)
        for path in filter(None, (Path(cfg.work_dir) / "test.json", options.json_out)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        for key, value in metrics.items():
            if key.count("/") == 1:  # per-class figures are in the table that the metric printed
                print(f"{key}: {value:.6f}")
    return metrics


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
    """Path or pinned URI, and content, of a checkpoint: a file, a run folder (its best epoch) or a detector's URI.

    In a distributed run every rank must call this; a URI means the same entry on all of them.
    """
    from sosr_det.registry.safe_load import load_state_file
    from sosr_det.registry.scheme import load_from_sosr

    if not str(source).startswith(SCHEME):
        file = _checkpoint_file(Path(source))
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


def _checkpoint_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    best = (read_run_record(path).get("best") or {}).get("checkpoint")
    if not best or not (path / best).is_file():
        raise CheckpointError(f"{path} holds no best checkpoint; name a checkpoint file.")
    return path / best


def _draw_predictions(cfg: Any, folder: Path) -> None:
    hook = (cfg.get("default_hooks") or {}).get("visualization")
    if hook is None:
        raise CheckpointError("--show-dir needs a detection config: this one has no visualization hook.")
    hook.update(draw=True, test_out_dir=str(folder.resolve()), interval=1)
