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

from sosr_det.cli import data_storage
from sosr_det.cli.data_report import print_report
from sosr_det.errors import DataError

if TYPE_CHECKING:
    from sosr_det.data.prepare.prepare import PreparedDataset
    from sosr_det.data.prepare.progress import Progress

app = typer.Typer(help="Make, prepare and check data sets.", no_args_is_help=True)
app.command()(data_storage.index)
app.command()(data_storage.shard)


class DatasetName(StrEnum):
    """The names of the catalogue, here as well so that `--help` stays light."""

    CIFAR10 = "cifar10"
    CIFAR100 = "cifar100"
    TINY_IMAGENET = "tiny-imagenet"
    IMAGENET = "imagenet"
    CUB200 = "cub200"
    VOC = "voc"


class VerifiedName(StrEnum):
    """The names of the catalogue, and anyone's data set in VOC format."""

    CIFAR10 = "cifar10"
    CIFAR100 = "cifar100"
    TINY_IMAGENET = "tiny-imagenet"
    IMAGENET = "imagenet"
    CUB200 = "cub200"
    VOC = "voc"
    VOC_FORMAT = "voc-format"


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
    with progress_bars(in_bytes=True) as progress:
        prepared = prepare_dataset(
            name.value, root, archives=archive or [], remove_archives=remove_archive, progress=progress
        )
    _print_prepared(prepared, root)


@app.command()
def verify(
    name: Annotated[
        VerifiedName,
        typer.Argument(
            help="Which data set; voc-format is any of your own with VOC's folders and XML files.",
            show_default=False,
        ),
    ],
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
    classes: Annotated[
        str | None,
        typer.Option(
            help="For voc-format: its class names, separated by commas, or 'scan' (the default) for those that the "
            "annotations have, with names that differ only in spelling as problems.",
            show_default=False,
        ),
    ] = None,
    max_problems: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many problems to list. Default: 20, and all with --json.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Count, compare the lists, read every annotation and decode every image; exit with 1 if anything is wrong."""
    from sosr_det.data.prepare import verify_dataset

    try:
        with progress_bars(in_bytes=False) as progress:
            report = verify_dataset(
                name.value,
                _root(root),
                subset_ok=subset_ok,
                workers=workers,
                imagenet=imagenet,
                classes=_names(classes),
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
        print_report(report, 20 if max_problems is None else max_problems)
    if not report.ok:
        raise typer.Exit(1)


def _names(text: str | None) -> list[str] | None:
    return None if text in (None, "scan") else [name.strip() for name in text.split(",")]


def _root(asked: Path | None) -> Path:
    return asked if asked is not None else Path(os.environ.get("SOSR_DATA") or "data")


@contextmanager
def progress_bars(*, in_bytes: bool) -> Iterator[Progress]:
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
    """The command that trains a shipped config on a data set.

    Configs with SOSR first; of detectors, the paper's with torchvision's weights, which needs no backbone of one's own.
    """
    from sosr_det.engine.configs import config_names

    names = [name for name in config_names() if name.rpartition("_")[2] == config_tag]
    if not names:
        return f"sosr-det configs {config_tag}  (lists the configs for it)"
    preferred = ("_sosr_", "/retinanet_r50-tv-pre_fpn_1x")
    name = next((name for part in preferred for name in names if part in name), names[0])
    return f"sosr-det train {name} --data-root {shlex.quote(str(folder))}"
