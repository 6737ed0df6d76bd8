"""The direction from bad to good in every cell, and whether cells agree about it (Eq. 1, 2, 5)."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from badhands.measures.contrasts import Contrast
from badhands.measures.nulls import Statistic, splits
from badhands.measures.sides import CellSums, Sides, image_means, noise, observed, sides
from badhands.stats.design import p_value

CHUNK = 32
"""Permutations done at once in all cells."""


@dataclass(frozen=True)
class Direction:
    """v of one cell: v = mean(good) - mean(bad) (Eq. 1)."""

    v: np.ndarray
    """float64[d], raw units."""
    v_standard: np.ndarray
    """float64[d], in units of the standard deviation of all tokens in play."""
    squared: float
    """|v|^2 without the part that noise adds (Eq. 2); <= 0: not resolved."""
    squared_standard: float


def direction(contrast: Contrast, sums: CellSums) -> Direction:
    """v (Eq. 1) and its unbiased squared length (Eq. 2), raw and channel-standardised."""
    v = sides(sums, observed(contrast)).gap[0].double().cpu().numpy()
    extra = sum(noise(*image_means(contrast, sums, good)) for good in (True, False))
    raw = v * sums.sd
    return Direction(raw, v, float(raw @ raw - (extra * sums.sd**2).sum()), float(v @ v - np.sum(extra)))


def participation_ratio(contrast: Contrast, sums: CellSums, raw: bool) -> float:
    """(tr S)^2 / tr S^2 of the covariance S of image means about their class: how many directions they fill.

    Both parts without the bias of few images (their plug-in ratio cannot exceed the number of images).
    """
    centred = []
    for good in (True, False):
        means, share = image_means(contrast, sums, good)
        centred.append(means - share @ means)
    both = np.concatenate(centred) * (sums.sd if raw else 1.0)
    if not both.any():  # nothing varies
        return 1.0
    gram = both @ both.T
    free = max(len(both) - 2, 2)
    square, of_squares = np.trace(gram) ** 2 / free**2, (gram**2).sum() / free**2
    of_squares = (of_squares - square / free) * free**2 / ((free - 1) * (free + 2))
    of_squares = max(of_squares, square / both.shape[1])
    return float(max(1.0, (square - 2 * of_squares / free) / of_squares))


def expected_gap(contrast: Contrast, ratio: float) -> float:
    """Gap along an in-sample v with labels at random, in standard deviations of image means: about
    sqrt(PR (1/J1 + 1/J0)); any in-sample plot along v shows this much even if the classes are the same."""
    good, bad = contrast.counts
    return float(np.sqrt(ratio * (1 / good + 1 / bad)))


def cosines(v: np.ndarray) -> np.ndarray:
    """Cosine matrix of the rows of [C, d], float64[C, C]."""
    unit = v / (np.linalg.norm(v, axis=1, keepdims=True) + 1e-300)
    return unit @ unit.T


class CellStack:
    """Row sums of several cells of equal width side by side, so that one product serves all of them."""

    def __init__(
        self, contrast: Contrast, cells: Iterable[CellSums], shape: tuple[int, int], raw: bool,
        device: torch.device | str = "cpu",
    ):  # fmt: skip
        """`cells` may come one by one, as they are read; `shape`: how many there are, and their channels."""
        self.contrast = contrast
        self.n = torch.from_numpy(contrast.n.astype(np.float32)).to(device)
        self.s = torch.zeros(len(self.n), *shape, device=device)
        """float32[r, C, d]; raw units divided by the cell's own overall scale, which no cosine feels."""
        for k, cell in enumerate(cells):
            if not len(cell.varying_channels):
                continue
            scale = torch.from_numpy(cell.sd / np.sqrt((cell.sd**2).mean())).float() if raw else torch.ones(())
            self.s[:, k, torch.from_numpy(cell.varying_channels).to(device)] = cell.s.to(device) * scale.to(device)
        self.total = self.s.sum(0)

    def directions(self, good: Tensor, bad: Tensor | None = None) -> Tensor:
        """v of every cell under b labellings float32[b, r]: [b, C, d]."""
        good, bad = good.to(self.n.device), None if bad is None else bad.to(self.n.device)
        count = good @ self.n
        summed = torch.einsum("br,rcd->bcd", good, self.s)
        if bad is None:
            rest, others = self.total - summed, self.n.sum() - count
        else:
            rest, others = torch.einsum("br,rcd->bcd", bad, self.s), bad @ self.n
        return summed.div_(count[:, None, None]).sub_(rest.div_(others[:, None, None]))

    def cosines_null(self, good: Tensor) -> Tensor:
        """Cosine of v_c and v_c' under every permutation, [count, pairs] on the CPU; pairs c <= c' row by row."""
        cells = self.s.shape[1]
        first, second = torch.triu_indices(cells, cells, device=self.s.device)
        found = []
        for chunk in good.split(CHUNK):
            v = self.directions(chunk)
            product = v @ v.mT
            norm = product.diagonal(dim1=1, dim2=2).clamp(min=1e-30).sqrt()
            product /= norm[:, :, None] * norm[:, None, :]
            found.append(product[:, first, second].cpu())
        return torch.cat(found)

    def inner_products_halves(self, count: int, seed: int) -> np.ndarray:
        """v_c . v_c' with v from disjoint halves of the images, mean of `count` random splits: float64[C, C].

        The noise of the two factors is independent, so the expectation is that of noiseless directions (Eq. 5).
        """
        image = self.contrast.image
        good, bad = (torch.from_numpy(side.astype(np.float32)) for side in (self.contrast.good, ~self.contrast.good))
        firsts = torch.from_numpy(np.stack([first[image] for first in splits(self.contrast, count, seed)])).float()
        summed = np.zeros((self.s.shape[1],) * 2)
        for first in firsts.split(CHUNK // 2):  # all halves of a chunk by one look at the sums
            half = torch.cat([first, 1 - first])
            one, other = self.directions(half * good, half * bad).chunk(2)
            summed += torch.einsum("bcd,bed->ce", one, other).double().cpu().numpy()
        return (summed + summed.T) / (2 * count)


@dataclass(frozen=True)
class Agreement:
    """Cosines between the directions of C cells; all matrices float64[C, C]."""

    cosine: np.ndarray
    corrected: np.ndarray
    """Without noise; NaN where one of the two directions is not resolved."""
    null_low: np.ndarray
    null_mean: np.ndarray
    null_high: np.ndarray
    """Of `cosine` under joint permutations: cells agree even for random labels, since they share the images."""
    p: np.ndarray
    """One-sided: permutations whose cosine is at least this high."""
    resolved: np.ndarray
    """bool[C]: the direction passed the gate, and its unbiased |v|^2 is positive."""


def agreement(stack: CellStack, can_resolve: np.ndarray, good: Tensor, halves: int, seed: int) -> Agreement:
    """Cosines with their noise correction and null (Eq. 5).

    Args:
        can_resolve: bool[C], the direction passed the gate and its unbiased |v|^2 (Eq. 2) is positive.
        good: float32[count, r], joint permutations (`nulls.labellings`).
    """
    v = stack.directions(observed(stack.contrast))[0].double().cpu().numpy()
    null = stack.cosines_null(good).double().numpy()
    cosine = cosines(v)
    at = np.triu_indices(len(v))
    disjoint = stack.inner_products_halves(halves, seed)
    own = np.diag(disjoint)
    resolved = can_resolve & (own > 0)
    root = np.sqrt(np.where(resolved, own, np.nan))
    null_low, null_mean, null_high, p = (np.empty_like(cosine) for _ in range(4))
    low, high = np.quantile(null, [0.025, 0.975], axis=0)
    told = ((null_low, low), (null_mean, null.mean(0)), (null_high, high), (p, p_value(cosine[at], null)))
    for into, values in told:
        into[at] = into.T[at] = values
    return Agreement(cosine, disjoint / (root[:, None] * root), null_low, null_mean, null_high, p, resolved)


def squared_lengths(sums: CellSums) -> Statistic:
    """|v|^2 in raw and in standardised units under b labellings, [b, 2]."""
    sd = torch.from_numpy(sums.sd).float().to(sums.s.device)

    def lengths(both: Sides) -> Tensor:
        gap = both.gap
        return torch.stack([(gap * sd).square().sum(-1), gap.square().sum(-1)], -1)

    return lengths
