"""What a checkpoint says that a training framework would act on: taken out before the framework sees it.

Reading a file safely is not enough. A checkpoint of plain tensors and texts can still harm through what MMEngine does
with it: ``Runner.resume`` runs the text under ``meta.config`` as a Python config, and ``CheckpointHook`` deletes the
file or folder that ``best_ckpt`` in the message hub names once a better epoch comes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# Config texts, which MMEngine runs as Python: on resume, and where a model is built from a checkpoint alone.
_CONFIGS = ("config", "cfg")
_BEST_FILE = re.compile(r"best_[^/\\\0]+")


def disarm(checkpoint: Any, folder: Path | None = None) -> Any:
    """Take out of a loaded checkpoint's dict what MMEngine would run or delete; changes it in place and returns it.

    Config texts go. Names of earlier best files are kept only where they are plain files ``best_*`` in ``folder``, the
    one that the checkpoint lies in (None: nowhere), and as such: a copied run then never touches the original's files.
    Numbers of files to be thinned out are kept only where they are whole numbers.
    """
    if not isinstance(checkpoint, dict):
        return checkpoint
    hub = checkpoint.get("message_hub")
    runtime_info = hub.get("runtime_info") if isinstance(hub, dict) else None
    for table in (checkpoint.get("meta"), runtime_info):
        if isinstance(table, dict):
            for key in _CONFIGS:
                table.pop(key, None)
    if isinstance(runtime_info, dict):
        for key in [key for key in runtime_info if isinstance(key, str) and key.startswith("best_ckpt")]:
            runtime_info[key] = _best_file(runtime_info[key], folder)
        _keep_whole_numbers(runtime_info)
    return checkpoint


def _best_file(value: Any, folder: Path | None) -> str | None:
    """The path in ``folder`` that a best checkpoint of that name has, or None where there is no such file."""
    if folder is None or not isinstance(value, str):
        return None
    name = re.split(r"[/\\]", value)[-1]
    if _BEST_FILE.fullmatch(name) is None:
        return None
    path = folder.absolute() / name
    return str(path) if path.is_file() and not path.is_symlink() else None


def _keep_whole_numbers(runtime_info: dict) -> None:
    ids = runtime_info.get("keep_ckpt_ids")
    if ids is not None and not (isinstance(ids, list) and all(type(each) is int for each in ids)):
        del runtime_info["keep_ckpt_ids"]
