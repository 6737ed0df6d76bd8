"""Is a P(bad) of 0.7 bad in seven of ten? On images that nobody selected, at the rate that the probes assume."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from badhands.stats.intervals import mean_interval

BINS = 5
"""Of equal numbers of images."""
DRAWS = 500
"""Of outcomes from the probabilities themselves, for the error that a perfect probability would show."""


@dataclass(frozen=True)
class Reliability:
    """Of n probabilities against what came out."""

    n: int
    said: float
    """Mean P(bad)."""
    came: float
    """Share of bad ones."""
    more: float
    """came - said, with its 95 % interval."""
    more_lo: float
    more_hi: float
    error: float
    """Expected calibration error: mean over bins of |share of bad - mean P(bad)|."""
    chance: float
    """The error that perfectly calibrated probabilities show for so few images, mean over draws."""


def reliability(p_bad: NDArray[np.float64], bad: NDArray[np.bool_], cluster: NDArray[np.int64]) -> Reliability:
    """How far probabilities float[n] are from what came out, bool[n].

    Args:
        cluster: int[n], 0, 1, 2 ...: images of one prompt are not independent.
    """
    assert len(p_bad) == len(bad) == len(cluster) and len(bad)
    rng = np.random.default_rng(0)
    drawn = [calibration_error(p_bad, rng.random(len(p_bad)) < p_bad) for _ in range(DRAWS)]
    more = mean_interval(bad - p_bad, cluster)
    error = calibration_error(p_bad, bad)
    return Reliability(len(bad), float(p_bad.mean()), float(bad.mean()), *more, error, float(np.mean(drawn)))


def bins_of(p_bad: NDArray[np.float64], bad: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64[bins, 3]: images, mean P(bad) and share of bad ones, in bins of equal numbers."""
    parts = np.array_split(np.argsort(p_bad, kind="stable"), min(BINS, len(p_bad)))
    return np.array([(len(part), p_bad[part].mean(), bad[part].mean()) for part in parts])


def calibration_error(p_bad: NDArray[np.float64], bad: NDArray[np.bool_]) -> float:
    """Expected calibration error over `bins_of`."""
    count, said, came = bins_of(p_bad, bad).T
    return float(count @ np.abs(came - said) / count.sum())
