"""Image-level scores from moments alone: features of the headline probe, and the two rules of the diagonal Gaussian.

The mean over an image's tokens of any score that is linear in x and x^2 is linear in the image's sums. So the held-out
image AUROC of these rules, and their null under hundreds of refits, needs no token.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from badhands.cells import Cell
from badhands.measures.contrasts import Contrast
from badhands.measures.scores import Rules
from badhands.measures.sides import CellSums, Sides, sides
from badhands.stats.auroc import auroc, placements
from badhands.stats.design import Design
from badhands.stats.headline import INFLUENCES
from badhands.stats.intervals import Scored
from badhands.stats.ridge import Features

REFITS = 200
"""Permuted labellings under which the rules are refitted: for the spread of their AUROC, not for p-values."""


def image_sums(contrast: Contrast, sums: CellSums) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens float32[J, 1], sum x and sum x^2 float32[J, d] of every image, good and bad tokens together."""
    index = torch.from_numpy(contrast.image).long().to(sums.s.device)
    images = len(contrast.images)

    def total(rows: Tensor) -> Tensor:
        return torch.zeros(images, rows.shape[1], device=rows.device).index_add_(0, index, rows)

    return total(sums.n[:, None]), total(sums.s), total(sums.q)


def image_features(contrast: Contrast, sums: CellSums) -> Features:
    """Means of hand tokens per image, in units of the training images' tokens (each image counting once)."""
    n, s, q = image_sums(contrast, sums)
    mean = s / n
    both = torch.cat([mean, q / n], 1)

    def features(train: np.ndarray) -> Tensor:
        share = torch.zeros(len(both), device=both.device)
        share[torch.from_numpy(train).to(both.device)] = 1 / len(train)
        centre, square = (share @ both).view(2, -1)
        variance = square - centre.square()
        return (mean - centre) / torch.where(variance > 1e-9, variance.clamp(min=1e-9).sqrt(), torch.inf)

    return features


def rule_scores(
    contrast: Contrast,
    cell: Cell,
    sums: CellSums,
    labels: Tensor,
    design: Design,
    rules: Sequence[Callable[[Sides], Rules]],
) -> list[Scored]:
    """Held-out image AUROC of each rule in a cell, folds `design.base`, with refits under permuted labels.

    Args:
        labels: float32[permutations, r] of `nulls.labellings`.
    """
    observed = torch.from_numpy(contrast.good.astype(np.float32))[None]
    good = torch.cat([observed, labels[:REFITS]])
    fold = design.base[contrast.images]
    # The class of an image under a labelling: that of its rows where it turned round, and its own where not.
    first = np.unique(contrast.image, return_index=True)[1]
    roles = contrast.role ^ (good.numpy().astype(bool) ^ contrast.good)[:, first]
    n, s, q = image_sums(contrast, sums)
    scores = [np.zeros(roles.shape, np.float32) for _ in rules]
    for f in np.unique(fold):
        train = torch.from_numpy(np.flatnonzero(fold[contrast.image] != f))
        both = sides(sums.only(train), good[:, train])
        test = torch.from_numpy(np.flatnonzero(fold == f)).to(s.device)
        for score, rule in zip(scores, rules, strict=True):
            fitted = rule(both)
            # The offset is one number a fold and labelling, which no comparison within a fold feels.
            found = (s[test] @ fitted.linear + q[test] @ fitted.square) / n[test]
            score[:, fold == f] = found.T.cpu().numpy()
    found, few = [], slice(0, 1 + INFLUENCES)
    for score in scores:
        area, moved = auroc(score, roles, fold=fold), placements(score[few], roles[few], fold)
        found.append(
            Scored(
                (str(cell),), area[:1], moved[:1], contrast.role, design.clusters(contrast.images), area[1:, None],
                moved[1:, None], score[None, :1],
            )
        )  # fmt: skip
    return found
