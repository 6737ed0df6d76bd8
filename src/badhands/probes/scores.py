"""Out-of-fold scores of one cell with intervals: every metric comes with its bootstrap over images.

Images are drawn again with replacement, tokens follow their image. Every metric is written as a function of image
weights, so all resamplings are matrix products.
"""

from dataclasses import dataclass

import numpy as np

from badhands.stats.folds import BAD_IMAGE, GOOD_IMAGE

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


def resample(n_images: int, bootstraps: int, seed: int = 0) -> np.ndarray:
    """float64[bootstraps, n_images], how often each image was drawn."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=bootstraps).astype(np.float64)


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


def pair_wins(score: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """float64[positive, negative], 1 where the positive scores higher, 1/2 for ties."""
    difference = score[positive][:, None] - score[negative][None, :]
    return (difference > 0) + 0.5 * (difference == 0)


def image_auroc(score: np.ndarray, label: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """AUROC of GOOD_IMAGE over BAD_IMAGE, exact with ties.

    Args:
        score: [images], high for good; nan drops an image. label: [images] of the classes of `folds`.
        weights: [b, images]; None: every image once.

    Returns:
        float64[b] (b = 1 without weights); nan where a resampling holds one class only.
    """
    known = np.isfinite(score)
    positive, negative = np.flatnonzero(known & (label == GOOD_IMAGE)), np.flatnonzero(known & (label == BAD_IMAGE))
    wins = pair_wins(score, positive, negative)
    if weights is None:
        return np.array([wins.mean()]) if wins.size else np.array([np.nan])
    of_positive, of_negative = weights[:, positive], weights[:, negative]
    pairs = of_positive.sum(1) * of_negative.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((of_positive @ wins) * of_negative).sum(1) / pairs


def ranking(score: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted AUROC and average precision of y = 1, for weights [b, n]; equal scores are taken in order."""
    order = np.argsort(-score, kind="stable")
    weights, hit = weights[:, order], y[order] == 1
    true = np.cumsum(weights * hit, axis=1)
    false = np.cumsum(weights * ~hit, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (weights * ~hit * true).sum(1) / (true[:, -1] * false[:, -1])
        precision = np.nan_to_num(true / (true + false))
        return area, (weights * hit * precision).sum(1) / true[:, -1]


def calibration_error(sums: np.ndarray) -> np.ndarray:
    """Expected calibration error from [..., bins, 3] sums of weight, probability and outcome."""
    mass = sums[..., 0].sum(-1)
    return np.abs(sums[..., 1] - sums[..., 2]).sum(-1) / mass


def bin_sums(probability: np.ndarray, y: np.ndarray, weight: np.ndarray, image: np.ndarray, n: int) -> np.ndarray:
    """float64[n images, BINS, 3], what `calibration_error` needs, per image."""
    slot = image * BINS + np.minimum((probability * BINS).astype(int), BINS - 1)
    parts = [np.bincount(slot, weight * of, minlength=n * BINS) for of in (1.0, probability, y)]
    return np.stack(parts, -1).reshape(n, BINS, 3)


def score_cell(
    logit: np.ndarray,
    probability: np.ndarray,
    y: np.ndarray,
    image: np.ndarray,
    measure: np.ndarray,
    image_label: np.ndarray,
    weights: np.ndarray,
    *,
    images_too: bool = True,
    tokens_too: bool = True,
) -> list[Score]:
    """All metrics of one cell from out-of-fold scores.

    Args:
        logit, probability, y, image, measure: [n tokens]; y = 1 is good (head good) or hand (head hand).
        image_label: [images]; weights: [b, images] from `resample`.
        images_too: image metrics make sense (head good). tokens_too: token metrics are wanted.

    Returns:
        image_auroc (of the mean token logit: the headline), image_auroc_worst10, image_balanced_accuracy, then
        token_auroc, token_average_precision (bad tokens found; hand tokens for head hand), token_balanced_accuracy,
        token_brier, token_calibration_error.
    """
    n_images, n = len(image_label), len(y)
    scores = []

    def add(metric: str, value: float, draws: np.ndarray, count: int) -> None:
        draws = draws[np.isfinite(draws)]
        lo, hi = np.quantile(draws, [0.025, 0.975]) if len(draws) else (np.nan, np.nan)
        scores.append(Score(metric, float(value), float(lo), float(hi), count))

    if images_too:
        for metric, pool in (("image_auroc", mean_pool), ("image_auroc_worst10", worst_pool)):
            score = pool(logit, image, n_images)
            known = int((np.isfinite(score) & (image_label >= 0)).sum())
            add(metric, image_auroc(score, image_label)[0], image_auroc(score, image_label, weights), known)
        share_good = mean_pool(probability, image, n_images)
        right = np.where(image_label == GOOD_IMAGE, share_good > 0.5, share_good <= 0.5)
        known = np.isfinite(share_good) & (image_label >= 0)
        add(
            "image_balanced_accuracy",
            *_balanced(
                right[None, :], known & (image_label == GOOD_IMAGE), known & (image_label == BAD_IMAGE), weights
            ),
            int(known.sum()),
        )
    if not tokens_too:
        return scores
    event, rank = (1 - y, -logit) if images_too else (y, logit)
    unit = measure[None, :]
    value, precision = ranking(rank, event, unit)
    few = weights[:TOKEN_RESAMPLES]
    # The order of tokens is that of the whole sample; resampling only reweights it.
    values, precisions = ranking(rank, event, few[:, image] * unit)
    add("token_auroc", value[0], values, n)
    add("token_average_precision", precision[0], precisions, n)

    def per_image(of: np.ndarray) -> np.ndarray:
        return np.bincount(image, measure * of, minlength=n_images)

    right = (probability > 0.5) == (y == 1)
    parts = np.stack([per_image(right * (y == 1)), per_image(y == 1), per_image(right * (y == 0)), per_image(y == 0)])

    def accuracy(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (sums[..., 0] / sums[..., 1] + sums[..., 2] / sums[..., 3]) / 2

    add("token_balanced_accuracy", float(accuracy(parts.sum(1))), accuracy(weights @ parts.T), n)
    squared, mass = per_image((probability - y) ** 2), per_image(np.ones(n))
    add("token_brier", squared.sum() / mass.sum(), (weights @ squared) / (weights @ mass), n)
    bins = bin_sums(probability, y, measure, image, n_images)
    drawn = (weights @ bins.reshape(n_images, -1)).reshape(len(weights), BINS, 3)
    error, errors = float(calibration_error(bins.sum(0))), calibration_error(drawn)
    # A calibration error is a sum of absolute values: resampling raises it, so its draws are centred on the value.
    add("token_calibration_error", error, (errors - errors.mean() + error).clip(min=0), n)
    return scores


def _balanced(right: np.ndarray, good: np.ndarray, bad: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean of the two classes' shares of right images, and its resamplings."""

    def share(w: np.ndarray, of: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (w * right)[:, of].sum(1) / w[:, of].sum(1)

    once = np.ones((1, len(good)))
    return float((share(once, good) + share(once, bad))[0] / 2), (share(weights, good) + share(weights, bad)) / 2
