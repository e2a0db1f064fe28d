"""Harmless stand-ins for the classes and functions that a training checkpoint's pickle calls.

MMEngine's checkpoints hold numpy arrays and ``HistoryBuffer`` objects, and the latter's pickle asks for the
builtin ``getattr``. The real ones may not be handed to an untrusted pickle: with ``getattr`` it can reach any
function, and ``HistoryBuffer`` lets a file replace its methods. Other trainers' files hold an
``argparse.Namespace``, paths or mmengine's config objects. The stand-ins only collect values and check them;
:func:`finish` then makes the real objects. Those for numpy are in :mod:`sosr_det.plain_pickle`.

Checkpoints of timm, MoCo, DETR and DINO hold their command line as an ``argparse.Namespace``, often with paths in it,
and some of OpenMMLab's hold config objects: these come back as dicts and pure paths.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath, PureWindowsPath
from pickle import UnpicklingError
from typing import Any

from sosr_det.plain_pickle import Array, StandIn, finish, numpy_standins

__all__ = ["finish", "only_standins"]

_LOCK = threading.Lock()
# Where Python up to 3.12 and from 3.13 on says that paths live.
_PATHS = ("pathlib", "pathlib._local")


class History(StandIn):
    """Stands in for ``mmengine.logging.HistoryBuffer`` while it is being unpickled."""

    max_length: int | None = None
    log: Array
    count: Array

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise UnpicklingError("unexpected state of a HistoryBuffer")
        max_length, log, count = (state.get(key) for key in ("max_length", "_log_history", "_count_history"))
        if type(max_length) is not int or not (isinstance(log, Array) and isinstance(count, Array)):
            raise UnpicklingError("unexpected state of a HistoryBuffer")
        self.max_length, self.log, self.count = max_length, log, count

    def real(self) -> Any:
        """The real object, with the statistics methods of this process instead of the file's."""
        if self.max_length is None:
            return super().real()
        from mmengine.logging import HistoryBuffer

        buffer = HistoryBuffer(max_length=self.max_length)
        buffer._log_history, buffer._count_history = self.log.real(), self.count.real()
        return buffer


def _statistics_method(owner: object, name: object) -> str:
    """Stands in for ``getattr``, with which a HistoryBuffer's pickle names its own methods; they are not used."""
    if owner is not History or not isinstance(name, str):
        raise UnpicklingError("getattr on anything but a HistoryBuffer is not allowed")
    return name


class Arguments(dict):
    """Stands in for ``argparse.Namespace``, and stays: the arguments by name, plain."""

    def __setstate__(self, state: object) -> None:
        if type(state) is not dict or not all(type(key) is str for key in state):
            raise UnpicklingError("unexpected state of an argparse.Namespace")
        self.update(state)


class Settings(dict):
    """Stands in for ``mmengine.config.Config``, and stays: the settings by name, plain."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or not state or type(state[0]) is not dict:
            raise UnpicklingError("unexpected state of a mmengine Config")
        self.update(state[0])


def _config_dict(settings: object) -> dict[str, Any]:
    """Stands in for ``mmengine.config.ConfigDict``, whose pickle calls it with a plain dict: that dict."""
    if type(settings) is not dict:
        raise UnpicklingError("unexpected content of a mmengine ConfigDict")
    return settings


def _posix_path(*parts: object) -> PurePosixPath:
    return PurePosixPath(*_texts(parts))


def _windows_path(*parts: object) -> PureWindowsPath:
    return PureWindowsPath(*_texts(parts))


def _texts(parts: tuple[object, ...]) -> list[str]:
    """A path's parts; a path that was read touches no disk, on whatever system it was written."""
    texts = [part for part in parts if type(part) is str]
    if len(texts) != len(parts):
        raise UnpicklingError("a path with a part that is not text")
    return texts


@contextmanager
def only_standins() -> Iterator[None]:
    """Within the block torch's restricted unpickler admits these stand-ins and torch's own defaults, no more.

    What other code added to torch's process-wide allow-list is set aside meanwhile and put back afterwards.
    """
    from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

    with _LOCK:
        others = get_safe_globals()
        clear_safe_globals()
        add_safe_globals(_named_standins())
        try:
            yield
        finally:
            clear_safe_globals()
            add_safe_globals(others)


def _named_standins() -> list[tuple[Callable[..., Any], str]]:
    """(stand-in, name that it answers to in a pickle)."""
    pairs: list[tuple[Callable[..., Any], str]] = [
        *numpy_standins(),
        (History, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_statistics_method, "builtins.getattr"),
        (Arguments, "argparse.Namespace"),
        (Settings, "mmengine.config.config.Config"),
        (_config_dict, "mmengine.config.config.ConfigDict"),
    ]
    for module in _PATHS:
        pairs += [(_posix_path, f"{module}.{name}") for name in ("PosixPath", "PurePosixPath")]
        pairs += [(_windows_path, f"{module}.{name}") for name in ("WindowsPath", "PureWindowsPath")]
    return pairs
