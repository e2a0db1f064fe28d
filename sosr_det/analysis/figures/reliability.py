"""Reliability diagram: is the model right as often as it says?"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from sosr_det.analysis.figures.canvas import new_figure, save
from sosr_det.analysis.figures.runs import Group

_MAX_COLUMNS = 4


def draw_reliability(groups: list[Group], folder: Path) -> list[Path]:
    """Accuracy against confidence on the validation set after the last epoch, samples of a group's runs pooled.

    Bars: accuracy of each bin of confidence; below them the share of samples in it. The ECE in the title is the mean
    over the runs. Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, Fig. 1.
    """
    columns = min(len(groups), _MAX_COLUMNS)
    bands = math.ceil(len(groups) / columns)
    figure, axes = new_figure(
        2 * bands, columns, 3.4 * columns + 0.6, 4.6 * bands, height_ratios=[3, 1] * bands, sharex=True
    )
    data = {"groups": []}
    for i, group in enumerate(groups):
        band, column = divmod(i, columns)
        accuracy_axes, share_axes = axes[2 * band, column], axes[2 * band + 1, column]
        bins = pooled_bins([run.last["val"]["calibration"] for run in group.runs])
        errors = [run.last["val"]["ece"] for run in group.runs]
        mean = statistics.fmean(errors)
        std = statistics.stdev(errors) if len(errors) > 1 else None
        width = 1 / len(bins["lower_edge"])
        filled = [k for k, n in enumerate(bins["num_samples"]) if n]
        edges = [bins["lower_edge"][k] for k in filled]
        accuracies = [bins["accuracy"][k] for k in filled]
        confidences = [bins["mean_confidence"][k] for k in filled]
        accuracy_axes.bar(edges, accuracies, width, align="edge", edgecolor="white", label="accuracy")
        accuracy_axes.plot(
            confidences, accuracies, "o", color="black", markersize=3, label="at the bin's mean confidence"
        )
        accuracy_axes.plot([0, 1], [0, 1], "--", color="0.4", linewidth=1)
        accuracy_axes.set(xlim=(0, 1), ylim=(0, 1))
        spread = f" ± {std:.4f}" if std is not None else ""
        accuracy_axes.set_title(f"{group.legend}\nECE {mean:.4f}{spread}", fontsize="small")
        total = sum(bins["num_samples"])
        share_axes.bar(
            bins["lower_edge"], [n / total for n in bins["num_samples"]], width, align="edge", edgecolor="white"
        )  # fmt: skip
        share_axes.set_xlabel("confidence")
        if column == 0:
            accuracy_axes.set_ylabel("accuracy")
            share_axes.set_ylabel("share of samples")
        data["groups"].append(
            {
                **group.origin(),
                "epochs": [run.last["epoch"] for run in group.runs],
                "ece": errors,
                "ece_mean": mean,
                "ece_std": std,
                "bins": bins,
            }
        )
    for i in range(len(groups), bands * columns):
        band, column = divmod(i, columns)
        axes[2 * band, column].set_visible(False)
        axes[2 * band + 1, column].set_visible(False)
    axes[0, 0].legend(fontsize="x-small", loc="upper left")
    tallest = max(ax.get_ylim()[1] for ax in axes[1::2].flat)
    for ax in axes[1::2].flat:
        ax.set_ylim(0, tallest)
    return save(figure, data, folder, "reliability")


def pooled_bins(parts: list[dict[str, list]]) -> dict[str, list[Any]]:
    """The bins of the runs' samples taken together; the extra bin of a confidence of exactly 1 joins the last one.

    ``mean_confidence`` and ``accuracy`` are None for an empty bin.
    """
    num_bins = len(parts[0]["lower_edge"]) - 1
    totals = [[0, 0.0, 0.0] for _ in range(num_bins)]
    for part in parts:
        for k, number in enumerate(part["num_samples"]):
            if number:
                total = totals[min(k, num_bins - 1)]
                total[0] += number
                total[1] += number * part["mean_confidence"][k]
                total[2] += number * part["accuracy"][k]
    return {
        "lower_edge": parts[0]["lower_edge"][:num_bins],
        "num_samples": [number for number, _, _ in totals],
        "mean_confidence": [c / number if number else None for number, c, _ in totals],
        "accuracy": [a / number if number else None for number, _, a in totals],
    }
