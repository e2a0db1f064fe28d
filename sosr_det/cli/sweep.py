"""``sosr-det sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sweep(
    config: Annotated[str, typer.Argument(help="Config file or shipped name (see `sosr-det configs`).")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=V1,V2,…",
            help="Values of a config key; repeat for more keys, all combinations are run. "
            "Default: SOSR's P in 0.9, 0.95, 0.99, 0.995, 0.999 and beta in 0.1, 0.5, 1, 2 "
            "(chosen here: the paper's ablation is not public).",
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="Random seeds, separated by commas; each point runs with each.")
    ] = "0,1,2",
    metric: Annotated[
        str, typer.Option(help="Metric of the validation, read at each run's best epoch.")
    ] = "accuracy/top1",
    work_dir: Annotated[
        Path | None, typer.Option(help="Folder of the sweep. Default: work_dirs/sweep_<config name>.")
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add values or seeds to the sweep that the folder holds.")
    ] = False,
    stop_on_error: Annotated[
        bool, typer.Option("--stop-on-error", help="End at the first trial that fails, instead of going on.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the trials and do nothing.")] = False,
    data_root: Annotated[Path | None, typer.Option(help="As for `sosr-det train`.")] = None,
    backbone: Annotated[str | None, typer.Option(help="As for `sosr-det train`.")] = None,
    total_epochs: Annotated[int | None, typer.Option(min=1, help="As for `sosr-det train`.")] = None,
    amp: Annotated[bool, typer.Option("--amp", help="As for `sosr-det train`.")] = False,
    registry: Annotated[
        str | None, typer.Option(help="As for `sosr-det train`; trials publish nothing.")
    ] = None,
    cfg_options: Annotated[
        list[str] | None,
        typer.Option(help="Overrides KEY=VALUE … that are the same for every trial.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Train every combination of settings and seeds, and tabulate mean ± standard deviation over the seeds.

    Run the same command again to go on after an interruption: finished runs are kept, a cut one is resumed, failed ones
    are tried again. Run it in several shells of one machine (each with its own CUDA_VISIBLE_DEVICES) to share the work.
    The folder holds a run folder per trial, sweep.json, sweep.csv and study.journal (an optuna study).
    """
    from sosr_det.engine.sweep import SweepOptions, run_sweep

    run_sweep(
        SweepOptions(
            config=config,
            settings=settings or [],
            seeds=seeds,
            metric=metric,
            work_dir=work_dir,
            extend=extend,
            stop_on_error=stop_on_error,
            dry_run=dry_run,
            data_root=data_root,
            backbone=backbone,
            total_epochs=total_epochs,
            amp=amp,
            registry=registry,
            cfg_options=cfg_options or [],
        )
    )
