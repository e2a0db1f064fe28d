"""Writes the config of an experiment: a header that says where each setting comes from, then the settings."""

from __future__ import annotations

import functools
import textwrap
from dataclasses import replace
from typing import Any

from sosr_det.engine.paper.recipes import AUTHORS_CODE, DATA, MODELS, TECHNIQUES, THRESHOLD, Expression
from sosr_det.engine.paper.rows import FIGURE_EXPERIMENTS, REMARKS, Cell, Experiment, cells

PAPER = "Selective Output Smoothing Regularization, https://arxiv.org/abs/2103.15383"

_WIDTH = 110  # of code, as in the rest of the project
_PROSE_WIDTH = 120


def config_name(experiment: Experiment) -> str:
    """``stage/{model}_{loss}_{gpus}xb{batch}-{epochs}e_{data}`` of an experiment, hand-written or generated."""
    data = DATA[experiment.data]
    model = "-".join(filter(None, (experiment.model, experiment.variant)))
    if experiment.start:
        model += f"-{experiment.start}-pre"
    return f"{data.stage}/{model}_{_loss_name(experiment)}_{data.recipe}_{experiment.data}"


def paper_config_names() -> list[str]:
    """Names of the generated configs: the experiments of Tables 1-7 without a hand-written file, and of Figs. 1-3."""
    return list(_generated())


def paper_config_text(name: str) -> str:
    """Text of a generated config, as it would stand in ``configs/``: its bases are relative to that folder.

    Raises:
        KeyError: no generated config has this name.
    """
    return _text(_generated()[name])


@functools.cache
def _generated() -> dict[str, Experiment]:
    experiments = [cell.experiment for cell in cells()] + list(FIGURE_EXPERIMENTS)
    return {config_name(e): e for e in experiments if not DATA[e.data].hand_written and not _has_file(e)}


def _has_file(experiment: Experiment) -> bool:
    """Table 4's configs, from which Table 7's inherit, are files."""
    return experiment.data == "cub200" and not experiment.technique


def _loss_name(experiment: Experiment) -> str:
    return "-".join(filter(None, (experiment.technique, "sosr" if experiment.sosr else "ce")))


def _text(experiment: Experiment) -> str:
    bases = DATA[experiment.data].bases or (_plain_twin(experiment),)
    listed = "".join(f"    {_quoted(base)},\n" for base in bases)
    inherited = f"[\n{listed}]" if len(bases) > 1 else _quoted(bases[0])
    lines = [*_header(experiment), f"_base_ = {inherited}"]
    lines += [f"{key} = {_rendered(value, len(key) + 3)}" for key, value in _settings(experiment).items()]
    return "\n".join(lines) + "\n"


def _plain_twin(experiment: Experiment) -> str:
    plain = config_name(replace(experiment, technique="", sosr=False))
    return f"{plain.partition('/')[2]}.py"


# ---- settings ------------------------------------------------------------------------------------------------------


def _settings(experiment: Experiment) -> dict[str, Any]:
    """Top-level variables of the config, in the order in which they are written."""
    data = DATA[experiment.data]
    settings: dict[str, Any] = {}
    if data.bases:
        settings["stage"] = data.stage
    model = _model_settings(experiment)
    if model:
        settings["model"] = model
    pipeline = _pipeline(experiment)
    if pipeline:
        where = "batch_pipeline" if data.batch_pipeline else "pipeline"
        settings["train_dataloader"] = {"dataset": {where: pipeline}}
    if experiment.variant == "dynamics":
        settings["custom_hooks"] = [{"type": "TrainingDynamicsHook"}]
    if not experiment.variant:
        start = f"{experiment.start}-pre" if experiment.start else ""
        parts = (experiment.model, data.publish, start, _loss_name(experiment))
        settings["publish"] = {"name": "-".join(filter(None, parts))}
    return settings


def _model_settings(experiment: Experiment) -> dict[str, Any]:
    data = DATA[experiment.data]
    settings: dict[str, Any] = {}
    if data.bases:
        settings["backbone"] = {"arch": MODELS[experiment.model].arch}
    if experiment.variant == "2d":
        settings["feature_dim"] = 2
    loss = _loss(experiment)
    if loss:
        settings["loss"] = {"_delete_": True, **loss}
    if experiment.technique == "cutmix":
        settings["data_preprocessor"] = {
            "batch_augments": [{"type": "torchvision/CutMix", "num_classes": data.num_classes, "alpha": 1.0}],
            "batch_augment_probability": data.cutmix_probability,
        }
    return settings


def _loss(experiment: Experiment) -> dict | None:
    base = TECHNIQUES[experiment.technique].base_loss
    if not experiment.sosr:
        return base
    sosr = {"type": "SOSRLoss", "threshold": THRESHOLD, "weight": DATA[experiment.data].beta}
    return {**sosr, "base": base} if base else sosr


