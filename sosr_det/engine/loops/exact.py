"""What the epoch loop and the step loop have in common, mixed in before mmengine's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader

from sosr_det.engine.loops.place import Place
from sosr_det.engine.loops.training_loader import TrainingBatches, build_training_loader


class ExactLoop:
    """Builds the resumable data loader, and knows its place in the training.

    Args:
        runner: an :class:`sosr_det.engine.runner.EngineRunner`.
        dataloader: a config; a built one is wrapped in nothing and must be a resumable one.
        kwargs: of mmengine's loop.
    """

    def __init__(self, runner: Any, dataloader: DataLoader | dict, **kwargs: Any) -> None:
        if isinstance(dataloader, Mapping):
            dataloader = build_training_loader(runner, dataloader)
        super().__init__(runner, dataloader, **kwargs)
        self.place = Place(runner, self.dataloader)
        self._batches = TrainingBatches(self.dataloader, runner.seed)

    def restore(self, meta: Mapping[str, Any], rng: Sequence[Mapping[str, Any]] | None) -> None:
        """Go on from the place of a checkpoint; see :meth:`Place.restore`."""
        self.place.restore(meta, rng)

    def validate(self) -> None:
        """Run the validation; the training's random numbers are afterwards where they were."""
        with self.place.training_suspended():
            self.runner.val_loop.run()
