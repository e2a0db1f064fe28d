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
        str | None,
        typer.Option(
            help="Comma-separated class names of a VOC-format data set. Default: those in the checkpoint."
        ),
    ] = None,
    tta: Annotated[
        bool,
        typer.Option(
            "--tta",
            help="Test-time augmentation: each image at 1, 0.5 and 1.5 times the scale, mirrored and not (six times "
            "the work); merged by the head's NMS. A config's own tta_model and tta_pipeline are used instead.",
        ),
    ] = False,
    score_threshold: Annotated[
        float | None,
        typer.Option(
            help="Drop detections at or below this score before NMS: 0 keeps all, up to but not including 1. "
            "Default: the config's, usually 0.05."
        ),
    ] = None,
    nms_iou_threshold: Annotated[
        float | None,
        typer.Option(
            help="Of two boxes of a class with more overlap than this IoU, drop the lower score: 0 lets none overlap, "
            "1 drops none. Default: the config's, usually 0.5."
        ),
    ] = None,
    image_scale: Annotated[
        str | None,
        typer.Option(
            metavar="W,H", help="Fit the images into this many pixels. Default: the test pipeline's Resize."
        ),
    ] = None,
    show_dir: Annotated[
        Path | None,
        typer.Option(help="Write pictures of detections against ground truth here (detectors only)."),
    ] = None,
    no_report: Annotated[
        bool,
        typer.Option(
            "--no-report", help="Do not write the error analysis with curves and pictures (detectors)."
        ),
    ] = False,
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
    """Evaluate a checkpoint; a detector prints its per-class AP and VOC mAP.

    The work directory gets test.json and, of a detector, detections.npz and report/. The run that the checkpoint lies
    in notes the test in its run.json.
    """
    from sosr_det.engine.evaluate import TestOptions, evaluate_checkpoint
    from sosr_det.engine.inference_settings import InferenceSettings, parse_image_scale

    outcome = evaluate_checkpoint(
        TestOptions(
            config=config,
            checkpoint=checkpoint,
            work_dir=work_dir,
            data_root=data_root,
            classes=classes.split(",") if classes else None,
            settings=InferenceSettings(
                tta,
                score_threshold,
                nms_iou_threshold,
                parse_image_scale(image_scale) if image_scale else None,
            ),
            show_dir=show_dir,
            json_out=json_out,
            registry=registry,
            launcher=launcher,
            cfg_options=cfg_options or [],
        )
    )
    if outcome.detections is not None and outcome.is_main_process and not no_report:
        from sosr_det.analysis.detection_report import write_report
        from sosr_det.evaluation.saved_detections import read_detections_file

        page = write_report(read_detections_file(outcome.detections), outcome.work_dir)
        typer.echo(f"report: {page}")
