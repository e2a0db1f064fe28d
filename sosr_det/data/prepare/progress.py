"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, the amount done, and the whole amount (None while unknown).

Amounts are bytes while downloading, checking and unpacking archives, and images while verifying.
"""


def no_progress(activity: str, done: int, total: int | None) -> None:
    """Ignore the progress."""
