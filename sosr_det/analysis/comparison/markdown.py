"""report.md: a comparison for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sosr_det.analysis.comparison.figures import draw_comparison
from sosr_det.analysis.comparison.text import (
    OF_A_CLASS,
    TITLES,
    main_table,
    percent,
    points,
    verdicts,
    with_half_width,
)
from sosr_det.engine.studies.records import replace_text
from sosr_det.registry.plain_text import code_span

NAME = "report.md"


def write_markdown(result: dict[str, Any], folder: Path) -> Path:
    """Write the page and its plots; returns its path."""
    lines = ["# Comparison of " + ", ".join(code_span(arm["name"]) for arm in result["study"]["arms"]), ""]
    if not result["metrics"]:
        lines += ["No seed of which every arm is finished.", ""]
    else:
        lines += _verdict(result) + _numbers(result) + _plots(result, folder) + _classes(result)
    lines += _proof(result) + _weights(result) + _settings(result)
    path = folder / NAME
    replace_text(path, "\n".join(lines).rstrip() + "\n")
    return path


def _verdict(result: dict[str, Any]) -> list[str]:
    lines = [f"**{_tame(line)}**  " for line in verdicts(result)]
    if not result["pairing"]["paired"]:
        lines.append("")
        lines += [f"- NOT PAIRED: {_tame(problem)}" for problem in result["pairing"]["problems"]]
    lines.append("")
    if result["missing"]:
        lines.append(f"- not finished, left out: {', '.join(map(code_span, result['missing']))}")
    lines += [f"- {_tame(note)}" for note in result["notes"]]
    return [*lines, ""]


def _numbers(result: dict[str, Any]) -> list[str]:
    rows = main_table(result)
    lines = ["## Result", "", *_table([rows[0], *([code_span(row[0]), *row[1:]] for row in rows[1:])])]
    lines += [
        "",
        f"Percent, on {result['num_images']} test images. ± after a mean is the standard deviation over seeds (n - 1). "
        "± after a difference is half of its 95 % interval over test images and seeds.",
        "",
    ]
    for metric, numbers in result["metrics"].items():
        heading = [
            TITLES[metric],
            "difference",
            "95 % over images and seeds",
            "over seeds alone (t)",
            "over images alone",
            "bootstrap over both",
        ]
        named = [(f"{p['arm']} − {p['reference']}", p) for p in numbers["pairs"]]
        named += [(each["effect"], each) for each in numbers["effects"]]
        lines += [*_table([heading, *([code_span(name), *_intervals(each)] for name, each in named)]), ""]
    lines += ["Per seed:", ""]
    seeds = [str(seed) for seed in result["seeds"]]
    for metric, numbers in result["metrics"].items():
        body = [[code_span(arm), *map(percent, spread["values"])] for arm, spread in numbers["arms"].items()]
        lines += [*_table([[TITLES[metric], *(f"seed {seed}" for seed in seeds)], *body]), ""]
    return lines


def _intervals(pair: dict[str, Any]) -> list[str]:
    if pair["difference"] is None:
        return ["–"] * 5
    center, half = pair["difference"], pair["half_width"]
    t_half = pair["seeds"]["t_half_width"]
    return [
        points(center),
        "unknown with one seed" if half is None else _range(center - half, center + half),
        "unknown with one seed" if t_half is None else _range(center - t_half, center + t_half),
        _range(pair["images"]["percentile_low"], pair["images"]["percentile_high"]),
        _range(pair["joint_bootstrap"]["percentile_low"], pair["joint_bootstrap"]["percentile_high"]),
    ]


def _range(low: float, high: float) -> str:
    return f"{points(low)} to {points(high)}"


def _plots(result: dict[str, Any], folder: Path) -> list[str]:
    pictures = draw_comparison(result, folder / "plots")
    return [line for title, path in pictures for line in (f"![{title}](plots/{path.name})", "")]


def _classes(result: dict[str, Any]) -> list[str]:
    metric = result["verdict_metric"]
    first = result["study"]["arms"][0]["name"]
    pairs = [p for p in result["metrics"][metric]["pairs"] if p["reference"] == first]
    names = list(pairs[0]["per_class"])
    if len(names) < 2:
        return []
    sure = sum(bool(c and c["distinguishable"]) for pair in pairs for c in pair["per_class"].values())
    looked_at = len(names) * len(pairs)
    means = result["metrics"][metric]["arms"][first]["per_class_mean"]
    return [
        "## Classes",
        "",
        f"Mean {OF_A_CLASS[metric]} of {code_span(first)} in percent, and differences to it in points, each ± half of "
        "its own 95 % interval over images and seeds.",
        "",
        *_table(
            [
                ["class", code_span(first), *(code_span(pair["arm"]) for pair in pairs)],
                *(
                    [
                        code_span(name),
                        percent(means[name]),
                        *(with_half_width(pair["per_class"][name]) for pair in pairs),
                    ]
                    for name in names
                ),
            ]
        ),
        "",
        f"{looked_at} intervals are looked at here; if no arm differed at all, about {0.05 * looked_at:.1f} of them "
        f"would leave out 0 by chance. {sure} do (with fewer than three seeds none is counted). Take a single class as "
        "a question for another comparison, not as a finding.",
        "",
    ]


def _proof(result: dict[str, Any]) -> list[str]:
    rows = [
        [
            "seed",
            "epochs",
            "batches",
            "same batches",
            "neck and head start the same",
            "first epoch",
            "last epoch",
        ]
    ]
    for seed in result["pairing"]["seeds"]:
        epochs = next(iter(seed["arms"].values()))["epochs"]
        digests = [f"`{epochs[place]['digest'][:16]}`" if epochs else "–" for place in (0, -1)]
        if not seed["equal_batches"]:
            digests = ["–", "–"]
        rows.append(
            [
                str(seed["seed"]),
                str(seed["num_epochs"]),
                str(seed["num_batches"]),
                "yes" if seed["equal_batches"] else "NO",
                "yes" if seed["equal_weights_outside_backbone"] else "no",
                *digests,
            ]
        )
    return [
        "## Proof of pairing",
        "",
        "SHA-256 over every training batch (images, boxes, labels, in order, all processes), epoch by epoch, recorded "
        'by each run; "yes" means that all arms have the same one in every epoch. The digests are in compare.json.',
        "",
        *_table(rows),
        "",
    ]


def _weights(result: dict[str, Any]) -> list[str]:
    rows = [["arm", "config", "backbone", "weights"]]
    rows += [
        [
            code_span(arm["name"]),
            code_span(arm["config"]),
            code_span(arm["backbone"] or "none"),
            code_span(arm["digest"] or arm["weights"] or "random"),
        ]
        for arm in result["study"]["arms"]
    ]
    return ["## Arms", "", *_table(rows), ""]


def _settings(result: dict[str, Any]) -> list[str]:
    options = {
        key: value for key, value in result["study"]["options"].items() if value not in (None, [], False)
    }
    chosen = sorted({str((run["selection"] or {}).get("on")) for run in result["runs"].values()} - {"None"})
    lines = ["## Settings", ""]
    lines += [f"- {key}: {code_span(str(value))}" for key, value in options.items()]
    if chosen:
        lines.append(f"- epoch chosen on: {', '.join(map(code_span, chosen))}")
    bootstrap = result["bootstrap"]
    lines.append(f"- resamples of the images: {bootstrap['num_resamples']}, seed {bootstrap['seed']}")
    for key, title in (
        ("git_commit", "commit of the runs"),
        ("device", "device"),
        ("world_size", "processes of a run"),
    ):
        found = sorted({str(run[key]) for run in result["runs"].values() if run[key] is not None})
        if found:
            lines.append(f"- {title}: {', '.join(map(code_span, found))}")
    return [*lines, ""]


def _table(rows: list[list[str]]) -> list[str]:
    heading, *body = rows
    return [
        f"| {' | '.join(heading)} |",
        f"|{'|'.join('---' for _ in heading)}|",
        *(f"| {' | '.join(row)} |" for row in body),
    ]


def _tame(text: str) -> str:
    """A sentence with names of other people in it, as Markdown that shows it and does nothing."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|!" else c for c in text if c.isprintable())
