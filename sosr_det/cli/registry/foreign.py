"""``sosr-det registry import`` and ``export``: other projects' files, in and out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from sosr_det.cli.registry.common import JsonOption, RootOption, UriArgument, as_uri, clean, print_json
from sosr_det.errors import ConfigError

_PREPROCESSING = "torchvision, caffe, timm:NAME, or mean=R,G,B,std=R,G,B,order=rgb"


def import_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A checkpoint file, torchvision://ResNet50_Weights.IMAGENET1K_V2, or timm://resnet50.a1_in1k",
        ),
    ],
    name: Annotated[str, typer.Option(help="NAME[@TAG] in the registry; 'latest' is always moved too.")],
    root: RootOption = None,
    arch: Annotated[
        str | None, typer.Option(help="Network, as models.build_backbone takes it (resnet50, timm/NAME).")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Where in the file the tensors are (state_dict_ema); '.' for the top.")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="What their names start with ('teacher.backbone.').")
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(help="Part of a name that is no backbone and may be left out; repeatable."),
    ] = None,
    preprocessing: Annotated[
        str | None, typer.Option(help=f"How pixels were prepared: {_PREPROCESSING}")
    ] = None,
    style: Annotated[
        str | None, typer.Option(help="Where bottlenecks stride: pytorch (3x3 conv) or caffe (first 1x1).")
    ] = None,
    license_name: Annotated[
        str | None, typer.Option("--license", help="SPDX license of the weights.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, such as top1=76.13; repeatable.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Name of the training data, such as imagenet-1k.")] = None,
    notes: Annotated[str, typer.Option(help="Free text for the manifest.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and publish nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Publish the backbone of a torchvision, timm, OpenMMLab, MoCo or plain checkpoint; shows what it took and left."""
    metrics = _metrics(metric or [])
    from sosr_det.transfer.foreign import ImportReport, import_checkpoint

    result = import_checkpoint(
        source,
        name,
        root,
        arch=arch,
        key=key,
        prefix=prefix,
        drop=drop or (),
        preprocessing=preprocessing,
        style=style,
        license_name=license_name,
        metrics=metrics,
        data=data,
        notes=notes,
        dry_run=dry_run,
    )
    if as_json:
        print_json(result)
        return
    for line in ImportReport(**result["report"]).describe().splitlines():
        typer.echo(clean(line))
    if dry_run:
        typer.echo("dry run: nothing was published")
    else:
        typer.echo(f"published {result['uri']}\n  {result['pinned_uri']}")
        for row in result["tags"]:
            if row["previous"] not in (None, row["digest"]):
                typer.echo(f"  {row['name']}@{row['tag']} moved (was sha256:{row['previous']})")


def export_command(
    uri: UriArgument,
    format_name: Annotated[
        str,
        typer.Option("--format", help="safetensors, torchvision, timm, mmdet or onnx.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option(help="File to write; never replaced without --force.", show_default=False)
    ],
    root: RootOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    include_preprocessing: Annotated[
        bool,
        typer.Option(
            "--include-preprocessing", help="onnx: the graph takes RGB pixels 0-255 and normalises."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write an entry as a file for torchvision, timm, MMDetection or ONNX; says how to load it."""
    from sosr_det.transfer.formats import export_entry

    result = export_entry(
        as_uri(uri), format_name, out, root, force=force, include_preprocessing=include_preprocessing
    )
    if as_json:
        print_json(result)
        return
    typer.echo(f"wrote {result['file']} ({result['size_bytes']} bytes, {result['num_tensors']} tensors)")
    typer.echo(f"  from {result['uri']} (sha256:{result['digest'][:16]}…)")
    if format_name == "onnx":
        typer.echo(
            f"  opset {result['opset']}, input {result['input']}, outputs {', '.join(result['outputs'])}"
        )
        typer.echo(f"  {_checked(result['check'])}")
    typer.echo("\n".join(f"  {line}" for line in result["usage"].splitlines()))


def _checked(check: dict) -> str:
    if check["runtime"] is None:
        return "not checked: onnxruntime is not installed"
    return (
        f"checked with onnxruntime {check['runtime']}: largest difference to torch {check['max_abs_difference']:.3g} "
        f"({check['max_rel_difference']:.2g} of the largest value)"
    )


def _metrics(pairs: list[str]) -> dict[str, float]:
    metrics = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not name.strip() or not math.isfinite(value):
            raise ConfigError(f"--metric is {pair!r}, expected NAME=VALUE such as top1=76.13.")
        metrics[name.strip()] = value
    return metrics
