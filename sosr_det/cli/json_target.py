"""Where ``--json`` may write: looked at before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sosr_det.errors import ConfigError

if TYPE_CHECKING:
    from sosr_det.evaluation.formats.reading import Reading


def check_json_target(path: Path, detections: Path, how: Reading) -> None:
    """Refuse a target that cannot be written, or must not be replaced.

    Raises:
        ConfigError: no folder there, or one that cannot be written; a folder or a special file (replacing a device
            by a regular file would harm everyone); or something that is read, also by another name.
    """
    if path.is_dir():
        raise ConfigError(f"--json {path}: is a folder; expected the name of a file")
    if not path.parent.is_dir():
        raise ConfigError(f"--json {path}: there is no folder {path.parent}; make it first")
    if os.path.lexists(path) and not path.is_file():
        raise ConfigError(
            f"--json {path}: is there and not a regular file; expected the name of a file, or '-' for stdout"
        )
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"--json {path}: the folder {path.parent} cannot be written")
    if path.is_file():
        for read in _inputs(path, detections, how):
            if read.exists() and path.samefile(read):
                raise ConfigError(
                    f"--json {path}: is the same file as {read}, which is read; choose another name"
                )


def _inputs(path: Path, detections: Path, how: Reading) -> list[Path]:
    """What is read, or may be."""
    inputs = [detections]
    if detections.is_dir():
        # Not an earlier JSON beside the detections, unless text files have such a name.
        ending = Path(how.file_name).suffix if how.file_name else ".txt"
        inputs += [each for each in detections.iterdir() if each.suffix in (ending, ".txt", ".npz")]
    if how.coco_annotations is not None:
        inputs.append(how.coco_annotations)
    if how.voc_root is not None and path.suffix in (".txt", ".xml"):
        real = path.resolve()
        if real.parent.name == "Annotations" or real.parts[-3:-1] == ("ImageSets", "Main"):
            inputs.append(real)
    return inputs
