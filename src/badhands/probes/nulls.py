"""What the scores would be if activations knew nothing: labels permuted over images, the same permutation in all cells.

Two nulls, both refitted for every permutation, since a fitted probe scored against permuted labels is no null at all:

`refit_null`    the very probe, refitted on a few permutations (all of them columns of one fit);
`ridge_null`    ridge regression on image means, refitted in closed form on a thousand permutations. The headline score,
                the mean token logit, is linear in the image mean, so this asks the same at a hundredth of the cost.

"The best of 48 cells" needs the maximum over cells of each permutation: columns of the arrays here are cells.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from badhands.cells import Cell
from badhands.probes.fitting import descend, fit
from badhands.probes.image_means import ImageMeans
from badhands.probes.scores import image_auroc, mean_pool
from badhands.probes.settings import ProbeSettings
from badhands.probes.solver import curvature
from badhands.probes.standardise import relabel, standardise
from badhands.probes.task import Task
from badhands.stats.folds import GOOD_IMAGE

RIDGE = 1.0
"""Penalty of `ridge_null`, in units of the mean squared length of an image mean."""
NULL_TOLERANCE = 10
"""Refits stop this much earlier: it moves an AUROC by less than 0.001, and a null is a spread of 0.04."""
COLUMNS = 50
"""Problems fitted side by side by `refit_null`: bounds its memory."""


def permuted_labels(image_label: np.ndarray, permutations: int, seed: int = 0) -> np.ndarray:
    """int32[permutations, images]: classes shuffled over the images that have one."""
    rng = np.random.default_rng(seed)
    labelled = np.flatnonzero(image_label >= 0)
    out = np.tile(image_label.astype(np.int32), (permutations, 1))
    for row in out:
        row[labelled] = rng.permutation(image_label[labelled])
    return out


def refit_null(
    cells: Sequence[Cell],
    read: Callable[[Cell], Tensor],
    task: Task,
    settings: ProbeSettings,
    penalties: Sequence[float],
    labels: np.ndarray,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Image AUROC of the probe refitted on permuted labels; the penalty is the one chosen with the true labels.

    Args:
        read: cell -> [n, d] of task.rows; penalties: one a cell; labels: [permutations, images].

    Returns:
        float64[permutations, cells].
    """
    settings = replace(settings, tolerance=NULL_TOLERANCE * settings.tolerance)
    out = np.full((len(labels), len(cells)), np.nan)
    tasks = [task.relabelled((label[task.image] == GOOD_IMAGE).astype(np.float32)) for label in labels]
    sets = [task.outer(k) for k in range(task.n_folds)]
    fold = torch.from_numpy(task.fold).long()
    for c, cell in enumerate(cells):
        base = standardise(read(cell).to(device), task, settings.precision)
        shape = (
            curvature(base.x, task.weights([task.full])[:, 0].to(device))
            if settings.kind in ("logistic", "svm")
            else None
        )
        together = max(1, COLUMNS // len(sets)) if shape else 1
        for start in range(0, len(tasks), together):
            some = tasks[start : start + together]
            cases = [relabel(base, of) for of in some]
            if shape:
                joint = replace(
                    base,
                    mean=torch.cat([case.mean[:, sets] for case in cases], 1),
                    scale=torch.cat([case.scale[:, sets] for case in cases], 1),
                )
                y = torch.from_numpy(np.repeat(np.stack([of.y for of in some], 1), len(sets), axis=1)).to(device)
                row_weight = torch.cat([of.weights(sets) for of in some], 1).to(device)
                columns = list(range(len(sets) * len(some)))
                logits = descend(joint, y, row_weight, columns, [penalties[c]] * len(columns), settings, shape).logits(
                    base.x
                )
            else:
                logits = fit(cases[0], some[0], sets, [penalties[c]] * len(sets), settings).logits(base.x)
            logits = logits.view(len(logits), len(some), len(sets)).cpu()
            held_out = logits.gather(2, fold[:, None, None].expand(-1, len(some), 1))[:, :, 0].double().numpy()
            for i in range(len(some)):
                score = mean_pool(held_out[:, i], task.image, len(task.folds))
                out[start + i, c] = image_auroc(score, labels[start + i])[0]
    return out


def ridge_null(means: ImageMeans, folds: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Out-of-fold image AUROC of ridge regression on image means, for every labelling.

    Args:
        labels: [labellings, images]; put the true one first.

    Returns:
        float64[labellings, cells].
    """
    used = np.flatnonzero((labels[0] >= 0) & means.present)
    y = torch.from_numpy(np.where(labels[:, used] == GOOD_IMAGE, 1.0, -1.0)).T.float()  # [images, labellings]
    fold = torch.from_numpy(folds[used])
    out = np.empty((len(labels), len(means.cells)))
    for c in range(len(means.cells)):
        score = torch.zeros_like(y)
        for k in fold.unique():
            train, test = fold != k, fold == k
            z = means.standardised(c, used[train.numpy()])[used]
            centre = z[train].mean(0)
            a, b = z[train] - centre, z[test] - centre
            kernel = a @ a.T
            kernel += RIDGE * kernel.diagonal().mean() * torch.eye(len(a))
            mean_y = y[train].mean(0)
            score[test] = b @ (a.T @ torch.linalg.solve(kernel, y[train] - mean_y)) + mean_y
        rank = score.argsort(0).argsort(0).double() + 1
        positive = (y > 0).double()
        n1 = positive.sum(0)
        out[:, c] = ((rank * positive).sum(0) - n1 * (n1 + 1) / 2) / (n1 * (len(y) - n1))
    return out


def p_value(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Share of permutations at least as large, the observed one counted in: never 0. null: [permutations, ...]."""
    return (1 + (null >= observed).sum(0)) / (1 + len(null))
