"""Sequential rules: at each watched step go on, or stop because the score is below that step's threshold.

Thresholds come from images that the rule is not tried on. Scores are [n, K], nan where there is none: that never stops.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

Floats = NDArray[np.float64]
ROUNDS = 20


def first_stop(scores: Floats, thresholds: Floats) -> NDArray[np.int64]:
    """int64[n]: the watched step after which each image is stopped; K where it is drawn to the end."""
    below = scores < thresholds
    return np.where(below.any(1), below.argmax(1), scores.shape[1])


def spend(stop: NDArray[np.int64], at: NDArray[np.int64], steps: int) -> Floats:
    """float64[n]: evaluations of images stopped after watched step `stop`."""
    return np.append(at, steps)[stop].astype(np.float64)


def by_miss(scores: Floats, good: NDArray[np.bool_], miss: float) -> Floats:
    """float64[K]: thresholds that stop at most this share of the good images in all, spent evenly over the steps.

    What an earlier step did not spend (ties, no score) is left to the later ones.
    """
    n, k = int(good.sum()), scores.shape[1]
    alive, spent = good.copy(), 0
    thresholds = np.full(k, -np.inf)
    for step in range(k):
        budget = int(np.floor(miss * n * (step + 1) / k + 1e-9)) - spent
        known = np.sort(scores[alive & np.isfinite(scores[:, step]), step])
        if budget > 0 and len(known) > budget:
            thresholds[step] = known[budget]
            stopped = alive & (scores[:, step] < thresholds[step])
            spent += int(stopped.sum())
            alive &= ~stopped
    return thresholds


def by_price(scores: Floats, good: NDArray[np.bool_], at: NDArray[np.int64], steps: int) -> Floats:
    """float64[K]: thresholds of least cost per good hand, with no target to state.

    A good hand is worth what the rule pays for one (its price), so an image is worth going on with while what can be
    expected of it, price times its chance to be delivered good less the evaluations still to come, is above zero. The
    expectation at a step is an isotonic regression on the score there, fitted from the last step backwards (Longstaff
    and Schwartz 2001); the price is the fixed point (Dinkelbach 1967).
    """
    if not good.any():
        return np.full(len(at), -np.inf)
    price, best = steps / good.mean(), np.full(len(at), -np.inf)
    for _ in range(ROUNDS):
        thresholds = _optimal(scores, good, at, steps, price)
        stop = first_stop(scores, thresholds)
        accepted = good & (stop == len(at))
        cost = spend(stop, at, steps).sum() / accepted.sum() if accepted.any() else np.inf
        if cost >= price * (1 - 1e-6):
            break
        price, best = cost, thresholds
    return best


def _optimal(scores: Floats, good: NDArray[np.bool_], at: NDArray[np.int64], steps: int, price: float) -> Floats:
    value = price * good - (steps - at[-1])
    thresholds = np.full(len(at), -np.inf)
    for step in reversed(range(len(at))):
        known = np.isfinite(scores[:, step])
        if known.sum() >= 2:
            order = np.sort(scores[known, step])
            fit = IsotonicRegression(out_of_bounds="clip").fit(scores[known, step], value[known])
            below = order[fit.predict(order) < 0]
            if len(below):
                above = order[order > below[-1]]
                thresholds[step] = (below[-1] + above[0]) / 2 if len(above) else np.inf
        goes = ~(scores[:, step] < thresholds[step])
        value = np.where(goes, value, 0.0)
        if step:
            value = value - (at[step] - at[step - 1])
    return thresholds


Treat = Callable[[NDArray[np.bool_]], NDArray[Any]]
"""Given a mask bool[n]: what becomes of these images, [n of them, ...]."""


def crossed(fit: Callable[[NDArray[np.bool_]], Treat], prompt: NDArray[np.int64]) -> NDArray[Any]:
    """Each half of the prompts treated by what was fitted on the other half: [n, ...].

    Args:
        fit: given the images to fit on, bool[n], what treats the images of another mask.
    """
    half = prompt % 2 == 0
    one, two = fit(half)(~half), fit(~half)(half)
    out = np.empty((len(prompt), *one.shape[1:]), one.dtype)
    out[~half], out[half] = one, two
    return out
