"""Tables 1-7 of the paper (https://arxiv.org/abs/2103.15383), with every number as printed.

Bold type is left out. "–" is the paper's own sign for a number that it does not give.
"""

from __future__ import annotations

from dataclasses import dataclass

NOT_GIVEN = "–"


@dataclass(frozen=True)
class Experiment:
    """What one config trains.

    Attributes:
        data: key of :data:`sosr_det.engine.paper.recipes.DATA`.
        model: key of :data:`sosr_det.engine.paper.recipes.MODELS`, the model's part of a config name.
        technique: key of :data:`sosr_det.engine.paper.recipes.TECHNIQUES`; empty for none.
        sosr: whether the loss has the SOSR term.
        start: loss of the ImageNet pretraining that fine-tuning starts from (``ce`` or ``sosr``); else empty.
        variant: what a figure changes about the model (``2d``: Fig. 3); else empty.
    """

    data: str
    model: str
    technique: str = ""
    sosr: bool = False
    start: str = ""
    variant: str = ""


@dataclass(frozen=True)
class Cell:
    """One accuracy of one table, and the experiment that it is the result of.

    Attributes:
        table: number of the table.
        row: label of the row as printed, model and method joined by a space.
        column: label of the column as printed; Table 3 has its metrics in the columns, so it is empty there.
        experiment: what was trained.
        top1: top-1 accuracy in %, as printed, such as ``75.6±0.10``.
        top5: top-5 accuracy in %, as printed; only Table 3 has it.
    """

    table: int
    row: str
    column: str
    experiment: Experiment
    top1: str
    top5: str | None = None


@dataclass(frozen=True)
class Table:
    """A table of the paper: its caption, column labels, and rows as (labels and numbers) of text."""

    number: int
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


TABLES = {
    1: Table(
        1,
        "Accuracy (%) with and without SOSR using different architectures on CIFAR-100.",
        ("Model", "Baseline", "+ Ours"),
        (
            ("Vgg19_bn", "71.55±0.11", "72.18±0.05"),
            ("ResNet-56", "73.61±0.06", "74.70±0.13"),
            ("ResNet-110", "74.53±0.09", "75.6±0.10"),
            ("RegNetX_200MF", "76.54±0.05", "77.16±0.03"),
            ("DenseNet-100-12", "77.22±0.05", "77.92±0.03"),
            ("WRN-28-10", "78.84±0.02", "79.95±0.07"),
            ("PyramidNet-110-48", "76.88±0.04", "77.23±0.08"),
            ("PyramidNet-110-84", "79.08±0.02", "79.41±0.07"),
            ("MobileNet", "68.15±0.03", "70.22±0.15"),
            ("MobileNetV2", "72.48±0.05", "73.19±0.09"),
            ("SE-ResNet-110", "76.12±0.32", "77.14±0.14"),
        ),
    ),
    2: Table(
        2,
        "Accuracy with and without SOSR using different architectures on Tiny ImageNet.",
        ("Model", "Baseline(%)", "+ Ours(%)"),
        (
            ("ResNet-56", "60.22±0.16", "60.85±0.04"),
            ("ResNet-110", "62.59±0.10", "63.47±0.25"),
        ),
    ),
    3: Table(
        3,
        "Validation accuracy with and without our method using two networks on ImageNet.",
        ("Model", "Top-1(%)", "Top-5(%)"),
        (
            ("ResNet-18", "70.45±0.04", "90.01±0.03"),
            ("ResNet-18+SOSR", "71.58±0.07", "90.33±0.05"),
            ("ResNet-50", "76.20±0.01", "92.97±0.03"),
            ("ResNet-50+SOSR", "77.30±0.02", "93.43±0.01"),
        ),
    ),
    4: Table(
        4,
        "Accuracy with and without our method on CUB-200-2011. ResNet-50 denotes the ResNet-50 network that is "
        "pre-trained with the regular process on ImageNet. ResNet-50 (SOSR) denotes ResNet-50 pre-trained with the "
        "addition of our method.",
        ("Backbone Network", "Baseline(%)", "+ Ours(%)"),
        (
            ("ResNet-50", "85.37±0.03", "85.94±0.01"),
            ("ResNet-50(SOSR)", "85.92±0.05", "86.18±0.12"),
        ),
    ),
    5: Table(
        5,
        "Accuracy (%) over the combination of our method and other techniques on CIFAR-100.",
        ("Model", "Method", "Acc.", "+ Ours"),
        (
            ("ResNet-56", "+Cutout", "74.64", "75.17"),
            ("ResNet-56", "+CutMix", "76.58", "76.88"),
            ("ResNet-56", "+AutoAugment", "76.28", "76.77"),
            ("ResNet-56", "+Fast AutoAugment", "75.96", "76.37"),
            ("ResNet-56", "+SOSR", "74.70", NOT_GIVEN),
            ("ResNet-56", "+LabelSmoothing", "73.94", "74.32"),
            ("ResNet-56", "+ConfidencePenalty", "73.81", "74.22"),
            ("ResNet-110", "+Cutout", "75.61", "75.91"),
            ("ResNet-110", "+CutMix", "78.83", "79.52"),
            ("ResNet-110", "+AutoAugment", "78.08", "78.67"),
            ("ResNet-110", "+Fast AutoAugment", "77.63", "78.05"),
            ("ResNet-110", "+SOSR", "75.42", NOT_GIVEN),
            ("ResNet-110", "+LabelSmoothing", "74.94", "75.44"),
            ("ResNet-110", "+ConfidencePenalty", "74.75", "75.35"),
        ),
    ),
    6: Table(
        6,
        "Accuracy (%) over the combination of our method and other techniques on Tiny ImageNet.",
        ("Model", "Baseline(%)", "+ Ours(%)"),
        (
            ("ResNet-56 + CutMix", "61.22±0.03", "62.36±0.01"),
            ("ResNet-110 + CutMix", "66.13±0.01", "66.58±0.02"),
        ),
    ),
    7: Table(
        7,
        "Accuracy (%) over the combination of our method and other techniques on CUB-200-2011. ResNet-50 denotes the "
        "ResNet-50 network pre-trained with the regular process on ImageNet.",
        ("Backbone", "Method", "Acc.", "+ Ours"),
        (
            ("ResNet-50", "+Cutout", "85.85", "86.22"),
            ("ResNet-50", "+CutMix", "86.19", "86.73"),
            ("ResNet-50", "+SOSR", "85.94", NOT_GIVEN),
            ("ResNet-50", "+LabelSmoothing", "85.90", "86.22"),
            ("ResNet-50", "+ConfidencePenalty", "85.67", "86.10"),
        ),
    ),
}

