"""Telling that a run is tested, or continued, with another config than the one that it recorded.

``--cfg-options`` of a training are not typed again for its test by itself: a detector trained on images of 160 px would
be tested on 320 px, and only the poor score would show it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sosr_det.engine.recorded_config import recorded_values
from sosr_det.engine.selection import dataset_leaves
from sosr_det.errors import ConfigError

_MOST_SHOWN = 3
_LONGEST = 60  # characters of a value
# Where weights come from, and what the command line or the data themselves decide.
_NOT_COMPARED = {"init_cfg", "num_classes"}


def drift(
    record: Mapping[str, Any], source: str, cfg: Any, *, dataloaders: Sequence[str]
) -> dict[str, list[str]]:
    """Where the model, and the pipelines of some data loaders, are not what a run recorded.

    Args:
        record: the run's record.
        source: its path, for messages.
        cfg: the config in use, before flags changed it.
        dataloaders: such as ``["test_dataloader"]``. Folders, lists and classes are not compared.

    Returns:
        dotted place -> ``[the run's value, the value in use]`` as text; empty where they agree, and for a record whose
        config cannot be read here.
    """
    try:
        recorded = recorded_values(record["config_text"], source)
    except (KeyError, ConfigError):
        return {}
    found: dict[str, list[str]] = {}
    for place, (before, now) in _compared(recorded, cfg, dataloaders):
        for path, values in _differences(place, before, now):
            found[path] = [_short(value) for value in values]
    return found


def drift_line(found: Mapping[str, list[str]], *, doing: str, run_dir: Path) -> str:
    """One sentence about :func:`drift`, which must have found something."""
    shown = "; ".join(
        f"{path}: {before} in the run, {now} here"
        for path, (before, now) in list(found.items())[:_MOST_SHOWN]
    )
    more = f"; and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
    return (
        f"{doing} with other settings than the run in {run_dir} has recorded: {shown}{more}. Give the same "
        "--cfg-options again, or name the config that lies in its folder."
    )


def _compared(recorded: Any, cfg: Any, dataloaders: Sequence[str]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    yield "model", (recorded.get("model"), cfg.get("model"))
    for section in dataloaders:
        pipelines = [
            [leaf.get("pipeline") for leaf in dataset_leaves((each.get(section) or {}).get("dataset"))]
            for each in (recorded, cfg)
        ]
        if len(pipelines[0]) == len(pipelines[1]):
            for before, now in zip(*pipelines, strict=True):
                yield f"{section}.pipeline", (before, now)


def _differences(place: str, before: Any, now: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            if key not in _NOT_COMPARED:
                yield from _differences(f"{place}.{key}", before.get(key), now.get(key))
    elif isinstance(before, (list, tuple)) and isinstance(now, (list, tuple)):
        if len(before) == len(now) and any(isinstance(value, (Mapping, list, tuple)) for value in before):
            for index, pair in enumerate(zip(before, now, strict=True)):
                yield from _differences(f"{place}.{index}", *pair)
        elif list(before) != list(now):  # a dump may turn a tuple into a list
            yield place, (before, now)
    elif before != now and not _same_type_name(place, before, now):
        yield place, (before, now)


def _same_type_name(place: str, before: Any, now: Any) -> bool:
    """``mmdet.RandomFlip`` and ``RandomFlip`` are one type: a record holds what was written, with or without scope."""
    return place.endswith(".type") and str(before).rpartition(".")[2] == str(now).rpartition(".")[2]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
