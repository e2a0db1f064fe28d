"""The checks of a dry run, one after the other; what one needs of another that failed is left out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sosr_det.engine.backbone.source import RANDOM
from sosr_det.engine.determinism import deterministic_settings_restored
from sosr_det.engine.dry_run.estimate import Work, disk_bytes, run_seconds
from sosr_det.engine.dry_run.report import Report
from sosr_det.engine.dry_run.trial import SavedState, TrialHook, resume, save, train_steps, validate
from sosr_det.engine.prepare import PreparedTraining, prepare_training
from sosr_det.engine.run_record import read_run_record
from sosr_det.engine.telemetry.clock import Span
from sosr_det.engine.telemetry.wording import duration, number, rate, size
from sosr_det.engine.train_options import TrainOptions
from sosr_det.engine.work_dir import OccupiedError, remove_folder
from sosr_det.errors import BackboneMismatchError, DataError, RegistryError, SosrError

# They record the run, validate at length, or measure after an epoch.
_LEFT_OUT = ("RunRecordHook", "DueValidationHook", "TrainingDynamicsHook")


@deterministic_settings_restored()
def dry_run(options: TrainOptions, say: Callable[[str], None] = print) -> bool:
    """Try a training without making it: data, weights, contracts, a few steps, a validation, a save, a resumption.

    Nothing is published, and the work directory is neither made nor changed: everything happens in a temporary folder
    that is removed. Every process of a distributed training must call it.

    Args:
        options: of the training.
        say: takes lines of the report, on the main process.

    Returns:
        Whether everything that was tried works; the same on all processes, since the first failure ends a distributed
        dry run.
    """
    from mmengine.dist import is_main_process

    report = Report()
    folder = Path(tempfile.mkdtemp(prefix="sosr-dry-run-"))
    try:
        prepared = _prepare(options, folder, report)
        if prepared is not None:
            _try(prepared, folder, report)
    finally:
        remove_folder(folder)
    if is_main_process():
        say("")
        say(f"dry run of {options.config}: nothing was published or changed")
        for line in report.lines():
            say(line)
    return report.ok


def _prepare(options: TrainOptions, folder: Path, report: Report) -> PreparedTraining | None:
    """The config and all that is read with it. Where that fails for the weights alone, the rest is tried without."""
    from mmengine.dist import get_world_size

    if options.fresh:
        report.add(
            "options",
            False,
            "--fresh sets damaged checkpoints aside, which a dry run does not; leave it out.",
        )
        return None
    stood_in_the_way = False
    while True:
        try:
            prepared = prepare_training(options, dry_run=True)
        except SosrError as error:
            if get_world_size() > 1:
                raise
            report.add(
                "work directory" if isinstance(error, OccupiedError) else _part(error), False, str(error)
            )
            instead = _without_what_failed(options, error, folder)
            if instead is None:
                return None
            options, stood_in_the_way = instead, True
        else:
            report.add("config", True, "complete" if stood_in_the_way else _described(prepared))
            return prepared


def _without_what_failed(options: TrainOptions, error: SosrError, folder: Path) -> TrainOptions | None:
    """The options with which the rest can be tried; None where nothing can without what failed."""
    if isinstance(error, OccupiedError):
        return replace(options, work_dir=folder / "elsewhere")
    if isinstance(error, (RegistryError, BackboneMismatchError)) and options.backbone != RANDOM:
        return replace(options, backbone=RANDOM, set_depth=False, allow=())
    return None


def _described(prepared: PreparedTraining) -> str:
    if prepared.choice is None:
        replaced = " that is replaced" if prepared.options.overwrite else ""
        return f"a new run in {prepared.work_dir}{replaced}"
    meta = prepared.choice.meta
    status = read_run_record(prepared.work_dir).get("status")
    return (
        f"would go on in {prepared.work_dir} ({status}) from {prepared.choice.path.name}: {meta.get('epoch')} epochs "
        f"and {meta.get('iter')} steps are done"
    )


def _try(prepared: PreparedTraining, folder: Path, report: Report) -> None:
    from sosr_det.engine.setup import build_runner

    prepared.cfg.work_dir = str(folder / "run")
    runner = None
    with _checked(report, "data and model") as check:
        runner = build_runner(prepared.cfg, for_training=True, plan=prepared.plan)
        check.found = _data_text(runner)
    if runner is None:
        _not_run(report, ["training", "save", "resume", "validation", "disk space"], "nothing was built")
        return
    try:
        _try_runner(prepared, runner, folder, report)
    finally:
        for hook in runner.hooks:
            if hasattr(hook, "release"):
                hook.release()


def _try_runner(prepared: PreparedTraining, runner: Any, folder: Path, report: Report) -> None:
    trial = TrialHook()
    backbone = next(
        (hook.record["backbone"] for hook in runner.hooks if type(hook).__name__ == "RunRecordHook"), None
    )
    runner._hooks = [hook for hook in runner.hooks if type(hook).__name__ not in _LEFT_OUT]
    runner.register_hook(trial)
    runner.resume_plan = prepared.resume_plan
    steps, saved = None, None
    with prepared.plan.applied_to(runner):
        with _checked(report, "training") as check:
            steps = train_steps(runner, trial)
            check.found = _training_text(runner, trial, steps)
        if steps is not None and not prepared.choice and not report.names("weights"):
            report.add("weights", True, _weights_text(backbone))
        if steps is None:
            _not_run(report, ["save", "resume"], "no step could be trained")
        else:
            with _checked(report, "save") as check:
                saved = save(runner, folder)
                check.found = f"{size(saved.size_bytes / 2**20)} in {saved.seconds:.1f} s"
            if saved is None:
                _not_run(report, ["resume"], "nothing was saved")
            else:
                with _checked(report, "resume") as check:
                    resume(runner, saved)
                    check.found = "weights, the optimizer's state and the place came back, bit for bit"
        if runner.val_loop is not None:
            with _checked(report, "validation") as check:
                validate(runner)
                check.found = (
                    f"{len(trial.validation_seconds)} of {len(runner.val_dataloader)} batches; the metrics, which need "
                    "all of them, were not computed"
                )
    if saved is None:
        _not_run(report, ["disk space"], "the size of a checkpoint is not known")
    if steps is not None:
        _estimate(prepared, runner, trial, steps, saved, report)


# ---- what was found ------------------------------------------------------------------------------------------------


def _data_text(runner: Any) -> str:
    from mmengine.model import is_model_wrapper

    def told(loader: Any) -> str:
        classes = (getattr(loader.dataset, "metainfo", None) or {}).get("classes") or ()
        return f"{len(loader.dataset)} images" + (f" of {len(classes)} classes" if classes else "")

    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    parameters = sum(p.numel() for p in model.parameters())
    text = f"trains on {told(runner.train_dataloader)}"
    if runner.val_loop is not None:
        text += f", validates on {told(runner.val_dataloader)}"
    return f"{text}; {type(model).__name__} with {parameters / 1e6:.1f} M parameters"


def _weights_text(backbone: dict[str, Any] | None) -> str:
    if not backbone or not backbone.get("uri"):
        return "random, or what init_cfg of the config names: no --backbone was given, and no sosr:// is in the config"
    pinned = backbone.get("pinned_uri")
    return f"{backbone['uri']}{f' ({pinned})' if pinned else ''}, compared with the backbone tensor by tensor"


def _training_text(runner: Any, trial: TrialHook, steps: Span) -> str:
    from mmengine.dist import get_world_size

    batch = runner.train_dataloader.batch_sampler.batch_size
    world = get_world_size()
    text = f"{_count(trial.steps, 'step')} of {world} x {batch} images, contracts included"
    if trial.first_loss is not None:
        text += f"; loss {number(trial.first_loss)} at first, {number(trial.last_loss)} at last"
    if steps.steps:
        text += f"; {rate(steps.img_per_s)}, {steps.data_wait_fraction:.0%} of the time waiting for data"
    return text


def _estimate(
    prepared: PreparedTraining,
    runner: Any,
    trial: TrialHook,
    steps: Span,
    saved: SavedState | None,
    report: Report,
) -> None:
    from sosr_det.engine.telemetry.gradients import peak_memory
    from sosr_det.engine.telemetry.hook import validations_left

    work = Work(
        steps=max(runner.max_iters - runner.iter, 0) + trial.steps,
        validations=validations_left(runner),
        batches_per_validation=len(runner.val_dataloader) if runner.val_loop is not None else 0,
    )
    if steps.seconds_per_step is None:
        report.estimates["time"] = "unknown: an epoch has one step, and the first is no measure of the others"
    else:
        training, one = run_seconds(work, steps.seconds_per_step, trial.validation_seconds)
        report.estimates["time"] = (
            f"about {duration(training + work.validations * one)}: {work.steps} steps of "
            f"{steps.seconds_per_step:.3g} s (from {_count(steps.steps, 'step')} after the first, with data loading) "
            f"and {_count(work.validations, 'validation')} of about {duration(one)} (from "
            f"{_count(len(trial.validation_seconds), 'batch')}, metrics not computed); saving not included"
        )
    memory, of = peak_memory()
    where = (
        "allocated on the GPU"
        if of == "cuda"
        else "resident in the main process, loader's workers not included"
    )
    report.estimates["memory"] = f"{size(memory)} at most so far, {where}"
    if saved is not None:
        _estimate_disk(prepared, runner, saved, report)


def _estimate_disk(prepared: PreparedTraining, runner: Any, saved: SavedState, report: Report) -> None:
    from mmengine.hooks import CheckpointHook

    hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    length = runner.max_epochs if hook is None or hook.by_epoch else runner.max_iters
    done = runner.epoch if hook is None or hook.by_epoch else runner.iter
    interval = getattr(hook, "interval", 1)
    saves = -(-(length - done) // interval) if interval > 0 else 1
    kept = getattr(hook, "max_keep_ckpts", -1)
    best = len(getattr(hook, "key_indicators", None) or ()) if getattr(hook, "save_best", None) else 0
    end, most = disk_bytes(saved.size_bytes, saved.weights_bytes, kept=kept, saves=saves, best=best)
    place = next(path for path in (prepared.work_dir, *prepared.work_dir.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    text = f"the run needs about {size(most / 2**20)} at most in {prepared.work_dir}, {size(free / 2**20)} are free"
    report.add("disk space", free >= most, text)
    count = saves if kept < 0 else min(kept, saves)
    report.estimates["disk"] = (
        f"{size(end / 2**20)} in the end: {_count(count, 'checkpoint')} of {size(saved.size_bytes / 2**20)}"
        f"{f', {best} best of {size(saved.weights_bytes / 2**20)}' if best else ''}, and logs"
    )


def _count(number: int, what: str) -> str:
    plural = what if number == 1 else f"{what}es" if what.endswith("ch") else f"{what}s"
    return f"{number} {plural}"


# ---- failures ------------------------------------------------------------------------------------------------------


class _Found:
    found = ""


@contextmanager
def _checked(report: Report, name: str) -> Iterator[_Found]:
    """Note the outcome of a block; its failure ends the dry run only where other processes would wait for this one."""
    from mmengine.dist import get_world_size

    check = _Found()
    try:
        yield check
    except Exception as error:
        if get_world_size() > 1:
            raise
        known = isinstance(error, SosrError)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        part = _part(error) if known else name
        report.add(name if part == "config" else part, False, text[:1000])
    else:
        report.add(name, True, check.found)


def _part(error: Exception) -> str:
    """What an error is about."""
    if isinstance(error, DataError):
        return "data"
    if isinstance(error, (RegistryError, BackboneMismatchError)):
        return "weights"
    return "config"


def _not_run(report: Report, names: list[str], why: str) -> None:
    for name in names:
        report.add(name, None, why)
