"""Learning-rate schedules of a resumed run whose length or step count has changed."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from typing import Any

logger = logging.getLogger("sosr_det")


_RATES = {"lr", "initial_lr"}  # of an optimizer's parameter group


class ScheduleReplay:
    """Puts the schedules of the new config where they would be, had the run followed them from its start.

    mmengine's schedulers compute each value from the one before and would, from their saved state, end where the old
    run was to end. So they are built anew on the initial values and stepped as often as the training was. Those that
    follow a metric keep their saved state: it depends on no length.

    Attributes:
        rate_factor: from the learning rates of a new run, scaled with its batch, to those that the run began with.
    """

    def __init__(self) -> None:
        self.rate_factor = 1.0
        self._initial: list[dict[str, Any]] = []
        self._saved: Any = None

    def remember(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Before the optimizer's state is loaded: keep the initial values, and keep mmengine from loading schedules."""
        self._initial = [
            {
                key: value
                for key, value in group.items()
                if key != "params" and isinstance(value, (int, float, tuple))
            }
            for group in runner.optim_wrapper.param_groups
        ]
        for values in self._initial:
            for name in _RATES & values.keys():
                values[name] *= self.rate_factor
        for scheduler in _schedulers(runner):
            if getattr(scheduler, "param_name", None) == "lr" and hasattr(scheduler, "base_values"):
                scheduler.base_values = [value * self.rate_factor for value in scheduler.base_values]
        self._saved = checkpoint.pop("param_schedulers", None)

    def replay(self, runner: Any) -> None:
        """After the optimizer's state is loaded: set the initial values again and make the steps."""
        followers = [each for each in _schedulers(runner) if _follows_a_metric(each)]
        by_step = [each for each in _schedulers(runner) if not each.by_epoch]
        by_epoch = [each for each in _schedulers(runner) if each.by_epoch and not _follows_a_metric(each)]
        replays = bool(by_step or by_epoch)
        if replays or not followers:  # followers alone go on from the saved values
            for group, values in zip(runner.optim_wrapper.param_groups, self._initial, strict=True):
                group.update(values)
        self._restore_followers(runner)
        steps_per_epoch = len(runner.train_dataloader)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no optimizer step was made in between
            for step in range(runner.iter):
                for each in by_step:
                    each.step()
                if (step + 1) % steps_per_epoch == 0 and (step + 1) // steps_per_epoch <= runner.epoch:
                    for each in by_epoch:
                        each.step()
        if replays:
            self._lower_again(runner, followers)

    @staticmethod
    def _lower_again(runner: Any, followers: list[Any]) -> None:
        for scheduler in followers:
            factors = getattr(scheduler, "lowered", None)
            if factors is None:
                logger.warning(
                    f"a {type(scheduler).__name__} lowers the learning rate beside schedules whose length has changed, "
                    "and does not know by how much it has: what it has lowered so far is not lowered any more"
                )
                continue
            groups = runner.optim_wrapper.param_groups
            for group, factor, smallest in zip(groups, factors, scheduler.min_values, strict=False):
                name = scheduler.param_name
                group[name] = max(group[name] * factor, min(smallest, group[name]))

    def _restore_followers(self, runner: Any) -> None:
        saved = self._saved if isinstance(self._saved, list) else []
        for scheduler, state in zip(_schedulers(runner), saved, strict=False):
            if _follows_a_metric(scheduler):
                scheduler.load_state_dict(state)


def _schedulers(runner: Any) -> Iterator[Any]:
    found = runner.param_schedulers or []
    groups = found.values() if isinstance(found, dict) else [found]
    for group in groups:
        yield from group


def _follows_a_metric(scheduler: Any) -> bool:
    return hasattr(scheduler, "patience")
