"""A forward pass over a data set without augmentation that leaves no trace in the run."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import all_reduce_dict, get_dist_info
from mmengine.model import is_model_wrapper
from mmengine.registry import DATASETS
from torch import Tensor
from torch.utils.data import DataLoader

from sosr_det.data.sample_seeds import SampleSeededDataset
from sosr_det.errors import ConfigError, TrainingDivergedError
from sosr_det.evaluation.dynamics import (
    SampleMeasures,
    grey_entropy_bits,
    measure_samples,
    sum_measures,
    summarise,
)


class PassResult(NamedTuple):
    """What :meth:`CleanPass.run` found."""

    summary: dict[str, Any]  # of the whole data set, the same on every rank
    features: Tensor | None  # [n, F] of this rank's samples: what enters the head, for models with `reduce`
    labels: Tensor  # [n] of this rank's samples
    indices: list[int]  # [n] where these samples are in the data set


class CleanPass:
    """Measures a classifier on one data set; each process takes every world_size-th sample, so none counts twice.

    Args:
        dataset: yields ``dict(inputs=uint8 [3, H, W], labels=int)``, without random steps.
        like: the validation loader, whose batch size, workers and collate function are used.
        probabilities: the p's of Fig. 1.
        num_bins: bins of the reliability diagram.
        with_entropy: measure the images' grey-level entropy too, in the first pass; later ones reuse it.
        max_samples: measure that many samples only, evenly spaced over the data set; None means all.
    """

    def __init__(
        self,
        dataset: Any,
        like: DataLoader,
        probabilities: Sequence[float],
        num_bins: int,
        *,
        with_entropy: bool = False,
        max_samples: int | None = None,
    ) -> None:
        rank, world_size = get_dist_info()
        self.probabilities = list(probabilities)
        self.num_bins = num_bins
        self.with_entropy = with_entropy
        self.indices = evenly_spaced(len(dataset), max_samples)[rank::world_size]
        self._entropy: Tensor | None = None
        self.loader = DataLoader(
            dataset,
            batch_size=like.batch_size or getattr(like.batch_sampler, "batch_size", 1),
            sampler=self.indices,
            num_workers=like.num_workers,
            collate_fn=like.collate_fn,
            pin_memory=like.pin_memory,
            worker_init_fn=like.worker_init_fn,
            prefetch_factor=like.prefetch_factor,
            multiprocessing_context=like.multiprocessing_context,
        )

    def run(self, model: Any) -> PassResult:
        """Forward all samples in eval mode, in fp32.

        Raises:
            TrainingDivergedError: outputs that are NaN or infinite.
        """
        model = unwrapped(model)
        threshold = overconfidence_threshold(model)
        measures, entropies, features, labels = [], [], [], []
        with undisturbed(model), _features_entering_head(model) as captured:
            for batch in self.loader:
                if self.with_entropy and self._entropy is None:
                    images = batch["inputs"].to(next(model.parameters()).device)
                    entropies.append(grey_entropy_bits(images))
                data = model.data_preprocessor(batch, False)
                logits = model(data["inputs"], mode="tensor")
                measures.append(measure_samples(logits, data["labels"], model.loss_module, threshold))
                labels.append(data["labels"])
                if captured:
                    features.append(captured.pop())
        if entropies:
            self._entropy = torch.cat(entropies).cpu()
        columns = (
            zip(*measures, strict=True) if measures else [[torch.zeros(0)]] * len(SampleMeasures._fields)
        )
        own = SampleMeasures(*(torch.cat(list(column)).cpu() for column in columns))
        entropy = self._entropy if self._entropy is not None or not self.with_entropy else torch.zeros(0)
        return PassResult(
            summary=self._summary_of_all_ranks(own, entropy),
            features=_joined_features(features, model),
            labels=torch.cat(labels).cpu() if labels else torch.zeros(0, dtype=torch.int64),
            indices=list(self.indices),
        )

    def _summary_of_all_ranks(self, own: SampleMeasures, entropy: Tensor | None) -> dict[str, Any]:
        finite = torch.stack([torch.isfinite(value) for value in own]).all(dim=0)
        # A rank must not raise alone: the others would wait for it in the sum.
        sums = sum_measures(
            SampleMeasures(*(torch.nan_to_num(value.float()) for value in own)),
            self.probabilities,
            self.num_bins,
            entropy,
        )
        sums["not_finite"] = (~finite).sum().double()
        all_reduce_dict(sums)
        num_bad = int(sums.pop("not_finite"))
        if num_bad:
            raise TrainingDivergedError(
                f"the model's outputs are NaN or infinite for {num_bad} of {int(sums['num_samples'])} samples without "
                "augmentation. Training diverged; earlier checkpoints are intact. Try a smaller learning rate, "
                "warm-up or gradient clipping."
            )
        return summarise(sums, self.probabilities)


def _joined_features(parts: list[Tensor], model: Any) -> Tensor | None:
    if parts:
        return torch.cat(parts).float().cpu()
    # A rank without samples still takes part in gathering them.
    return None if getattr(model, "reduce", None) is None else torch.zeros(0, model.reduce.out_features)


def evenly_spaced(total: int, wanted: int | None) -> list[int]:
    """``wanted`` of the numbers 0..total-1 in even steps (data sets are sorted by class), or all of them."""
    if wanted is None or wanted >= total:
        return list(range(total))
    return [i * total // wanted for i in range(wanted)]


@contextlib.contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Eval mode without gradients inside; afterwards every module's mode and all random states are as before."""
    modes = [(module, module.training) for module in model.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training  # not train(): a frozen batch-norm layer has its own mode
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def unwrapped(model: Any) -> Any:
    """The classifier inside a DistributedDataParallel wrapper, or itself."""
    return model.module if is_model_wrapper(model) else model


def overconfidence_threshold(model: Any) -> float:
    """P of the run's SOSR loss as it is now; of a run without one, what its logs use."""
    threshold = getattr(model.loss_module, "threshold", None)
    return float(threshold) if isinstance(threshold, (int, float)) else float(model.threshold_for_logging)


@contextlib.contextmanager
def _features_entering_head(model: Any) -> Iterator[list[Tensor]]:
    """Collects the reduced features of each forward pass (Fig. 3) of a model that has a `reduce` layer."""
    captured: list[Tensor] = []
    reduce = getattr(model, "reduce", None)
    if reduce is None:
        yield captured
        return
    handle = reduce.register_forward_hook(lambda _module, _inputs, output: captured.append(output.detach()))
    try:
        yield captured
    finally:
        handle.remove()


# ---- the training set without augmentation -------------------------------------------------------------------------


def clean_passes(
    cfg: Any,
    val_loader: DataLoader,
    probabilities: Sequence[float],
    num_bins: int,
    *,
    training_set: Any = None,
    max_samples: int | None = None,
) -> dict[str, CleanPass]:
    """The measurements of a config's ``train`` and ``val`` sets.

    Args:
        cfg: with ``train_dataloader`` and ``val_dataloader``.
        val_loader: built from the latter.
        training_set: the run's own, if there is one; see :func:`unaugmented_training_set`.
        probabilities, num_bins, max_samples: see :class:`CleanPass`; the last for the training set.

    Raises:
        ConfigError: see :func:`unaugmented_training_set`.
    """
    configs = [(cfg.get(f"{name}_dataloader") or {}).get("dataset") for name in ("train", "val")]
    clean = unaugmented_training_set(*configs, training_set)
    return {
        "train": CleanPass(
            clean, val_loader, probabilities, num_bins, with_entropy=True, max_samples=max_samples
        ),
        "val": CleanPass(val_loader.dataset, val_loader, probabilities, num_bins),
    }


def unaugmented_training_set(train_config: Any, val_config: Any, built: Any = None) -> Any:
    """The training images through the validation pipeline.

    Args:
        train_config: ``train_dataloader.dataset`` of the config.
        val_config: ``val_dataloader.dataset``.
        built: the run's own training set. One that holds its decoded images (``InMemoryDataset``) is reused if the
            steps before decoding are validation's too, so that nothing is decoded or held twice.

    Raises:
        ConfigError: the configs have no single pipeline to exchange.
    """
    if isinstance(built, SampleSeededDataset):
        built = built.dataset
    if (
        isinstance(train_config, dict) and train_config.get("type") == "SampleSeededDataset"
    ):  # an older record
        train_config = train_config["dataset"]
    for name, config in (("train", train_config), ("val", val_config)):
        if not isinstance(config, dict) or innermost(config).get("pipeline") is None:
            raise ConfigError(
                f"TrainingDynamicsHook exchanges the training pipeline for validation's, but {name}_dataloader.dataset "
                "has no `pipeline` (directly or in its `dataset`). Use one classification data set for each."
            )
    batch_steps = list(val_config.get("batch_pipeline") or [])
    if (
        hasattr(built, "batch_transform")
        and not batch_steps
        and innermost(train_config)["pipeline"] == innermost(val_config)["pipeline"]
    ):
        held = copy.copy(built)  # shares the images
        held.batch_transform = torch.nn.Identity()
        return held
    clean = copy.deepcopy(train_config)
    innermost(clean)["pipeline"] = copy.deepcopy(innermost(val_config)["pipeline"])
    if "batch_pipeline" in clean:
        clean["batch_pipeline"] = copy.deepcopy(batch_steps)
    return DATASETS.build(clean)


def innermost(config: dict) -> dict:
    """The config of the data set that reads the files, inside any wrappers."""
    while isinstance(config.get("dataset"), dict):
        config = config["dataset"]
    return config
