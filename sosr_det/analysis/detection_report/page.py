"""The report's page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sosr_det.analysis.detection_report import elements
from sosr_det.analysis.detection_report.plots import MOST_CLASSES, weakest_classes
from sosr_det.analysis.detection_report.text import (
    GROUP_TITLE,
    KIND_MEANING,
    number,
    percent,
    plural,
    tame,
)
from sosr_det.evaluation.errors.analysis import ErrorAnalysis, mean_gain
from sosr_det.evaluation.errors.gains import CURVE_KINDS
from sosr_det.evaluation.errors.groups import GROUPS, GroupAP, mean_of_group
from sosr_det.evaluation.errors.outcomes import KINDS
from sosr_det.evaluation.errors.worst_images import ImageErrors, describe

_MOST_CONFUSIONS = 12


@dataclass(frozen=True)
class Pictures:
    """What was drawn.

    Attributes:
        files: For each of the worst images, the picture's file relative to the page, or None.
        notes: Why pictures are missing, one sentence each.
    """

    files: Sequence[str | None]
    notes: Sequence[str] = ()


def render(analysis: ErrorAnalysis, title: str, plots: Sequence[str], pictures: Pictures) -> str:
    """The whole page as HTML."""
    body = [
        f"<h1>{elements.markup(title)}</h1>",
        *_summary(analysis),
        *_kinds(analysis, plots),
        *_classes(analysis),
        *_curves(analysis, plots),
        *_groups(analysis, plots),
        *_worst(analysis, pictures),
        '<p class="muted">All numbers, as fractions at full precision: <a href="errors.json">errors.json</a>.</p>',
    ]
    return elements.page(title, body)


def _summary(analysis: ErrorAnalysis) -> Iterator[str]:
    data, voc = analysis.data, analysis.voc
    objects = int(analysis.outcomes.num_ground_truth.sum())
    difficult = int(analysis.outcomes.difficult.sum())
    yield (
        f'<p class="muted">{plural(data.num_images, "image")}, '
        f"{plural(len(data.class_names), 'class')}, {plural(objects, 'object')} "
        f"and {number(difficult)} difficult, {plural(data.num_detections, 'detection')}. "
        f"A match must exceed an IoU of {analysis.foreground_iou:g}.</p>"
    )
    yield elements.headline(
        [
            (percent(voc.map_area), "mAP, area under the curve"),
            (percent(voc.map_11point), "mAP, 11-point"),
            (percent(analysis.pooled_point.f1), "best F1, all classes together"),
        ]
    )
    if voc.classes_without_ground_truth:
        names = ", ".join(tame(name, 40) for name in voc.classes_without_ground_truth[:20])
        absent = plural(len(voc.classes_without_ground_truth), "class")
        yield elements.note(f"{absent} without an object to be found, left out of every mean: {names}")
    if analysis.pooled_point.f1 != analysis.pooled_point.f1:
        yield elements.note("No detection finds an object: no score makes any of them worth believing.")


def _kinds(analysis: ErrorAnalysis, plots: Sequence[str]) -> Iterator[str]:
    yield "<h2>What goes wrong</h2>"
    yield (
        "<p>Six kinds of error, after TIDE (Bolya et al., ECCV 2020). <em>Cost</em> is the mAP that would be gained if "
        "that kind alone were fixed; costs do not add up. <em>All</em> counts every detection, most of them at scores "
        "nobody would use; <em>confident</em> counts those at or above the score at which F1 of their class is "
        "highest.</p>"
    )
    rows = [
        [
            kind.replace("_", " "),
            KIND_MEANING[kind],
            percent(mean_gain(analysis.gains_area.gain[kind])),
            percent(mean_gain(analysis.gains_11point.gain[kind])),
            number(int(analysis.counts[kind].sum())) if kind in KINDS else "",
            number(int(analysis.confident_counts[kind].sum())) if kind in KINDS else "",
        ]
        for kind in (*KINDS, *CURVE_KINDS)
    ]
    yield elements.table(
        ["kind", "what it is", "cost (area)", "cost (11-point)", "all", "confident"],
        rows,
        text_columns=(0, 1),
    )
    if "errors.png" in plots:
        yield elements.picture(
            "errors.png", _of_weakest(analysis, "Errors by class"), "Errors by class and kind"
        )
    if analysis.confusions:
        yield "<h2>Classes taken for each other</h2>"
        shown = list(analysis.confusions.items())[:_MOST_CONFUSIONS]
        yield elements.table(
            ["detected as", "really", "confident detections"],
            [[tame(seen, 60), tame(really, 60), number(count)] for (seen, really), count in shown],
            text_columns=(0, 1),
        )


def _classes(analysis: ErrorAnalysis) -> Iterator[str]:
    voc = analysis.voc
    order = [*weakest_classes(analysis), *voc.classes_without_ground_truth]
    index = {name: i for i, name in enumerate(analysis.data.class_names)}
    yield "<h2>Classes, the weakest first</h2>"
    rows = []
    for name in order:
        ap, point = voc.per_class[name], analysis.points[name]
        rows.append(
            [
                tame(name, 60),
                percent(ap.ap_area),
                percent(ap.ap_11point),
                number(ap.num_ground_truth),
                number(ap.num_difficult),
                number(ap.num_detections),
                percent(point.f1),
                "–" if point.threshold != point.threshold else f"{point.threshold:.4g}",
                percent(point.precision),
                percent(point.recall),
            ]
        )
    yield elements.table(
        [
            "class", "AP area", "AP 11-point", "objects", "difficult", "detections",
            "best F1", "from score", "precision there", "recall there",
        ],
        rows,
    )  # fmt: skip
    yield "<h2>Cost of each kind by class, and how often</h2>"
    yield (
        "<p>AP (area) gained in points, then the number of confident errors. A class error is counted under the class "
        "that was detected; fixing it may also raise the AP of the class that the object has.</p>"
    )
    rows = [
        [
            tame(name, 60),
            *(
                f"{percent(analysis.gains_area.gain[kind][index[name]])} · "
                f"{number(int(analysis.confident_counts[kind][index[name]]))}"
                for kind in KINDS
            ),
        ]
        for name in order
    ]
    total = [
        f"{percent(mean_gain(analysis.gains_area.gain[kind]))} · {number(int(analysis.confident_counts[kind].sum()))}"
        for kind in KINDS
    ]
    yield elements.table(["class", *KINDS], [*rows, ["mean · sum", *total]], last_is_sum=True)


def _curves(analysis: ErrorAnalysis, plots: Sequence[str]) -> Iterator[str]:
    if "precision_recall.png" in plots:
        yield "<h2>Precision and recall</h2>"
        caption = _of_weakest(analysis, "Highest precision at each recall or beyond; the dot is the best F1")
        yield elements.picture("precision_recall.png", caption, "Precision-recall curves")


def _groups(analysis: ErrorAnalysis, plots: Sequence[str]) -> Iterator[str]:
    yield "<h2>By size, truncation and difficulty</h2>"
    yield (
        "<p>Small, medium and large are COCO's: areas below 32², below 96² and from 96² pixels on. Quarters are of "
        "each class's own objects by area. Objects outside a group are ignored, as difficult ones are; false positives "
        "of another size are too. <em>Whole</em> and <em>truncated</em> objects share the false positives of their "
        "class, so that their recall compares better than their AP.</p>"
    )
    groups = [group for group in GROUPS if mean_of_group(analysis.groups[group]).num_ground_truth]
    absent = [GROUP_TITLE[group] for group in GROUPS if group not in groups]
    yield elements.table(
        ["group", "objects", "mean AP area", "mean AP 11-point", "mean recall"],
        [
            [
                GROUP_TITLE[group],
                number(mean.num_ground_truth),
                *map(percent, (mean.ap_area, mean.ap_11point, mean.recall)),
            ]
            for group in groups
            for mean in [mean_of_group(analysis.groups[group])]
        ],
    )
    if absent:
        yield f'<p class="muted">Nothing there (or not recorded): {", ".join(absent)}.</p>'
    if "by_size.png" in plots:
        yield elements.picture("by_size.png", _of_weakest(analysis, "AP by group and by class"), "AP by size")
    if groups:
        yield "<p>AP (area) by class, and the number of objects:</p>"
        yield elements.table(
            ["class", *(GROUP_TITLE[group] for group in groups)],
            [
                [tame(name, 60), *(_group_cell(analysis.groups[group][name]) for group in groups)]
                for name in weakest_classes(analysis)
            ],
        )


def _worst(analysis: ErrorAnalysis, pictures: Pictures) -> Iterator[str]:
    yield "<h2>Worst images</h2>"
    if not analysis.worst:
        yield "<p>No image has an error at the operating points.</p>"
        return
    yield (
        "<p>Images with the most errors: confident false positives, and objects that no confident detection found (a "
        "loose box is both). Green: found; red: false positive, with its kind; dashed yellow: not found; grey: "
        "difficult.</p>"
    )
    yield from (elements.note(each) for each in pictures.notes)
    drawn = [
        elements.picture(file, f"{rank}. {tame(_image_id(analysis, each), 80)}", f"Picture {rank}")
        for rank, (each, file) in enumerate(zip(analysis.worst, pictures.files, strict=True), 1)
        if file
    ]
    if drawn:
        yield '<div class="pictures">\n' + "\n".join(drawn) + "\n</div>"
    yield "<h2>What went wrong in each</h2>"
    for rank, each in enumerate(analysis.worst, 1):
        yield elements.details(
            f"{rank}. {tame(_image_id(analysis, each), 120)}: {plural(each.num_errors, 'error')}, "
            f"{len(each.true_positives)} found",
            [
                *map(_sentence, describe(analysis.outcomes, each)),
                *([f"and {number(each.num_more)} more"] if each.num_more else []),
            ],
        )


def _sentence(entry: dict) -> str:
    name = tame(entry["class"], 60)
    box = "(" + ", ".join(f"{value:.0f}" for value in entry["box"]) + ")"
    if entry["kind"] == "missed":
        return f"not found: {name} at {box}" + (
            ", though another detection lies on it" if entry["noticed"] else ""
        )
    text = f"{entry['kind']}: {name} {entry['score']:.4g} at {box}"
    about = entry["object"]
    if about is not None:
        difficult = "difficult " if about["difficult"] else ""
        text += f", IoU {about['iou']:.2f} with a {difficult}{tame(about['class'], 60)}"
    return text


def _image_id(analysis: ErrorAnalysis, errors: ImageErrors) -> str:
    return analysis.data.image_ids[errors.image]


def _group_cell(group: GroupAP) -> str:
    return f"{percent(group.ap_area)} ({number(group.num_ground_truth)})" if group.num_ground_truth else "–"


def _of_weakest(analysis: ErrorAnalysis, caption: str) -> str:
    total = int(np.count_nonzero(analysis.outcomes.num_ground_truth))
    if total <= MOST_CLASSES:
        return f"{caption}."
    return f"{caption}; the {MOST_CLASSES} classes of {total} with the lowest AP."
