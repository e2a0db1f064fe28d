"""A run goes on with the images it began with: as many others are another experiment, and nothing would show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process

from sosr_det.engine.provenance import dataset_record
from sosr_det.engine.run_record import FILE_NAME, read_run_record
from sosr_det.errors import ConfigError


def refuse_other_data(runner: Any) -> None:
    """Compare the fingerprint of the training data with the recorded one; every rank must call it.

    A fingerprint covers names and labels below the root, not the place and not the pixels. A run that recorded none,
    or whose data set has none, is not looked at.

    Raises:
        ConfigError: they differ, and ``--allow-changes`` was not given; on every rank.
    """
    failure: list[Any] = [None]
    if is_main_process():
        failure = [_problem(runner)]
    broadcast_object_list(failure, src=0)
    if failure[0] is None:
        return
    if not runner.resume_plan.allows_changes:
        raise ConfigError(failure[0])
    if is_main_process():
        print(
            "resuming with other images or labels than the run began with, as --allow-changes allows",
            flush=True,
        )


def _problem(runner: Any) -> str | None:
    folder = Path(runner.work_dir)
    if runner.resume_plan is None or not (folder / FILE_NAME).is_file():
        return None
    began = ((read_run_record(folder).get("data") or {}).get("train") or {}).get("fingerprint")
    now = dataset_record(runner.train_dataloader.dataset)["fingerprint"] if began else None
    if began is None or now is None or began == now:
        return None
    return (
        f"--resume: the run in {folder} was trained on other images or labels (fingerprint {began[:12]}, now "
        f"{now[:12]}), though they are as many, so going on would mix two experiments. Give it the data it had "
        "(--data-root), or --allow-changes to mix them: those are other images."
    )
