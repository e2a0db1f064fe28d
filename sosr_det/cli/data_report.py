"""What ``sosr-det data verify`` prints for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from sosr_det.data.prepare.inspection import Problem
    from sosr_det.data.prepare.report import VerifyReport


def print_report(report: VerifyReport, max_problems: int) -> None:
    """Print splits, classes, notes and problems; at most ``max_problems`` each of the last two."""
    typer.echo(f"{report.entry.title} in {report.folder} ({report.layout})")
    (_print_objects if report.objects else _print_splits)(report)
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
    _print_problems(report, max_problems)


def _print_splits(report: VerifyReport) -> None:
    typer.echo(f"  {'split':<17}{'images':>10}{'published':>11}   classes")
    for name, split in report.found.splits.items():
        classes = f"{len(split.class_counts):,} of {report.entry.classes:,}" if report.entry.classes else "-"
        typer.echo(f"  {name:<17}{split.images:>10,}{_published(report, name):>11}   {classes}")


def _print_objects(report: VerifyReport) -> None:
    """Of detection data: the splits, then the classes of each."""
    columns = ("objects", "difficult", "truncated")
    width = max(17, *(len(name) + 1 for name in report.objects))
    published = ("published",) if report.entry.splits else ()
    typer.echo(
        f"  {'split':<{width}}"
        + "".join(f"{head:>11}" for head in ("images", *published, *columns, "no objects"))
    )
    for name, objects in report.objects.items():
        numbers = [f"{report.found.splits[name].images:,}"]
        numbers += [_published(report, name)] if published else []
        numbers += [f"{objects.total(column):,}" for column in columns] + [f"{objects.without_objects:,}"]
        typer.echo(f"  {name:<{width}}" + "".join(f"{number:>11}" for number in numbers))

    classes = sorted({name for objects in report.objects.values() for name in objects.classes})
    if not classes:
        return
    width = max(17, *(len(name) + 1 for name in classes))
    typer.echo("objects by class, with the difficult ones (images that show any):")
    wide = max(20, *(len(name) + 2 for name in report.objects))
    typer.echo(f"  {'class':<{width}}" + "".join(f"{name:>{wide}}" for name in report.objects))
    for name in classes:
        cells = []
        for objects in report.objects.values():
            counts = objects.classes.get(name)
            cells.append(f"{counts.objects:,} ({counts.images:,})" if counts else "-")
        typer.echo(f"  {name:<{width}}" + "".join(f"{cell:>{wide}}" for cell in cells))


def _published(report: VerifyReport, split: str) -> str:
    official = report.entry.splits.get(split)
    return f"{official.images:,}" if official else "-"


def _print_problems(report: VerifyReport, max_problems: int) -> None:
    kinds = Counter(problem.kind for problem in report.problems)
    by_kind = (
        f" ({', '.join(f'{count:,} {kind}' for kind, count in kinds.items())})" if len(kinds) > 1 else ""
    )
    typer.echo(f"{len(report.problems):,} problem{'s' if len(report.problems) > 1 else ''}{by_kind}:")
    for problem in _of_every_kind(report.problems, max_problems):
        typer.echo(f"  {problem.kind:<12}{problem.path}: {problem.reason}")
    if len(report.problems) > max_problems:
        typer.echo(f"  … and {len(report.problems) - max_problems:,} more (--max-problems)")
    if report.effects:
        typer.echo("what training does about them:")
        for kind, effect in report.effects.items():
            typer.echo(f"  {kind:<12}{effect}")
    if report.shortfalls == len(report.problems):
        typer.echo("If you mean to use only a part of the data set, pass --subset-ok.")


def _of_every_kind(problems: Sequence[Problem], most: int) -> list[Problem]:
    """At most ``most`` problems, in their order, such that a kind with few is not lost behind one with thousands."""
    by_kind: dict[str, list[int]] = {}
    for index, problem in enumerate(problems):
        by_kind.setdefault(problem.kind, []).append(index)
    in_turn = [index for index in chain.from_iterable(zip_longest(*by_kind.values())) if index is not None]
    return [problems[index] for index in sorted(in_turn[:most])]
