"""``$SOSR_OFFLINE``: whether the network may be used at all."""

from __future__ import annotations

import os

from sosr_det.errors import RegistryError

ENV_OFFLINE = "SOSR_OFFLINE"
_YES = ("1", "true", "yes", "on")
_NO = ("", "0", "false", "no", "off")


def is_offline() -> bool:
    """Whether ``$SOSR_OFFLINE`` forbids the network.

    Raises:
        RegistryError: its value is neither yes nor no; a guess could reach for a network that may not be used.
    """
    value = os.environ.get(ENV_OFFLINE, "")
    word = value.strip().lower()
    if word not in _YES + _NO:
        raise RegistryError(f"${ENV_OFFLINE} is {value!r}; expected 1 (use no network) or 0.")
    return word in _YES
