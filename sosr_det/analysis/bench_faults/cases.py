"""The faults that are tried, each with what should become of it."""

from __future__ import annotations

import errno
import functools
import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sosr_det.analysis.bench_faults.arrange import (
    at_step,
    die_at_step,
    kill_worker,
    kill_workers_at_steps,
    remember_loaders,
)
from sosr_det.analysis.bench_faults.disk import Fault, FaultyDisk, dies, fails, in_saves, lies
from sosr_det.engine.checkpoints.names import POINTER, training_checkpoints

_MARK = "code-was-run"


@dataclass
class Run:
    """One start of the training.

    Attributes:
        before: arranges a fault in its process.
        damage: done to the run's folder before.
        arguments: of the command line.
        workers: processes that load images.
        code: the exit code that is right.
        words: that it must say.
    """

    before: Callable[[], Any] | None = None
    damage: Callable[[Path], Any] | None = None
    arguments: tuple[str, ...] = ("--auto-resume",)
    workers: int = 0
    code: int = 0
    words: tuple[str, ...] = ()


@dataclass
class Case:
    """A fault.

    Attributes:
        name: what is done.
        runs: the starts of the training.
        begins_with_a_whole_run: the folder holds one.
        ends_whole: in the end the same bits must be learned.
        arguments: of every start, also of the run that it is compared with.
        forbidden: what must not be in the folder in the end.
    """

    name: str
    runs: list[Run]
    begins_with_a_whole_run: bool = False
    ends_whole: bool = True
    arguments: tuple[str, ...] = ()
    forbidden: str = ""


def cases() -> list[Case]:
    """All of them; about 60 trainings of 24 steps."""
    return [*_kills(), *_signals(), *_disks(), *_damages(), *_workers(), *_numbers()]


def _bind(function: Callable, *arguments: Any, **options: Any) -> Callable[[], Any]:
    return functools.partial(function, *arguments, **options)


def _killed(*arguments: Any, workers: int = 0) -> Run:
    return Run(_bind(die_at_step, *arguments), code=-signal.SIGKILL, workers=workers)


def _kills() -> list[Case]:
    return [
        Case("SIGKILL before the first save", [_killed(4, "inside"), Run()]),
        Case("SIGKILL within an epoch, saves after epochs only", [_killed(10, "before"), Run()]),
        Case("SIGKILL within an epoch, saves every 2 steps too", [_killed(16, "inside", 2), Run()]),
        Case("SIGKILL in the last step", [_killed(24, "after", 5), Run()]),
        Case(
            "SIGKILL three times in a run, 2 loader workers",
            [*(_killed(step, "inside", 2, workers=2) for step in (4, 9, 17)), Run(workers=2)],
        ),
        Case(
            "SIGKILL with gradients that were accumulated and not applied",
            [_killed(15, "before"), Run()],
            arguments=("--accumulate", "4"),
        ),
        *(
            Case(f"SIGKILL in a save, {place}", [_in_save(dies, at, names, -9), Run()])
            for place, at, names in (
                ("half of the file written", 1, ("write",)),
                ("before the file takes its name", 1, ("replace",)),
                ("before its digest takes its name", 2, ("replace",)),
                ("before the pointer takes its name", 3, ("replace",)),
                ("between an old file and its digest", 2, ("unlink",)),
            )
        ),
    ]


def _in_save(fault: Fault, at: int, names: tuple[str, ...], code: int, *words: str, save: int = 3) -> Run:
    return Run(lambda: in_saves(FaultyDisk(at, fault, names), first=save), code=code, words=words)


def _signals() -> list[Case]:
    def send(number: int) -> Callable[[], None]:
        return lambda: at_step(9, lambda runner: os.kill(os.getpid(), number), "before")

    return [
        Case(
            f"{number.name} within an epoch",
            [Run(send(number), code=code, words=(f"stopped by {number.name}",)), Run()],
        )
        for number, code in ((signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130))
    ]


