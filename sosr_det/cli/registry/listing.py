"""``sosr-det registry ls``, ``show`` and ``resolve``: what is there, and what is known about it."""

from __future__ import annotations

import json
from typing import Any

import typer

from sosr_det.cli.registry.common import (
    JsonOption,
    RootOption,
    UriArgument,
    age,
    as_uri,
    cell,
    clean,
    console,
    number,
    print_json,
    size,
)
from sosr_det.registry.opening import open_registry
from sosr_det.registry.store import Entry, Registry


def list_command(root: RootOption = None, as_json: JsonOption = False) -> None:
    """List what the registry holds, one line per name and content."""
    registry = open_registry(root)
    rows = _rows(registry)
    if as_json:
        print_json(rows)
        return
    if not rows:
        typer.echo(f"The registry {registry.root} is empty. `sosr-det export` publishes to it.")
        return
    _print_table(rows)
    if damaged := sum(row["error"] is not None for row in rows):
        typer.echo(f"{damaged} damaged; `sosr-det registry verify --all` says what and where.", err=True)


def show_command(name: UriArgument, root: RootOption = None, as_json: JsonOption = False) -> None:
    """Show everything that the manifest says about one entry."""
    entry = open_registry(root).resolve(as_uri(name))
    if as_json:
        print_json(_identity(entry) | {"manifest": entry.manifest.to_dict()})
        return
    for key, value in _details(entry):
        typer.echo(f"{key:<17} {clean(value)}")


def resolve_command(uri: UriArgument, root: RootOption = None, as_json: JsonOption = False) -> None:
    """Print the digest of the manifest and the path of the weights, one line each."""
    entry = open_registry(root).resolve(as_uri(uri))
    if as_json:
        print_json(_identity(entry))
    else:
        typer.echo(f"sha256:{entry.digest}\n{entry.blob_path}")


def _identity(entry: Entry) -> dict[str, Any]:
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


def _rows(registry: Registry) -> list[dict[str, Any]]:
    """One row per name and manifest, with all its tags; damaged refs have an error and no values."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for listing in registry.list_refs():
        key = (listing.name, listing.digest or f"@{listing.tag}")
        if key in rows:
            rows[key]["tags"].append(listing.tag)
            continue
        summary = listing.summary
        row: dict[str, Any] = {"name": listing.name, "tags": [listing.tag]}
        row["error"] = None if listing.error is None else str(listing.error)
        row["digest"] = listing.digest
        row["tensors_digest"] = summary.tensors_digest if summary else None
        row["arch"] = summary.arch if summary else None
        row["data"] = summary.data if summary else None
        row["recipe"] = summary.recipe if summary else None
        row["top1"] = summary.metrics.get("top1") if summary else None
        row["ece"] = summary.metrics.get("ece") if summary else None
        row["size_bytes"] = summary.size_bytes if summary else None
        row["created"] = summary.created if summary else None
        rows[key] = row
    return list(rows.values())


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    out = console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("name", "tags", "arch", "data", "recipe"):
        table.add_column(title, overflow="fold")
    for title in ("top-1", "ECE", "size", "age"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = [row["name"], ",".join(row["tags"])]
        if row["error"] is not None:
            cells += ["DAMAGED", "-", "-", "-", "-", "-", "-"]
        else:
            cells += [row["arch"], row["data"] or "-", row["recipe"] or "-"]
            cells += [
                number(row["top1"]),
                number(row["ece"]),
                size(row["size_bytes"]),
                age(row["created"]),
            ]
        table.add_row(*(cell(text) for text in cells))
    out.print(table)


def _details(entry: Entry) -> list[tuple[str, str]]:
    """The lines of ``show``, as pairs of title and value."""
    manifest = entry.manifest
    arch, prep, recipe = manifest.arch, manifest.preprocessing, manifest.recipe
    style = f", {arch.style} style" if arch.style else ""
    lines = [
        ("uri", entry.uri),
        ("pinned uri", entry.pinned_uri),
        ("weights", str(entry.blob_path)),
        ("weights digest", f"sha256:{entry.tensors_digest}"),
        ("tensors", f"{len(manifest.tensors)}, {manifest.size_bytes} bytes ({size(manifest.size_bytes)})"),
        ("arch", f"{arch.name} of {arch.library}{style}, stem {arch.stem}"),
        ("feature channels", ", ".join(map(str, arch.feature_channels)) or "-"),
        ("channel order", f"{prep.channel_order}, pixels {prep.scale}"),
        ("mean", ", ".join(map(str, prep.mean))),
        ("std", ", ".join(map(str, prep.std))),
        (
            "input",
            f"{prep.input_size[0]} x {prep.input_size[1]} pixels (height x width), {prep.interpolation}",
        ),
        ("classes", f"{len(manifest.classes)}, sha256:{manifest.classes_sha256}"),
        (
            "metrics",
            ", ".join(f"{key} {number(value)}" for key, value in sorted(manifest.metrics.items())) or "-",
        ),
        ("data", json.dumps(manifest.data, sort_keys=True) if manifest.data else "-"),
        ("recipe", f"{recipe.config_name}, sha256:{recipe.config_digest} (text: --json)" if recipe else "-"),
    ]
    lines += [
        ("parent", f"{parent.relation} {parent.uri}" + (f" sha256:{parent.digest}" if parent.digest else ""))
        for parent in manifest.parents
    ]
    lines += [
        ("seed", "-" if manifest.seed is None else str(manifest.seed)),
        ("git commit", manifest.git_commit or "-"),
        (
            "libraries",
            ", ".join(f"{key} {value}" for key, value in sorted(manifest.library_versions.items())) or "-",
        ),
        ("license", manifest.license or "-"),
        ("created", f"{manifest.created} ({age(manifest.created)} ago)"),
        ("notes", manifest.notes or "-"),
    ]
    return lines
