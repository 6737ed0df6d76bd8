"""Paired differences between runs: both score the same images, so chance that they share cancels.

With 100 + 100 images an AUROC of 0.8 has a standard error of 0.03. Two probes on the same images and folds can be told
apart far below that, if the difference itself is resampled, image by image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from badhands.cells import Cell, in_order

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Image scores of one run, each from probes that have not seen the image's prompt."""

    images: tuple[str, ...]
    bad: NDArray[np.bool_]
    """[n]"""
    group: tuple[str, ...]
    """[n], the prompt: images of one prompt are resampled together."""
    fold: NDArray[np.int64]
    """[n]"""
    cells: tuple[Cell, ...]
    score: Floats
    """[c, n], mean good-logit of the hand tokens: low means bad."""

    def take(self, images: Sequence[str], cells: Sequence[Cell]) -> "OutOfFold":
        row = {name: i for i, name in enumerate(self.images)}
        column = {cell: i for i, cell in enumerate(self.cells)}
        rows = np.array([row[name] for name in images], int)
        keep = np.array([column[cell] for cell in cells], int)
        return OutOfFold(
            tuple(images),
            self.bad[rows],
            tuple(self.group[i] for i in rows),
            self.fold[rows],
            tuple(cells),
            self.score[np.ix_(keep, rows)],
        )


@dataclass(frozen=True)
class Difference:
    """AUROC of the second run minus AUROC of the first, with a 95 % interval."""

    value: float
    lo: float
    hi: float
    p: float
    """Two-sided, from the bootstrap: twice the share of resamples on the other side of 0."""
    images: int
    cells: int
    same_folds: bool

    @property
    def resolved(self) -> bool:
        """The interval leaves out 0."""
        return self.lo > 0 or self.hi < 0


def auroc(score: Floats, bad: NDArray[np.bool_], weight: Floats) -> Floats:
    """Share of (good, bad) image pairs in which the good one scores higher; ties count half.

    Args:
        score: [n]; weight: [b, n], how often each image counts in each resample.

    Returns:
        [b], nan for a resample without one of the classes.
    """
    levels, level = np.unique(score, return_inverse=True)
    order = np.argsort(level, kind="stable")
    starts = np.searchsorted(level[order], np.arange(len(levels)))
    good_at = np.add.reduceat((weight * ~bad)[:, order], starts, axis=1)
    bad_at = np.add.reduceat((weight * bad)[:, order], starts, axis=1)
    bad_below = np.cumsum(bad_at, axis=1) - bad_at
    pairs = good_at.sum(1) * bad_at.sum(1)
    won = (good_at * (bad_below + 0.5 * bad_at)).sum(1)
    return np.divide(won, pairs, out=np.full(len(weight), np.nan), where=pairs > 0)


def resamples(group: Sequence[str], count: int, seed: int = 0) -> Floats:
    """[count + 1, n] weights: row 0 is the data, the others draw whole groups (prompts) with replacement."""
    index = np.unique(np.asarray(group), return_inverse=True)[1]
    groups = int(index.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=count)
    return np.concatenate([np.ones((1, len(index))), drawn[:, index].astype(float)])


def shared(first: OutOfFold, second: OutOfFold) -> tuple[OutOfFold, OutOfFold]:
    """Both, cut down to the images and cells that they have in common, in one order.

    Raises:
        ValueError: they share no cell, fewer than 4 images a class, or disagree about which images are bad.
    """
    images = [name for name in first.images if name in set(second.images)]
    cells = in_order(set(first.cells) & set(second.cells))
    a, b = first.take(images, cells), second.take(images, cells)
    if not cells:
        raise ValueError("the runs share no cell")
    if min(a.bad.sum(), (~a.bad).sum()) < 4:
        good, bad = int((~a.bad).sum()), int(a.bad.sum())
        raise ValueError(f"the runs share {good} good and {bad} bad images: paired differences need 4 of each")
    if not np.array_equal(a.bad, b.bad):
        raise ValueError("the runs disagree about which images are bad")
    return a, b


def difference(first: OutOfFold, second: OutOfFold, count: int = 2000, seed: int = 0) -> Difference:
    """Mean over the shared cells of AUROC(second) - AUROC(first); one draw of images serves all cells of both runs."""
    a, b = shared(first, second)
    weight = resamples(a.group, count, seed)
    gap = np.mean(
        [auroc(y, a.bad, weight) - auroc(x, a.bad, weight) for x, y in zip(a.score, b.score, strict=True)], axis=0
    )
    drawn = gap[1:][np.isfinite(gap[1:])]
    lo, hi = np.quantile(drawn, (0.025, 0.975))
    p = min(1.0, 2 * (min((drawn <= 0).sum(), (drawn >= 0).sum()) + 1) / (len(drawn) + 1))
    same = bool(np.array_equal(a.fold, b.fold))
    return Difference(float(gap[0]), float(lo), float(hi), float(p), len(a.images), len(a.cells), same)
