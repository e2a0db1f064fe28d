"""``sosr-det test``: evaluation of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    config: Annotated[str, typer.Argument(help="Config file, shipped name or mmdet::name.")],
    checkpoint: Annotated[
        str,
        typer.Argument(help="Checkpoint file, a run folder (its best epoch), or a detector's sosr:// URI."),
    ],
    work_dir: Annotated[
        Path | None, typer.Option(help="Folder for logs and test.json. Default: <checkpoint's folder>/test.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Root of the data set. Default: $SOSR_DATA, else the config's.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Comma-separated class names of a VOC-format data set.")
    ] = None,
    show_dir: Annotated[
        Path | None,
        typer.Option(help="Write pictures of detections against ground truth here (detectors only)."),
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Also write the metrics to this file.")
    ] = None,
    registry: Annotated[
        str | None, typer.Option(help="Registry folder or URL. Default: $SOSR_REGISTRY, else ./registry.")
    ] = None,
    launcher: Annotated[str, typer.Option(help="none, pytorch (torchrun), slurm or mpi.")] = "none",
    cfg_options: Annotated[
        list[str] | None,
        typer.Option(help="Config overrides KEY=VALUE …, as in OpenMMLab.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Evaluate a checkpoint; a detector prints its per-class AP and VOC mAP."""
    from sosr_det.engine.evaluate import TestOptions, run_test

    run_test(
        TestOptions(
            config=config,
            checkpoint=checkpoint,
            work_dir=work_dir,
            data_root=data_root,
            classes=classes.split(",") if classes else None,
            show_dir=show_dir,
            json_out=json_out,
            registry=registry,
            launcher=launcher,
            cfg_options=cfg_options or [],
        )
    )
