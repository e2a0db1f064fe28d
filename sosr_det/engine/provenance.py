"""Where a run comes from: versions, commit, config digest, data."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

from sosr_det.registry.manifest import library_versions, utc_now

__all__ = ["config_digest", "dataset_record", "git_commit", "library_versions", "text_digest", "utc_now"]


def git_commit() -> str | None:
    """Commit of the checkout this package runs from, with ``-dirty`` when it was edited; None outside one."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        return subprocess.run(
            ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None


def text_digest(text: str) -> str:
    """sha256 of a text, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def config_digest(cfg) -> str:
    """sha256 of what a loaded config says, 64 hex digits; comments, order and layout of the file do not count."""
    return text_digest(json.dumps(cfg.to_dict(), sort_keys=True, default=str))


def dataset_record(dataset) -> dict:
    """Type, size, classes and fingerprint of a (possibly wrapped) data set, for the run record."""
    parts = leaf_datasets(dataset)
    metainfo = getattr(dataset, "metainfo", None) or getattr(parts[0], "metainfo", {}) or {}
    prints = [p.fingerprint() for p in parts if hasattr(p, "fingerprint")]
    combined = prints[0] if len(prints) == 1 else text_digest("\n".join(prints)) if prints else None
    return {
        "type": " + ".join(sorted({type(p).__name__ for p in parts})),
        "num_samples": len(dataset),
        "classes": list(metainfo.get("classes", [])),
        "fingerprint": combined,
    }


def leaf_datasets(dataset) -> list:
    """The innermost data sets of mmengine's RepeatDataset / ConcatDataset wrappers."""
    from sosr_det.data.sample_seeds import SampleSeededDataset

    if isinstance(dataset, SampleSeededDataset):
        return leaf_datasets(dataset.dataset)
    if hasattr(dataset, "datasets"):
        return [inner for part in dataset.datasets for inner in leaf_datasets(part)]
    if hasattr(dataset, "dataset") and not hasattr(dataset, "fingerprint"):
        return leaf_datasets(dataset.dataset)
    return [dataset]
