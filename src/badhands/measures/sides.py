"""From sums by image to means and variances of the good and the bad side, for one labelling or thousands at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from badhands.measures.contrasts import Contrast

FLOOR = 1e-4
"""Smallest class variance of a channel, in units of its variance over both classes: a resample may be constant."""


@dataclass(frozen=True, eq=False)
class CellSums:
    """The sums of one cell for one contrast, channels centred and scaled to unit variance over both sides.

    Distances do not change under that, and float32 is then exact enough however massive a channel is. Channels that
    never change carry nothing and are left out; d counts those that are left.
    """

    n: Tensor
    """float32[r], weight of each row."""
    s: Tensor
    """float32[r, d], sum of x."""
    q: Tensor
    """float32[r, d], sum of x^2."""
    mean: np.ndarray
    """float64[d], mean of all tokens, raw units."""
    sd: np.ndarray
    """float64[d], standard deviation of all tokens, raw units."""
    varying_channels: np.ndarray
    """int[d], the channels that are left."""

    @classmethod
    def of(
        cls, contrast: Contrast, total: np.ndarray, squares: np.ndarray, device: torch.device | str = "cpu"
    ) -> "CellSums":
        """From sums by group, float64[g, D]; the tensors lie on `device`."""
        s, q, n = contrast.take(total), contrast.take(squares), contrast.n[:, None]
        mean = s.sum(0) / n.sum()
        q = q - 2 * mean * s + n * mean**2
        s = s - n * mean
        variance = q.sum(0) / n.sum()
        varying = np.flatnonzero(variance > 1e-12 * (mean**2 + 1e-30))
        sd = np.sqrt(variance[varying])

        def ready(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device)

        return cls(
            ready(contrast.n), ready(s[:, varying] / sd), ready(q[:, varying] / sd**2), mean[varying], sd, varying
        )

    def only(self, rows: Tensor) -> "CellSums":
        """Some of the rows, int64[k]."""
        rows = rows.to(self.s.device)
        return replace(self, n=self.n[rows], s=self.s[rows], q=self.q[rows])


@dataclass(frozen=True, eq=False)
class Sides:
    """Means and variances per channel, float32[b, d], of both sides under b labellings or resamples."""

    mean_good: Tensor
    mean_bad: Tensor
    var_good: Tensor
    var_bad: Tensor

    @classmethod
    def of(cls, on_good: Sequence[Tensor], on_bad: Sequence[Tensor]) -> "Sides":
        """From weight [b], sum x and sum x^2 [b, d] of each side; the sums are overwritten."""
        found = []
        for n, s, q in (on_good, on_bad):
            mean = s.div_(n[:, None])
            found.append((mean, q.div_(n[:, None]).addcmul_(mean, mean, value=-1).clamp_(min=FLOOR)))
        return cls(found[0][0], found[1][0], found[0][1], found[1][1])

    def cpu(self) -> "Sides":
        return Sides(self.mean_good.cpu(), self.mean_bad.cpu(), self.var_good.cpu(), self.var_bad.cpu())

    @property
    def gap(self) -> Tensor:
        """D = mean(good) - mean(bad), [b, d]."""
        return self.mean_good - self.mean_bad


def sides(sums: CellSums, good: Tensor, bad: Tensor | None = None) -> Sides:
    """Both sides under each row of the weights.

    Args:
        good: float32[b, r], how often each row counts on the good side.
        bad: the same for the bad side; None: every row that is not on the good side, once.
    """
    good, bad = good.to(sums.s.device), None if bad is None else bad.to(sums.s.device)
    totals = [x.sum(0) for x in (sums.n, sums.s, sums.q)]
    on_good = [good @ x for x in (sums.n, sums.s, sums.q)]
    on_bad = [t - g for t, g in zip(totals, on_good, strict=True)] if bad is None else [
        bad @ x for x in (sums.n, sums.s, sums.q)
    ]  # fmt: skip
    return Sides.of(on_good, on_bad)


def observed(contrast: Contrast) -> Tensor:
    """The labelling as it is: float32[1, r]."""
    return torch.from_numpy(contrast.good.astype(np.float32))[None]


def image_means(contrast: Contrast, sums: CellSums, good: bool) -> tuple[np.ndarray, np.ndarray]:
    """(float64[j, d] mean of each image of one side, float64[j] its share of the side's weight)."""
    rows = np.flatnonzero(contrast.good == good)
    weight = contrast.n[rows]
    return sums.s[rows].double().cpu().numpy() / weight[:, None], weight / weight.sum()


def noise(means: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Unbiased variance of the weighted mean over images, per channel, float64[d]: b/J when all images weigh the same.

    With weights w and S_k = sum w^k, E sum w_i^2 (m_i - m)^2 = var(m_i) (S_2 - 2 S_3 + S_2^2) for independent images.
    """
    s2, s3 = (share**2).sum(), (share**3).sum()
    centred = means - share @ means
    return (share**2 @ centred**2) * s2 / (s2 - 2 * s3 + s2**2)
