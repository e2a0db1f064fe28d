"""``sosr-det bench``: speed measured on this machine, always beside a peer."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Measure speed beside a peer, interleaved.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `bench` a group while it has a single command."""


@app.command()
def loss(
    samples: Annotated[int, typer.Option(min=1, help="Batch size M.")] = 256,
    classes: Annotated[int, typer.Option(min=2, help="Classes K.")] = 1000,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; medians are printed.")] = 30,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """SOSRLoss against cross-entropy and a literal per-sample version, forward and backward."""
    import json

    from sosr_det.analysis.bench_loss import bench_loss

    rows = bench_loss(samples, classes, repeats, device)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    typer.echo(
        f"[{samples}, {classes}] logits, half over-confident, forward + backward, {repeats} rounds on {device}"
    )
    for name, row in rows.items():
        typer.echo(f"  {name:<26}{row['median_ms']:>9.2f} ms {row['ratio_to_ce']:>8.2f} x cross-entropy")
