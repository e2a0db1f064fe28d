"""Entry point of ``sosr-det``: the command tree, and how errors reach the user."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import traceback
from collections.abc import Sequence

import typer
from typer.core import TyperGroup

import sosr_det
from sosr_det.cli import (
    analyze_errors,
    bench,
    compare,
    data,
    doctor,
    eval_voc,
    evaluate,
    export,
    figures,
    rank_errors,
    registry,
    report,
    swap,
    sweep,
    train,
    zoo,
)
from sosr_det.errors import SosrError

_LONGEST = 600  # characters of an unexpected error's text that are shown
_MOST_LINES = 4
_TAKES_SEVERAL = ("--cfg-options", "--backbones")


class _Interrupted(Exception):
    """Ctrl-C, as an error that typer lets through: it turns a KeyboardInterrupt into a silent exit."""


class _Commands(TyperGroup):
    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted(str(error)) from error


app = typer.Typer(
    name="sosr-det",
    cls=_Commands,
    help="Selective Output Smoothing Regularization: pretrain, publish, fine-tune, detect, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("doctor")(doctor.doctor)
app.command("train")(train.train)
app.command("swap")(swap.swap)
app.command("test")(evaluate.evaluate)
app.command("eval-voc")(eval_voc.eval_voc)
app.command("analyze-errors")(analyze_errors.analyze_errors)
app.command("sweep")(sweep.sweep)
app.command("compare")(compare.compare)
app.command("configs")(train.configs)
app.command("export")(export.export)
app.command("zoo")(zoo.zoo)
app.command("report")(report.report)
app.command("figures")(figures.figures)
app.add_typer(registry.app, name="registry")
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        typer.echo(f"sosr-det {sosr_det.__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits the process.

    Exit codes: 0 success, 1 an error that the message explains, 2 wrong usage, 130 interrupted.
    ``SOSR_TRACEBACK=1`` shows the full traceback of any error.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # a Latin-1 terminal shows "?" for the lines of a tree
    # Read when torch loads OpenMP. Its threads spin at barriers by default, which on a machine whose cores also decode
    # images costs far more than sleeping does: measured on 2 busy cores 0.37 s instead of 0.7 s per step.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with rank_errors.exit_noted(arguments):
        _run(arguments)


def _run(arguments: Sequence[str]) -> None:
    try:
        app(args=expand_cfg_options(arguments), standalone_mode=True)
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("SOSR_TRACEBACK") == "1":
            raise
        message, code = explain(error, arguments)
        rank_errors.say(_printable(message), error, arguments)
        sys.exit(code)


def expand_cfg_options(arguments: Sequence[str]) -> list[str]:
    """Turn OpenMMLab's ``--cfg-options A=1 B=2`` into one option per pair, which typer can read.

    ``--backbones A B C`` likewise.
    """
    expanded: list[str] = []
    collecting: str | None = None
    for argument in arguments:
        if argument in _TAKES_SEVERAL:
            collecting = argument
            continue
        if argument.startswith("-") or (collecting == "--cfg-options" and "=" not in argument):
            collecting = None
        expanded += [collecting, argument] if collecting else [argument]
    return expanded


def explain(error: BaseException, arguments: Sequence[str] = ()) -> tuple[str, int]:
    """One message and an exit code for an error, without a traceback wall; ``arguments`` of the command line."""
    for cause in _chain(error):
        if isinstance(cause, KeyboardInterrupt):  # libraries catch it and raise something else
            return (f"interrupted; {cause}" if str(cause) else "interrupted"), 130
    for cause in _chain(error):
        if isinstance(cause, SosrError):
            return f"error: {_strip_worker_traceback(cause)}", cause.exit_code
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            how = " with --resume" if arguments[:1] in (["train"], ["zoo"]) else ""
            return f"error: no space left on the disk: {cause}. Free some and run again{how}.", 1
    last = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
    place = f" ({os.path.basename(last.filename)}:{last.lineno} in {last.name})" if last else ""
    return (
        f"error: unexpected {type(error).__name__}: {_shortened(str(error))}{place}\n"
        "This was not foreseen. Run again with SOSR_TRACEBACK=1 to see where it comes from.",
        1,
    )


def _shortened(text: str) -> str:
    """The beginning of a text that may be a whole config or log."""
    lines = text.strip().splitlines()
    short = "\n".join(lines[:_MOST_LINES])[:_LONGEST]
    return short if short == "\n".join(lines) else f"{short} … (shortened)"


def _printable(text: str) -> str:
    """Messages quote manifests, file names and checkpoints of others: nothing in them may steer the terminal.

    Further lines are indented, so that a line end in a manifest's field cannot begin a line that looks like ours.
    """
    lines = text.strip().split("\n")
    tame = ["".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines]
    return "\n  ".join(tame)


def _chain(error: BaseException | None):
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _strip_worker_traceback(error: BaseException) -> str:
    """A data-loader worker's error arrives with its traceback inside the message: keep the message."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    # The last "module.Class: message" line; the message itself may span lines.
    matches = list(re.finditer(r"^[\w.]*Error: ", text, flags=re.MULTILINE))
    return text[matches[-1].end() :].strip() if matches else text
