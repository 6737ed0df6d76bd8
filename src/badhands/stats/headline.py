"""The headline: AUROC of ridge regression on image means, within folds, averaged over fold draws, with its null."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from badhands.stats.auroc import auroc, placements
from badhands.stats.design import Design
from badhands.stats.intervals import Scored
from badhands.stats.ridge import Features, Ridge
from badhands.stats.threads import spread

INFLUENCES = 60
"""Permutations whose influence values are kept: they only give the mean spread of fixed scores."""


def headline(
    names: Sequence[str],
    features: Sequence[Features],
    design: Design,
    permutations: int = 1000,
    threads: int | None = None,
) -> Scored:
    """Score every readout on the images of the design that are good or bad.

    Args:
        features: one a name. Called with the training images (indices into `design.known`), gives float32[m, d] of all
            known images, in units of the training ones; `plain_features` makes one from a matrix.
        permutations: labellings refitted beside the true one; folds are blind to labels, so they are kept.
    """
    labels = np.concatenate([design.good[None], design.permuted(permutations)])

    def one(of: Features) -> tuple[np.ndarray, np.ndarray]:
        return score_labellings(of, labels, design.folds[:, design.known])

    found = spread(one, features, threads)
    areas, influence = (np.stack([pair[k] for pair in found], axis=1) for k in (0, 1))
    return Scored(
        tuple(map(str, names)), areas[0], influence[0], design.good, design.unit[design.known], areas[1:], influence[1:]
    )


def score_labellings(features: Features, labels: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC [l] of each labelling bool[l, m], and influence values [1 + INFLUENCES, m] of the first ones.

    Args:
        folds: int[draws, m].
    """
    y = torch.from_numpy(np.where(labels, 1.0, -1.0)).float()
    few = labels[: 1 + INFLUENCES]
    areas, influence = np.zeros(len(labels)), np.zeros(few.shape)
    for fold in folds:
        score = np.empty(labels.shape, np.float32)
        for k in np.unique(fold):
            fit = Ridge.fit(features, np.flatnonzero(fold != k), np.flatnonzero(fold == k))
            score[:, fit.test] = fit.scores(y).numpy()
        areas += auroc(score, labels, fold=fold)
        influence += placements(score[: len(few)], few, fold)
    return areas / len(folds), influence / len(folds)


def held_out_scores(features: Features, design: Design) -> np.ndarray:
    """float32[draws, m]: the ridge's own held-out scores of the true labels, each draw of folds in a row."""
    y = torch.from_numpy(np.where(design.good, 1.0, -1.0)).float()[None]
    folds = design.folds[:, design.known]
    out = np.empty(folds.shape, np.float32)
    for row, fold in zip(out, folds, strict=True):
        for k in np.unique(fold):
            fit = Ridge.fit(features, np.flatnonzero(fold != k), np.flatnonzero(fold == k))
            row[fit.test] = fit.scores(y)[0].numpy()
    return out


def plain_features(x: np.ndarray | Tensor) -> Features:
    """Features from a matrix [m, d]: channels in units of the training images' standard deviation."""
    matrix = torch.as_tensor(np.asarray(x)).float()

    def features(train: np.ndarray) -> Tensor:
        part = matrix[train]
        scale = part.std(0, correction=0)
        # float32 noise in a constant channel is no signal
        still = scale <= 1e-6 * part.abs().amax(0).clamp(min=1e-30)
        return (matrix - part.mean(0)) / torch.where(still, torch.inf, scale)

    return features


def fixed_scores(
    names: Sequence[str], scores: np.ndarray, folds: np.ndarray, design: Design, like: Scored | None = None
) -> Scored:
    """The same table for scores that were fitted elsewhere and are too dear to refit a thousand times (a CNN).

    Args:
        scores: [c, draws, m] held-out scores of known images, high for good; folds: int[draws, m] they come from.
        like: a refitted readout of the same images, whose widening the intervals borrow. None: they are too narrow.
    """
    value = np.mean([auroc(scores[:, r], design.good, fold=fold) for r, fold in enumerate(folds)], axis=0)
    influence = np.mean([placements(scores[:, r], design.good, fold) for r, fold in enumerate(folds)], axis=0)
    wider = 1.0
    if like is not None:
        alone = Scored(
            like.names, like.value, like.influence, like.good, like.unit, like.null[:0], like.null_influence[:0]
        )
        wider = float(np.median(like.errors / alone.errors))
    empty = np.zeros((0, len(names)))
    return Scored(
        tuple(names),
        value,
        influence * wider,
        design.good,
        design.unit[design.known],
        empty,
        np.zeros((0, *influence.shape)),
    )
