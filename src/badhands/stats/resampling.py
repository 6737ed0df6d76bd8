"""Images drawn again with replacement: for descriptive metrics of tokens, whose scores are not refitted.

Headline numbers do not use this: an interval must also hold what refitting adds (`stats.intervals`).
"""

import numpy as np
from numpy.typing import NDArray


def image_draws(images: int, count: int, seed: int = 0) -> NDArray[np.float64]:
    """float64[count, images], how often each image was drawn."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=count).astype(np.float64)


def percentiles(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The ends between which this share of the finite draws lies; nan without any."""
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return np.nan, np.nan
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
