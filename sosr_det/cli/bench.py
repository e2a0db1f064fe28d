"""``sosr-det bench``: speed measured on this machine, always beside a peer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Measure speed beside a peer, interleaved.", no_args_is_help=True)

Repeats = Annotated[int, typer.Option(min=1, help="Rounds; medians are printed.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def loss(
    samples: Annotated[int, typer.Option(min=1, help="Batch size M.")] = 256,
    classes: Annotated[int, typer.Option(min=2, help="Classes K.")] = 1000,
    repeats: Repeats = 30,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """SOSRLoss against cross-entropy and a literal per-sample version, forward and backward."""
    from sosr_det.analysis.bench_loss import bench_loss

    rows = bench_loss(samples, classes, repeats, device)
    title = f"[{samples}, {classes}] logits, half over-confident, forward + backward"
    _show(rows, f"{title}, {repeats} rounds on {device}", as_json)


@app.command()
def step(
    arch: Annotated[
        str,
        typer.Option(
            help="Backbone name, such as resnet50, resnet56 or timm/NAME; a wrong one lists near names."
        ),
    ] = "resnet50",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 8,
    image_size: Annotated[int, typer.Option(min=8, help="Pixels per side.")] = 224,
    classes: Annotated[int, typer.Option(min=2, help="Classes K.")] = 1000,
    repeats: Repeats = 10,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """A whole training step with SOSR against the same step with cross-entropy."""
    from sosr_det.analysis.bench_loss import bench_step

    rows = bench_step(arch, batch_size, image_size, classes, repeats, device)
    title = f"{arch}, {batch_size} images of {image_size} px, forward + loss + backward + SGD"
    _show(rows, f"{title}, {repeats} rounds on {device}", as_json)


@app.command()
def augment(
    images: Annotated[int, typer.Option(min=64, help="Images per round.")] = 2048,
    image_size: Annotated[int, typer.Option(min=8, help="Pixels per side.")] = 32,
    repeats: Repeats = 7,
    as_json: AsJson = False,
) -> None:
    """In-memory batch augmentation against torchvision's per-sample PIL pipeline, on one core."""
    from sosr_det.analysis.bench_augment import bench_augment

    rows = bench_augment(num_images=images, image_size=image_size, repeats=repeats)
    _show(rows, f"{images} images of {image_size} px, one thread, {repeats} rounds", as_json)


@app.command()
def pipeline(
    images: Annotated[
        Path | None, typer.Option(help="Folder with JPEGs, such as ImageNet's; without it, some are drawn.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many images per round.")] = 200,
    repeats: Repeats = 7,
    as_json: AsJson = False,
) -> None:
    """Images for training and validation at 224 px from JPEG files, against torchvision's ways, on one core."""
    import sosr_det.register  # noqa: F401  the transforms' names
    from sosr_det.analysis.bench_pipeline import bench_pipeline

    results = bench_pipeline(images, limit, repeats)
    if as_json:
        typer.echo(json.dumps(results, indent=1))
        return
    about = results["images"]
    typer.echo(
        f"{about['number']} JPEGs ({about['source']}), {about['mean_width_px']} x {about['mean_height_px']} px and "
        f"{about['mean_file_kb']} kB on average, one thread, {repeats} rounds, ms of CPU time for each image; "
        + ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    )
    typer.echo(_table(results["rows"]))


@app.command()
def registry(
    entries: Annotated[int, typer.Option(min=1, help="Entries that `registry ls` lists.")] = 1000,
    repeats: Repeats = 7,
    as_json: AsJson = False,
) -> None:
    """The checkpoint registry: a ResNet-50 checked beside `sha256sum`, commands' CPU time, finding one of 10,000."""
    from sosr_det.analysis.bench_registry import bench_registry, report_lines

    results = bench_registry(entries, repeats)
    typer.echo(json.dumps(results, indent=1) if as_json else "\n".join(report_lines(results)))


