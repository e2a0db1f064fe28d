"""Data files that MMEngine's ``load`` reads by their suffix, without running code from them.

MMDetection's data sets read annotations and proposals with it. MMEngine's own readers of ``.pkl`` and ``.yaml`` call
whatever function such a file names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmengine.fileio.handlers.pickle_handler import PickleHandler
from mmengine.fileio.handlers.registry_utils import _register_handler
from mmengine.fileio.handlers.yaml_handler import YamlHandler

from sosr_det.engine.configs import walk_dicts
from sosr_det.errors import DataError
from sosr_det.plain_pickle import load_plain


class PlainPickleHandler(PickleHandler):
    """Reads plain data and numpy arrays of numbers; writes as MMEngine does."""

    def load_from_fileobj(self, file: Any, encoding: str = "ASCII", **kwargs: Any) -> Any:
        """Read one pickle.

        Raises:
            DataError: it holds anything else, or is damaged.
        """
        try:
            return load_plain(file.read(), encoding)
        except Exception as error:  # a damaged pickle can raise almost anything
            raise DataError(
                f"the pickle file {getattr(file, 'name', 'of the data set')} cannot be used: {type(error).__name__}: "
                f"{error}. Expected plain data and numpy arrays; save it again as such, best as JSON."
            ) from error


class PlainYamlHandler(YamlHandler):
    """Reads YAML's own types; writes as MMEngine does."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        """Read one YAML document.

        Raises:
            DataError: malformed, or it names Python objects.
        """
        import yaml

        try:
            return yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except yaml.YAMLError as error:
            raise DataError(f"the YAML file cannot be used: {error}") from error


def refuse_pickled_arrays(cfg: Any) -> None:
    """Refuse a config whose data sets would unpickle an array file.

    MMDetection's ``OpenImagesChallengeDataset`` reads its ``hierarchy_file`` with ``allow_pickle=True``, and nothing
    between it and numpy can be exchanged: the file is looked at before the data set is built.

    Raises:
        DataError: such a file holds anything but numbers.
    """
    for section in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for node in walk_dicts(cfg.get(section)):
            name = node.get("hierarchy_file")
            if isinstance(name, str) and not name.endswith(".json"):
                _require_numbers(Path(node.get("data_root") or "") / name)


def _require_numbers(path: Path) -> None:
    if not path.is_file():
        return  # the data set says so itself
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(
            f"{path} cannot be used: {error}. Expected an array of numbers as numpy.save writes it; it was not opened "
            "further, since what else it holds could run code."
        ) from error


def register_safe_files() -> None:
    """Make MMEngine use these readers. Calling it again changes nothing."""
    _register_handler(PlainPickleHandler(), ["pkl", "pickle"])
    _register_handler(PlainYamlHandler(), ["yaml", "yml"])
