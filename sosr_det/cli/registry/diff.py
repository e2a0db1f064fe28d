"""``sosr-det registry diff``: what tells two entries apart."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import asdict
from itertools import zip_longest
from typing import Annotated, Any

import typer

from sosr_det.cli.registry.columns import bold, table
from sosr_det.cli.registry.common import JsonOption, RootOption, as_uri, clean, print_json
from sosr_det.registry.diff import Change, EntryDiff, TensorDiff, diff_entries
from sosr_det.registry.entry import Entry
from sosr_det.registry.metric_names import metric_of, metric_text
from sosr_det.registry.opening import open_registry
from sosr_det.registry.plain_text import clean_lines

_LONGEST = 60  # characters of a value


def diff_command(
    a: Annotated[str, typer.Argument(metavar="A", help="URI; the reference of all distances.")],
    b: Annotated[str, typer.Argument(metavar="B", help="URI.")],
    no_tensors: Annotated[
        bool, typer.Option("--no-tensors", help="Compare the tensors' digests only; loads nothing.")
    ] = False,
    top: Annotated[int, typer.Option(min=0, help="List so many of the most distant tensors.")] = 20,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 if they differ, as git diff does.")
    ] = False,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two entries: fields, metrics, recipe, and how far each tensor of B lies from A's.

    Distances are relative: |B - A| / |A| over all values of a tensor or a stage. A
    backbone is compared with the one inside a detector. When the entries were
    published does not count as a difference. Exits with 0 whether they differ or
    not, unless --exit-code is given.
    """
    registry = open_registry(root)
    first, second = registry.resolve(as_uri(a)), registry.resolve(as_uri(b))
    diff = diff_entries(registry, first, second, with_distances=not no_tensors)
    if as_json:
        print_json(_document(first, second, diff, top))
    else:
        _print(first, second, diff, top)
    if exit_code and not diff.identical:
        raise typer.Exit(1)


def _document(a: Entry, b: Entry, diff: EntryDiff, top: int) -> dict[str, Any]:
    document = asdict(diff) | {"identical": diff.identical}
    document["a"], document["b"] = ({"uri": entry.uri, "digest": entry.digest} for entry in (a, b))
    if diff.tensors.distances is not None:
        document["tensors"]["distances"] = document["tensors"]["distances"][:top]
    return _finite(document)


def _finite(value: Any) -> Any:
    """JSON has neither NaN nor infinity: they become texts."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _print(a: Entry, b: Entry, diff: EntryDiff, top: int) -> None:
    typer.echo(f"A  {a.uri}  sha256:{a.digest[:16]}…\nB  {b.uri}  sha256:{b.digest[:16]}…")
    if diff.identical:
        typer.echo("\nnothing differs" + ("" if a.digest == b.digest else " but when they were published"))
        return
    _section("fields", [row for change in diff.fields for row in _field_rows(change)], ["field", "A", "B"])
    # Per-class figures that one of the two lacks say nothing about a difference, and there are many.
    shown = [c for c in diff.metrics if "/" not in c.field or None not in (c.a, c.b)]
    _section("metrics", [_metric_row(change) for change in shown], ["metric", "A", "B", "B - A"])
    if len(shown) < len(diff.metrics):
        typer.echo(f"  {len(diff.metrics) - len(shown)} figures of classes that one of them lacks: --json")
    if diff.recipe:
        typer.echo(f"\n{bold('recipe')}")
        typer.echo("\n".join(_coloured(clean(line.replace("\t", "    "))) for line in diff.recipe))
    typer.echo(f"\n{bold('tensors')}")
    typer.echo(
        "\n".join(f"  {line}".rstrip() for line in _tensor_lines(diff.same_weights, diff.tensors, top))
    )


def _section(title: str, rows: list[list[str]], titles: list[str]) -> None:
    if rows:
        typer.echo(f"\n{bold(title)}")
        typer.echo("\n".join(f"  {line}" for line in table(titles, rows)))


def _field_rows(change: Change) -> list[list[str]]:
    """One row, of notes one per line, of which only the first has a field's name."""
    if change.field != "notes":
        return [[clean(change.field), _value(change.a), _value(change.b)]]
    a, b = (clean_lines(text) if isinstance(text, str) else [None] for text in (change.a, change.b))
    return [
        ["" if number else change.field, _value(one), _value(other)]
        for number, (one, other) in enumerate(zip_longest(a, b, fillvalue=""))
    ]


def _value(value: Any) -> str:
    if value is None:
        return "-"
    text = clean(value if isinstance(value, str) else json.dumps(value))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _metric_row(change: Change) -> list[str]:
    metric = metric_of(change.field)
    texts = ["-" if value is None else metric_text(change.field, value) for value in (change.a, change.b)]
    delta = "-"
    if change.a is not None and change.b is not None:
        gap = metric.factor * (change.b - change.a)
        delta = f"{gap:+.2f}" if metric.unit == "%" else f"{gap:+.4g}"
    return [clean(metric.title), *map(clean, texts), delta]


def _coloured(line: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return line
    if line.startswith(("---", "+++", "@@")):
        return bold(line)
    return typer.style(line, fg="green" if line[:1] == "+" else "red") if line[:1] in ("+", "-") else line


def _tensor_lines(same_weights: bool, tensors: TensorDiff, top: int) -> list[str]:
    if same_weights:
        return [f"the same {len(tensors.identical)} tensors, every bit"]
    lines = [
        f"{len(tensors.identical)} identical, {len(tensors.different)} of other values, "
        f"{len(tensors.other_type)} of another shape or dtype, {len(tensors.only_a)} only in A, "
        f"{len(tensors.only_b)} only in B"
    ]
    for title, names in (("only in A", tensors.only_a), ("only in B", tensors.only_b)):
        if names:
            lines.append(f"{title}: {', '.join(map(clean, names[:4]))}{_more(len(names) - 4)}")
    for name, (ours, theirs) in list(tensors.other_type.items())[:4]:
        lines.append(f"{clean(name)}: {ours} in A, {theirs} in B")
    lines += [f"…{_more(len(tensors.other_type) - 4)}"] if len(tensors.other_type) > 4 else []
    if tensors.stages:
        rows = [
            [clean(stage.stage), str(stage.num_tensors), str(stage.num_different), _float(stage.relative_l2)]
            for stage in tensors.stages
        ]
        titles = ["stage", "tensors", "different", "|B - A| / |A|"]
        lines += ["", *table(titles, rows, right=titles[1:])]
    if tensors.distances and top:
        rows = [
            [
                clean(d.name),
                _float(d.relative_l2),
                _float(d.max_abs),
                "-" if d.cosine is None else f"{d.cosine:.6f}",
            ]
            for d in tensors.distances[:top]
        ]
        titles = ["tensor", "|B - A| / |A|", "largest difference", "cosine"]
        lines += ["", *table(titles, rows, right=titles[1:])]
        hidden = len(tensors.distances) - top
        lines += [f"… {hidden} nearer ones: --top {len(tensors.distances)}"] if hidden > 0 else []
    return lines


def _more(count: int) -> str:
    return f", … {count} more" if count > 0 else ""


def _float(value: float) -> str:
    return f"{value:.4g}"
