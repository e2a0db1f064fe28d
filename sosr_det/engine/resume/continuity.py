"""What a resumed run may do otherwise than it did, and what it may not.

The same run: everything goes on bit by bit. Another number of processes, batch size or accumulation with the same
product: the same samples in the same order make up each optimizer step; sums are rounded otherwise, batch norm sees
other batches, and random numbers begin anew from the seed. More or fewer epochs: the schedule of the new length, as if
followed from the start. Another product, another seed, other data: another experiment, and refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sosr_det.engine.resume.schedules import ScheduleReplay
from sosr_det.errors import ConfigError

ENGINE_VERSION = 1


@dataclass(frozen=True)
class Setup:
    """How a training cuts its data into steps.

    Attributes:
        seed: of the run.
        world_size: processes.
        batch_size_per_device: samples of one process and batch.
        accumulative_counts: batches to an optimizer step.
        total_epochs: of the whole run; None for one that counts steps.
        total_steps: of a run that counts steps.
    """

    seed: int | None
    world_size: int
    batch_size_per_device: int
    accumulative_counts: int
    total_epochs: int | None
    total_steps: int | None = None

    @property
    def batch_samples(self) -> int:
        """Samples that all processes take at once."""
        return self.world_size * self.batch_size_per_device

    @property
    def step_samples(self) -> int:
        """Samples of one optimizer step."""
        return self.batch_samples * self.accumulative_counts

    def text(self) -> str:
        """``2 x 32 x accumulate 4 = 256``."""
        accumulate = f" x accumulate {self.accumulative_counts}" if self.accumulative_counts > 1 else ""
        return f"{self.world_size} x {self.batch_size_per_device}{accumulate} = {self.step_samples}"


@dataclass
class ResumePlan:
    """How a run goes on.

    Attributes:
        lines: what to tell the user.
        replays_schedules: whether the saved states of the schedules no longer fit.
        batches_done: of the unfinished epoch, in this run's batches; None: as saved.
        keeps_random_states: False where the ranks are others.
        num_samples: of the training data when the run was saved, None if unknown.
        allows_changes: ``--allow-changes``.
        keeps_config_rate: the config's learning rate is the one it was, before ``--accumulate`` multiplied it.
    """

    lines: list[str] = field(default_factory=list)
    replays_schedules: bool = False
    batches_done: int | None = None
    keeps_random_states: bool = True
    num_samples: int | None = None
    allows_changes: bool = False
    keeps_config_rate: bool = False
    schedules: ScheduleReplay = field(default_factory=ScheduleReplay)


def configured_setup(cfg: Any, world_size: int) -> Setup:
    """Of a config that is about to be run by ``world_size`` processes."""
    loader = cfg.get("train_dataloader") or {}
    sampler = loader.get("batch_sampler") or {}
    train_cfg = cfg.get("train_cfg") or {}
    return Setup(
        seed=(cfg.get("randomness") or {}).get("seed"),
        world_size=world_size,
        batch_size_per_device=int(loader.get("batch_size") or sampler.get("batch_size") or 1),
        accumulative_counts=int((cfg.get("optim_wrapper") or {}).get("accumulative_counts", 1)),
        total_epochs=train_cfg.get("max_epochs"),
        total_steps=train_cfg.get("max_iters"),
    )


def plan_resume(meta: Mapping[str, Any], now: Setup, checkpoint: Path) -> ResumePlan:
    """Compare a checkpoint with what is about to go on from it.

    Args:
        meta: of the checkpoint.
        now: of this run.
        checkpoint: for messages.

    Raises:
        ConfigError: it would be another experiment; says what differs and how to keep it.
    """
    done = counted(meta["epoch"], meta["iter"])
    state = meta.get("engine")
    if not isinstance(state, Mapping) or state.get("version") != ENGINE_VERSION:
        return ResumePlan(
            [
                f"resuming from {checkpoint.name} ({done}): it was saved by another program or version, without random "
                "states and the place in the epoch, so this run goes on from the last whole epoch and not bit by bit"
            ]
        )
    then = Setup(**{name: state[name] for name in Setup.__dataclass_fields__})
    _refuse_another_experiment(then, now, meta, checkpoint)
    plan = ResumePlan(num_samples=state.get("num_samples"))
    batches_done = int(state["batches_done"])
    place = f", {batches_done} of {state['batches_per_epoch']} batches of the next" if batches_done else ""
    plan.lines.append(f"resuming from {checkpoint.name}: {done}{place}")
    if then.batch_samples != now.batch_samples:
        samples = batches_done * then.batch_samples
        if samples % now.step_samples:
            raise ConfigError(
                f"--resume: {checkpoint.name} stands {samples} samples into an epoch, which steps of {now.text()} "
                f"samples do not divide; some would be trained on twice or not at all. Resume with {then.text()}, and "
                "change at the end of an epoch."
            )
        plan.batches_done = samples // now.batch_samples
    if then.world_size != now.world_size:
        plan.keeps_random_states = False
    if (then.world_size, then.batch_size_per_device, then.accumulative_counts) != (
        now.world_size, now.batch_size_per_device, now.accumulative_counts,
    ):  # fmt: skip
        plan.replays_schedules = True
        plan.lines.append(
            f"{then.text()} samples a step became {now.text()}: the same samples in the same order, but rounded "
            "otherwise; batch norm sees batches of another size"
            + ("" if plan.keeps_random_states else "; random numbers begin anew from the seed")
        )
    if now.total_epochs is not None and meta["epoch"] == now.total_epochs:
        plan.lines.append(f"all {now.total_epochs} epochs are done; --total-epochs would train more")
    if (then.total_epochs, then.total_steps) != (now.total_epochs, now.total_steps):
        before, after = then.total_epochs or then.total_steps, now.total_epochs or now.total_steps
        unit = "steps" if now.total_epochs is None else "epochs"
        plan.replays_schedules = True
        plan.lines.append(
            f"{before} {unit} became {after}: the learning rate follows the schedule of {after} {unit} from here on, "
            "as if it had from the start"
        )
    return plan


def counted(epochs: int, steps: int) -> str:
    """``1 epoch, 37 steps``."""
    return f"{epochs} epoch{'s' * (epochs != 1)}, {steps} step{'s' * (steps != 1)}"


def _refuse_another_experiment(then: Setup, now: Setup, meta: Mapping[str, Any], checkpoint: Path) -> None:
    problems: list[str] = []
    if then.seed != now.seed and then.seed is not None:
        problems.append(f"its seed is {then.seed}, not {now.seed}: leave --seed out")
    if then.step_samples != now.step_samples:
        problems.append(
            f"its optimizer steps are over {then.text()} samples (processes x batch x accumulation), these would be "
            f"over {now.text()}: {_same_product(then, now)}"
        )
    if (then.total_epochs is None) != (now.total_epochs is None):
        problems.append("it counts epochs and this config steps, or the reverse: use its own config")
    elif now.total_epochs is not None and now.total_epochs < meta["epoch"]:
        problems.append(
            f"it has finished {meta['epoch']} epochs, and {now.total_epochs} were asked for: ask for more, or test the "
            "checkpoint that you want"
        )
    if problems:
        raise ConfigError(
            f"--resume: {checkpoint.name} cannot be gone on from, as it would be another experiment: "
            + "; ".join(problems)
            + ". Or start a new run with another --work-dir."
        )


def _same_product(then: Setup, now: Setup) -> str:
    """How to keep the samples of a step with the processes that there are now."""
    options: Sequence[str] = ()
    if then.step_samples % (now.world_size * now.batch_size_per_device) == 0:
        counts = then.step_samples // (now.world_size * now.batch_size_per_device)
        options = [*options, f"optim_wrapper.accumulative_counts={counts}"]
    if then.step_samples % (now.world_size * now.accumulative_counts) == 0:
        size = then.step_samples // (now.world_size * now.accumulative_counts)
        options = [*options, f"train_dataloader.batch_size={size}"]
    if not options:
        return f"use {then.world_size} processes"
    return f"keep them with --cfg-options {' or '.join(options)}"
