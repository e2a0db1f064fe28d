"""``sosr-det zoo``: which families of MMDetection's model zoo a backbone fits under."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def zoo(
    families: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FAMILY]...",
            help="Folders of MMDetection's configs such as retinanet, or single configs such as "
            "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py. All families, if none is named.",
            show_default=False,
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Backbone to swap in: sosr://NAME, or a URI or file as `sosr-det swap` takes. "
            "Default: a ResNet-50 with random weights, in a temporary registry."
        ),
    ] = None,
    registry: Annotated[
        str | None, typer.Option(help="Registry that has it. Default: $SOSR_REGISTRY, else ./registry.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Keep the results here as they come.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the results as a Markdown page.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Families at a time, which share the cores.")] = 1,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with --json FILE: try what is missing in it or failed; "
            "families that are named are tried in any case.",
        ),
    ] = False,
    image_size: Annotated[int, typer.Option(min=64, help="Side of the images, pixels.")] = 128,
    time_limit: Annotated[float, typer.Option(min=1, help="Seconds for one family.")] = 300,
    memory_limit: Annotated[float, typer.Option(min=1, help="GiB for one family (on Linux).")] = 8,
) -> None:
    """Try a backbone under MMDetection's model zoo, one config per family, on this machine's CPU.

    Each family's config gets the backbone, is built, compared tensor by tensor with the backbone's weights, trained for
    one step and asked for one prediction, on tiny images, in a process of its own. Nothing is downloaded.

    Exit code 1 if any family failed; the reasons are printed.
    """  # fmt: skip
    from sosr_det.analysis.zoo.report import run_and_report

    failed = run_and_report(
        families or [],
        backbone,
        registry,
        json_file=json_file,
        markdown=markdown,
        jobs=jobs,
        resume=resume,
        image_size=image_size,
        time_limit=time_limit,
        memory_limit=memory_limit,
        say=typer.echo,
    )
    if failed:
        raise typer.Exit(1)