@app.command("eval-voc")
def eval_voc(
    detections: Annotated[
        Path | None,
        typer.Option(help="Folder with comp4_det_<split>_<class>.txt; default: made, of the same size."),
    ] = None,
    voc_root: Annotated[
        Path | None, typer.Option(help="Folder that holds VOC<year>, for --detections.")
    ] = None,
    year: Annotated[str, typer.Option(help="Year of the ground truth.")] = "2007",
    split: Annotated[str, typer.Option(help="Image set of the detections.")] = "test",
    coco: Annotated[bool, typer.Option("--coco", help="Also COCO AP, ours and pycocotools.")] = False,
    curve: Annotated[
        bool, typer.Option("--curve", help="Time and memory by number of detections instead.")
    ] = False,
    largest: Annotated[int, typer.Option(min=10_000, help="The most detections of --curve.")] = 10_000_000,
    repeats: Repeats = 3,
    as_json: AsJson = False,
) -> None:
    """VOC AP, 11-point and area in one pass, against MMDetection's `eval_map`; with --curve up to 10 million."""
    from sosr_det.analysis import bench_eval_voc as bench
    from sosr_det.errors import ConfigError

    if (detections is None) != (voc_root is None):
        raise ConfigError("--detections and --voc-root belong together: detections need their ground truth.")
    if curve:
        sizes = [10**power for power in range(4, len(str(largest))) if 10**power <= largest]
        results: dict[str, Any] = {"curve": bench.bench_curve(sizes, repeats)}
    else:
        data = (
            bench.synthetic_detections()
            if detections is None or voc_root is None
            else bench.read_devkit_detections(detections, voc_root, year, split)
        )
        results = {"peers": bench.bench_peers(data, repeats, coco)}
        results["peers"]["detections"] = "synthetic" if detections is None else str(detections)
    typer.echo(json.dumps(results, indent=1) if as_json else "\n".join(bench.report_lines(results)))


@app.command()
def annotations(
    voc_root: Annotated[
        Path | None,
        typer.Option(help="VOCdevkit, or one folder with Annotations/; without it, files are generated."),
    ] = None,
    split: Annotated[str, typer.Option(help="The lists ImageSets/Main/SPLIT.txt.")] = "trainval",
    files: Annotated[int, typer.Option(min=1, help="Files to generate.")] = 16_551,
    repeats: Repeats = 5,
    as_json: AsJson = False,
) -> None:
    """Loading VOC annotations: MMDetection, ours, and ours from its cache; all records are compared first."""
    from sosr_det.analysis.bench_annotations import bench_annotations, report_lines

    results = bench_annotations(voc_root, split, files, repeats)
    typer.echo(json.dumps(results, indent=1) if as_json else "\n".join(report_lines(results)))