def _pipeline(experiment: Experiment) -> list:
    """The training augmentation: that of the bases, and the technique's step before or after it."""
    data = DATA[experiment.data]
    steps = {
        "cutout": {
            "type": "BatchCutout" if data.batch_pipeline else "Cutout",
            "size": 8,
            "fill": list(data.fill),
        },
        "autoaugment": {
            "type": "PerImage",
            "transform": {"type": "torchvision/AutoAugment", "policy": "cifar10"},
        },
        "fast-autoaugment": {
            "type": "PerImage",
            "transform": {"type": "FastAutoAugment", "policy": "fa_reduced_cifar10"},
        },
    }
    if experiment.technique not in steps:
        return []
    step = steps[experiment.technique]
    inherited = Expression("*_base_.batch_pipeline" if data.batch_pipeline else "*_base_.train_pipeline")
    return [step, inherited] if experiment.technique == "fast-autoaugment" else [inherited, step]


# ---- header --------------------------------------------------------------------------------------------------------


def _header(experiment: Experiment) -> list[str]:
    data, technique = DATA[experiment.data], TECHNIQUES[experiment.technique]
    reported = [cell for cell in cells() if cell.experiment == experiment]
    twin = config_name(replace(experiment, sosr=not experiment.sosr))
    lines = []
    if reported:
        lines += _comment(f"Paper: {PAPER}. Top-1 accuracy in %, best epoch, mean of {data.num_runs} runs:")
        lines += [f"#   {_score_line(cell)}" for cell in reported]
    else:
        lines += _comment(f"Paper: {PAPER}. {FIGURE_EXPERIMENTS[experiment]}; it states no accuracy.")
    if experiment in REMARKS:
        lines += _comment(REMARKS[experiment])
    lines += _comment(f"Twin: {twin}, which differs in the loss alone.")
    lines.append(f"# Command: tools/{data.stage}.sh {config_name(experiment)}")
    lines += _comment(f"Needs {data.needs} (other places: --data-root, $SOSR_DATA).")
    lines += _comment("Not run on this project's machines.")
    stated = [data.stated, technique.stated]
    from_code = [data.from_code]
    chosen = [*data.chosen, technique.chosen.get("", ""), technique.chosen.get(experiment.data, "")]
    if experiment.sosr:
        stated.append(technique.stated_with_sosr)
        if reported:
            stated.append(f"P = {THRESHOLD}")
        else:
            chosen.append(data.threshold_reason)
        if any(cell.table in data.beta_stated_for for cell in reported):
            stated.append(f"beta = {data.beta:g}")
        else:
            chosen.append(data.beta_reason)
    chosen.append(MODELS[experiment.model].note)
    for label, settings in (
        ("Stated in the paper", stated),
        (f"Not stated there, from its authors' public code ({AUTHORS_CODE})", from_code),
        ("Not stated there, chosen here", chosen),
    ):
        settings = [setting for setting in settings if setting]
        if settings:
            lines += _comment(f"{label}: {'; '.join(settings)}.")
    if data.stage == "finetune":
        lines += _comment("22-23 of CUB's test images are also in ImageNet.")
    return lines


def _score_line(cell: Cell) -> str:
    spread = "" if "±" in cell.top1 else " (no spread given)"
    return f'Table {cell.table}, {cell.row}, column "{cell.column}": {cell.top1}{spread}'


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _PROSE_WIDTH,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )


# ---- Python source -------------------------------------------------------------------------------------------------


def _rendered(value: Any, column: int, indent: int = 0) -> str:
    """``value`` as OpenMMLab configs write it, ``dict(key=…)``, broken over lines where it does not fit."""
    inline = _inline(value)
    if column + len(inline) <= _WIDTH or not isinstance(value, (dict, list)):
        return inline
    inner = " " * (indent + 4)
    if isinstance(value, dict):
        opening, closing = "dict(", ")"
        items = [f"{key}={_rendered(v, indent + 4 + len(key) + 2, indent + 4)}" for key, v in value.items()]
    else:
        opening, closing = "[", "]"
        items = [_rendered(v, indent + 5, indent + 4) for v in value]
    return opening + "\n" + "".join(f"{inner}{item},\n" for item in items) + " " * indent + closing


def _inline(value: Any) -> str:
    if isinstance(value, Expression):
        return str(value)
    if isinstance(value, dict):
        return f"dict({', '.join(f'{key}={_inline(v)}' for key, v in value.items())})"
    if isinstance(value, list):
        return f"[{', '.join(_inline(v) for v in value)}]"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    return f'"{text}"'
