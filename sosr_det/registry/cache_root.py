"""Where this user's copies of remote registries, and what is known of files that were verified, are kept."""

from __future__ import annotations

import os
from pathlib import Path

ENV_CACHE = "SOSR_CACHE"


def cache_root() -> Path:
    """``$SOSR_CACHE``, else ``$XDG_CACHE_HOME/sosr-det``, else ``~/.cache/sosr-det``. Nothing is created."""
    if own := os.environ.get(ENV_CACHE):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or ""
    # The XDG specification: a relative path there is invalid and must be ignored.
    folder = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return folder / "sosr-det"
