"""Opening a registry by its root, wherever it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sosr_det.registry.layout import ENV_ROOT
from sosr_det.registry.remote.urls import is_remote, local_path
from sosr_det.registry.store import Registry

if TYPE_CHECKING:
    from sosr_det.registry.remote.store import RemoteRegistry


def registry_root(root: str | os.PathLike[str] | None = None) -> str:
    """The root as text: as given, else ``$SOSR_REGISTRY``, else ``registry`` in the working folder.

    A URL stays a URL; of ``file://`` URLs the path is left.
    """
    given = root if root is not None else os.environ.get(ENV_ROOT) or "registry"
    return os.fspath(given) if is_remote(given) else local_path(given)


def open_registry(root: str | os.PathLike[str] | None = None) -> Registry | RemoteRegistry:
    """The registry at ``root`` (default: ``$SOSR_REGISTRY``, else ``./registry``). Touches neither disk nor network.

    A path or ``file://`` URL is a folder; any other URL (``s3://bucket/prefix``, ``gs://``, ``az://``, ``https://``,
    ``memory://``, whatever fsspec knows) is a store that is read through a local cache.

    Raises:
        RegistryError: a URL that cannot be a registry's root.
    """
    text = registry_root(root)
    if not is_remote(text):
        return Registry(text)
    from sosr_det.registry.remote.store import RemoteRegistry

    return RemoteRegistry(text)
