"""``sosr-det export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    source: Annotated[Path, typer.Argument(help="Run folder (its best epoch) or a checkpoint inside one.")],
    name: Annotated[str, typer.Option(help="NAME[@TAG] in the registry; 'latest' is always moved too.")],
    registry: Annotated[
        str | None, typer.Option(help="Registry folder or URL. Default: $SOSR_REGISTRY, else ./registry.")
    ] = None,
    license_name: Annotated[
        str | None, typer.Option("--license", help="SPDX licence of the weights.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Publish a training run to the registry: the backbone of a classifier, or a whole detector."""
    import json

    from sosr_det.engine.publishing import export_run

    entry = export_run(source, name, registry_root=registry, license_name=license_name)
    if as_json:
        typer.echo(json.dumps(entry, indent=1, sort_keys=True))
    else:
        typer.echo(
            f"published {entry['kind']} {entry['uri']}\n  {entry['pinned_uri']}\n  from {entry['checkpoint']}"
        )
