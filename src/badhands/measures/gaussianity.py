"""Are the activations Gaussian, as D_B (Eq. 6) supposes? Excess kurtosis about image means."""

import numpy as np
import torch
from torch import Tensor

from badhands.stats.threads import blocks

BLOCK = 128
"""Tokens done at once on a CPU: they stay in a core's own cache through all that is done to them."""


def excess_kurtosis(x: Tensor, row: Tensor, row_means: Tensor) -> Tensor:
    """Per channel, float64[d], of tokens about the mean of their own image (and class): 0 for a normal distribution.

    Centring by image takes out the mixture of image means, which would look non-Gaussian by itself. Each image brings
    as many tokens as it has; the small-sample bias of centring is undone to first order.

    Args:
        x: float32[n, d]. row: int64[n], image side of each token. row_means: float32[rows, d].
    """
    second = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    fourth = torch.zeros_like(second)
    for at in blocks(x, BLOCK):
        squares = row_means[row[at]].sub_(x[at]).square_()
        second += squares.sum(0)
        fourth += squares.square_().sum(0)
    n = len(x)
    # E (x - mean of m tokens)^4 = 3 s^4 (1 - 1/m)^2 for normal x, and E (.)^2 = s^2 (1 - 1/m).
    sizes = torch.bincount(row, minlength=len(row_means)).double()
    shrink = (1 - 1 / sizes.clamp(min=1)) * sizes
    normal = 3 * ((1 - 1 / sizes.clamp(min=1)).square() * sizes).sum() / n / (shrink.sum() / n).square()
    return (fourth / n) / (second / n).square().clamp(min=1e-300) - normal


def score_kurtosis(scores: np.ndarray, row: np.ndarray) -> float:
    """The same for one score a token: float[n], int[n]."""
    count = np.bincount(row)
    means = np.bincount(row, scores) / np.maximum(count, 1)
    x = torch.from_numpy(scores.astype(np.float64)[:, None])
    return float(excess_kurtosis(x, torch.from_numpy(row.astype(np.int64)), torch.from_numpy(means[:, None]))[0])
