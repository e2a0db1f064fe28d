"""Accuracy, calibration, over-confidence and logit spread as training goes on."""

from __future__ import annotations

from pathlib import Path

from sosr_det.analysis.figures.canvas import COLOURS, new_figure, only_whole_epochs, save
from sosr_det.analysis.figures.runs import Group
from sosr_det.analysis.figures.series import draw_series, fit_limits, series

# key in an epoch's entry -> what the axis says
_PANELS = {
    ("val", "top1_percent"): "validation top-1 (%)",
    ("val", "ece"): "validation ECE",
    ("train", "overconfident_fraction"): "over-confident fraction of training images",
    ("train", "logit_spread"): "std of incorrect logits, all training images",
    ("train", "overconfident_logit_spread"): "std of incorrect logits, over-confident training images",
    ("val", "overconfident_logit_spread"): "std of incorrect logits, over-confident validation images",
}

_HIGHEST = {"top1_percent": 100, "ece": 1, "overconfident_fraction": 1}


def draw_curves(groups: list[Group], folder: Path) -> list[Path]:
    """One panel per quantity, one line per group, measured without augmentation after each epoch."""
    figure, axes = new_figure(2, 3, 13, 7.5)
    data = {"groups": [{**group.origin(), "lines": {}} for group in groups]}
    for ax, ((part, key), title) in zip(axes.flat, _PANELS.items(), strict=True):
        for i, group in enumerate(groups):
            rows = series(group, lambda entry, part=part, key=key: entry[part][key])
            draw_series(ax, rows, color=COLOURS[i % len(COLOURS)], label=group.legend)
            data["groups"][i]["lines"][f"{part}/{key}"] = rows
        ax.set_title(title, fontsize="small")
        ax.set_xlabel("epoch")
        fit_limits(ax, [group["lines"][f"{part}/{key}"] for group in data["groups"]], 0, _HIGHEST.get(key))
        if key != "top1_percent":
            ax.set_ylim(bottom=0)
        only_whole_epochs(ax)
    axes[0, 0].legend(fontsize="x-small")
    return save(figure, data, folder, "curves")
