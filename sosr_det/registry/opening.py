"""Opening a registry by its root, wherever it is."""

from __future__ import annotations

import os

from sosr_det.registry.store import Registry


def open_registry(root: str | os.PathLike[str] | None = None) -> Registry:
    """The registry at ``root`` (default: ``$SOSR_REGISTRY``, else ``./registry``). Touches no disk."""
    return Registry(root)
