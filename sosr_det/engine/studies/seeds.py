"""``--seeds``: which seeds a study runs."""

from __future__ import annotations

import re

from sosr_det.errors import ConfigError

_MOST = 10_000  # a range typed wrongly should not fill the memory


def parse_seeds(text: str) -> tuple[int, ...]:
    """``0,1,2``, ``0..4`` (both ends are in) or ``0..2,7`` as numbers, in the order given.

    Raises:
        ConfigError: not whole numbers of at least 0, a range that goes down, or a seed given twice.
    """
    seeds: list[int] = []
    for part in (part.strip() for part in text.split(",")):
        found = re.fullmatch(r"([0-9]+)(?:\.\.([0-9]+))?", part)
        if not found:
            raise ConfigError(
                f"--seeds expects whole numbers separated by commas, such as 0,1,2, or a range, such as 0..4; "
                f"got {text!r}"
            )
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ConfigError(f"--seeds {text}: {part} is no range of seeds; give the smaller one first.")
        if last - first >= _MOST:
            raise ConfigError(f"--seeds {text}: {part} is more than {_MOST:,} seeds; is that meant?")
        seeds += range(first, last + 1)
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"--seeds {text}: a seed is given twice; its runs would be the same")
    return tuple(seeds)
