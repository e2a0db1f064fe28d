"""Telling that a run is tested with another config than the one that it recorded.

``--cfg-options`` of a training are not typed again for its test by itself: a detector trained on images of 160 px would
be tested on 320 px, and only the poor score would show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sosr_det.engine.config_comparison import config_differences, shortened
from sosr_det.errors import ConfigError

_MOST_SHOWN = 3


def drift(record: Mapping[str, Any], source: str, cfg: Any) -> dict[str, list[str]]:
    """Where the model and the test pipelines are not what a run recorded.

    Args:
        record: the run's record.
        source: its path, for messages.
        cfg: the config in use, before flags changed it.

    Returns:
        dotted key -> ``[the run's value, the value in use]`` as text; empty where they agree, and for a record whose
        config cannot be read here. Folders, lists, classes and where weights come from are not compared.
    """
    try:
        differences = config_differences(record["config_text"], cfg, source=source)
    except (KeyError, ConfigError):
        return {}
    return {
        each.key: [shortened(each.old), shortened(each.new)]
        for each in differences
        if _decides_what_a_test_gives(each.key)
    }


def drift_line(found: Mapping[str, list[str]], *, run_dir: Path) -> str:
    """One sentence about :func:`drift`, which must have found something."""
    shown = "; ".join(
        f"{key}: {before} in the run, {now} here" for key, (before, now) in list(found.items())[:_MOST_SHOWN]
    )
    more = f"; and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
    return (
        f"testing with other settings than the run in {run_dir} has recorded: {shown}{more}. Give the same "
        "--cfg-options again, or name the config that lies in its folder."
    )


def _decides_what_a_test_gives(key: str) -> bool:
    parts = key.split(".")
    if parts[0] == "model":
        return parts[-1] != "num_classes"  # the data themselves decide it
    return parts[0] == "test_dataloader" and "pipeline" in parts
