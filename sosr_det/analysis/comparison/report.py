"""compare.json, report.md and the plots of a comparison."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sosr_det.analysis.comparison.collect import Finished, collect
from sosr_det.analysis.comparison.markdown import write_markdown
from sosr_det.analysis.comparison.notes import notes_about
from sosr_det.analysis.comparison.result import compute
from sosr_det.analysis.comparison.text import terminal, verdicts
from sosr_det.engine.compare.proof import prove_pairs
from sosr_det.engine.compare.study import METRICS, Study
from sosr_det.engine.provenance import git_commit, library_versions, utc_now
from sosr_det.engine.studies.records import replace_text
from sosr_det.errors import ConfigError

SCHEMA_VERSION = 1
JSON_NAME = "compare.json"


def write_comparison(
    study: Study, *, metric: str | None = None, num_resamples: int = 1000, bootstrap_seed: int = 0
) -> tuple[str, list[str]]:
    """Compute and write what a comparison found, from what its runs left; unfinished runs are left out, and named.

    Args:
        study: The comparison.
        metric: Of the verdict; None for the first of its kind.
        num_resamples: Bootstrap resamples of the test images, at least 100.
        bootstrap_seed: Their random seed.

    Returns:
        What to print, and what stands against calling the runs paired: a sentence for each pair.

    Raises:
        ConfigError: no such metric.
        DataError: predictions that are about other images.
    """
    known = METRICS[study.kind]
    metric = metric or known[0]
    if metric not in known:
        raise ConfigError(f"--metric {metric}: this comparison has {', '.join(known)}.")
    finished = collect(study)
    pairing = prove_pairs(study, finished.seeds)
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created": utc_now(),
        "study": {
            "kind": study.kind,
            "arms": [arm.to_dict() for arm in study.arms],
            "seeds": study.seeds,
            "options": study.options,
            "grown": study.grown,
        },
        "seeds": finished.seeds,
        "missing": finished.missing,
        "pairing": pairing,
        "bootstrap": {"num_resamples": num_resamples, "seed": bootstrap_seed},
        "verdict_metric": metric,
        "metrics": {},
        "runs": {},
        "versions": {"git_commit": git_commit(), "libraries": library_versions()},
    }
    if finished.seeds:
        result["num_images"] = len(finished.predictions[0][0].image_ids)
        result["metrics"] = compute(
            study, finished, num_resamples=num_resamples, bootstrap_seed=bootstrap_seed, progress=_progress
        )
        result["runs"] = _runs(study, finished)
    result["notes"] = notes_about(study, finished, result)
    result["verdicts"] = verdicts(result) if finished.seeds else []
    replace_text(study.folder / JSON_NAME, json.dumps(result, indent=1, allow_nan=False) + "\n")
    page = write_markdown(result, study.folder)
    return terminal(result, str(page)), pairing["problems"]


def _runs(study: Study, finished: Finished) -> dict[str, Any]:
    return {
        f"{arm.name}/seed-{seed}": {
            "selection": finished.records[i][j].get("selection"),
            "best_epoch": (finished.records[i][j].get("best") or {}).get("epoch"),
            **{
                key: finished.records[i][j].get(key)
                for key in ("git_commit", "library_versions", "device", "world_size")
            },
            "wall_seconds": finished.records[i][j].get("wall_seconds"),
            "backbone": (finished.records[i][j].get("backbone") or {}).get("pinned_uri"),
            "data": {
                part: (each or {}).get("fingerprint")
                for part, each in (finished.records[i][j].get("data") or {}).items()
            },
            **finished.done[i][j],
        }
        for i, arm in enumerate(study.arms)
        for j, seed in enumerate(finished.seeds)
    }


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(
            f"\rresampling images: {done} of {total} runs", end="" if done < total else "\n", file=sys.stderr
        )


def report_folder(study: Study) -> Path:
    return study.folder
