"""Out-of-fold scores of a token probe in one cell: every metric with its interval over images.

These stand beside the headline (`stats.headline`) and under the heatmaps of tokens.
"""

from dataclasses import dataclass

import numpy as np

from badhands.stats.auroc import auroc, placements
from badhands.stats.folds import BAD_IMAGE, GOOD_IMAGE
from badhands.stats.intervals import auroc_interval, standard_error
from badhands.stats.resampling import percentiles

WORST = 0.1
"""Share of an image's tokens pooled by `worst_pool`."""
BINS = 15
"""Of the calibration error."""
TOKEN_RESAMPLES = 100
"""Resamplings for metrics that sort tokens; the others use all."""


@dataclass(frozen=True)
class Score:
    metric: str
    value: float
    lo: float
    hi: float
    n: int
    """Images, or tokens for token metrics."""


@dataclass(frozen=True, eq=False)
class TokenScores:
    """What a probe said of its training rows in one cell, each by a model that had not seen the image's fold."""

    logit: np.ndarray
    """float64[n], high for good (head good) or hand (head hand)."""
    probability: np.ndarray
    """float64[n], calibrated."""
    y: np.ndarray
    """[n], 1 for good, or hand."""
    image: np.ndarray
    """int[n]"""
    measure: np.ndarray
    """float64[n], how many tokens of the picture a row stands for."""
    label: np.ndarray
    """int[images], classes of `stats.folds`."""
    fold: np.ndarray
    """int[images]"""


def mean_pool(value: np.ndarray, image: np.ndarray, n_images: int) -> np.ndarray:
    """float64[n_images], mean over the tokens of each image; nan for images without."""
    count = np.bincount(image, minlength=n_images)
    with np.errstate(invalid="ignore"):
        return np.bincount(image, value, minlength=n_images) / np.where(count, count, np.nan)


def worst_pool(value: np.ndarray, image: np.ndarray, n_images: int, share: float = WORST) -> np.ndarray:
    """Mean of the lowest `share` of each image's tokens (at least one): the worst region's score."""
    order = np.lexsort((value, image))
    of = image[order]
    count = np.bincount(image, minlength=n_images)
    rank = np.arange(len(of)) - (np.cumsum(count) - count)[of]
    lowest = rank < np.maximum(np.ceil(share * count), 1)[of]
    return mean_pool(value[order][lowest], of[lowest], n_images)


def image_score(
    metric: str, score: np.ndarray, label: np.ndarray, fold: np.ndarray, cluster: np.ndarray, widening: float
) -> Score:
    """AUROC within folds of image scores [images] (nan: left out), with an interval that knows of refitting.

    Args:
        cluster: int[images], 0, 1, 2 ...: what is not independent. widening: of `Scored`.
    """
    known = np.flatnonzero(np.isfinite(score) & (label >= 0))
    good = label[known] == GOOD_IMAGE
    value = float(auroc(score[known], good, fold=fold[known]))
    cluster = np.unique(cluster[known], return_inverse=True)[1].reshape(-1)
    error = widening * float(standard_error(placements(score[known], good, fold[known]), cluster))
    return Score(metric, value, *auroc_interval(value, error, good), len(known))


def image_scores(of: TokenScores, cluster: np.ndarray, widening: float) -> list[Score]:
    """image_auroc of the mean token logit, image_auroc_worst10, image_balanced_accuracy."""
    n_images = len(of.label)
    found = [
        image_score(metric, pool(of.logit, of.image, n_images), of.label, of.fold, cluster, widening)
        for metric, pool in (("image_auroc", mean_pool), ("image_auroc_worst10", worst_pool))
    ]
    share_good = mean_pool(of.probability, of.image, n_images)
    known = np.isfinite(share_good)
    right = [(share_good > 0.5)[known & (of.label == GOOD_IMAGE)], (share_good <= 0.5)[known & (of.label == BAD_IMAGE)]]
    value = float(np.mean([part.mean() for part in right]))
    # Wilson's centre, so that an accuracy of 1 has an interval too
    shares = [(part.sum() + 2) / (len(part) + 4) for part in right]
    wide = widening * np.sqrt(sum(p * (1 - p) / len(part) for p, part in zip(shares, right, strict=True))) / 2 * 1.96
    n = sum(map(len, right))
    return [*found, Score("image_balanced_accuracy", value, max(value - wide, 0.0), min(value + wide, 1.0), n)]


