"""``sosr-det registry``: look into a checkpoint registry and check it. None of these commands imports torch."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sosr_det.errors import ConfigError
from sosr_det.registry.audit import Audit, audit_all, audit_digest, audit_refs
from sosr_det.registry.names import SCHEME, parse_uri
from sosr_det.registry.store import Entry, Registry

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(no_args_is_help=True, help="Look into the checkpoint registry and check it.")

_PIPED_WIDTH = 10_000  # characters; wide enough that nothing is cut or wrapped outside a terminal
_EXAMPLE = "resnet50-in1k-sosr"

RootOption = Annotated[
    Path | None,
    typer.Option(
        "--registry",
        metavar="ROOT",
        help="Registry folder [default: $SOSR_REGISTRY or ./registry].",
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


@app.command("ls")
def list_command(root: RootOption = None, as_json: JsonOption = False) -> None:
    """List what the registry holds, one line per name and content."""
    registry = Registry(root)
    rows = _rows(registry)
    if as_json:
        _print_json(rows)
        return
    if not rows:
        typer.echo(f"The registry {registry.root} is empty. `sosr-det export` publishes to it.")
        return
    _print_table(rows)
    if damaged := sum(row["error"] is not None for row in rows):
        typer.echo(f"{damaged} damaged; `sosr-det registry verify --all` says what and where.", err=True)


@app.command("show")
def show_command(name: UriArgument, root: RootOption = None, as_json: JsonOption = False) -> None:
    """Show everything that the manifest says about one entry."""
    entry = Registry(root).resolve(_as_uri(name))
    if as_json:
        _print_json(_identity(entry) | {"manifest": entry.manifest.to_dict()})
        return
    for key, value in _details(entry):
        typer.echo(f"{key:<17} {_clean(value)}")


@app.command("resolve")
def resolve_command(uri: UriArgument, root: RootOption = None, as_json: JsonOption = False) -> None:
    """Print the digest of the manifest and the path of the weights, one line each."""
    entry = Registry(root).resolve(_as_uri(uri))
    if as_json:
        _print_json(_identity(entry))
    else:
        typer.echo(f"sha256:{entry.digest}\n{entry.blob_path}")


@app.command("verify")
def verify_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="A name (all its tags), a name@tag or a URI.", show_default=False
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Check every file of the registry.")] = False,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read files whole and compare every bit with the digests; exit with 1 if anything is damaged."""
    if (name is None) != everything:
        raise ConfigError(
            f"expected a name or --all, not {'both' if everything else 'neither'}: "
            f"`sosr-det registry verify {_EXAMPLE}` or `sosr-det registry verify --all`."
        )
    registry = Registry(root)
    audit = audit_all(registry) if name is None else _audit_one(registry, name)
    if as_json:
        _print_json(
            {
                "ok": audit.ok,
                "registry": str(registry.root),
                "files_checked": sorted(audit.files),
                "damages": [damage.as_dict() for damage in audit.damages],
                "unused": audit.unused,
            }
        )
    else:
        _print_audit(audit)
    if not audit.ok:
        raise typer.Exit(1)


def _as_uri(text: str) -> str:
    return text if text.startswith(SCHEME) else f"{SCHEME}{text}"


def _audit_one(registry: Registry, name: str) -> Audit:
    wanted = parse_uri(_as_uri(name))
    if wanted.digest is not None:
        digest = wanted.digest
        if not registry.layout.manifest_path(digest).exists():
            digest = registry.resolve(str(wanted)).digest  # weights' digest, or the error for an unknown one
        return audit_digest(registry, digest)
    tags = [wanted.tag or ""]
    if "@" not in name:
        tags = registry.tags(wanted.name or "") or tags
    return audit_refs(registry, [(wanted.name or "", tag) for tag in tags])


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
    for listing in registry.list_entries():
        entry = listing.entry
        key = (listing.name, entry.digest if entry else f"@{listing.tag}")
        if key in rows:
            rows[key]["tags"].append(listing.tag)
            continue
        row: dict[str, Any] = {"name": listing.name, "tags": [listing.tag]}
        row["error"] = None if listing.error is None else str(listing.error)
        manifest = entry.manifest if entry else None
        row["digest"] = entry.digest if entry else None
        row["tensors_digest"] = entry.tensors_digest if entry else None
        row["arch"] = manifest.arch.name if manifest else None
        row["data"] = manifest.data["name"] if manifest and manifest.data else None
        row["recipe"] = manifest.recipe.config_name if manifest and manifest.recipe else None
        row["top1"] = manifest.metrics.get("top1") if manifest else None
        row["ece"] = manifest.metrics.get("ece") if manifest else None
        row["size_bytes"] = manifest.size_bytes if manifest else None
        row["created"] = manifest.created if manifest else None
        rows[key] = row
    return list(rows.values())


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    console = _console()
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
                _number(row["top1"]),
                _number(row["ece"]),
                _size(row["size_bytes"]),
                _age(row["created"]),
            ]
        table.add_row(*(_cell(cell) for cell in cells))
    console.print(table)


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
        ("tensors", f"{len(manifest.tensors)}, {manifest.size_bytes} bytes ({_size(manifest.size_bytes)})"),
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
            ", ".join(f"{key} {_number(value)}" for key, value in sorted(manifest.metrics.items())) or "-",
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
        ("created", f"{manifest.created} ({_age(manifest.created)} ago)"),
        ("notes", manifest.notes or "-"),
    ]
    return lines


def _print_audit(audit: Audit) -> None:
    for damage in audit.damages:
        typer.echo(f"DAMAGED  {_clean(damage.file)}")
        typer.echo(f"  part      {_clean(damage.part)}")
        typer.echo(f"  expected  {_clean(damage.expected)}")
        typer.echo(f"  found     {_clean(damage.actual)}")
    for path in audit.unused:
        typer.echo(f"unused   {_clean(path)} (sound, but no tag leads to it)")
    result = "all sound" if audit.ok else f"{len(audit.damages)} damaged"
    typer.echo(f"{len(audit.files)} files checked, {result}.")


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def _console() -> Console:
    """A console on stdout that neither wraps nor colours when it is not a terminal."""
    from rich.console import Console

    return Console(highlight=False) if sys.stdout.isatty() else Console(width=_PIPED_WIDTH, highlight=False)


def _cell(text: str) -> Any:
    from rich.text import Text

    return Text(_clean(text))


def _clean(text: str) -> str:
    """Manifests come from others: control characters must not reach the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _size(count: int) -> str:
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"


def _age(created: str) -> str:
    """Time since ``created`` (UTC), in its largest whole unit."""
    then = datetime.strptime(created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    seconds = max(0, int((datetime.now(UTC) - then).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
