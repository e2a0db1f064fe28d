"""``sosr-det registry verify``: is every bit what its digest promises?"""

from __future__ import annotations

from typing import Annotated

import typer

from sosr_det.cli.registry.common import JsonOption, RootOption, as_uri, clean, print_json
from sosr_det.errors import ConfigError
from sosr_det.registry.audit import Audit, audit_all, audit_digest, audit_refs
from sosr_det.registry.names import parse_uri
from sosr_det.registry.opening import open_registry
from sosr_det.registry.store import Registry

_EXAMPLE = "resnet50-in1k-sosr"


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
    registry = open_registry(root)
    audit = audit_all(registry) if name is None else _audit_one(registry, name)
    if as_json:
        print_json(
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


def _audit_one(registry: Registry, name: str) -> Audit:
    wanted = parse_uri(as_uri(name))
    if wanted.digest is not None:
        digest = wanted.digest
        if not registry.layout.manifest_path(digest).exists():
            digest = registry.resolve(str(wanted)).digest  # weights' digest, or the error for an unknown one
        return audit_digest(registry, digest)
    tags = [wanted.tag or ""]
    if "@" not in name:
        tags = registry.tags(wanted.name or "") or tags
    return audit_refs(registry, [(wanted.name or "", tag) for tag in tags])


def _print_audit(audit: Audit) -> None:
    for damage in audit.damages:
        typer.echo(f"DAMAGED  {clean(damage.file)}")
        typer.echo(f"  part      {clean(damage.part)}")
        typer.echo(f"  expected  {clean(damage.expected)}")
        typer.echo(f"  found     {clean(damage.actual)}")
    for path in audit.unused:
        typer.echo(f"unused   {clean(path)} (sound, but no tag leads to it)")
    result = "all sound" if audit.ok else f"{len(audit.damages)} damaged"
    typer.echo(f"{len(audit.files)} files checked, {result}.")