_DATA = {
    1: "cifar100",
    2: "tiny-imagenet",
    3: "in1k",
    4: "cub200",
    5: "cifar100",
    6: "tiny-imagenet",
    7: "cub200",
}

# The paper's label of a model -> its part of a config name.
_MODELS = {
    "Vgg19_bn": "vgg19-bn",
    "ResNet-18": "resnet18",
    "ResNet-50": "resnet50",
    "ResNet-56": "resnet56",
    "ResNet-110": "resnet110",
    "RegNetX_200MF": "regnetx-200mf",
    "DenseNet-100-12": "densenet100-12",
    "WRN-28-10": "wrn28-10",
    "PyramidNet-110-48": "pyramidnet110-48",
    "PyramidNet-110-84": "pyramidnet110-84",
    "MobileNet": "mobilenet",
    "MobileNetV2": "mobilenetv2",
    "SE-ResNet-110": "seresnet110",
}

# The paper's label of a method -> the technique's part of a config name.
_TECHNIQUES = {
    "": "",
    "+Cutout": "cutout",
    "+CutMix": "cutmix",
    "+AutoAugment": "autoaugment",
    "+Fast AutoAugment": "fast-autoaugment",
    "+LabelSmoothing": "label-smoothing",
    "+ConfidencePenalty": "confidence-penalty",
}

# What the figures of the paper need and no table has.
FIGURE_EXPERIMENTS = {
    Experiment("cifar10", "resnet110", sosr=sosr, variant="2d"): (
        "Fig. 3: features of ResNet-110 on CIFAR-10 cut to 2 before the last layer"
    )
    for sosr in (False, True)
} | {
    Experiment("cifar100", "resnet110", sosr=sosr, variant="dynamics"): (
        "Figs. 1 and 2: training dynamics of ResNet-110 on CIFAR-100 (Fig. 2 does not name its network)"
    )
    for sosr in (False, True)
}

# Where the paper contradicts itself or says less than it seems to.
REMARKS = {
    Experiment("cifar100", "resnet110", sosr=True): (
        "The paper prints two numbers for this run: 75.6 in Table 1, 75.42 in Table 5; "
        'the "0.89%" of section 3.1 agrees with 75.42.'
    ),
}


def cells() -> list[Cell]:
    """Every accuracy of Tables 1-7, in the paper's order; numbers that it does not give are left out."""
    found = []
    for table in TABLES.values():
        for row in table.rows:
            found += _cells_of_row(table, row)
    return found


def _cells_of_row(table: Table, row: tuple[str, ...]) -> list[Cell]:
    data = _DATA[table.number]
    if table.number == 3:  # a row per experiment, its metrics in the columns
        label, top1, top5 = row
        model, _, method = label.partition("+")
        return [Cell(3, label, "", Experiment(data, _MODELS[model], sosr=method == "SOSR"), top1, top5)]
    *labels, alone, with_ours = row
    label = " ".join(labels)
    model, _, method = label.replace(" + ", " +").partition(" ")
    start = ""
    if data == "cub200":
        start = "sosr" if model.endswith("(SOSR)") else "ce"
        model = model.removesuffix("(SOSR)")
    if method == "+SOSR":  # the method is SOSR itself, so there is nothing to add
        return [
            Cell(
                table.number,
                label,
                table.columns[-2],
                Experiment(data, _MODELS[model], "", True, start),
                alone,
            )
        ]
    return [
        Cell(
            table.number,
            label,
            column,
            Experiment(data, _MODELS[model], _TECHNIQUES[method], sosr, start),
            score,
        )
        for column, sosr, score in ((table.columns[-2], False, alone), (table.columns[-1], True, with_ours))
    ]
