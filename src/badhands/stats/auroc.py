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
        order = np.broadcast_to(np.argsort(s, -1), g.shape)
        ranked, ours = np.take_along_axis(np.broadcast_to(s, g.shape), order, -1), np.take_along_axis(g, order, -1)
        won_of = np.where(ours, below(ranked, ~ours), n_good - below(ranked, ours))
        beaten = np.empty(g.shape)
        np.put_along_axis(beaten, order, won_of, -1)
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
    ends = np.flatnonzero(np.diff(fold)) + 1
    if (np.diff(fold) >= 0).all():  # one after the other: no copies
        return [slice(begin, end) for begin, end in zip([0, *ends], [*ends, n], strict=True)]
    return [np.flatnonzero(fold == f) for f in np.unique(fold)]


def _won(score: NDArray[Any], good: NDArray[Any], weight: Floats | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weight of the pairs won, and of all pairs."""
    if weight is not None:
        return _won_weighted(score, good, weight)
    n_good = good.sum(-1)
    one_score_a_labelling = np.broadcast_shapes(score.shape, good.shape) == score.shape
    total = _rank_sum(score, good) if one_score_a_labelling else _rank_sum_of_many(score, good)
    return total - n_good * (n_good + 1) / 2, (n_good * (score.shape[-1] - n_good)).astype(np.float64)


def _rank_sum_of_many(score: NDArray[Any], good: NDArray[Any]) -> Floats:
    """Sum of the ranks of the good ones, where several labellings share their scores."""
    return np.einsum("...n,...n->...", _ranks(score), good.astype(np.float64))


def _rank_sum(score: NDArray[Any], good: NDArray[Any]) -> Floats:
    """The same for one labelling a row of scores, four times as fast: the class hides in the last bit of a score.

    As whole numbers of the same order they are sorted fastest, and the class moves along. Where scores are equal but
    for that bit, ranks are taken from the scores as given.
    """
    n = score.shape[-1]
    rows, of_good = score.reshape(-1, n), np.broadcast_to(good, score.shape).reshape(-1, n)
    if score.dtype.kind != "f" or score.itemsize not in (4, 8):
        rows = rows.astype(np.float64)
    whole = {4: np.int32, 8: np.int64}[rows.itemsize]
    place = np.arange(1, n + 1, dtype=np.float32 if n < 4000 else np.float64)  # sums up to 2^24 are exact
    sums, step = np.empty(len(rows)), max(1, AT_ONCE // max(1, n))
    for begin in range(0, len(rows), step):
        at = slice(begin, begin + step)
        tagged = (rows[at] + 0).view(whole)  # a copy in which -0 is 0
        tagged ^= (tagged >> (8 * rows.itemsize - 1)) & np.iinfo(whole).max  # of negative numbers, larger is smaller
        tagged &= ~whole(1)
        tagged |= of_good[at]
        tagged.sort(-1)
        sums[at] = (tagged & 1).astype(place.dtype) @ place
        tagged >>= 1
        flat = tagged.ravel()
        if (flat[1:] == flat[:-1]).any():
            again = begin + np.flatnonzero((tagged[:, 1:] == tagged[:, :-1]).any(-1))
            sums[again] = _rank_sum_of_many(rows[again], of_good[again])
    return sums.reshape(score.shape[:-1])


def _won_weighted(score: NDArray[Any], good: NDArray[Any], weight: Floats) -> tuple[NDArray[Any], NDArray[Any]]:
    order = np.argsort(score, axis=-1)
    ranked = np.take_along_axis(score, order, -1)

    def sorted_(values: NDArray[Any]) -> NDArray[Any]:
        if order.ndim == 1:
            return values[..., order]
        shape = np.broadcast_shapes(order.shape, values.shape)
        return np.take_along_axis(np.broadcast_to(values, shape), np.broadcast_to(order, shape), -1)

    of_good, of_bad = sorted_(weight * good), sorted_(weight * ~good)
    won = (of_good * below(ranked, of_bad)).sum(-1)
    return won, of_good.sum(-1) * of_bad.sum(-1)


def below(ranked: NDArray[Any], weight: NDArray[Any]) -> Floats:
    """Weight of what lies below each of the ascending scores, of equal ones (and itself) half: [..., n]."""
    up_to = weight.cumsum(-1, dtype=np.float64)
    new = np.ones(ranked.shape, bool)
    new[..., 1:] = ranked[..., 1:] != ranked[..., :-1]
    if new.all():
        return up_to - weight / 2
    position = np.arange(ranked.shape[-1])
    first = np.maximum.accumulate(np.where(new, position, 0), -1)  # of its ties
    ends = np.concatenate([new[..., 1:], np.ones((*new.shape[:-1], 1), bool)], -1)
    last = np.flip(np.minimum.accumulate(np.flip(np.where(ends, position, len(position)), -1), -1), -1)

    def at(values: NDArray[Any], index: NDArray[Any]) -> NDArray[Any]:
        if index.ndim == 1:
            return values[..., index]
        return np.take_along_axis(values, np.broadcast_to(index, np.broadcast_shapes(index.shape, values.shape)), -1)

    return (at(up_to - weight, first) + at(up_to, last)) / 2


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
