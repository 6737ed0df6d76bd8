"""The area under the ROC curve, written once: ties, weights, folds, and any number of scores and labellings at once."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
AT_ONCE = 2_000_000
"""Scores ranked together: more would not stay in the processor's cache."""


def auroc(score: ArrayLike, good: ArrayLike, weight: ArrayLike | None = None, fold: ArrayLike | None = None) -> Floats:
    """Share of (good, bad) pairs in which the good one scores higher; a tie counts one half.

    Leading axes broadcast: scores of many cells, many labellings, many resamples.

    Args:
        score: [..., n], high for good. Finite: leave out what has no score.
        good: bool[..., n].
        weight: [..., n], how often each image (or token) counts, as in a bootstrap; None: once.
        fold: int[n]. Only pairs within one fold are compared, since scores of different folds come from differently
            fitted probes and share no scale; every pair counts the same.

    Returns:
        float64[...], nan where no pair is left.
    """
    score, good = np.asarray(score), np.asarray(good, bool)
    weight = None if weight is None else np.asarray(weight, np.float64)
    won, pairs = 0.0, 0.0
    for at in _parts(fold, score.shape[-1]):
        # One fold after the other: a rank among few is cheaper than a rank among many.
        w, p = _won(score[..., at], good[..., at], None if weight is None else weight[..., at])
        won, pairs = won + w, pairs + p
    won, pairs = np.asarray(won), np.asarray(pairs)
    return np.divide(won, pairs, out=np.full(np.broadcast_shapes(won.shape, pairs.shape), np.nan), where=pairs > 0)


def placements(score: ArrayLike, good: ArrayLike, fold: ArrayLike | None = None) -> Floats:
    """How much each image pulls AUROC up or down: float64[..., n], the terms whose variance DeLong et al. (1988) use.

    For a good image the share of bad ones that it beats, for a bad one the share of good ones that beat it, each minus
    the AUROC and scaled so that AUROC - expectation is about the mean of the n values. Within folds, as `auroc`.
    """
    score, good = np.asarray(score, np.float64), np.asarray(good, bool)
    good = np.broadcast_to(good, np.broadcast_shapes(score.shape, good.shape))
    n = score.shape[-1]
    won, met, pairs, total = np.zeros(good.shape), np.zeros(good.shape), 0.0, 0.0
    for at in _parts(fold, n):
        s, g = score[..., at], good[..., at]
        n_good = g.sum(-1, keepdims=True)
        n_bad = s.shape[-1] - n_good
        among_all, within = _ranks(s), np.zeros(g.shape)
        for side in (g, ~g):
            lone = _ranks(np.where(side, s, np.inf))  # the others come last, so ranks among one's own are right
            within = np.where(side, lone, within)
        below = among_all - within  # how many of the other class lie below, ties as halves
        beaten = np.where(g, below, n_good - below)
        won[..., at], met[..., at] = beaten, np.where(g, n_bad, n_good)
        pairs = pairs + n_good * n_bad
        total = total + np.where(g, beaten, 0).sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return n * (won - total / pairs * met) / pairs


def _parts(fold: ArrayLike | None, n: int) -> list[NDArray[np.intp] | slice]:
    if fold is None:
        return [slice(None)]
    fold = np.asarray(fold)
    assert fold.shape == (n,), "one fold an image"
    return [np.flatnonzero(fold == f) for f in np.unique(fold)]


def _won(score: NDArray[Any], good: NDArray[Any], weight: Floats | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weight of the pairs won, and of all pairs."""
    if weight is not None:
        return _won_weighted(score, good, weight)
    n_good = good.sum(-1)
    won = np.einsum("...n,...n->...", _ranks(score), good.astype(np.float64)) - n_good * (n_good + 1) / 2
    return won, (n_good * (score.shape[-1] - n_good)).astype(np.float64)


def _won_weighted(score: NDArray[Any], good: NDArray[Any], weight: Floats) -> tuple[NDArray[Any], NDArray[Any]]:
    order = np.argsort(score, axis=-1)
    ranked = np.take_along_axis(score, order, -1)
    position = np.arange(score.shape[-1])
    new = np.concatenate([np.ones((*ranked.shape[:-1], 1), bool), ranked[..., 1:] != ranked[..., :-1]], -1)
    first = np.maximum.accumulate(np.where(new, position, 0), -1)  # of its ties
    ends = np.concatenate([new[..., 1:], np.ones((*ranked.shape[:-1], 1), bool)], -1)
    last = np.flip(np.minimum.accumulate(np.flip(np.where(ends, position, len(position)), -1), -1), -1)

    def sorted_(values: NDArray[Any]) -> NDArray[Any]:
        if order.ndim == 1:
            return values[..., order]
        shape = np.broadcast_shapes(order.shape, values.shape)
        return np.take_along_axis(np.broadcast_to(values, shape), np.broadcast_to(order, shape), -1)

    def at(values: NDArray[Any], index: NDArray[Any]) -> NDArray[Any]:
        if index.ndim == 1:
            return values[..., index]
        return np.take_along_axis(values, np.broadcast_to(index, np.broadcast_shapes(index.shape, values.shape)), -1)

    of_good, of_bad = sorted_(weight * good), sorted_(weight * ~good)
    up_to = of_bad.cumsum(-1)
    lost_to_none = at(up_to - of_bad, first)
    won = (of_good * (lost_to_none + at(up_to, last)) / 2).sum(-1)
    return won, of_good.sum(-1) * of_bad.sum(-1)


def _ranks(score: NDArray[Any]) -> Floats:
    """1, 2, 3 ... along the last axis; equal scores share the mean of their ranks."""
    flat = score.reshape(-1, score.shape[-1])
    out = np.empty(flat.shape)
    step = max(1, AT_ONCE // max(1, flat.shape[1]))
    for begin in range(0, len(flat), step):
        part = flat[begin : begin + step]
        order = np.argsort(part, axis=-1)
        ranked = np.take_along_axis(part, order, -1)
        if (ranked[:, 1:] == ranked[:, :-1]).any():
            out[begin : begin + step] = rankdata(part, axis=-1)
        else:
            place = np.broadcast_to(np.arange(1.0, part.shape[1] + 1), part.shape)
            np.put_along_axis(out[begin : begin + step], order, place, -1)
    return out.reshape(score.shape)
