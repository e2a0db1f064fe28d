"""Chi-square checks of random draws, and real photographs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

import pytest
from scipy.stats import chi2

TAIL = 1e-4  # at each side: too even a spread is as suspicious as an uneven one


@pytest.fixture
def looks_uniform() -> Callable[[Iterable[Hashable], Iterable[Hashable]], bool]:
    """``looks_uniform(draws, cells)``: all cells equally likely, and no draw outside them."""

    def check(draws: Iterable[Hashable], cells: Iterable[Hashable]) -> bool:
        counts, cells = Counter(draws), list(cells)
        expected = counts.total() / len(cells)
        assert expected >= 5, "too few draws for a chi-square test"
        if counts.keys() - set(cells):
            return False
        statistic = sum((counts[cell] - expected) ** 2 for cell in cells) / expected
        degrees = len(cells) - 1
        return chi2.ppf(TAIL, degrees) < statistic < chi2.ppf(1 - TAIL, degrees)

    return check


@pytest.fixture(scope="session")
def imagenet_sample(unpacked: Callable[[str], Path]) -> list[Path]:
    """Full-size ImageNet photographs; skips where there is no shared data."""
    return sorted(unpacked("imagenet-sample").glob("*.JPEG"))
