"""``sosr-det train`` and ``sosr-det configs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[
        str, typer.Argument(help="Config file, shipped name (see `sosr-det configs`) or mmdet::name.")
    ],
    work_dir: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: work_dirs/<config name>.")
    ] = None,
    data_root: Annotated[
        str | None,
        typer.Option(
            help="Root of the data set, or a URL of shards. Default: $SOSR_DATA, else the config's."
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="sosr://NAME[@TAG], sosr://sha256:HEX, torchvision://NAME, a weights file, or 'random'."
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="An exception from the backbone's contract, by name: a pattern of tensor names, probe, probe.layer4, "
            "preprocessing or style. May be given several times; recorded in run.json.",
        ),
    ] = None,
    set_depth: Annotated[
        bool,
        typer.Option(
            "--set-depth", help="With --backbone: take over the weights' depth, and fit the neck to it."
        ),
    ] = False,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated class names of a VOC-format data set, or 'scan' to find them in the annotations that "
            "are trained on; sizes the heads too."
        ),
    ] = None,
    select_on: Annotated[
        str | None,
        typer.Option(
            help="Which epoch is kept: the best on 'val' (a validation set, held out of the training images where the "
            "config has none; default for VOC data), the best on 'test' (trains on all images, but the test score is "
            "no honest estimate then), or the 'last' (trains on all). Recorded in run.json."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Random seed. Default: the config's.")] = None,
    total_epochs: Annotated[
        int | None, typer.Option(help="Another number of epochs; the learning-rate schedule is scaled along.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the run in the work directory from its newest whole checkpoint, exactly.",
        ),
    ] = False,
    auto_resume: Annotated[
        bool,
        typer.Option("--auto-resume", help="--resume where the work directory holds a run, else start one."),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="With --resume or --auto-resume: begin anew where no checkpoint can be used; damaged ones are kept.",
        ),
    ] = False,
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes",
            help="With --resume: though the config differs from the run's; it is told and recorded.",
        ),
    ] = False,
    save_every: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="MINUTES",
            help="Also save in the middle of an epoch, this often; 0 never. Default: the config's save_every_minutes, "
            "else 30.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that the work directory holds.")
    ] = False,
    amp: Annotated[
        bool, typer.Option("--amp", help="Automatic mixed precision: the same as --precision auto.")
    ] = False,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="fp32, bf16, fp16, or auto: what the device is best at (on the CPU measured). Default: the config's, "
            "which is fp32 in every shipped one.",
        ),
    ] = None,
    channels_last: Annotated[
        bool | None,
        typer.Option(
            "--channels-last/--no-channels-last",
            help="Memory layout of images and weights. Default: by device; on the CPU measured.",
        ),
    ] = None,
    compile_parts: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="torch.compile backbone and neck. Default: no."),
    ] = None,
    compile_mode: Annotated[
        str | None,
        typer.Option(metavar="MODE", help="--compile in this mode, such as max-autotune."),
    ] = None,
    fused_optimizer: Annotated[
        bool | None,
        typer.Option(
            "--fused-optimizer/--no-fused-optimizer", help="One kernel for all weights. Default: on CUDA."
        ),
    ] = None,
    tf32: Annotated[
        bool | None,
        typer.Option(
            "--tf32/--no-tf32",
            help="fp32 products with TF32's 10 bits on Ampere and newer: everywhere or nowhere. Default: PyTorch's, in "
            "convolutions only.",
        ),
    ] = None,
    cudnn_benchmark: Annotated[
        bool | None,
        typer.Option(
            "--cudnn-benchmark/--no-cudnn-benchmark",
            help="Let cuDNN time its algorithms. Default: where all images have one size.",
        ),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(
            metavar="MOMENTUM",
            help="Average the weights exponentially, with this share of the newest ones per step (such as 0.0002); the "
            "average is validated and published.",
        ),
    ] = None,
    sync_bn: Annotated[
        bool,
        typer.Option(
            "--sync-bn", help="Batch norm over the batch of all GPUs (a GPU's own share without it)."
        ),
    ] = False,
    accumulate: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="One update per N batches, with the mean of their gradients; a learning rate that scales with the "
            "batch counts N. Default: the config's accumulative_counts.",
        ),
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="The same numbers to the last bit on the same machine, at some cost of speed; an operation that "
            "cannot is named.",
        ),
    ] = False,
    image_scale: Annotated[
        str | None,
        typer.Option(
            metavar="W,H",
            help="Fit the images of a detector into this many pixels, in training, validation and test. Default: the "
            "config's.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check data, weights, contracts and disk space, make a few steps of training and validation, save and "
            "resume, all in a temporary folder; then estimate time and disk. Exit code 1 where something fails.",
        ),
    ] = False,
    parent: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Folder of a run that this one follows: say and record which settings differ."
        ),
    ] = None,
    progress: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="What is shown meanwhile: a bar, lines, or none; auto is a bar on a terminal and lines elsewhere. "
            "Everything is in the run's folder anyway.",
        ),
    ] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The same as --progress none.")] = False,
    on_bad_image: Annotated[
        str | None,
        typer.Option(
            help="What to do about an image that turns out to be missing or damaged: 'error' stops with its path (the "
            "default); 'skip' takes the next readable one, tells of it and counts."
        ),
    ] = None,
    max_bad_images: Annotated[
        int | None,
        typer.Option(min=0, help="With --on-bad-image skip: more of them stop the run. Default: 10."),
    ] = None,
    dynamics: Annotated[
        bool,
        typer.Option(
            "--dynamics",
            help="Record after every epoch what the paper's figures show (one more forward pass over the data).",
        ),
    ] = False,
    paired: Annotated[
        bool,
        typer.Option(
            "--paired",
            help="Augment by (seed, epoch, sample) alone and record digests of all batches, so that runs of one seed "
            "can be shown to have seen the same; `sosr-det compare` does so.",
        ),
    ] = False,
    no_publish: Annotated[
        bool, typer.Option("--no-publish", help="Do not publish the best epoch to the registry.")
    ] = False,
    publish_as: Annotated[
        str | None, typer.Option(help="NAME[@TAG] to publish under instead of the config's.")
    ] = None,
    registry: Annotated[
        str | None, typer.Option(help="Registry folder or URL. Default: $SOSR_REGISTRY, else ./registry.")
    ] = None,
    launcher: Annotated[
        str, typer.Option(help="none, pytorch (torchrun), slurm or mpi; the tools/*.sh scripts choose it.")
    ] = "none",
    cfg_options: Annotated[
        list[str] | None,
        typer.Option(help="Config overrides KEY=VALUE …, as in OpenMMLab.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Train any stage: pretraining, fine-tuning or detection.

    The stage comes from the config. The best epoch of a classification stage is published to the registry
    under the config's name when the run ends; a detector only where --publish-as or the config names it.
    """
    from sosr_det.engine.signals import announcements_wait

    with announcements_wait():
        from sosr_det.engine.inference_settings import parse_image_scale
        from sosr_det.engine.train import run_training
        from sosr_det.engine.train_options import TrainOptions

        options = TrainOptions(
            config=config,
            work_dir=work_dir,
            data_root=data_root,
            backbone=backbone,
            allow=allow or [],
            set_depth=set_depth,
            classes=classes if classes in (None, "scan") else classes.split(","),
            select_on=select_on,
            seed=seed,
            total_epochs=total_epochs,
            resume=resume,
            auto_resume=auto_resume,
            fresh=fresh,
            allow_changes=allow_changes,
            save_every=save_every,
            overwrite=overwrite,
            amp=amp,
            precision=precision,
            channels_last=channels_last,
            compile=compile_parts,
            compile_mode=compile_mode,
            fused_optimizer=fused_optimizer,
            tf32=tf32,
            cudnn_benchmark=cudnn_benchmark,
            ema=ema,
            sync_bn=sync_bn,
            accumulate=accumulate,
            deterministic=deterministic,
            image_scale=parse_image_scale(image_scale) if image_scale else None,
            parent=parent,
            progress="none" if quiet else progress,
            on_bad_image=on_bad_image,
            max_bad_images=max_bad_images,
            dynamics=dynamics,
            paired=paired,
            publish=not no_publish,
            publish_as=publish_as,
            registry=registry,
            launcher=launcher,
            cfg_options=cfg_options or [],
        )
        if dry_run:
            from sosr_det.engine.dry_run import dry_run as try_training

            if not try_training(options, say=typer.echo):
                raise typer.Exit(1)
            return
        run_training(options)


