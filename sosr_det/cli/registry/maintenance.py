"""``sosr-det registry verify``, ``tag``, ``rm`` and ``gc``: is every bit right, and what is kept under which name?"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated, Any

import typer

from sosr_det.cli.registry.common import (
    JsonOption,
    RootOption,
    UriArgument,
    as_uri,
    clean,
    print_json,
    size,
)
from sosr_det.errors import ConfigError, RegistryError
from sosr_det.registry.audit import Audit, audit_all, audit_digest, audit_refs
from sosr_det.registry.collect import Collection, Garbage
from sosr_det.registry.names import DEFAULT_TAG, SosrUri, parse_uri
from sosr_det.registry.opening import open_registry

_EXAMPLE = "resnet50-in1k-sosr"
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def verify_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="A name (all its tags), a name@tag or a URI.", show_default=False
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Check every file of the registry, every bit of it.")
    ] = False,
    no_cache: Annotated[
        bool,
        typer.Option("--no-cache", help="Also read weights that did not change since you verified them."),
    ] = False,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read files whole and compare every bit with the digests; exit with 1 if anything is damaged.

    Weights whose file did not change since you last verified it are not read again, and the answer says so; --no-cache
    and --all read everything.
    """
    if (name is None) != everything:
        raise ConfigError(
            f"expected a name or --all, not {'both' if everything else 'neither'}: "
            f"`sosr-det registry verify {_EXAMPLE}` or `sosr-det registry verify --all`."
        )
    registry = open_registry(root)
    audit = audit_all(registry) if name is None else _audit_one(registry, name, not no_cache)
    if as_json:
        print_json(
            {
                "ok": audit.ok,
                "registry": str(registry.root),
                "files_checked": sorted(audit.files),
                "damages": [damage.as_dict() for damage in audit.damages],
                "unused": audit.unused,
                "unchanged": audit.unchanged,
            }
        )
    else:
        _print_audit(audit)
    if not audit.ok:
        raise typer.Exit(1)


