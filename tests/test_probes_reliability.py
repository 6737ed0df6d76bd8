"""Calibration on images that nobody selected: right probabilities pass, those of another rate do not."""

import numpy as np
import pytest
from scipy.special import expit, logit

from badhands.probes.reliability import bins_of, calibration_error, reliability


def outcomes(rate: float, n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated P(bad) float64[n] where a share `rate` is bad, and what came out."""
    rng = np.random.default_rng(0)
    bad = rng.random(n) < rate
    score = rng.normal(size=n) + 1.5 * ~bad
    return expit(-(1.5 * score - 1.5**2 / 2) + logit(rate)), bad


def test_calibrated_probabilities_are_and_those_of_a_balanced_study_are_not():
    said, bad = outcomes(0.9)
    found = reliability(said, bad, np.arange(len(bad)))
    assert found.error < 2 * found.chance < 0.05 and found.more_lo < 0 < found.more_hi
    balanced = reliability(expit(logit(said) - logit(0.9)), bad, np.arange(len(bad)))
    assert balanced.error > 0.2 and balanced.more_lo > 0.2
    assert balanced.came == found.came == pytest.approx(0.9, abs=0.02)


def test_bins_hold_equal_numbers_and_the_error_is_their_mean_distance():
    said, bad = np.array([0.1, 0.2, 0.8, 0.9, 0.5]), np.array([False, False, True, True, True])
    assert bins_of(said, bad)[:, 0].tolist() == [1] * 5
    assert calibration_error(said, bad) == pytest.approx((0.1 + 0.2 + 0.2 + 0.1 + 0.5) / 5)
    few = reliability(said[:2], bad[:2], np.arange(2))
    assert few.n == 2 and few.error == pytest.approx(0.15)
