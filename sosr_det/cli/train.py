"""``sosr-det train`` and ``sosr-det configs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[
        str, typer.Argument(help="Config file, shipped name (see `sosr-det configs`) or mmdet::name.")
    ],
    work_dir: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: work_dirs/<config name>.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Root of the data set. Default: $SOSR_DATA, else the config's.")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="sosr://NAME[@TAG], sosr://sha256:HEX, torchvision://NAME, a weights file, or 'random'."
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="Comma-separated class names of a VOC-format data set; sizes the heads too."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Random seed. Default: the config's.")] = None,
    total_epochs: Annotated[
        int | None, typer.Option(help="Another number of epochs; the learning-rate schedule is scaled along.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the work directory.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that the work directory holds.")
    ] = False,
    amp: Annotated[bool, typer.Option("--amp", help="Automatic mixed precision.")] = False,
    no_publish: Annotated[
        bool, typer.Option("--no-publish", help="Do not publish the best epoch to the registry.")
    ] = False,
    publish_as: Annotated[
        str | None, typer.Option(help="NAME[@TAG] to publish under instead of the config's.")
    ] = None,
    registry: Annotated[
        Path | None, typer.Option(help="Registry root. Default: $SOSR_REGISTRY, else ./registry.")
    ] = None,
    launcher: Annotated[
        str, typer.Option(help="none, pytorch (torchrun), slurm or mpi; the tools/*.sh scripts choose it.")
    ] = "none",
    cfg_options: Annotated[
        list[str] | None,
        typer.Option(help="Config overrides KEY=VALUE …, as in OpenMMLab.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Train any stage: pretraining, fine-tuning or detection.

    The stage comes from the config. The best epoch of a classification stage is published to the registry
    under the config's name when the run ends.
    """
    from sosr_det.engine.train import TrainOptions, run_training

    run_training(
        TrainOptions(
            config=config,
            work_dir=work_dir,
            data_root=data_root,
            backbone=backbone,
            classes=classes.split(",") if classes else None,
            seed=seed,
            total_epochs=total_epochs,
            resume=resume,
            overwrite=overwrite,
            amp=amp,
            publish=not no_publish,
            publish_as=publish_as,
            registry=registry,
            launcher=launcher,
            cfg_options=cfg_options or [],
        )
    )


def configs(
    pattern: Annotated[str, typer.Argument(help="Show only names that contain this text.")] = "",
) -> None:
    """List the shipped configs."""
    from sosr_det.engine.configs import config_names

    for name in config_names():
        if pattern in name:
            typer.echo(name)
