"""What chance alone gives: labels permuted, images left out, as matrix products over the moments.

The same permutations serve all cells (the same images are in all of them), so a maximum over cells has a null too.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from badhands.measures.contrasts import Contrast
from badhands.measures.separation import bhattacharyya
from badhands.measures.sides import CellSums, Sides, sides
from badhands.stats.design import Design, permuted
from badhands.stats.threads import spread

CHUNK = 128
"""Labellings done at once by one thread."""

Item = TypeVar("Item")
Statistic = Callable[[Sides], Tensor]
"""Sides of b labellings -> [b, k]: k numbers for each."""


def labellings(contrast: Contrast, design: Design) -> Tensor:
    """The design's permutations as float32[permutations, r]: 1 where a row is on the good side.

    An image that changes its label changes it for all its tokens; in a mixed image the two kinds trade places. Kinds of
    error are compared among some of the images only, and these exchange labels among themselves.
    """
    at = np.searchsorted(design.known, contrast.images)
    roles = design.labellings[1:, at]
    whole = contrast.name in ("good_vs_bad", "not_hand") and np.array_equal(design.good[at], contrast.role)
    if not whole or roles.all(1).any() or not roles.any(1).all():
        roles = permuted(contrast.role, design.stratum[contrast.images], design.permutations, design.seed)
    flipped = (roles != contrast.role)[:, contrast.image]
    return torch.from_numpy((contrast.good ^ flipped).astype(np.float32))


def one_left_out(contrast: Contrast, design: Design) -> tuple[Tensor, Tensor, np.ndarray | None]:
    """Weights with one image (or one prompt's images, where there are many prompts) left out, for the jackknife.

    Returns:
        float32[k, r] of the good side and of the bad side; bool[k] class of the image, None for whole prompts.
    """
    cluster = design.clusters(contrast.images)
    keep = torch.from_numpy((cluster[contrast.image] != np.arange(cluster.max() + 1)[:, None]).astype(np.float32))
    good = torch.from_numpy(contrast.good.astype(np.float32))
    alone = len(keep) == len(contrast.images)
    role = contrast.role[np.argsort(cluster)] if alone else None
    return keep * good, keep * (1 - good), role


def over_permutations(sums: CellSums, good: Tensor, statistic: Statistic) -> Tensor:
    """The statistic under every permutation, [count, k]."""
    return _all(lambda chunk: statistic(sides(sums, chunk)), good.split(CHUNK), sums)


def over_weights(sums: CellSums, good: Tensor, bad: Tensor, statistic: Statistic) -> Tensor:
    """The statistic under every weighting of the rows, [count, k]."""
    pairs = zip(good.split(CHUNK), bad.split(CHUNK), strict=True)
    return _all(lambda pair: statistic(sides(sums, *pair)), pairs, sums)


def _all(work: Callable[[Item], Tensor], chunks: Iterable[Item], sums: CellSums) -> Tensor:
    """All chunks, on the CPU: shared out over its threads, or one after the other on a GPU."""
    return torch.cat(spread(work, chunks) if sums.s.device.type == "cpu" else [*map(work, chunks)]).cpu()


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


def splits(contrast: Contrast, count: int, seed: int) -> Iterator[np.ndarray]:
    """Random halves of the images, each half with half of every role: bool[J] of the first half."""
    rng = np.random.default_rng([seed, 3])
    for _ in range(count):
        first = np.zeros(len(contrast.role), bool)
        for role in (True, False):
            images = rng.permutation(np.flatnonzero(contrast.role == role))
            first[images[: len(images) // 2]] = True
        yield first