def _disks() -> list[Case]:
    told = "cannot write the checkpoint"
    return [
        Case(
            "disk full in a save",
            [_in_save(fails(errno.ENOSPC), 1, ("write",), 1, "quota is full", told), Run()],
        ),
        Case(
            "disk error when a save is synced",
            [_in_save(fails(errno.EIO), 1, ("fsync",), 1, "check the disk"), Run()],
        ),
        Case(
            "disk gives back other bits than were written",
            [_in_save(lies, 1, ("read",), 1, "not what was written"), Run()],
        ),
        Case(
            "disk full when the pointer is written",
            [_in_save(fails(errno.ENOSPC), 3, ("replace",), 1, POINTER), Run()],
        ),
    ]


def _newest(folder: Path) -> Path:
    return training_checkpoints(folder)[-1]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _without_digest(folder: Path) -> None:
    newest = _newest(folder)
    newest.with_name(f"{newest.name}.sha256").unlink()
    _flip(newest)


def _run_code(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(folder / _MARK),)

    content = torch.load(_newest(folder), weights_only=True)
    torch.save({**content, "more": Evil()}, folder / "epoch_9.pth")


def _damage_all(folder: Path) -> None:
    for path in training_checkpoints(folder):
        _flip(path)


def _damages() -> list[Case]:
    def of(name: str, damage: Callable[[Path], Any], *words: str) -> Case:
        run = Run(damage=damage, words=words)
        return Case(name, [run], begins_with_a_whole_run=True, forbidden=_MARK)

    return [
        of("newest checkpoint: one bit flipped", lambda folder: _flip(_newest(folder)), "is damaged"),
        of("newest checkpoint: one bit flipped, no digest beside it", _without_digest, "is damaged"),
        of("newest checkpoint: cut in half", lambda folder: os.truncate(_newest(folder), 9999), "is damaged"),
        of("newest checkpoint: empty", lambda folder: os.truncate(_newest(folder), 0), "is empty"),
        of("a checkpoint that would run code", _run_code, "cannot be read"),
        of(
            f"{POINTER}: garbage",
            lambda folder: (folder / POINTER).write_bytes(b"\0\xff" * 99),
            "holds no path",
        ),
        of(f"{POINTER}: gone", lambda folder: (folder / POINTER).unlink(), f"there is no {POINTER}"),
        of(
            f"{POINTER}: names a file that is gone",
            lambda folder: (folder / POINTER).write_text("/a/b.pth"),
            "not there",
        ),
        Case(
            "all checkpoints damaged",
            [
                Run(damage=_damage_all, code=1, words=("none of the checkpoints", "--fresh")),
                Run(arguments=("--resume", "--fresh"), words=("beginning anew",)),
            ],
            begins_with_a_whole_run=True,
        ),
    ]


def _workers() -> list[Case]:
    again = ("Starting the training's data loader again",)
    return [
        Case(
            "a loader worker killed in a step",
            [Run(_bind(kill_workers_at_steps, [9], "inside"), workers=2, words=again)],
        ),
        Case(
            "a loader worker killed four times in an epoch",
            [
                Run(
                    _bind(kill_workers_at_steps, [13, 14, 15, 16], "inside"),
                    workers=2,
                    code=1,
                    words=("died 4 times",),
                ),
                Run(workers=2),
            ],
        ),
        Case(
            "a validation's loader worker killed",
            [
                Run(
                    _kill_in_validation,
                    arguments=("--cfg-options", "val_dataloader.num_workers=1"),
                    words=("Starting the validation's data loader again",),
                )
            ],
        ),
    ]


def _kill_in_validation() -> None:
    from mmengine.runner import ValLoop

    remember_loaders()
    run_iter, killed = ValLoop.run_iter, []

    def watched(self: Any, *arguments: Any) -> None:
        if not killed:
            killed.append(kill_worker())
        run_iter(self, *arguments)

    ValLoop.run_iter = watched


def _numbers() -> list[Case]:
    def spoil(step: int, when: str) -> Callable[[], None]:
        def set_nan(runner: Any) -> None:
            with torch.no_grad():
                runner.model.head.weight[0, 0] = math.nan

        return lambda: at_step(step, set_nan, when)

    return [
        Case(
            "a loss becomes NaN",
            [Run(spoil(9, "before"), code=1, words=("the loss is nan", "diverged.json")), Run()],
        ),
        Case(
            "weights become NaN in an epoch's last step",
            [Run(spoil(18, "after"), code=1, words=("the weights are no longer finite",)), Run()],
        ),
    ]
