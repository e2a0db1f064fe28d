"""Tell whether mmcv has compiled ops and, where it has none, make ``import mmcv._ext`` find the stand-in."""

import importlib
import importlib.util
import logging
import multiprocessing
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path

from sosr_det.errors import InstallationError

EXTENSION = "mmcv._ext"
STAND_IN = Path(__file__).with_name("mmcv_ext.py")

logger = logging.getLogger("sosr_det")


def install_mmcv_ops() -> str:
    """Make ``mmcv._ext`` importable, from torchvision kernels where mmcv has no compiled ops.

    Call it before the first import of ``mmcv.ops``, ``mmcv.cnn`` or ``mmdet``. Safe to call again. Compiled ops
    are never replaced, not even by force: where they exist but cannot be loaded (built for another torch), their
    own ImportError comes up when ``mmcv.ops`` is imported. Child processes inherit the stand-in, whether forked
    or spawned, so data-loader workers need no call of their own.

    Returns:
        What provides the ops: ``"compiled"`` (nothing was changed) or ``"torchvision"`` (the stand-in).

    Raises:
        InstallationError: mmcv is not installed.
    """
    if mmcv_ops_provider() == "compiled":
        return "compiled"
    if EXTENSION not in sys.modules:
        _add_finder()
        _pass_on_to_spawned_processes()
        # A plain import, so that the module gets its spec and becomes the attribute `_ext` of mmcv.
        importlib.import_module(EXTENSION)
        logger.info(
            "mmcv has no compiled ops: mmcv._ext is provided by torchvision and torch (sosr_det.compat)"
        )
    return "torchvision"


def mmcv_ops_provider() -> str:
    """Tell what provides mmcv's ops, or would after :func:`install_mmcv_ops`. Installs and imports nothing.

    Returns:
        ``"compiled"`` when ``mmcv._ext`` comes from anywhere but this package, else ``"torchvision"``.

    Raises:
        InstallationError: mmcv is not installed.
    """
    loaded = sys.modules.get(EXTENSION)
    if loaded is not None:
        return "torchvision" if _is_stand_in(getattr(loaded, "__spec__", None)) else "compiled"
    mmcv = importlib.util.find_spec("mmcv")
    if mmcv is None:
        raise InstallationError("mmcv is not installed; install it with: pip install onedl-mmcv")
    # importlib.util.find_spec("mmcv._ext") would import mmcv (seconds) to learn its path. Ask the finders instead.
    for finder in sys.meta_path:
        spec = finder.find_spec(EXTENSION, mmcv.submodule_search_locations)
        if spec is not None and not _is_stand_in(spec):
            return "compiled"
    return "torchvision"


class StandInFinder(MetaPathFinder):
    """Finds ``mmcv._ext`` in this package. It is asked last, so a compiled ``mmcv._ext`` always comes first."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname != EXTENSION:
            return None
        return importlib.util.spec_from_file_location(fullname, STAND_IN)


class _InheritedStandIn:
    """A value whose unpickling in a child process adds the finder there; it stays in place for grandchildren."""

    def __reduce__(self) -> tuple:
        return _add_finder_in_child, ()


def _add_finder() -> None:
    if not any(isinstance(finder, StandInFinder) for finder in sys.meta_path):
        sys.meta_path.append(StandInFinder())


def _add_finder_in_child() -> _InheritedStandIn:
    _add_finder()
    return _InheritedStandIn()


def _pass_on_to_spawned_processes() -> None:
    """Let spawned processes import ``mmcv._ext`` too; forked ones share this process's modules anyway.

    A spawned data-loader worker unpickles the data set, and with it imports mmdet, before any code of ours
    could run. The one thing that reaches a child earlier is its process's configuration dict, which
    multiprocessing passes to all descendants ("Everything in self._config will be inherited by descendant
    processes", multiprocessing/process.py). The attribute is private: where it is missing, a spawned worker
    fails on the import of ``mmcv._ext`` and says so.
    """
    config = getattr(multiprocessing.current_process(), "_config", None)
    if config is not None:
        config["sosr_det.compat"] = _InheritedStandIn()


def _is_stand_in(spec: ModuleSpec | None) -> bool:
    return spec is not None and spec.origin == str(STAND_IN)
