"""The control of the hand head: where hands were in other images. It looks at no activation.

Hands lie where prompts put them, so the place of a token says much about whether it is one (token AUROC 0.98 has been
seen). What a block adds is only what it finds beyond that.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

from badhands.probes.training_rows import TrainingRows

BINS = 16
"""Squares along each side of the picture."""
BLUR = 0.7
"""Of the counts, in squares: neighbours tell of each other."""
PRIOR = 1.0
"""Tokens of the overall share that every square has seen before."""


def position_logit(training: TrainingRows, token: np.ndarray, grids: np.ndarray) -> np.ndarray:
    """float64[n], held-out log odds that a row of the head `hand` is hand, from the images of the other folds.

    Args:
        token: int[tokens of the cache], row-major index on the grid; grids: int[images, 2], (h, w) of each image.
    """
    h, w = grids[training.image].T
    row, column = np.divmod(token[training.rows], w)
    square = (row * BINS // h) * BINS + column * BINS // w
    weight = training.measure * training.base
    logit = np.empty(len(square))
    for fold in np.unique(training.fold):
        seen = training.fold != fold
        hands, others = (
            gaussian_filter(
                np.bincount(square[seen & (training.y == y)], weight[seen & (training.y == y)], BINS**2).reshape(
                    BINS, BINS
                ),
                BLUR,
            ).ravel()
            for y in (1, 0)
        )
        prior = PRIOR * weight[seen].mean()
        share = hands.sum() / (hands.sum() + others.sum())
        logit[~seen] = np.log((hands + prior * share) / (others + prior * (1 - share)))[square[~seen]]
    return logit
