"""Figure 1 of the paper: how many training images the model is sure of, and how hard these are."""

from __future__ import annotations

from pathlib import Path

from sosr_det.analysis.figures.canvas import COLOURS, LINE_STYLES, new_figure, only_whole_epochs, save
from sosr_det.analysis.figures.runs import Group
from sosr_det.analysis.figures.series import draw_series, fit_limits, series


def draw_figure_1(groups: list[Group], folder: Path) -> list[Path]:
    """Top: training images with a probability above p on the right class. Bottom: their mean grey-level entropy.

    One colour per p, one line style per group. Measured without augmentation. Source: section 2.1, Fig. 1.
    """
    figure, axes = new_figure(2, 1, 6.4, 7, sharex=True)
    number_axes, entropy_axes = axes[:, 0]
    data = {"groups": []}
    for i, group in enumerate(groups):
        lines = []
        for j, p in enumerate(group.runs[0].record["probabilities"]):
            style = {"color": COLOURS[j % len(COLOURS)], "linestyle": LINE_STYLES[i % len(LINE_STYLES)]}
            number = series(group, lambda entry, j=j: entry["train"]["above_probability"][j]["num_samples"])
            entropy = series(
                group, lambda entry, j=j: entry["train"]["above_probability"][j]["mean_entropy_bits"]
            )
            draw_series(number_axes, number, label=f"p = {p:g}, {group.legend}", **style)
            draw_series(entropy_axes, entropy, **style)
            lines.append({"p": p, "num_samples": number, "mean_entropy_bits": entropy})
        entropy_of_all = group.runs[0].last["train"]["mean_entropy_bits"]
        data["groups"].append(
            {
                **group.origin(),
                "num_training_images": group.runs[0].last["train"]["num_samples"],
                "mean_entropy_bits_of_all": entropy_of_all,
                "lines": lines,
            }
        )
    for mean in sorted({group["mean_entropy_bits_of_all"] for group in data["groups"]}):
        entropy_axes.axhline(mean, color="0.5", linewidth=0.8, label="mean of all training images")
    entropy_axes.legend(fontsize="x-small")
    drawn = [line for group in data["groups"] for line in group["lines"]]
    num_images = max(group["num_training_images"] for group in data["groups"])
    fit_limits(number_axes, [line["num_samples"] for line in drawn], 0, 1.02 * num_images)
    fit_limits(entropy_axes, [line["mean_entropy_bits"] for line in drawn], 0, 8)
    number_axes.set_ylabel("training images with probability > p\non the right class")
    number_axes.legend(fontsize="x-small")
    entropy_axes.set_ylabel("their mean grey-level entropy (bits)")
    entropy_axes.set_xlabel("epoch")
    only_whole_epochs(entropy_axes)
    return save(figure, data, folder, "fig1")
