"""Training dynamics of runs that did not record them, from the checkpoints they left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sosr_det.engine.dynamics_record import DYNAMICS_FILE, write_dynamics
from sosr_det.engine.evaluate import require_same_weights
from sosr_det.engine.recorded_config import recorded_config
from sosr_det.engine.run_record import FILE_NAME, read_run_record
from sosr_det.engine.setup import apply_data_root, fit_to_device
from sosr_det.errors import CheckpointError, ConfigError

_PROBABILITIES = (0.9, 0.99, 0.999)
_NUM_BINS = 15


def measure_unrecorded_runs(paths: list[Path], data_root: Path | None = None) -> Iterator[str]:
    """Write ``dynamics.json`` into each run folder that has a ``run.json`` and none yet; yields a line per run.

    Every ``epoch_N.pth`` and best checkpoint gives one point. Features for Fig. 3 come from training only.

    Args:
        paths: run folders, or folders that hold run folders.
        data_root: where the data set is now; None takes the place that the run's config names.

    Raises:
        CheckpointError: no run, no checkpoint, or one that is not the config's model.
        ConfigError: a run that trains no classifier, or whose record holds no plain config.
    """
    for path in map(Path, paths):
        records = [path / FILE_NAME] if (path / FILE_NAME).is_file() else sorted(path.rglob(FILE_NAME))
        if not records:
            raise CheckpointError(f"no run record {FILE_NAME} in or below {path}.")
        for record in records:
            run = record.parent
            if (run / DYNAMICS_FILE).is_file():
                yield f"{run}: keeps its recorded {DYNAMICS_FILE}"
            else:
                epochs = measure_checkpoints(run, data_root)
                yield f"{run}: measured the checkpoints of epoch {', '.join(map(str, epochs))}"


def measure_checkpoints(run: Path, data_root: Path | None = None) -> list[int]:
    """Measure all checkpoints of one run and write its ``dynamics.json``; returns their epochs.

    Raises:
        CheckpointError, ConfigError: see :func:`measure_unrecorded_runs`.
    """
    from mmengine.device import get_device
    from mmengine.registry import MODELS
    from mmengine.runner import Runner

    import sosr_det.register  # noqa: F401
    from sosr_det.engine.clean_pass import clean_passes, overconfidence_threshold
    from sosr_det.engine.saved_weights import saved_weights
    from sosr_det.registry.safe_load import load_state_file

    record = read_run_record(run)
    if record["stage"] == "detection":
        raise ConfigError(f"{run} is a detection run: training dynamics are those of classifiers.")
    checkpoints = _checkpoints_by_epoch(run)
    cfg = recorded_config(record["config_text"], str(run / FILE_NAME))
    fit_to_device(cfg, "none")
    apply_data_root(cfg, data_root)
    model = MODELS.build(cfg.model).to(get_device())
    passes = clean_passes(cfg, Runner.build_dataloader(cfg.val_dataloader), _PROBABILITIES, _NUM_BINS)
    entries = []
    for epoch, checkpoint in checkpoints.items():
        state = saved_weights(load_state_file(checkpoint))
        require_same_weights(model.state_dict(), state, str(checkpoint))
        model.load_state_dict(state)
        for module in model.loss_module.modules():
            if hasattr(module, "set_epoch"):
                module.set_epoch(epoch - 1)
        entry: dict[str, Any] = {"epoch": epoch, "threshold": overconfidence_threshold(model)}
        entries.append(entry | {name: each.run(model).summary for name, each in passes.items()})
    write_dynamics(
        run,
        {
            "config_name": record["config_name"],
            "seed": record["seed"],
            "loss": cfg.model.get("loss"),
            "num_classes": model.num_classes,
            "recomputed_from_checkpoints": [path.name for path in checkpoints.values()],
            "probabilities": list(_PROBABILITIES),
            "max_samples": None,
            "num_bins": _NUM_BINS,
            "epochs": entries,
        },
    )
    return list(checkpoints)


def _checkpoints_by_epoch(run: Path) -> dict[int, Path]:
    """Epoch -> checkpoint, ascending; the epoch is the number at the end of the name."""
    found = {}
    for path in [*run.glob("best_*_epoch_*.pth"), *run.glob("epoch_*.pth")]:
        match = re.search(r"epoch_(\d+)\.pth$", path.name)
        if match:
            found[int(match[1])] = path
    if not found:
        raise CheckpointError(
            f"no epoch_N.pth or best_*_epoch_N.pth in {run}: nothing to measure. Train again with --dynamics."
        )
    return dict(sorted(found.items()))