def configs(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATTERN | show NAME | write NAME]",
            help="List the names that contain PATTERN; print one config; or save it as a file of your own.",
            show_default=False,
        ),
    ] = None,
    table: Annotated[
        int | None,
        typer.Option(help="List one table of the paper (1-8): its rows, its numbers and their configs."),
    ] = None,
    tables: Annotated[bool, typer.Option("--tables", help="List all tables of the paper.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="With write: the file to save to, or the folder to save it in.")
    ] = None,
) -> None:
    """List the shipped configs, one for every row of the paper's Tables 1-8 among them; print or copy one."""
    from sosr_det.engine.configs import config_names, config_text, near_names, write_config_copy
    from sosr_det.engine.paper import table_numbers, table_text
    from sosr_det.errors import ConfigError

    action, names = _configs_action(words or [])
    if out is not None and action != "write":
        raise typer.BadParameter("--out goes with `sosr-det configs write NAME`.")
    if (table is not None or tables) and action != "list":
        raise typer.BadParameter(f"--table and --tables list; they do not go with {action}.")
    if table is not None and table not in table_numbers():
        raise typer.BadParameter(f"--table {table}: the paper's tables are 1 to {max(table_numbers())}.")
    if action == "show":
        typer.echo(config_text(names[0])[0], nl=False)
    elif action == "write":
        if out is None:
            raise typer.BadParameter("`sosr-det configs write NAME` needs --out FILE.")
        typer.echo(f"wrote {write_config_copy(names[0], out)}")
    elif table is not None or tables:
        numbers = table_numbers() if tables else [table]
        shown = [text for number in numbers if (text := table_text(number, names[0]))]
        if not shown:
            where = "the paper's tables" if tables else f"Table {table}"
            raise ConfigError(f"no config of {where} has {names[0]!r} in its name. {near_names(names[0])}")
        typer.echo("\n\n".join(shown))
    else:
        found = [name for name in config_names() if names[0] in name]
        if not found:
            raise ConfigError(f"no shipped config has {names[0]!r} in its name. {near_names(names[0])}")
        typer.echo("\n".join(found))


def _configs_action(words: list[str]) -> tuple[str, list[str]]:
    """``show``, ``write`` or ``list``, and the name or pattern that it goes with."""
    action = words[0] if words and words[0] in ("show", "write") else "list"
    rest = words if action == "list" else words[1:]
    if action != "list" and len(rest) != 1:
        raise typer.BadParameter(
            f"`sosr-det configs {action}` takes one NAME; `sosr-det configs` lists them."
        )
    if len(rest) > 1:
        raise typer.BadParameter(
            f"one PATTERN at most, or `show NAME` or `write NAME --out FILE`; got {' '.join(rest)}"
        )
    return action, rest or [""]
