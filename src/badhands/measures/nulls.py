"""What chance alone gives: labels permuted over images, images resampled, as matrix products over the moments.

The same permutations serve all cells (the same images are in all of them), so a maximum over cells has a null too.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from badhands.measures.contrasts import Contrast
from badhands.measures.separation import bhattacharyya
from badhands.measures.sides import CellSums, Sides, sides
from badhands.stats.threads import spread

CHUNK = 128
"""Labellings done at once by one thread."""

Statistic = Callable[[Sides], Tensor]
"""Sides of b labellings -> [b, k]: k numbers for each."""


def permuted(chosen: Contrast, count: int, seed: int) -> Tensor:
    """`count` joint permutations of the labels over images, as float32[count, r]: 1 where a row is on the good side.

    An image that changes its label changes it for all its tokens; in a mixed image the two kinds trade places.
    """
    rng = np.random.default_rng([seed, 1])
    roles = rng.permuted(np.tile(chosen.role, (count, 1)), axis=1)
    flipped = (roles != chosen.role)[:, chosen.image]
    return torch.from_numpy((chosen.good ^ flipped).astype(np.float32))


def resampled(chosen: Contrast, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """`count` bootstraps over images, within good and within bad ones: float32[count, r] of good side and bad side."""
    times = image_counts(chosen, count, seed)[:, chosen.image]
    return times * torch.from_numpy(chosen.good), times * torch.from_numpy(~chosen.good)


def image_counts(chosen: Contrast, count: int, seed: int) -> Tensor:
    """How often each image is drawn in each bootstrap, float32[count, J]."""
    rng = np.random.default_rng([seed, 2])
    times = np.zeros((count, len(chosen.role)), np.float32)
    for role in (True, False):
        images = np.flatnonzero(chosen.role == role)
        times[:, images] = rng.multinomial(len(images), np.full(len(images), 1 / len(images)), size=count)
    return torch.from_numpy(times)


def over_permutations(sums: CellSums, good: Tensor, statistic: Statistic) -> Tensor:
    """The statistic under every permutation, [count, k]."""
    return torch.cat(spread(lambda chunk: statistic(sides(sums, chunk)), good.split(CHUNK)))


def over_bootstraps(sums: CellSums, good: Tensor, bad: Tensor, statistic: Statistic) -> Tensor:
    """The statistic in every resample, [count, k]."""
    pairs = zip(good.split(CHUNK), bad.split(CHUNK), strict=True)
    return torch.cat(spread(lambda pair: statistic(sides(sums, *pair)), pairs))


def distance_terms(both: Sides) -> Tensor:
    """Plug-in D_B (Eq. 6) as [b, 2]: mean term, variance term.

    The same as `bhattacharyya`, summed, with one matrix of scratch: thousands of labellings go through here.
    """
    twice = both.var_good + both.var_bad
    mean_term = both.gap.square_().div_(twice).sum(-1) / 4
    ratio = twice.square_().div_(both.var_good).div_(both.var_bad)
    return torch.stack([mean_term, (ratio.log_().sum(-1) - twice.shape[-1] * math.log(4)) / 4], dim=-1)


def top10_share(both: Sides) -> Tensor:
    """Share of D_B in its ten largest channels, [b, 1]."""
    mean_term, variance_term = bhattacharyya(both.gap, both.var_good, both.var_bad)
    channels = mean_term.add_(variance_term)
    largest = channels.topk(min(10, channels.shape[-1])).values.sum(-1)
    return (largest / channels.sum(-1).clamp(min=1e-30))[:, None]


def p_value(value: float, null: np.ndarray) -> float:
    """Share of permutations, the observed labelling counted as one of them, that reach the value."""
    return float((1 + (null >= value).sum()) / (1 + len(null)))


def familywise(values: np.ndarray, null: np.ndarray) -> np.ndarray:
    """p-values of C cells against the maximum over cells, each in units of its own null: [C], [count, C] -> [C]."""
    spread = null.std(0) + 1e-30
    highest = ((null - null.mean(0)) / spread).max(1)
    return np.array([p_value(z, highest) for z in (values - null.mean(0)) / spread])


def shifted_interval(value: float, resamples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Interval round a bias-corrected value: the spread of the resamples about their own mean.

    Resampling adds the bias a second time, so its percentiles are not an interval for the value; their spread is.
    """
    low, high = np.quantile(resamples - resamples.mean(), [(1 - level) / 2, (1 + level) / 2])
    return value + float(low), value + float(high)


def splits(chosen: Contrast, count: int, seed: int) -> Iterator[np.ndarray]:
    """Random halves of the images, each half with half of every role: bool[J] of the first half."""
    rng = np.random.default_rng([seed, 3])
    for _ in range(count):
        first = np.zeros(len(chosen.role), bool)
        for role in (True, False):
            images = rng.permutation(np.flatnonzero(chosen.role == role))
            first[images[: len(images) // 2]] = True
        yield first
