"""``sosr-det data index`` and ``sosr-det data shard``: how the images of a data set are stored and listed."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sosr_det.errors import DataError

if TYPE_CHECKING:
    from sosr_det.data.image_dataset import ClassificationDataset

RootArgument = Annotated[
    Path,
    typer.Argument(help="Folder of the data set (ImageNet's or Tiny ImageNet's layout).", show_default=False),
]


def index(
    data_root: RootArgument,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="List the folders again even if none has changed.")
    ] = False,
) -> None:
    """Build the list of a data set's images, or show the one that is kept; training does it by itself.

    The list is kept in the cache, and read again from the folders when one of them has changed.
    """
    from sosr_det.data.image_index.cache import open_image_index

    for split in ("train", "val"):
        if split == "val" and not (data_root / split).is_dir():
            continue
        opened = open_image_index(data_root, split, rebuild=rebuild)
        what = f"built, because {opened.built_because}" if opened.built_because else "kept list opened"
        per_image = opened.index.nbytes / max(1, len(opened.index))
        typer.echo(
            f"{split}: {len(opened.index):,} images, {len(opened.index.classes):,} classes ({opened.layout}, "
            f"{opened.num_folders:,} folders and lists)\n"
            f"  {what} in {opened.seconds:.3f} s; {opened.index.nbytes / 1e6:.1f} MB, {per_image:.1f} bytes an image\n"
            f"  fingerprint {opened.index.fingerprint()}\n"
            f"  {opened.file or 'not kept (a folder was changed just now, or there is no cache to write to)'}"
        )


def shard(
    data_root: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of the data set: ImageNet's, Tiny ImageNet's or CUB-200-2011's layout. Not needed with "
            "--verify alone.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str,
        typer.Option(help="Folder or URL (s3://bucket/imagenet) to write to; the split is a folder in it."),
    ] = "",
    split: Annotated[str, typer.Option(help="train, val or, for CUB, test.")] = "train",
    shard_size: Annotated[
        str, typer.Option(help="Most bytes of one tar file, such as 256MB or 1GiB.")
    ] = "256MB",
    shuffle_seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Store the images in a random order, which ShardSampler needs; the data set's order stays the same.",
            show_default=False,
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Afterwards read every byte again and compare it.")
    ] = False,
) -> None:
    """Write a data set as tar files of some hundred MB, as WebDataset reads them; or check them with --verify.

    The files are copied as they are. An interrupted writing goes on when the same command is run again. Train on them
    with dict(type='ShardedImages', data_root=OUT, split=...), see configs/_base_/datasets/imagenet_224_shards.py.
    """
    from sosr_det.cli.data import progress_bars
    from sosr_det.data.shards.storage import shown
    from sosr_det.data.shards.verify import verify_shards
    from sosr_det.data.shards.write import parse_size, write_shards

    if not out:
        raise typer.BadParameter("--out DIR or URL says where the shards are.")
    if data_root is None and not verify:
        raise typer.BadParameter("name the DATA_ROOT to write from; without it there is only --verify.")
    if data_root is not None:
        with progress_bars(in_bytes=False) as progress:
            dataset = _source(data_root, split)
            try:
                written = write_shards(dataset, out, split, parse_size(shard_size), shuffle_seed, progress)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):  # all commands tell of it alike
                    raise
                raise DataError(
                    f"{shown(str(out))} cannot be written: {error}. Is the disk or the store in reach, and are you "
                    "allowed to write there? The same command goes on where this one stopped."
                ) from error
        shards = written.index.shards
        what = "already there" if written.already_there else "written"
        kept = (
            f", {written.kept} of them by an earlier run"
            if written.kept and not written.already_there
            else ""
        )
        typer.echo(
            f"{what}: {written.index.num_samples:,} images in {len(shards):,} shards, "
            f"{sum(shard.bytes for shard in shards) / 1e6:,.1f} MB{kept}\n  {written.place}"
        )
    if verify:
        with progress_bars(in_bytes=True) as progress:
            count, images = verify_shards(out, split, progress)
        typer.echo(f"verified: {count:,} shards with {images:,} images; every byte is as it was written")


def _source(root: Path, split: str) -> ClassificationDataset:
    from sosr_det.data.classification import CUB200, ImageNetFolder

    if (root / "cifar-10-batches-py").is_dir() or (root / "cifar-100-python").is_dir():
        raise DataError(
            f"{root} holds CIFAR's published files, not images: it is read whole, and needs no shards."
        )
    kind = CUB200 if (root / "images.txt").is_file() else ImageNetFolder
    return kind(str(root), split, [])
