"""The results of a sweep as a Markdown page."""

from __future__ import annotations

import string
from collections import Counter

from sosr_det.analysis.zoo.result import STAGES, Trial
from sosr_det.analysis.zoo.results import OPTIONAL, Results

# Why a family cannot run, where its own message does not say it.
KNOWN = {
    "grounding_dino": "a fault of onedl-mmdetection 3.5.1, whatever the backbone: the decoder's `ref_point_head` takes "
    "512 numbers and the `forward` that it inherits gives it 1024.",
}


def render(results: Results) -> str:
    """The whole page; equal results give equal text."""
    trials = [trial for _, trial in sorted(results.trials.items())]
    letters = _letters(trials)
    lines = [
        "# MMDetection's model zoo under a registry backbone",
        "",
        "<!-- Written by `sosr-det zoo`, from model_zoo.json beside it. Do not edit. -->",
        "",
        *_summary(results),
        "",
        "| family | config | "
        + " | ".join(STAGES[1:])
        + " | tensors | loss | updated | predicted | s | notes |",
        "|---|---|" + "---|" * (len(STAGES) - 1) + "--:|--:|---|---|--:|---|",
        *(_row(trial, letters) for trial in trials),
        "",
        "## Notes",
        "",
        *(f"- **{letter}**: {phrase}" for phrase, letter in letters.items()),
        *_left(results),
        *_without(results),
    ]
    return "\n".join(lines) + "\n"


def _summary(results: Results) -> list[str]:
    env = results.environment
    backbone, versions = env["backbone"], env["versions"]
    tried = {trial.family for trial in results.trials.values()}
    ops = (
        "its own compiled ops"
        if env["mmcv_ops"] == "compiled"
        else "`sosr_det.compat` in place of compiled ops"
    )
    present = [name for name in OPTIONAL if name in versions]
    arch = backbone["arch"] or "ResNet"
    text = f"""
**{len(results.passed_families())} of {len(tried)} families pass.** Each is represented by the plainest of its configs
that has a {arch} backbone. The sweep

1. swaps a {arch} in from a registry, with the stride style and the preprocessing that belong to it (`swap`),
2. builds the model (`build`),
3. compares every tensor of the live backbone with the entry bit for bit, and the features of the probe image
   (`transfer`; `tensors` is how many match, over all backbones of the model),
4. takes one training step on images of {env["image_size"]} px, with the config's optimizer at the learning rate of its
   first step (`train`: the loss is finite, parameters change, frozen tensors of the backbone do not),
5. predicts an image or a video (`predict`).

Annotations are what the config's own pipeline loads: masks, semantic maps, proposals, lanes, instance ids, labelled and
unlabelled branches. Losses and predictions say nothing about quality: all weights are random.

Run on a CPU with MMDetection {versions.get("onedl-mmdetection")}, MMCV {versions.get("onedl-mmcv")} with {ops}, and
torch {versions.get("torch")}. Packages that only some families need:
{", ".join(f"{name} {versions[name]}" for name in present) or "none was installed"}.

To repeat it with a backbone of your own (without `--backbone`: with random weights):

```
sosr-det zoo --backbone sosr://NAME --json zoo.json --markdown zoo.md
```
"""
    return text.strip().split("\n")


def _letters(trials: list[Trial]) -> dict[str, str]:
    """A letter for each phrase, the most frequent first."""
    counts = Counter(phrase for trial in trials for phrase in trial.adjusted)
    phrases = sorted(counts, key=lambda phrase: (-counts[phrase], phrase))
    names = [*string.ascii_lowercase, *(f"{a}{b}" for a in "ab" for b in string.ascii_lowercase)]
    return dict(zip(phrases, names, strict=False))


def _row(trial: Trial, letters: dict[str, str]) -> str:
    marks = [_mark(trial, stage) for stage in STAGES[1:]]
    notes = [letters[phrase] for phrase in trial.adjusted]
    notes += [f"allowed: `{name}`" for name in trial.extra]
    if trial.backbones not in ([], ["model.backbone"]):
        notes.append(f"backbone: `{', '.join(trial.backbones)}`")
    cells = [
        trial.family,
        f"`{trial.config.partition('/')[2]}`",
        *marks,
        str(trial.tensors or ""),
        "" if trial.loss is None else f"{trial.loss:.4g}",
        trial.updated or "",
        trial.predicted or "",
        f"{sum(trial.seconds.values()):.1f}",
        ", ".join(notes),
    ]
    return f"| {' | '.join(cells)} |"


def _mark(trial: Trial, stage: str) -> str:
    if stage in trial.seconds:
        return "✓"
    return "✗" if trial.failed == stage else ""


def _left(results: Results) -> list[str]:
    failed = [trial for trial in results.failed() if trial.family not in results.passed_families()]
    if not failed:
        return []
    lines = ["", "## Families that are left", "", "| family | stage | reason |", "|---|---|---|"]
    for trial in failed:
        known = KNOWN.get(trial.family)
        reason = f"`{_escape(trial.reason or '')}`" + (f": {known}" if known else "")
        lines.append(f"| {trial.family} | {trial.failed} | {reason} |")
    return lines


def _without(results: Results) -> list[str]:
    if not results.without:
        return []
    arch = results.environment["backbone"]["arch"] or "such a ResNet"
    lines = ["", f"## Families without {arch}", "", "They have no config to swap such a backbone into.", ""]
    return [*lines, "| family | what its configs have |", "|---|---|"] + [
        f"| {family} | {_escape(why)} |" for family, why in sorted(results.without.items())
    ]


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'")
