"""``sosr-det data``: making, preparing and checking data sets."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sosr_det.errors import DataError

if TYPE_CHECKING:
    from sosr_det.data.prepare.prepare import PreparedDataset
    from sosr_det.data.prepare.progress import Progress
    from sosr_det.data.prepare.verify import VerifyReport

app = typer.Typer(help="Make, prepare and check data sets.", no_args_is_help=True)


class DatasetName(StrEnum):
    """The names of the catalogue, here as well so that `--help` stays light."""

    CIFAR10 = "cifar10"
    CIFAR100 = "cifar100"
    TINY_IMAGENET = "tiny-imagenet"
    IMAGENET = "imagenet"
    CUB200 = "cub200"
    VOC = "voc"


NameArgument = Annotated[DatasetName, typer.Argument(help="Which data set.", show_default=False)]
RootOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds the data sets under their usual names (imagenet, CUB_200_2011, …), or the folder of "
        "this one. Default: $SOSR_DATA, else data.",
        show_default=False,
    ),
]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to make; it must not hold anything else.")],
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other pictures.")] = 0,
) -> None:
    """Draw the demo data: ImageNet folders, CUB-200-2011 and VOCdevkit 2007+2012 in their exact formats."""
    from rich.progress import Progress

    from sosr_det.data.demo import generate_demo_data

    with Progress(transient=True) as bar:
        task = bar.add_task("drawing", total=None)
        summary = generate_demo_data(
            out, seed=seed, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    typer.echo(
        f"{'kept' if summary.reused else 'made'} {summary.root} ({summary.bytes / 2**20:.1f} MiB, seed {seed})"
    )
    for split, count in summary.images.items():
        dataset = split.partition("/")[0]
        classes = summary.classes.get(dataset, summary.classes["VOC"])
        typer.echo(f"  {split:<22}{count:>5} images, {classes} classes")
    typer.echo(
        "Drawn data: it shows that the tools work, and nothing about the method. (The real CUB has 200 classes.)"
    )


@app.command()
def prepare(
    name: NameArgument,
    root: RootOption = None,
    archive: Annotated[
        list[Path] | None,
        typer.Option(
            help="Archive file to use instead of a download; repeat it for each. Archives that lie in --root are "
            "found without."
        ),
    ] = None,
    remove_archive: Annotated[
        bool, typer.Option("--remove-archive", help="Delete the archives in --root after success.")
    ] = False,
) -> None:
    """Download, check and unpack a data set; ImageNet from archives that you place.

    Archives are checked against the publishers' checksums; Tiny ImageNet's publisher gives none, so against the one
    that other projects hold. An interrupted run goes on where it stopped, and leaves nothing under the data set's name.
    """
    from sosr_det.data.prepare import prepare_dataset

    root = _root(root)
    with _progress_bars(in_bytes=True) as progress:
        prepared = prepare_dataset(
            name.value, root, archives=archive or [], remove_archives=remove_archive, progress=progress
        )
    _print_prepared(prepared, root)


@app.command()
def verify(
    name: NameArgument,
    root: RootOption = None,
    subset_ok: Annotated[
        bool, typer.Option("--subset-ok", help="Accept fewer images or classes than published.")
    ] = False,
    imagenet: Annotated[
        Path | None,
        typer.Option(
            help="For cub200: ImageNet's folder, to look its test images up in. Default: beside CUB.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that decode. Default: one for each CPU.", show_default=False),
    ] = None,
    max_problems: Annotated[int, typer.Option(min=1, help="How many problems to list.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Count, compare the class lists and decode every image; exit with 1 if anything is wrong."""
    from sosr_det.data.prepare import verify_dataset

    try:
        with _progress_bars(in_bytes=False) as progress:
            report = verify_dataset(
                name.value,
                _root(root),
                subset_ok=subset_ok,
                workers=workers,
                imagenet=imagenet,
                progress=progress,
            )
    except DataError as error:
        if not as_json:
            raise
        typer.echo(json.dumps({"ok": False, "dataset": name.value, "error": str(error)}, indent=2))
        raise typer.Exit(error.exit_code) from error
    if as_json:
        typer.echo(json.dumps(report.as_dict(max_problems), indent=2, ensure_ascii=False))
    else:
        _print_report(report, max_problems)
    if not report.ok:
        raise typer.Exit(1)


