"""``sosr-det registry push`` and ``pull``: entries between two registries."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from sosr_det.cli.registry.common import JsonOption, RootOption, as_uri, print_json, size
from sosr_det.errors import ConfigError, SosrError
from sosr_det.registry.copying import Copied, Copier, CopyOptions
from sosr_det.registry.opening import open_registry

UrisArgument = Annotated[
    list[str],
    typer.Argument(metavar="URI...", help="What to copy: NAME, NAME@TAG or sha256:HEX."),
]
AsOption = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME[@TAG]", help="Another name there; for one URI.", show_default=False),
]
AllTagsOption = Annotated[bool, typer.Option("--all-tags", help="All tags of each NAME, not `latest` alone.")]
NoParentsOption = Annotated[
    bool, typer.Option("--no-parents", help="Leave out the entries that it was fine-tuned from or stands on.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Take a tag away from another entry.")]
RepairOption = Annotated[
    bool, typer.Option("--repair", help="Read what is there already, and replace what is damaged.")
]


def push_command(
    uris: UrisArgument,
    to: Annotated[str, typer.Option("--to", metavar="ROOT", help="Registry to copy to: a folder or URL.")],
    new_name: AsOption = None,
    all_tags: AllTagsOption = False,
    no_parents: NoParentsOption = False,
    force: ForceOption = False,
    repair: RepairOption = False,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy entries to another registry, bit for bit and under the same digest; what is there is not sent again."""
    options = CopyOptions(not no_parents, force, repair)
    _copy(uris, root, to, options, new_name, all_tags, as_json)


def pull_command(
    uris: UrisArgument,
    source: Annotated[
        str, typer.Option("--from", metavar="ROOT", help="Registry to copy from: a folder or URL.")
    ],
    new_name: AsOption = None,
    all_tags: AllTagsOption = False,
    no_parents: NoParentsOption = False,
    force: ForceOption = False,
    repair: RepairOption = False,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy entries from another registry, bit for bit and under the same digest; what is there is not fetched again."""
    options = CopyOptions(not no_parents, force, repair)
    _copy(uris, source, root, options, new_name, all_tags, as_json)


def _copy(
    uris: list[str],
    source: str | None,
    target: str | None,
    options: CopyOptions,
    new_name: str | None,
    all_tags: bool,
    as_json: bool,
) -> None:
    if new_name is not None and len(uris) > 1:
        raise ConfigError(f"--as gives one name, but {len(uris)} URIs are given; copy them one by one.")
    rows: list[dict[str, Any]] = []
    with _progress(not as_json and sys.stderr.isatty()) as (on_entry, on_bytes):
        copier = Copier(open_registry(source), open_registry(target), options, on_entry, on_bytes)
        for uri in uris:
            row: dict[str, Any] = {"uri": as_uri(uri), "entries": [], "error": None}
            rows.append(row)
            try:
                copied = copier.copy(as_uri(uri), new_name, all_tags)
            except SosrError as error:
                row["error"] = str(error)
                if not as_json:
                    typer.echo(f"failed   {uri}: {error}", err=True)
                continue
            row["entries"] = [each.to_dict() for each in copied]
            if not as_json:
                for each in copied:
                    typer.echo(_line(each))
    if as_json:
        print_json({"source": str(copier.source.root), "target": str(copier.target.root), "copied": rows})
    if any(row["error"] is not None for row in rows):
        raise typer.Exit(1)


def _line(copied: Copied) -> str:
    if copied.absent:
        return f"absent   sha256:{copied.digest} (a parent, {copied.relation}, that the source does not hold)"
    what = "copied " if copied.sent_bytes else "present"
    names = ", ".join(f"{copied.name}@{tag}" for tag in copied.tags)
    parent = f", a parent ({copied.relation})" if copied.relation else ""
    return f"{what}  {names}  sha256:{copied.digest}  {size(copied.size_bytes)}{parent}"


@contextmanager
def _progress(show: bool) -> Iterator[tuple[Callable[[str, int], None], Callable[[int], None]]]:
    """A bar on stderr for what comes and goes over the network, on a terminal only."""
    if not show:
        yield lambda label, total: None, lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: list[Any] = []

        def on_entry(label: str, total: int) -> None:
            if total:
                tasks.append(bar.add_task(label, total=total))

        def on_bytes(count: int) -> None:
            if tasks:
                bar.advance(tasks[-1], count)

        yield on_entry, on_bytes
