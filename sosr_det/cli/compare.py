"""``sosr-det compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    config: Annotated[
        list[str],
        typer.Option(
            "--config",
            metavar="CFG",
            help="Config file or shipped name; repeat it to compare configs (every one with every backbone).",
        ),
    ],
    backbones: Annotated[
        list[str] | None,
        typer.Option(
            "--backbones",
            metavar="A B …",
            help="Weights as for `sosr-det train --backbone`, several after the one flag. The first arm is what the "
            "others are compared with. Default: each config's own.",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="0..4, or 0,1,2: every arm is trained once with each.")] = "0..2",
    work_dir: Annotated[
        Path | None, typer.Option(help="Folder of the comparison. Default: work_dirs/compare_<first config>.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Metric of the verdict: map_11point (default) or map_area for detectors, top1 for classifiers."
        ),
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples of the images.")] = 1000,
    bootstrap_seed: Annotated[int, typer.Option(min=0, help="Random seed of the bootstrap.")] = 0,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time. Default: one for each of --devices, else 1.")
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(help="GPUs by number, such as 0,1: each run gets one, by CUDA_VISIBLE_DEVICES."),
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add arms or seeds to the comparison that the folder holds.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs and their commands and do nothing.")
    ] = False,
    data_root: Annotated[Path | None, typer.Option(help="As for `sosr-det train`.")] = None,
    classes: Annotated[str | None, typer.Option(help="As for `sosr-det train`.")] = None,
    total_epochs: Annotated[int | None, typer.Option(min=1, help="As for `sosr-det train`.")] = None,
    select_on: Annotated[str | None, typer.Option(help="As for `sosr-det train`.")] = None,
    amp: Annotated[bool, typer.Option("--amp", help="As for `sosr-det train`.")] = False,
    allow: Annotated[list[str] | None, typer.Option(metavar="NAME", help="As for `sosr-det train`.")] = None,
    registry: Annotated[
        str | None, typer.Option(help="As for `sosr-det train`; tags are pinned when the comparison begins.")
    ] = None,
    cfg_options: Annotated[
        list[str] | None,
        typer.Option(help="Overrides KEY=VALUE … that are the same for every run.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Train and test twins with the same seeds, batches and augmentation, and say whether they differ.

    Reports mean and standard deviation over seeds, the difference of every arm to the first with an interval over test
    images and over seeds, differences per class, and one line of verdict. Run the same command again to go on after an
    interruption; finished runs are kept. The folder holds runs/, logs/, compare.json, report.md and plots.

    Exit code 1 where a run failed, or where twins did not see the same batches.
    """
    from sosr_det.engine.compare import CompareOptions, run_comparison
    from sosr_det.errors import SosrError

    study, failures = run_comparison(
        CompareOptions(
            configs=config,
            backbones=backbones or [],
            seeds=seeds,
            work_dir=work_dir,
            jobs=jobs,
            devices=[device.strip() for device in devices.split(",")] if devices else [],
            extend=extend,
            dry_run=dry_run,
            data_root=data_root,
            classes=classes,
            total_epochs=total_epochs,
            select_on=select_on,
            amp=amp,
            allow=allow or [],
            registry=registry,
            metric=metric,
            cfg_options=cfg_options or [],
        )
    )
    if dry_run:
        return
    from sosr_det.analysis.comparison import write_comparison

    text, problems = write_comparison(
        study, metric=metric, num_resamples=resamples, bootstrap_seed=bootstrap_seed
    )
    typer.echo(text)
    if failures:
        # One cause often fails all runs: say it once.
        causes: dict[str, list[str]] = {}
        for name, error in failures.items():
            causes.setdefault(str(error), []).append(f"{name} (log: {error.log})")
        listed = "; ".join(f"{', '.join(names)}: {cause}" for cause, names in causes.items())
        raise SosrError(
            f"{len(failures)} of {len(list(study.cells()))} runs failed: {listed}. The same command tries them again."
        )
    if problems:
        raise SosrError("this comparison is NOT PAIRED: " + "; ".join(problems))
