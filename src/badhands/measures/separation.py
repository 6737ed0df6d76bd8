"""How far apart two classes are: Bhattacharyya distance, its bias, and what it says about errors (Eq. 6 to 11)."""

import math

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor


def bhattacharyya(gap: Tensor, var_good: Tensor, var_bad: Tensor) -> tuple[Tensor, Tensor]:
    """Terms per channel of the diagonal Gaussian distance (Eq. 6): mean term and variance term, each [..., d].

    ln cosh(u/2) with u = ln(s1/s0) is ln(sbar / sqrt(s1 s0)).
    """
    sbar = (var_good + var_bad) / 2
    mean_term = gap.square() / (8 * sbar)
    variance_term = torch.log(sbar.square() / (var_good * var_bad)) / 4
    return mean_term, variance_term


def bhattacharyya_full(mean_good: Tensor, mean_bad: Tensor, cov_good: Tensor, cov_bad: Tensor) -> Tensor:
    """Gaussians with full covariance (Eq. 7): means [..., k], covariances [..., k, k] -> [...]. For k <= 20 or so."""
    gap = (mean_good - mean_bad)[..., None]
    pooled = (cov_good + cov_bad) / 2
    mean_term = (gap.mT @ torch.linalg.solve(pooled, gap))[..., 0, 0] / 8
    logs = [torch.linalg.slogdet(matrix)[1] for matrix in (pooled, cov_good, cov_bad)]
    return mean_term + (logs[0] - (logs[1] + logs[2]) / 2) / 2


def bayes_error_bounds(distance: float) -> tuple[float, float]:
    """Lower and upper bound of the Bayes error at equal priors for a true distance (Eq. 8)."""
    overlap = math.exp(-max(distance, 0.0))
    return (1 - math.sqrt(1 - overlap**2)) / 2, overlap / 2


def corrected_mean_term(gap: np.ndarray, noise: np.ndarray, sbar: np.ndarray) -> float:
    """Mean term with an unbiased numerator (Eq. 9); may be negative.

    Args:
        gap: float64[d], D. noise: float64[d], b1/J1 + b0/J0 (`sides.noise` of both sides). sbar: float64[d].
    """
    return float(((gap**2 - noise) / (8 * sbar)).sum())


def equivalent_distance(auroc: float) -> float:
    """D_eq (Eq. 10): the distance of two normal distributions of equal variance that have this AUROC. 0 below 1/2."""
    return float(ndtri(min(max(auroc, 0.5), 1 - 1e-9)) ** 2 / 4)


def certified_distance(error: float) -> float:
    """Lower bound of the true distance from a held-out balanced error (Eq. 10). 0 from an error of 1/2 on."""
    if error >= 0.5:
        return 0.0
    error = max(error, 1e-12)
    return -0.5 * math.log(4 * error * (1 - error))


def kde_distance(good: np.ndarray, bad: np.ndarray, points: int = 512) -> float:
    """Distance of two sets of scores by kernel density estimates (Eq. 11), without any Gaussian formula.

    Scores are binned finely before they are smoothed (Silverman's bandwidth), so many tokens cost no more than few.
    """
    lowest, highest = min(good.min(), bad.min()), max(good.max(), bad.max())
    margin = 0.2 * (highest - lowest) + 1e-12
    edges = np.linspace(lowest - margin, highest + margin, points + 1)
    centres, step = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    densities = []
    for scores in (good, bad):
        spread = min(scores.std(), float(np.subtract(*np.quantile(scores, [0.75, 0.25]))) / 1.349) or scores.std()
        width = max(0.9 * spread * len(scores) ** -0.2, step)
        histogram = np.histogram(scores, edges)[0] / len(scores)
        kernel = np.exp(-0.5 * ((centres[:, None] - centres) / width) ** 2) / (width * math.sqrt(2 * math.pi))
        densities.append(kernel @ histogram)
    overlap = float(np.sqrt(densities[0] * densities[1]).sum() * step)
    return -math.log(min(max(overlap, 1e-300), 1.0))
