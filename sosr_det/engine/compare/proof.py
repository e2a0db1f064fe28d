"""Whether twins saw the same batches: read from the digests in their run records."""

from __future__ import annotations

from typing import Any

from sosr_det.engine.backbone.source import RANDOM
from sosr_det.engine.compare.study import Study
from sosr_det.engine.studies.records import completed_record
from sosr_det.registry.names import SCHEME


def prove_pairs(study: Study, seeds: list[int]) -> dict[str, Any]:
    """Compare the records of all arms seed by seed.

    Args:
        study: The comparison.
        seeds: Those of which every arm has a completed run.

    Returns:
        ``paired``: whether every pair of twins had the same batches in every epoch; ``problems``: a sentence for each
        pair that had not, naming it; ``warnings``: what differs beside the batches; ``seeds``: what was compared.
    """
    problems: list[str] = []
    warnings: list[str] = []
    rows = []
    for seed in seeds:
        found = {
            arm.name: _of_run(completed_record(study.cell(arm, seed).run_dir) or {}) for arm in study.arms
        }
        first_name = study.arms[0].name
        first = found[first_name]
        for arm in study.arms:
            own, pair = found[arm.name], f"{first_name} and {arm.name}, seed {seed}"
            if not own["epochs"]:
                problems.append(f"{arm.name}, seed {seed}: the run has no digests of its batches")
            elif arm.name != first_name:
                problems += _difference(pair, first, own)
                warnings += _other_weights_outside(pair, first, own)
                warnings += _other_validations(pair, first, own)
            problems += _other_weights(arm, seed, own)
        equal = all(each["epochs"] and _digests(each) == _digests(first) for each in found.values())
        rows.append(
            {
                "seed": seed,
                "equal_batches": equal,
                "num_epochs": len(first["epochs"]),
                "num_batches": sum(each["num_batches"] for each in first["epochs"]),
                "equal_weights_outside_backbone": len({each["outside_backbone"] for each in found.values()})
                == 1,
                "arms": found,
            }
        )
    # Tensors that --allow leaves out are random, so there other starts prove nothing.
    told = warnings if study.options.get("allow") else problems
    for arm in study.arms:
        told += _weights_of_files(arm, {row["seed"]: row["arms"][arm.name] for row in rows})
    return {
        "paired": bool(rows) and not problems,
        "problems": problems,
        "warnings": warnings,
        "seeds": rows,
    }


def _of_run(record: dict[str, Any]) -> dict[str, Any]:
    weights = record.get("initial_weights") or {}
    return {
        "epochs": record.get("batches") or [],
        "backbone_digest": (record.get("backbone") or {}).get("digest"),
        "backbone_at_start": weights.get("backbone"),
        "outside_backbone": weights.get("outside_backbone"),
        "outside_backbone_layout": weights.get("outside_backbone_layout"),
        "validated_epochs": [e.get("epoch") for e in record.get("epochs") or [] if e.get("val")],
        "mixes_batches": "batch_augments=" in (record.get("config_text") or ""),
    }


def _digests(run: dict[str, Any]) -> list[str]:
    return [epoch["digest"] for epoch in run["epochs"]]


def _difference(pair: str, first: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """What the batches of a pair differ in: the first difference alone, since the rest follows from it."""
    if not first["epochs"]:
        return []  # told once, where the first arm's own row is looked at
    if len(first["epochs"]) != len(own["epochs"]):
        return [f"{pair}: {len(first['epochs'])} and {len(own['epochs'])} epochs"]
    for a, b in zip(first["epochs"], own["epochs"], strict=True):
        if a["digest"] != b["digest"]:
            return [
                f"{pair}: other batches in epoch {a['epoch']} ({a['num_batches']} of {a['digest'][:12]}…, "
                f"{b['num_batches']} of {b['digest'][:12]}…)"
            ]
        if a["epoch"] != b["epoch"]:
            return [f"{pair}: epochs {a['epoch']} and {b['epoch']} in the same place"]
        if a["random_state"] != b["random_state"] and (first["mixes_batches"] or own["mixes_batches"]):
            return [
                f"{pair}: in epoch {a['epoch']} the two drew different random numbers on the way, and these configs "
                "mix or resize batches on the device, which the digests of the batches do not see"
            ]
    return []


def _other_weights_outside(pair: str, first: dict[str, Any], own: dict[str, Any]) -> list[str]:
    if first["outside_backbone"] == own["outside_backbone"]:
        return []
    same_layout = first["outside_backbone_layout"] == own["outside_backbone_layout"]
    reason = "" if same_layout else ", as they have other shapes"
    return [f"{pair}: the weights outside of the backbone (neck, head) did not start the same{reason}"]


def _other_validations(pair: str, first: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """A run that was interrupted between an epoch and its validation chose its epoch from fewer than its twin."""
    a, b = set(first["validated_epochs"]), set(own["validated_epochs"])
    if a == b:
        return []
    told = [
        f"epoch {', '.join(map(str, sorted(only)))} only in the {which}"
        for which, only in (("first", a - b), ("second", b - a))
        if only
    ]
    return [
        f"{pair}: not the same epochs were validated ({'; '.join(told)}), so they chose their best from different ones"
    ]


def _weights_of_files(arm: Any, runs: dict[int, dict[str, Any]]) -> list[str]:
    """Runs of weights that are no entry have no digest of one: all seeds must have started from the same tensors."""
    if arm.weights in (None, RANDOM) or arm.weights.startswith(SCHEME):
        return []
    missing = [str(seed) for seed, run in runs.items() if not run["backbone_at_start"]]
    if missing:
        return [
            f"{arm.name}, seed {', '.join(missing)}: the run has no digest of its backbone at the start, so it is not "
            f"proven that it began with {arm.weights}"
        ]
    if len({run["backbone_at_start"] for run in runs.values()}) < 2:
        return []
    told = ", ".join(f"seed {seed} from {run['backbone_at_start'][:12]}" for seed, run in runs.items())
    return [
        f"{arm.name}: the backbones of its runs did not start the same, though all have {arm.weights}: {told}"
    ]


def _other_weights(arm: Any, seed: int, own: dict[str, Any]) -> list[str]:
    """A run of an entry must have started from that entry."""
    if arm.weights is None or "://" not in arm.weights or arm.digest is None:
        return []
    if own["backbone_digest"] == arm.digest:
        return []
    return [
        f"{arm.name}, seed {seed}: the run started from {str(own['backbone_digest'])[:12]}, expected {arm.digest[:12]}"
    ]
