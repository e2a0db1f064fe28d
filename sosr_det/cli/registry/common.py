"""What all commands of ``sosr-det registry`` share: options, URIs without their scheme, printing."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from sosr_det.registry.names import SCHEME
from sosr_det.registry.plain_text import clean as clean
from sosr_det.registry.plain_text import size as size

# Text, not a path: a path would turn the // of a URL into one slash.
RootOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        metavar="ROOT",
        help="Registry folder or URL; default: $SOSR_REGISTRY, else ./registry.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
UriArgument = Annotated[
    str,
    typer.Argument(
        metavar="URI", help=f"{SCHEME}NAME, {SCHEME}NAME@TAG, {SCHEME}sha256:HEX, or without {SCHEME}"
    ),
]


def as_uri(text: str) -> str:
    """``text`` as a URI; on the command line the scheme may be left out."""
    return text if text.startswith(SCHEME) else f"{SCHEME}{text}"


def print_json(value: Any) -> None:
    """Print one JSON document and nothing else."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def age(created: str) -> str:
    """Time since ``created`` (UTC), in its largest whole unit."""
    then = datetime.fromisoformat(created)
    seconds = max(0, int((datetime.now(UTC) - then).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
