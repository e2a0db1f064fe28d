"""``sosr-det swap``: another backbone under any MMDetection config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from sosr_det.engine.backbone.swapped_config import SwappedConfig

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def swap(
    config: Annotated[
        str, typer.Argument(help="Config file, shipped name (see `sosr-det configs`) or mmdet::name.")
    ],
    backbone: Annotated[
        str,
        typer.Option(help="sosr://NAME[@TAG], sosr://sha256:HEX, torchvision://NAME, a weights file or URL."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Config file to write; without it, the difference is only shown."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="An exception from the backbone's contract, by name: a pattern of tensor names, probe, probe.layer4, "
            "preprocessing or style. May be given several times; written into the config.",
        ),
    ] = None,
    set_depth: Annotated[
        bool, typer.Option("--set-depth", help="Take over the weights' depth, and fit the neck to it.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    registry: Annotated[
        str | None,
        typer.Option(metavar="ROOT", help="Registry root. Default: $SOSR_REGISTRY, else ./registry."),
    ] = None,
) -> None:
    """Put another backbone under any MMDetection config, with everything that goes with it.

    Sets init_cfg, the stride style and the data preprocessor; refuses weights that do not fit; shows the difference.
    The file that is written inherits the original config, names exact weights by digest, and works with `sosr-det
    train` and with MMDetection's own tools.
    """
    import json

    from sosr_det.engine.backbone.swapped_config import require_writable, swap_config, write_swapped

    if out is not None:
        require_writable(out, force)
    swapped = swap_config(config, backbone, allow or [], registry_root=registry, set_depth=set_depth)
    if as_json:
        form = write_swapped(swapped, out, force) if out is not None else None
        document = {
            "config": config, **swapped.report.to_dict(), "difference": swapped.difference,
            "out": None if out is None else str(out), "form": form,
        }  # fmt: skip
        typer.echo(json.dumps(document, indent=1, sort_keys=True))
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    _show(swapped, console)
    if out is None and not swapped.difference:
        console.print("nothing changes", markup=False)
        return
    if out is None:
        console.print("nothing was written; give -o FILE to write this config", markup=False)
        return
    form = write_swapped(swapped, out, force)
    whole = " (whole: the original cannot be inherited)" if form == "whole" else ""
    root = f" --registry {registry}" if registry else ""
    console.print(f"wrote {out}{whole}\n  sosr-det train {out}{root}", markup=False)


def _show(swapped: SwappedConfig, console: Console) -> None:
    from sosr_det.cli.registry.common import clean

    report = swapped.report

    def line(text: str, style: str | None = None) -> None:
        console.print(clean(text), style=style, markup=False)

    line(f"{', '.join(report.backbones)} of {swapped.name}: {report.uri}")
    if report.checkpoint != report.uri:
        line(f"  {report.checkpoint}")
    for text in report.load_text:
        for part in text.splitlines():
            line(f"  {part}")
    if not report.load_text:
        line("  tensors are compared when training starts")
    for name in report.allowed:
        line(f"  allowed by name: {name}", "yellow")
    for text in report.changes:
        line(f"  set {text}", "bold")
    for text in report.warnings:
        line(f"  note: {text}", "yellow")
    for text in swapped.difference:
        line(text, _COLOURS.get(text[:1]))