@app.command()
def train(
    vs: Annotated[
        list[str] | None,
        typer.Option(
            help="bare, timm, torchvision or mmpretrain; may be given several times. The bare loop always takes part."
        ),
    ] = None,
    work: Annotated[
        str, typer.Option(help="cifar (ResNet-20, 32 px) or imagenet (ResNet-50, 224 px).")
    ] = "cifar",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per step. Default: 64 or 8; on a GPU 128 or 64.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps in a turn.")] = 10,
    by_hook: Annotated[
        bool, typer.Option("--by-hook", help="Also our hooks one by one; adds a little to our steps.")
    ] = False,
    repeats: Repeats = 10,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Our engine's training step beside a bare PyTorch loop's and other trainers', in one process, in turns."""
    import sosr_det.register  # noqa: F401  the engine's config names our hooks
    from sosr_det.analysis.bench_train.bench import bench_train, report_lines

    results = bench_train(
        work,
        vs or (),
        steps_per_turn=steps,
        rounds=repeats,
        batch_size=batch_size,
        device=device,
        by_hook=by_hook,
    )
    typer.echo(json.dumps(results, indent=1) if as_json else "\n".join(report_lines(results)))


@app.command()
def start(
    data: Annotated[Path, typer.Option(help="Demo data, as `sosr-det data demo --out DIR` makes it.")],
    stage: Annotated[
        list[str] | None,
        typer.Option(help="classification or detection; may be given several times. Default: both."),
    ] = None,
    repeats: Repeats = 3,
    as_json: AsJson = False,
) -> None:
    """Seconds from the start of `sosr-det train` to its first training batch, on demo data."""
    from sosr_det.analysis.bench_start import bench_start, report_lines

    results = bench_start(data, stage or (), repeats)
    typer.echo(json.dumps(results, indent=1) if as_json else "\n".join(report_lines(results)))


@app.command()
def model(
    workload: Annotated[str, typer.Option(help="imagenet-90e or voc0712-1x.")] = "imagenet-90e",
    gpu: Annotated[str, typer.Option(help="v100-fp32, v100-amp, a100-tf32 or a100-amp.")] = "a100-tf32",
    gpus: Annotated[list[int] | None, typer.Option(min=1, help="May be given several times.")] = None,
    img_per_s_per_gpu: Annotated[
        float | None, typer.Option(help="Measured with `bench train`; default: published for the GPU.")
    ] = None,
    img_per_s_per_core: Annotated[float | None, typer.Option(help="Measured with `bench pipeline`.")] = None,
    cores_per_gpu: Annotated[int | None, typer.Option(help="CPU cores that read images for a GPU.")] = None,
    gpus_per_node: Annotated[int | None, typer.Option(help="GPUs in a machine.")] = None,
    gpu_link: Annotated[float | None, typer.Option(help="GB/s between GPUs of a machine.")] = None,
    node_link: Annotated[float | None, typer.Option(help="GB/s of a machine's network.")] = None,
    as_json: AsJson = False,
) -> None:
    """On paper, nothing is measured: images per second and hours of a run on 1, 8 and 64 GPUs (docs/distributed.md)."""
    from sosr_det.analysis.throughput_model import WORKLOADS, machine_of, predict, table

    machine = machine_of(
        workload,
        gpu,
        img_per_s_per_gpu=img_per_s_per_gpu,
        img_per_s_per_core=img_per_s_per_core,
        cores_per_gpu=cores_per_gpu,
        gpus_per_node=gpus_per_node,
        gpu_link_gb_per_s=gpu_link,
        node_link_gb_per_s=node_link,
    )
    rows = [predict(WORKLOADS[workload], machine, number) for number in gpus or (1, 8, 64)]
    typer.echo(json.dumps(rows, indent=1) if as_json else table(rows))


@app.command()
def index(
    images: Annotated[int, typer.Option(min=1000, help="How many; no files are made.")] = 1_281_167,
    workers: Annotated[int, typer.Option(min=1, help="Forked processes that read every path.")] = 4,
    as_json: AsJson = False,
) -> None:
    """ImageNet's list of images: time to open it and memory in each worker, kept index against a Python list."""
    from sosr_det.analysis.bench_image_index import bench_image_index

    found = bench_image_index(images, workers)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    typer.echo(
        f"{images:,} images, {found['file_bytes'] / 1e6:.1f} MB ({found['file_bytes_per_image']} bytes an image), "
        f"{workers} workers\n{'':8}{'open':>9}{'parent':>11}{'each worker':>14}"
    )
    for kind in ("index", "list"):
        row = found[kind]
        typer.echo(
            f"{kind:8}{row['open_seconds']:>7.3f} s{row['parent_bytes'] / 1e6:>8.1f} MB"
            f"{row['worker_bytes'] / 1e6:>11.1f} MB"
        )


@app.command()
def faults(
    folder: Annotated[
        Path | None,
        typer.Option(
            help="New folder on the file system to try, such as that of your runs; default: a temporary one."
        ),
    ] = None,
    only: Annotated[str, typer.Option(help="Only faults with this in their name.")] = "",
    as_json: AsJson = False,
) -> None:
    """Kill a tiny training, fill its disk, damage its files: what happens, what is lost; exit code 1 if it is wrong."""
    import tempfile

    import sosr_det.register  # noqa: F401  before anything is forked
    from sosr_det.analysis.bench_faults.bench import bench_faults, table
    from sosr_det.cli.main import main
    from sosr_det.errors import ConfigError

    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"--folder {folder} holds something already; name a new one.")
    with tempfile.TemporaryDirectory(prefix="sosr-faults-") as temporary:
        place = folder or Path(temporary)
        rows = bench_faults(place, main, only=only, say=lambda line: None if as_json else typer.echo(line))
    typer.echo(json.dumps(rows, indent=1) if as_json else f"\n{table(rows)}")
    if not rows:
        raise ConfigError(f"no fault has {only!r} in its name.")
    if not all(row["as_it_should"] for row in rows):
        raise typer.Exit(1)


def _show(rows: dict[str, dict[str, Any]], title: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    typer.echo(f"{title}\n{_table(rows)}")


def _table(rows: dict[str, dict[str, Any]]) -> str:
    """A line per peer: time, images per second where they are counted, and how it compares.

    That is with the slower peer of the same steps where there are several pairs, else with the first peer.
    """
    if any("speedup" in row for row in rows.values()):
        title = "times as fast as its peer"
        ratios = [f"{row['speedup']:.1f}" if "speedup" in row else "-" for row in rows.values()]
    else:
        title = f"time / {next(iter(rows))}"
        ratios = [f"{row['ratio']:.3f}" for row in rows.values()]
    columns = [["name", *rows], ["ms", *(f"{row['median_ms']:.2f}" for row in rows.values())]]
    if any("img_per_s" in row for row in rows.values()):
        columns.append(["img/s", *(f"{row['img_per_s']:.0f}" for row in rows.values())])
    columns.append([title, *ratios])
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  " + "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in zip(*columns, strict=True)
    )
