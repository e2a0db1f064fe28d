"""Quantiles of Student's t against SciPy, and at its known places."""

from __future__ import annotations

import math

import pytest

from sosr_det.evaluation.student_t import t_cdf, t_quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 29, 200])
@pytest.mark.parametrize("probability", [0.025, 0.5, 0.6, 0.9, 0.975, 0.999])
def test_against_scipy(degrees, probability):
    stats = pytest.importorskip("scipy.stats")
    assert t_quantile(probability, degrees) == pytest.approx(
        stats.t.ppf(probability, degrees), abs=1e-9, rel=1e-9
    )
    assert t_cdf(1.7, degrees) == pytest.approx(stats.t.cdf(1.7, degrees), abs=1e-12)


def test_by_hand():
    assert t_quantile(0.75, 1) == pytest.approx(1)  # the Cauchy distribution: tan(pi / 4)
    assert t_quantile(0.975, 2) == pytest.approx(
        0.95 / math.sqrt(0.975 * 0.025 * 2), rel=1e-9
    )  # closed for 2
    assert t_quantile(0.975, 100_000) == pytest.approx(1.95996, abs=1e-4)


@pytest.mark.parametrize("probability", [0, 1, -0.1, 1.1, math.nan])
def test_no_probability(probability):
    with pytest.raises(ValueError, match="between 0 and 1"):
        t_quantile(probability, 3)


def test_no_degrees():
    with pytest.raises(ValueError, match="at least 1"):
        t_quantile(0.9, 0)
