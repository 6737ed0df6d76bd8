"""The headline: AUROC of ridge regression on image means, within folds, averaged over fold draws, with its null."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from badhands.stats.auroc import auroc, placements
from badhands.stats.design import Design
from badhands.stats.intervals import Scored
from badhands.stats.ridge import Features, held_out_scores
from badhands.stats.threads import spread

INFLUENCES = 60
"""Permutations whose influence values are kept: they only give the mean spread of fixed scores."""


def headline(
    names: Sequence[str],
    features: Sequence[Features],
    design: Design,
    threads: int | None = None,
    influences: int = INFLUENCES,
) -> Scored:
    """Score every readout on the images of the design that are good or bad, for the true and all permuted labels.

    Args:
        features: one a name. Called with the training images (indices into `design.known`), gives float32[m, d] of all
            known images, in units of the training ones; `plain_features` makes one from a matrix.
        influences: permutations whose influence values are kept; 0 where no interval is asked for.
    """
    folds = design.folds[:, design.known]
    found = spread(lambda of: score_labellings(of, design.labellings, folds, influences), features, threads)
    areas, influence = (np.stack([parts[k] for parts in found], axis=1) for k in (0, 1))
    return Scored(
        tuple(map(str, names)), areas[0], influence[0], design.good, design.clusters(design.known),
        areas[1:], influence[1:], np.stack([parts[2] for parts in found]),
    )  # fmt: skip


def score_labellings(
    features: Features, labels: np.ndarray, folds: np.ndarray, influences: int = INFLUENCES
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AUROC [l] of each labelling bool[l, m], influence values [1 + influences, m] of the first ones, and the held-out
    scores float32[draws, m] of the first.

    Args:
        folds: int[draws, m].
    """
    y = torch.from_numpy(np.where(labels, 1.0, -1.0)).float()
    few = labels[: 1 + influences]
    areas, influence, own = np.zeros(len(labels)), np.zeros(few.shape), np.zeros(folds.shape, np.float32)
    for draw, fold in enumerate(folds):
        order = np.argsort(fold, kind="stable")  # images of one fold side by side are cheaper to compare
        parts = np.split(order, np.flatnonzero(np.diff(fold[order])) + 1)
        found = [held_out_scores(features, np.flatnonzero(fold != fold[part[0]]), part, y) for part in parts]
        score = torch.cat(found, 1).numpy()
        areas += auroc(score, labels.take(order, 1), fold=fold[order])
        influence[:, order] += placements(score[: len(few)], few[:, order], fold[order])
        own[draw, order] = score[0]
    return areas / len(folds), influence / len(folds), own


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
    influence = influence * (1.0 if like is None else like.widening)
    null, of_null = np.zeros((0, len(names))), np.zeros((0, *influence.shape))
    return Scored(
        tuple(names),
        value,
        influence,
        design.good,
        design.clusters(design.known),
        null,
        of_null,
        scores.astype(np.float32),
    )