def _root(asked: Path | None) -> Path:
    return asked if asked is not None else Path(os.environ.get("SOSR_DATA") or "data")


@contextmanager
def _progress_bars(*, in_bytes: bool) -> Iterator[Progress]:
    """One bar for each activity on a terminal's stderr; elsewhere one line when an activity begins."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    amount = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *amount, TimeRemainingColumn())
    tasks: dict[str, int] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def progress(activity: str, done: int, total: int | None) -> None:
            if activity not in tasks:
                tasks[activity] = bars.add_task(activity, total=total)
                if not console.is_terminal:
                    typer.echo(f"{activity} …", err=True)
            bars.update(tasks[activity], completed=done, total=total)

        yield progress


def _print_prepared(prepared: PreparedDataset, root: Path) -> None:
    entry = prepared.entry
    typer.echo(f"{'already there' if prepared.already_there else 'prepared'}: {prepared.folder}")
    classes = f", {prepared.classes:,} classes" if prepared.classes else ""
    for split, images in prepared.images.items():
        typer.echo(f"  {split:<17}{images:>10,} images{classes}")
    typer.echo(f"terms: {entry.terms} ({entry.page})")
    for archive in entry.archives:
        if archive.md5_source and not prepared.already_there:
            typer.echo(f"note:  the checksum of {archive.filename} is {archive.md5_source}")
    if prepared.archives:
        size = sum(path.stat().st_size for path in prepared.archives)
        names = ", ".join(str(path) for path in prepared.archives)
        typer.echo(f"kept:  {names} ({size / 1e6:,.1f} MB; --remove-archive deletes them)")
    typer.echo(f"check every image:  sosr-det data verify {entry.name} --root {shlex.quote(str(root))}")
    typer.echo(f"train:              {training_command(entry.config_tag, prepared.folder)}")


def training_command(config_tag: str, folder: Path) -> str:
    """The command that trains a shipped config on a data set; configs with SOSR first."""
    from sosr_det.engine.configs import config_names

    names = [name for name in config_names() if name.rpartition("_")[2] == config_tag]
    if not names:
        return f"sosr-det configs {config_tag}  (lists the configs for it)"
    name = next((name for name in names if "_sosr_" in name), names[0])
    return f"sosr-det train {name} --data-root {shlex.quote(str(folder))}"


def _print_report(report: VerifyReport, max_problems: int) -> None:
    typer.echo(f"{report.entry.title} in {report.folder} ({report.layout})")
    typer.echo(f"  {'split':<17}{'images':>10}{'published':>11}   classes")
    for name, split in report.found.splits.items():
        official = report.entry.splits.get(name)
        classes = f"{len(split.class_counts):,} of {report.entry.classes:,}" if report.entry.classes else "-"
        published = f"{official.images:,}" if official else "-"
        typer.echo(f"  {name:<17}{split.images:>10,}{published:>11}   {classes}")
    typer.echo(f"{report.decoded:,} images decoded; {report.seconds:.1f} s in all")
    for note in report.notes[:max_problems]:
        typer.echo(f"note: {note}")
    if len(report.notes) > max_problems:
        typer.echo(f"note: … and {len(report.notes) - max_problems:,} more (--max-problems)")
    if report.imagenet is not None:
        typer.echo(f"{len(report.identical)} test images are byte for byte in {report.imagenet}")
        for ours, theirs in report.identical:
            typer.echo(f"  {ours} = {theirs}")
    if report.ok:
        typer.echo("ok: nothing is wrong")
        return
    typer.echo(f"{len(report.problems):,} problem{'s' if len(report.problems) > 1 else ''}:")
    for problem in report.problems[:max_problems]:
        typer.echo(f"  {problem.kind:<12}{problem.path}: {problem.reason}")
    if len(report.problems) > max_problems:
        typer.echo(f"  … and {len(report.problems) - max_problems:,} more (--max-problems)")
    if report.shortfalls == len(report.problems):
        typer.echo("If you mean to use only a part of the data set, pass --subset-ok.")
