"""Figure 3 of the paper: the 2-D features of networks whose last layer was cut to 2."""

from __future__ import annotations

import math
from pathlib import Path

from sosr_det.analysis.figures.canvas import new_figure, save
from sosr_det.analysis.figures.runs import Group, value_at

_MAX_COLUMNS = 4


def draw_figure_3(groups: list[Group], folder: Path) -> list[Path]:
    """One panel per run with 2-D features: the validation samples, coloured by class.

    Returns no paths if no run has such features. Source: section 3.3, Fig. 3; it does not say which samples it shows.
    """
    panels = [(group, run) for group in groups for run in group.runs if run.features is not None]
    if not panels:
        return []
    columns = min(len(panels), _MAX_COLUMNS)
    rows = math.ceil(len(panels) / columns)
    figure, axes = new_figure(rows, columns, 4 * columns + 1.2, 4 * rows)
    data = {"panels": []}
    for ax, (group, run) in zip(axes.flat, panels, strict=False):
        points, labels = run.features["val_features"], run.features["val_labels"]
        names = run.features["classes"].tolist()
        colours = _class_colours(run.record["num_classes"])
        for label in sorted(set(labels.tolist())):
            own = points[labels == label]
            name = names[label] if names else str(label)
            ax.scatter(own[:, 0], own[:, 1], s=5, linewidths=0, color=colours[label], label=name)
        epoch = int(run.features["epoch"])
        top1 = value_at(run, epoch, lambda entry: entry["val"]["top1_percent"])
        ax.set_title(f"{group.label}, seed {run.record['seed']}: top-1 {top1:.1f} %", fontsize="small")
        data["panels"].append(
            {
                "label": group.label,
                "run": str(run.path),
                "seed": run.record["seed"],
                "epoch": epoch,
                "top1_percent": top1,
                "classes": names,
                "features": [[round(float(x), 5) for x in point] for point in points],
                "labels": labels.tolist(),
            }
        )
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_visible(False)
    if len(colours) <= 20:
        handles, texts = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside right upper", fontsize="small", markerscale=3)
    return save(figure, data, folder, "fig3")


def _class_colours(num_classes: int) -> list:
    import matplotlib

    name = "tab10" if num_classes <= 10 else "tab20" if num_classes <= 20 else "hsv"
    colour_map = matplotlib.colormaps[name]
    return [colour_map(i if num_classes <= 20 else i / num_classes) for i in range(num_classes)]
