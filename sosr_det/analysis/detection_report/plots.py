"""The report's three figures, in the house style of :mod:`sosr_det.analysis.figures.canvas`.

Their numbers are in the report's ``errors.json``.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from sosr_det.analysis.detection_report.text import GROUP_TITLE, plot_text
from sosr_det.analysis.figures.canvas import new_figure
from sosr_det.evaluation.errors.analysis import RECALL_STEPS, ErrorAnalysis, mean_gain
from sosr_det.evaluation.errors.groups import COCO_SIZES, GROUPS, mean_of_group
from sosr_det.evaluation.errors.outcomes import KINDS

MOST_CLASSES = 30  # the ones with the lowest AP; more would not be legible
_COLUMNS = 5
_MUTED = "0.6"


def weakest_classes(analysis: ErrorAnalysis) -> list[str]:
    """Classes that have objects to be found, by ascending AP (area)."""
    per_class = analysis.voc.per_class
    present = [name for name in analysis.data.class_names if per_class[name].num_ground_truth]
    return sorted(present, key=lambda name: per_class[name].ap_area)


def draw_plots(analysis: ErrorAnalysis, folder: Path) -> list[str]:
    """Write the figures into ``folder``; returns their names (none if no class has anything to be found)."""
    shown = weakest_classes(analysis)[:MOST_CLASSES]
    if not shown:
        return []
    figures = {
        "errors.png": draw_errors(analysis, shown),
        "precision_recall.png": draw_precision_recall(analysis, shown),
        "by_size.png": draw_groups(analysis, shown),
    }
    with warnings.catch_warnings():
        # A class name in a script that the font lacks is drawn as boxes; the page has it in full.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        for name, figure in figures.items():
            figure.savefig(Path(folder) / name, dpi=110, metadata={"Software": None})
    return list(figures)


def draw_precision_recall(analysis: ErrorAnalysis, shown: list[str]) -> Any:
    """One panel per class: precision over recall, the mean of all classes in grey, and the best F1."""
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure, axes = new_figure(
        rows, columns, max(2.3 * columns, 4.2), 2.1 * rows + 0.4, sharex=True, sharey=True
    )
    recall = np.arange(RECALL_STEPS + 1) / RECALL_STEPS
    curves = [curve for curve in analysis.precision.values() if curve is not None]
    mean = np.mean(curves, axis=0)
    for ax, name in zip(axes.flat, shown, strict=False):
        if len(curves) > 1:
            ax.plot(recall, mean, color=_MUTED, linewidth=1)
        ax.plot(recall, analysis.precision[name], color="C0", linewidth=1.6)
        point = analysis.points[name]
        if not math.isnan(point.f1):
            ax.plot(point.recall, point.precision, "o", color="C3", markersize=4)
            ax.text(
                0.03,
                0.04,
                f"F1 {point.f1:.2f}\nfrom score {point.threshold:.4g}",
                transform=ax.transAxes,
                fontsize=6.5,
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1},
            )
        ap = analysis.voc.per_class[name].ap_area
        ax.set_title(f"{plot_text(name)}  {100 * ap:.1f}", fontsize=8)
        ax.set(xlim=(0, 1.01), ylim=(0, 1.03), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        ax.tick_params(labelsize=7)
    for ax in axes.flat[len(shown) :]:
        ax.set_visible(False)
    figure.supxlabel("recall", fontsize=8)
    figure.supylabel("precision", fontsize=8)
    grey = "; grey: mean of the classes" if len(curves) > 1 else ""
    figure.suptitle(f"Precision and recall, AP (area) in percent{grey}", fontsize=9)
    return figure


def draw_errors(analysis: ErrorAnalysis, shown: list[str]) -> Any:
    """Stacked bars per class: AP gained by fixing each kind alone, and errors at the best-F1 threshold."""
    rows = list(reversed(shown))
    index = [analysis.data.class_names.index(name) for name in rows]
    labels = [plot_text(name) for name in rows] + ["mean"]
    figure, axes = new_figure(1, 2, 9.6, 0.24 * len(labels) + 1.5, sharey=True)
    gains, counts = axes[0]
    objects = analysis.outcomes.num_ground_truth
    places = np.arange(len(labels))
    left_gain, left_count = np.zeros(len(labels)), np.zeros(len(labels))
    for i, kind in enumerate(KINDS):
        gain = analysis.gains_area.gain[kind]
        widths = 100 * np.append(gain[index], mean_gain(gain))
        gains.barh(places, widths, left=left_gain, color=f"C{i}", label=kind, height=0.75)
        left_gain += widths
        number = analysis.confident_counts[kind]
        share = 100 * np.append(number[index] / objects[index], number.sum() / max(objects.sum(), 1))
        counts.barh(places, share, left=left_count, color=f"C{i}", height=0.75)
        left_count += share
    gains.set_yticks(places, labels, fontsize=8)
    gains.set_xlabel("AP gained by fixing each kind alone, points", fontsize=8)
    counts.set_xlabel("errors per 100 objects, from the best-F1 score on", fontsize=8)
    for ax in (gains, counts):
        ax.axhline(len(labels) - 1.5, color=_MUTED, linewidth=0.8)
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="x", labelsize=7)
    figure.legend(loc="outside upper center", ncols=len(KINDS), fontsize=7.5, frameon=False)
    return figure


def draw_groups(analysis: ErrorAnalysis, shown: list[str]) -> Any:
    """Left, the mean AP and recall of every group; right, each class's AP by COCO's sizes."""
    groups = [group for group in GROUPS if mean_of_group(analysis.groups[group]).num_ground_truth]
    means = [mean_of_group(analysis.groups[group]) for group in groups]
    height = max(0.24 * len(shown), 0.3 * len(groups)) + 1.4
    figure, axes = new_figure(1, 2, 9.6, height, width_ratios=(1, 1))
    left, right = axes[0]
    places = np.arange(len(groups))[::-1]
    colour = ["C0" if group in COCO_SIZES else "C9" if "quarter" in group else "C4" for group in groups]
    left.barh(places, [100 * each.ap_area for each in means], color=colour, height=0.7)
    left.plot([100 * each.recall for each in means], places, "d", color="0.2", markersize=4)
    left.set_yticks(
        places,
        [f"{GROUP_TITLE[g]} ({each.num_ground_truth})" for g, each in zip(groups, means, strict=True)],
        fontsize=8,
    )
    left.set(xlim=(0, 102))
    left.set_xlabel("mean AP (bar) and recall (diamond), percent", fontsize=8)
    names = list(reversed(shown))
    for marker, group, shade in zip("v^s", COCO_SIZES, ("C1", "C2", "C0"), strict=True):
        values = [100 * analysis.groups[group][name].ap_area for name in names]
        right.plot(values, np.arange(len(names)), marker, color=shade, markersize=4.5, label=group)
    for row, name in enumerate(names):
        values = [100 * analysis.groups[group][name].ap_area for group in COCO_SIZES]
        right.plot([np.nanmin(values), np.nanmax(values)], [row, row], color=_MUTED, linewidth=0.8, zorder=0)
    right.set_yticks(np.arange(len(names)), [plot_text(name) for name in names], fontsize=8)
    right.set(xlim=(-2, 102))
    right.set_xlabel("AP (area) by size, percent", fontsize=8)
    figure.legend(loc="outside upper right", ncols=len(COCO_SIZES), fontsize=7.5, frameon=False)
    for ax in (left, right):
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="x", labelsize=7)
    return figure
