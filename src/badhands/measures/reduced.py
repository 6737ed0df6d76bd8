"""Distance with full covariance (Eq. 7), on a few components, where its covariances can be trusted."""

from collections.abc import Sequence

import torch
from torch import Tensor

from badhands.measures.separation import bhattacharyya_full

RIDGE = 1e-3
"""Added to covariances, in units of each component's variance: a resample of few tokens may be degenerate."""


def outer_sums(y: Tensor, row: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Per row, float64: tokens [r], sum y [r, k], sum y y' [r, k * k]; y [n, k] set to unit variance, row int64[n]."""
    y = y.double() / (y.double().std(0, correction=0) + 1e-30)
    outer = (y[:, :, None] * y[:, None, :]).flatten(1)
    total = torch.zeros(rows, 1 + y.shape[1] + outer.shape[1], dtype=torch.float64)
    total.index_add_(0, row, torch.cat([torch.ones(len(y), 1, dtype=torch.float64), y, outer], dim=1))
    return total[:, 0], total[:, 1 : 1 + y.shape[1]], total[:, 1 + y.shape[1] :]


def full_distances(sums: tuple[Tensor, Tensor, Tensor], good: Tensor, bad: Tensor) -> Tensor:
    """Plug-in D_B (Eq. 7) under b weightings of the rows, good and bad side float[b, r]: float64[b]."""
    weighted = [[weight.double() @ part for part in (sums[0][:, None], sums[1], sums[2])] for weight in (good, bad)]
    return distances_of(*([n[:, 0], s, outer] for n, s, outer in weighted))


def distances_of(on_good: Sequence[Tensor], on_bad: Sequence[Tensor]) -> Tensor:
    """The same from the sums of each side: tokens [b], y [b, k], y y' [b, k * k]."""
    moments = []
    for n, s, outer in (on_good, on_bad):
        n = n[:, None]
        mean = s / n
        k = mean.shape[1]
        covariance = (outer / n).view(-1, k, k) - mean[:, :, None] * mean[:, None, :]
        moments += [mean, covariance + RIDGE * torch.eye(k, dtype=torch.float64)]
    return bhattacharyya_full(moments[0], moments[2], moments[1], moments[3])
