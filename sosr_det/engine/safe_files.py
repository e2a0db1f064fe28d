"""Data files that MMEngine's ``load`` reads by their suffix, without running code from them.

MMDetection's data sets read annotations and proposals with it. MMEngine's own readers of ``.pkl`` and ``.yaml`` call
whatever function such a file names.
"""

from __future__ import annotations

from typing import Any

from mmengine.fileio.handlers.pickle_handler import PickleHandler
from mmengine.fileio.handlers.registry_utils import _register_handler
from mmengine.fileio.handlers.yaml_handler import YamlHandler

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


def register_safe_files() -> None:
    """Make MMEngine use these readers. Calling it again changes nothing."""
    _register_handler(PlainPickleHandler(), ["pkl", "pickle"])
    _register_handler(PlainYamlHandler(), ["yaml", "yml"])