def average_precision(score: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted average precision of y = 1, for weights [b, n]; equal scores are taken in order."""
    order = np.argsort(-score, kind="stable")
    weights, hit = weights[:, order], y[order] == 1
    true = np.cumsum(weights * hit, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(true / np.cumsum(weights, axis=1))
        return (weights * hit * precision).sum(1) / true[:, -1]


def token_scores(of: TokenScores, weights: np.ndarray, widening: float, head: str) -> list[Score]:
    """token_auroc, token_average_precision (bad tokens found; hand tokens for head hand), token_balanced_accuracy,
    token_brier, token_calibration_error. Tokens follow their image in every resampling `weights` [b, images]; intervals
    are as much wider as refitting makes them (`Scored.widening`), which resampling fixed scores leaves out."""
    found, n = [], len(of.y)
    widening = _eased(widening, of)
    event, rank = (1 - of.y, -of.logit) if head == "good" else (of.y, of.logit)
    unit = of.measure[None, :]
    # The order of tokens is that of the whole sample; resampling only reweights it.
    few = np.concatenate([unit, weights[:TOKEN_RESAMPLES][:, of.image] * unit])
    fold = of.fold[of.image]
    for metric, draws in (
        ("token_auroc", auroc(rank, event == 1, few, fold)),
        ("token_average_precision", average_precision(rank, event, few)),
    ):
        found.append(Score(metric, float(draws[0]), *_interval(float(draws[0]), draws[1:], widening), n))
    for metric, value, draws in (
        ("token_balanced_accuracy", *_accuracy(of, weights)),
        ("token_brier", *_brier(of, weights)),
        ("token_calibration_error", *_calibration(of, weights)),
    ):
        found.append(Score(metric, value, *_interval(value, draws, widening), n))
    return found


def _eased(widening: float, of: TokenScores) -> float:
    """Refitting moves a direction that nothing is known of, and hardly one that tells all: in between, in proportion.

    Simulated: with the whole factor 100 % of intervals hold a token AUROC of 0.7, without it 82 % hold one of 0.5.
    """
    area = float(auroc(of.logit, of.y == 1, of.measure, of.fold[of.image]))
    return 1 + (widening - 1) * (1 - abs(2 * area - 1)) if np.isfinite(area) else widening


def _interval(value: float, draws: np.ndarray, widening: float) -> tuple[float, float]:
    low, high = percentiles(draws)
    return max(value - widening * (value - low), 0.0), min(value + widening * (high - value), 1.0)


def _per_image(of: TokenScores, value: np.ndarray) -> np.ndarray:
    return np.bincount(of.image, of.measure * value, minlength=len(of.label))


def _accuracy(of: TokenScores, weights: np.ndarray) -> tuple[float, np.ndarray]:
    right = (of.probability > 0.5) == (of.y == 1)
    sides = ((of.y == 1), (of.y == 0))
    parts = np.stack([_per_image(of, part) for side in sides for part in (right * side, side)])

    def mean(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (sums[..., 0] / sums[..., 1] + sums[..., 2] / sums[..., 3]) / 2

    return float(mean(parts.sum(1))), mean(weights @ parts.T)


def _brier(of: TokenScores, weights: np.ndarray) -> tuple[float, np.ndarray]:
    squared, mass = _per_image(of, (of.probability - of.y) ** 2), _per_image(of, np.ones(len(of.y)))
    return float(squared.sum() / mass.sum()), (weights @ squared) / (weights @ mass)


def _calibration(of: TokenScores, weights: np.ndarray) -> tuple[float, np.ndarray]:
    n = len(of.label)
    bins = bin_sums(of.probability, of.y, of.measure, of.image, n)
    drawn = (weights @ bins.reshape(n, -1)).reshape(len(weights), BINS, 3)
    error, errors = float(calibration_error(bins.sum(0))), calibration_error(drawn)
    # A calibration error is a sum of absolute values: resampling raises it, so its draws are centred on the value.
    return error, (errors - errors.mean() + error).clip(min=0)


def calibration_error(sums: np.ndarray) -> np.ndarray:
    """Expected calibration error from [..., bins, 3] sums of weight, probability and outcome."""
    mass = sums[..., 0].sum(-1)
    return np.abs(sums[..., 1] - sums[..., 2]).sum(-1) / mass


def bin_sums(probability: np.ndarray, y: np.ndarray, weight: np.ndarray, image: np.ndarray, n: int) -> np.ndarray:
    """float64[n images, BINS, 3], what `calibration_error` needs, per image."""
    slot = image * BINS + np.minimum((probability * BINS).astype(int), BINS - 1)
    parts = [np.bincount(slot, weight * of, minlength=n * BINS) for of in (1.0, probability, y)]
    return np.stack(parts, -1).reshape(n, BINS, 3)
