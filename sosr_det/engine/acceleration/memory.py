"""Keeps the memory that a training step frees for the next step, on the CPU."""

from __future__ import annotations

import ctypes
import os

# Parameters of glibc's mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = 1 << 30
_PADDING_BYTES = 1 << 28
_SWITCH = "SOSR_KEEP_FREED_MEMORY"


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep freed memory (up to 1 GiB at its end, and blocks up to 1 GiB) in this process.

    By default it gives large blocks back to the system at once and gets them again, page by page, in the next step: on
    the CPU that is some percent of a training step. The process then holds on to what its largest step needed.

    Returns:
        whether it was done. Not with ``SOSR_KEEP_FREED_MEMORY=0``, with another allocator (``LD_PRELOAD``) or libc, and
        not where ``MALLOC_*`` or ``GLIBC_TUNABLES`` in the environment say how it shall behave.
    """
    set_by_hand = [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]
    if os.environ.get(_SWITCH) == "0" or set_by_hand or os.environ.get("LD_PRELOAD"):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  only glibc has it
        mallopt = libc.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(
        mallopt(parameter, value)
        for parameter, value in (
            (_M_MMAP_THRESHOLD, _KEPT_BYTES),
            (_M_TRIM_THRESHOLD, _KEPT_BYTES),
            (_M_TOP_PAD, _PADDING_BYTES),
        )
    )