def tag_command(
    uri: UriArgument,
    tags: Annotated[list[str], typer.Argument(metavar="TAG...", help="The new tags.", show_default=False)],
    name: Annotated[
        str | None,
        typer.Option("--name", help="Tag it under another name [default: the URI's].", show_default=False),
    ] = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Point tags to an entry; a tag that exists is moved. No content is copied."""
    registry = open_registry(root)
    before = {tag: _digest_of(registry, name or parse_uri(as_uri(uri)).name, tag) for tag in tags}
    entry = registry.tag(as_uri(uri), tags, name=name)
    rows = [
        {"name": entry.name, "tag": tag, "digest": entry.digest, "previous": previous}
        for tag, previous in before.items()
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        moved = row["previous"] not in (None, entry.digest)
        was = f" (was sha256:{row['previous']})" if moved else ""
        typer.echo(f"{row['name']}@{row['tag']} is sha256:{entry.digest}{was}")


def remove_command(
    name: Annotated[str, typer.Argument(metavar="NAME[@TAG]", help="What to remove.", show_default=False)],
    all_tags: Annotated[
        bool, typer.Option("--all-tags", help="Remove all tags of NAME, if it has several.")
    ] = False,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a tag. Weights and manifests stay until `sosr-det registry gc` collects them."""
    registry = open_registry(root)
    wanted = parse_uri(as_uri(name))
    if wanted.name is None:
        raise RegistryError(
            f"{name} is a digest; only tags can be removed. What no tag leads to is removed by `sosr-det registry gc`."
        )
    tag = wanted.tag if "@" in name else None
    tags = registry.tags(wanted.name)
    if tag is None and len(tags) > 1 and not all_tags:
        raise RegistryError(
            f"{wanted.name!r} has {len(tags)} tags ({', '.join(tags)}); say which one (e.g. {wanted.name}@{tags[0]}), "
            "or --all-tags."
        )
    if tag is not None and all_tags:
        raise ConfigError(f"{name} names one tag and --all-tags means all; leave out one of them.")
    if not all_tags and tags:
        tag = tag or tags[0]  # this one, and none that somebody sets meanwhile
    digests = {each: _digest_of(registry, wanted.name, each) for each in ([tag] if tag else tags)}
    removed = registry.remove(wanted.name, tag)
    in_use = {listing.digest for listing in registry.list_refs()}
    rows = [
        {"name": at, "tag": each, "digest": digests.get(each), "still_tagged": digests.get(each) in in_use}
        for at, each in removed
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        digest = f"sha256:{row['digest']}" if row["digest"] else "a damaged ref"
        typer.echo(f"removed {row['name']}@{row['tag']} ({digest})")
    left = registry.tags(wanted.name)
    if left and DEFAULT_TAG in {each for _, each in removed}:
        typer.echo(
            f"sosr://{wanted.name} has no default now; name one of its tags: {', '.join(left)}. "
            f"`sosr-det registry tag {wanted.name}@{left[0]} {DEFAULT_TAG}` gives it one."
        )
    for digest in sorted({row["digest"] for row in rows if row["digest"] and not row["still_tagged"]}):
        typer.echo(
            f"No tag leads to sha256:{digest} any more; it stays until `sosr-det registry gc --delete` collects it."
        )


def gc_command(
    delete: Annotated[
        bool, typer.Option("--delete", "--no-dry-run", help="Remove it. Without, only show what would go.")
    ] = False,
    grace: Annotated[
        str,
        typer.Option("--grace", metavar="TIME", help="Keep what was in use within this time: 90s, 2h, 7d."),
    ] = "24h",
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what no tag, no descendant and no running work needs (dry run unless --delete).

    The parents of everything that is kept are kept too, weights included. What a tag pointed to earlier is not: tag it
    again within the grace period, which starts when its last tag left it.
    """
    seconds = parse_duration(grace)
    registry = open_registry(root)
    found = registry.collect(seconds, dry_run=not delete)
    if as_json:
        print_json(_collection_as_json(str(registry.root), found))
    else:
        _print_collection(found, grace)


def parse_duration(text: str) -> float:
    """Seconds of "90s", "30m", "2h", "7d" or "1w"; "0" needs no unit.

    Raises:
        ConfigError: anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip())
    if text.strip() == "0":
        return 0.0
    if found is None or found[2] not in _UNITS:
        raise ConfigError(
            f"{text!r} is no length of time; expected a number with a unit: 90s, 30m, 2h, 7d, 1w."
        )
    return float(found[1]) * _UNITS[found[2]]


def _digest_of(registry: Any, name: str | None, tag: str) -> str | None:
    with suppress(RegistryError):
        return registry.read_ref(name or "", tag).digest
    return None


def _audit_one(registry: Any, name: str, use_cache: bool) -> Audit:
    wanted = parse_uri(as_uri(name))
    if wanted.digest is not None:
        digest = wanted.digest
        if digest not in registry.manifest_digests():
            digest = registry.resolve(str(wanted)).digest  # weights' digest, or the error for an unknown one
        return audit_digest(registry, digest, use_cache)
    tags = [wanted.tag or ""]
    if "@" not in name:
        tags = registry.tags(wanted.name or "") or tags
    return audit_refs(registry, [(wanted.name or "", tag) for tag in tags], use_cache)


def _print_audit(audit: Audit) -> None:
    for damage in audit.damages:
        typer.echo(f"DAMAGED  {clean(damage.file)}")
        typer.echo(f"  part      {clean(damage.part)}")
        typer.echo(f"  expected  {clean(damage.expected)}")
        typer.echo(f"  found     {clean(damage.actual)}")
    for path in audit.unused:
        typer.echo(f"unused   {clean(path)} (sound, but no tag leads to it)")
    for path, checked in sorted(audit.unchanged.items()):
        typer.echo(f"{clean(path)}: unchanged since it was checked at {checked}; --no-cache reads it again.")
    result = "all sound" if audit.ok else f"{len(audit.damages)} damaged"
    typer.echo(f"{len(audit.files)} files checked, {result}.")


def _print_collection(found: Collection, grace: str) -> None:
    title = "would be removed" if found.dry_run else "removed"
    for item in found.garbage:
        typer.echo(_line(title, item))
    for item in found.waiting:
        typer.echo(_line("kept for now", item))
    for pin in found.held:
        who = f"process {pin.record.owner.pid} on {pin.record.owner.host}" if pin.record else "a damaged pin"
        note = f": {pin.record.note}" if pin.record and pin.record.note else ""
        typer.echo(clean(f"in use        {SosrUri(digest=pin.digest)} by {who}{note}"))
    verb = "would be freed" if found.dry_run else "freed"
    young = sum(item.kind == "manifest" for item in found.waiting)
    because = f" ({young} of them only because a tag led there within {grace})" if young else ""
    typer.echo(
        f"{_count(len(found.garbage), 'file', 'files')}, {size(found.size_bytes)} {verb}; "
        f"{_count(found.num_kept, 'entry stays', 'entries stay')}{because}."
    )
    if found.dry_run and found.garbage:
        typer.echo("This was a dry run; `--delete` removes them.")


def _line(title: str, item: Garbage) -> str:
    name = str(item.path).replace("\\", "/").rpartition("/")[2]
    note = f"  ({item.note})" if item.note else ""
    return clean(
        f"{title:<16}  {item.kind:<9}  {size(item.size_bytes):>10}  {_age(item.age):>7}  {name}{note}"
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def _collection_as_json(root: str, found: Collection) -> dict[str, Any]:
    def rows(items: list[Garbage]) -> list[dict[str, Any]]:
        return [
            {
                "kind": item.kind,
                "path": str(item.path),
                "size_bytes": item.size_bytes,
                "age_seconds": round(item.age, 3),
                "note": item.note,
            }
            for item in items
        ]

    return {
        "registry": root,
        "dry_run": found.dry_run,
        "grace_seconds": found.grace_seconds,
        "garbage": rows(found.garbage),
        "size_bytes": found.size_bytes,
        "waiting": rows(found.waiting),
        "held": [
            {
                "digest": pin.digest,
                "host": pin.record.owner.host if pin.record else None,
                "pid": pin.record.owner.pid if pin.record else None,
                "note": pin.record.note if pin.record else None,
                "created": pin.record.created if pin.record else None,
                "path": str(pin.path),
            }
            for pin in found.held
        ],
        "num_kept": found.num_kept,
    }
