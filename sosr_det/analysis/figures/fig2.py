"""Figure 2 of the paper: how much each training sample still teaches."""

from __future__ import annotations

from pathlib import Path

from sosr_det.analysis.figures.canvas import COLOURS, new_figure, only_whole_epochs, save
from sosr_det.analysis.figures.runs import Group
from sosr_det.analysis.figures.series import draw_series, fit_limits, series


def draw_figure_2(groups: list[Group], folder: Path) -> list[Path]:
    """Mean norm of the gradient of each training sample's loss with respect to its logits.

    Solid: of the loss that the run trains with. Dotted, where that is not plain cross-entropy: of cross-entropy alone
    on the same logits. Linear axis as in the paper, and logarithmic, where the late epochs are. Source: section 2.2,
    Fig. 2.
    """
    figure, axes = new_figure(1, 2, 9.6, 4)
    data = {"groups": []}
    for i, group in enumerate(groups):
        own = series(group, lambda entry: entry["train"]["gradient_norm"])
        cross_entropy = series(group, lambda entry: entry["train"]["ce_gradient_norm"])
        colour = COLOURS[i % len(COLOURS)]
        differ = any(
            abs(a - b) > 1e-6 * max(a, b) for a, b in zip(own["mean"], cross_entropy["mean"], strict=True)
        )
        for ax in axes.flat:
            draw_series(ax, own, color=colour, label=group.legend)
            if differ:
                draw_series(
                    ax, cross_entropy, color=colour, linestyle=":", label=f"{group.label}: its CE part"
                )
        data["groups"].append({**group.origin(), "gradient_norm": own, "ce_gradient_norm": cross_entropy})
    for ax, scale in zip(axes.flat, ("linear", "log"), strict=True):
        ax.set_yscale(scale)
        ax.set_xlabel("epoch")
        only_whole_epochs(ax)
    drawn = [group[key] for group in data["groups"] for key in ("gradient_norm", "ce_gradient_norm")]
    fit_limits(axes[0, 0], drawn)
    axes[0, 0].set_ylim(bottom=0)
    positive = [mean for rows in drawn for mean in rows["mean"] if mean > 0]
    if positive:  # an area that reaches below 0 has no lower edge here
        axes[0, 1].set_ylim(min(positive) / 1.5, 1.5 * max(positive))
    axes[0, 0].set_ylabel("mean per-sample norm of the output gradient")
    axes[0, 0].legend(fontsize="x-small")
    return save(figure, data, folder, "fig2")
