"""Having a classifier's test keep what it said about every image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sosr_det.engine.configs import bare_type
from sosr_det.evaluation.saved_predictions import FILE_NAME


def save_predictions(cfg: Any, work_dir: Path) -> Path | None:
    """Have the config's ``ClassificationMetric`` write ``predictions.npz``; None where it has no such metric."""
    evaluators = cfg.get("test_evaluator")
    for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        if isinstance(evaluator, dict) and bare_type(evaluator.get("type")) == "ClassificationMetric":
            evaluator["save_to"] = str(work_dir / FILE_NAME)
            return work_dir / FILE_NAME
    return None


def name_images(runner: Any) -> None:
    """Tell the metrics of a test the names of its images, where the data set knows them."""
    dataset = runner.test_dataloader.dataset
    if not hasattr(dataset, "sample_name"):
        return
    for metric in runner.test_evaluator.metrics:
        if hasattr(metric, "image_names"):
            root = getattr(dataset, "root", None)
            names = [dataset.sample_name(index) for index in range(len(dataset))]
            metric.image_names = [_relative(name, root) for name in names]


def _relative(name: str, root: Any) -> str:
    path = Path(name)
    return path.relative_to(root).as_posix() if root and path.is_relative_to(root) else name
