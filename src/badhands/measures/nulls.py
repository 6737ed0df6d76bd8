"""What chance alone gives: labels permuted, images left out, as matrix products over the moments.

The same permutations serve all cells (the same images are in all of them), so a maximum over cells has a null too.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True, eq=False)
class LeftOut:
    """One image (or one prompt's images, where there are many prompts) left out at a time, for the jackknife."""

    of_row: np.ndarray
    """int[r], which of the k clusters each row of a contrast belongs to."""
    good: np.ndarray
    """bool[r], its side."""
    role: np.ndarray | None
    """bool[k], class of the image; None for whole prompts."""

    @classmethod
    def of(cls, contrast: Contrast, design: Design) -> "LeftOut":
        cluster = design.clusters(contrast.images)
        alone = int(cluster.max()) + 1 == len(contrast.images)
        return cls(cluster[contrast.image], contrast.good, contrast.role[np.argsort(cluster)] if alone else None)

    def __len__(self) -> int:
        return int(self.of_row.max()) + 1

    def sums(self, values: Tensor, side: bool, clusters: range) -> Tensor:
        """Sums over the rows of a side without those of one cluster: [r, ...] -> [clusters, ...].

        The cluster's own rows are taken off the whole, so the work does not grow with its square.
        """
        mine = self.good == side
        some = np.flatnonzero(mine & (self.of_row >= clusters.start) & (self.of_row < clusters.stop))
        where, rows = (torch.from_numpy(x).to(values.device) for x in (self.of_row[some] - clusters.start, some))
        own = values.new_zeros(len(clusters), *values.shape[1:]).index_add_(0, where, values[rows])
        return values[torch.from_numpy(np.flatnonzero(mine)).to(values.device)].sum(0) - own


def over_permutations(sums: CellSums, good: Tensor, statistic: Statistic) -> Tensor:
    """The statistic under every permutation, [count, k]."""
    return _all(lambda chunk: statistic(sides(sums, chunk)), good.split(CHUNK), sums)


def over_left_out(sums: CellSums, left_out: LeftOut, statistic: Statistic) -> Tensor:
    """The statistic without each cluster in turn, [clusters, k]."""

    def work(some: range) -> Tensor:
        on_good, on_bad = ([left_out.sums(x, side, some) for x in (sums.n, sums.s, sums.q)] for side in (True, False))
        return statistic(Sides.of(on_good, on_bad))

    clusters = range(len(left_out))
    return _all(work, [clusters[begin : begin + CHUNK] for begin in clusters[::CHUNK]], sums)


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
