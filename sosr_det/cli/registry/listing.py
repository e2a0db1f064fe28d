"""``sosr-det registry ls`` and ``resolve``: what is there, and where it lies."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sosr_det.cli.registry.columns import bold, table, terminal_width
from sosr_det.cli.registry.common import (
    JsonOption,
    RootOption,
    UriArgument,
    age,
    as_uri,
    clean,
    print_json,
    size,
)
from sosr_det.cli.registry.rows import LIMITS, SORTS, Wanted, all_rows, select, sort_rows
from sosr_det.errors import ConfigError
from sosr_det.registry.entry import Entry
from sosr_det.registry.manifest import KINDS
from sosr_det.registry.opening import open_registry


def list_command(
    pattern: Annotated[
        str | None,
        typer.Argument(metavar="[PATTERN]", help="Names, as a glob: 'resnet50*'.", show_default=False),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The same as PATTERN.", metavar="GLOB")] = None,
    arch: Annotated[str | None, typer.Option(help="Part of the architecture's name, or a glob.")] = None,
    data: Annotated[str | None, typer.Option(help="Part of the training data's name, or a glob.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Part of the config's name, or a glob.")] = None,
    kind: Annotated[str, typer.Option(help=f"{', '.join(KINDS)} or all.")] = "all",
    least: Annotated[
        list[str] | None,
        typer.Option(
            "--min", metavar="METRIC=X", help=f"At least X of {', '.join(LIMITS)}; may be repeated."
        ),
    ] = None,
    most: Annotated[
        list[str] | None, typer.Option("--max", metavar="METRIC=X", help="At most X; may be repeated.")
    ] = None,
    sort: Annotated[str, typer.Option(help=f"{', '.join(SORTS)}; best, largest or newest first.")] = "name",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Show so many at most.")] = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what the registry holds, one line per name and content.

    Top-1 and VOC mAP (11-point) are in percent. The mAP of a backbone is the best
    of the detectors that were published on it, directly or after fine-tuning; the
    number in brackets counts them.
    """
    if pattern is not None and name is not None and pattern != name:
        raise ConfigError(f"PATTERN {pattern!r} and --name {name!r} are two patterns; give one.")
    if kind not in (*KINDS, "all"):
        raise ConfigError(f"--kind {kind!r} is not known; choose one of {', '.join(KINDS)} or all.")
    registry = open_registry(root)
    rows = all_rows(registry.list_refs())
    wanted = Wanted(pattern or name, arch, data, recipe, kind, least or (), most or ())
    kept = sort_rows(select(rows, wanted), sort, reverse)
    shown = kept[:limit]
    if as_json:
        print_json(shown)
        return
    if not rows:
        typer.echo(f"The registry {registry.root} is empty. `sosr-det export` publishes to it.")
        return
    if not kept:
        typer.echo(f"None of {len(rows)} entries fits. Leave out a filter; `--json` shows all values.")
        return
    _print_table(shown)
    if len(shown) < len(kept):
        typer.echo(f"… {len(kept) - len(shown)} more; leave out --limit to see them.")
    for row in shown:
        if row["error"] is not None and not row["damaged"]:
            typer.echo(f"unreadable {row['name']}@{','.join(row['tags'])}: {clean(row['error'])}", err=True)
    if damaged := sum(row["damaged"] for row in rows):
        typer.echo(f"{damaged} damaged; `sosr-det registry verify --all` says what and where.", err=True)


def resolve_command(uri: UriArgument, root: RootOption = None, as_json: JsonOption = False) -> None:
    """Print the digest of the manifest and the path of the weights, one line each."""
    registry = open_registry(root)
    entry = registry.resolve(as_uri(uri))
    if not entry.blob_path.exists():  # of a remote registry: the path of the copy in the cache
        registry.fetch(entry)
    if as_json:
        print_json(identity(entry))
    else:
        typer.echo(f"sha256:{entry.digest}\n{entry.blob_path}")


def identity(entry: Entry) -> dict[str, Any]:
    """Under which names, digests and paths an entry is found."""
    return {
        "uri": entry.uri,
        "pinned_uri": entry.pinned_uri,
        "name": entry.name,
        "tag": entry.tag,
        "digest": entry.digest,
        "tensors_digest": entry.tensors_digest,
        "blob_path": str(entry.blob_path),
        "manifest_path": str(entry.manifest_path),
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    with_kind = any(row["kind"] not in (None, "backbone") for row in rows)
    titles = ["name", "tags", *(["kind"] if with_kind else []), "arch", "data", "recipe"]
    right = ["top-1", "ECE", "VOC mAP", "size", "age"]
    lines = table(
        titles + right,
        [_cells(row, with_kind) for row in rows],
        right=right,
        width=terminal_width(),
        shrink=["recipe", "data", "tags", "arch"],
        drop=["recipe", "data", "size"],
    )
    typer.echo("\n".join([bold(lines[0]), *lines[1:]]))


def _cells(row: dict[str, Any], with_kind: bool) -> list[str]:
    if row["error"] is not None:
        kind = ["-"] if with_kind else []
        return [
            row["name"],
            ",".join(row["tags"]),
            *kind,
            "DAMAGED" if row["damaged"] else "unreadable",
            *"-------",
        ]
    voc_map = _fixed(row["map"], 1)
    if row["num_detectors"]:
        voc_map += f" ({row['num_detectors']})"
    return [
        row["name"],
        ",".join(row["tags"]),
        *([row["kind"]] if with_kind else []),
        clean(row["arch"]),
        clean(row["data"] or "-"),
        clean(row["recipe"] or "-"),
        _fixed(row["top1"], 2),
        _fixed(row["ece"], 4),
        voc_map,
        size(row["size_bytes"]),
        age(row["created"]),
    ]


def _fixed(value: float | None, decimals: int) -> str:
    """So that the points of a column stand below each other."""
    return "-" if value is None else f"{value:.{decimals}f}"
