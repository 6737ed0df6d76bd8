"""Nested grouped cross-validation of one cell: penalty, calibration and out-of-fold logits, nothing seen twice."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from badhands.probes.kinds import Fit, fit
from badhands.probes.settings import ProbeSettings
from badhands.probes.standardise import Standardised, standardise
from badhands.probes.training_rows import TrainingRows

INNER = 10
"""Inner models choose a penalty and a slope, and may be this much less precise."""


@dataclass(frozen=True)
class CellFit:
    """The models of one cell in raw coordinates: one for each held-out fold, and last the one on all images."""

    weight: Tensor
    """[folds + 1, d]; mlp: [folds + 1, h]."""
    bias: Tensor
    """[folds + 1]"""
    hidden: tuple[Tensor, Tensor] | None
    """mlp: [folds + 1, h, d] and [folds + 1, h]."""
    penalty: Tensor
    """[folds + 1], chosen inside the training folds of each model."""
    platt: Tensor
    """[folds + 1, 2], slope and offset, fitted on logits of images that the model (or its inner twin) did not see."""
    logit: Tensor
    """[n] out-of-fold logit of every row."""
    probability: Tensor
    """[n] out-of-fold calibrated probability of the positive class."""
    gradient: float
    passes: int


def fit_cell(raw: Tensor, training: TrainingRows, settings: ProbeSettings) -> CellFit:
    """Everything for one cell from one read of its rows.

    Args:
        raw: [n, d] activations of `training.rows`; overwritten where its dtype allows.
    """
    cell = standardise(raw, training, settings.precision)
    n_pairs, grid = len(training.pairs), settings.grid
    quick = replace(settings, tolerance=INNER * settings.tolerance)
    inner = fit(
        cell, training, [s for s in range(n_pairs) for _ in grid], [p for _ in range(n_pairs) for p in grid], quick
    )
    logits = inner.logits(cell.x).view(-1, n_pairs, len(grid))
    chosen = choose_penalties(logits, training, settings)
    folds = range(training.n_folds)
    sets = [*(training.outer(k) for k in folds), training.full]
    models = fit(cell, training, sets, [grid[i] for i in chosen], settings)
    # From here on on the CPU: calibration is many tiny steps.
    every, logits = models.logits(cell.x).cpu(), logits.cpu()
    fold = torch.from_numpy(training.fold).long()
    logit = every.gather(1, fold[:, None])[:, 0]

    y, measure = torch.from_numpy(training.y), torch.from_numpy(training.measure)
    platt = torch.zeros(training.n_folds + 1, 2, dtype=torch.float64)
    probability = torch.zeros_like(logit)
    for k in folds:
        seen, hidden = fold != k, fold == k
        # The inner twin of model k without fold j scores fold j: no label of fold k has touched these logits.
        twin = torch.tensor([training.pair(j, k) if j != k else 0 for j in folds])[fold]
        held_out = logits[torch.arange(len(fold)), twin, chosen[k]]
        slope, offset = fit_platt(held_out[seen], y[seen], measure[seen])
        platt[k] = torch.tensor([slope, offset])
        probability[hidden] = torch.sigmoid(slope * logit[hidden] + offset)
    platt[-1] = torch.tensor(fit_platt(logit, y, measure))
    weight, bias, hidden_layer = _raw(models, cell)
    return CellFit(
        weight,
        bias,
        hidden_layer,
        torch.tensor([grid[i] for i in chosen]),
        platt,
        logit.float(),
        probability.float(),
        models.gradient,
        inner.passes + models.passes,
    )


def choose_penalties(logits: Tensor, training: TrainingRows, settings: ProbeSettings) -> list[int]:
    """Index into the grid for each outer fold, and for all images.

    What is wanted of a probe decides: for the head good the AUROC of the mean token logit over held-out images (log
    loss of tokens would punish the confidence that correlated tokens share, and always ask for the largest
    penalty); for the head hand, where every image holds both classes, the AUROC of tokens.
    Ties go to the larger value of the grid.

    Args:
        logits: [n, pairs, penalties] of the inner models on all rows.
    """
    n_folds, n_grid = training.n_folds, logits.shape[2]
    if n_grid == 1:
        return [0] * (n_folds + 1)
    y, fold = torch.from_numpy(training.y).to(logits), torch.from_numpy(training.fold).to(logits.device)
    if training.head == "good":
        image = torch.from_numpy(training.image).to(logits.device).long()
        n_images, n_columns = len(training.folds), logits.shape[1] * n_grid
        count = torch.bincount(image, minlength=n_images).clamp(min=1).to(logits)
        sums = torch.zeros(n_images, n_columns, dtype=logits.dtype, device=logits.device)
        logits = (sums.index_add_(0, image, logits.reshape(len(y), n_columns)) / count[:, None]).view(
            n_images, -1, n_grid
        )
        share = torch.zeros_like(count).index_add_(0, image, y) / count
        present = torch.bincount(image, minlength=n_images) > 0
        y = (share == 1).to(y)  # one bad token makes a bad image
        fold = torch.where(present, torch.from_numpy(training.folds).to(fold), -1)
    area = torch.zeros(n_folds, n_folds, n_grid, dtype=torch.float64)  # [outer fold, validation fold, penalty]
    for s, (j, k) in enumerate(training.pairs):
        for validation, outer in ((j, k), (k, j)):
            rows = fold == validation
            area[outer, validation] = _auroc(logits[rows, s], y[rows]).cpu()
    per_outer = area.sum(1)
    return [_last_best(row) for row in (*per_outer, per_outer.sum(0))]


def _last_best(area: Tensor) -> int:
    return int((area >= area.max() - 1e-9).nonzero().max())


def _auroc(score: Tensor, y: Tensor) -> Tensor:
    """[n, k], [n] -> [k], by ranks; ties, rare in logits, are broken by order."""
    rank = score.argsort(0).argsort(0).double() + 1
    positive = y.sum().double()
    return (rank[y == 1].sum(0) - positive * (positive + 1) / 2) / (positive * (len(y) - positive))


def fit_platt(logit: Tensor, y: Tensor, weight: Tensor) -> tuple[float, float]:
    """Slope (never negative) and offset of sigmoid(slope logit + offset), by weighted Newton steps.

    Platt (1999), with his smoothed targets, so that separable logits keep a finite slope.
    """
    z, y, w = logit.double(), y.double(), weight.double()
    w = w / w.mean()
    positive, negative = (w * y).sum(), (w * (1 - y)).sum()
    centre, spread = z.mean(), z.std()
    if not bool(spread > 1e-12):  # logits of a constant cell: nothing to scale
        return 0.0, float(torch.log(positive / negative))
    z = (z - centre) / spread
    target = torch.where(y == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))
    slope, offset = torch.zeros((), dtype=torch.float64, device=z.device), torch.log(positive / negative)
    for _ in range(50):
        p = torch.sigmoid(slope * z + offset)
        error, bend = w * (p - target), w * (p * (1 - p)).clamp(min=1e-9)
        gradient = torch.stack([(error * z).sum(), error.sum()])
        cross = (bend * z).sum()
        hessian = torch.stack([torch.stack([(bend * z * z).sum(), cross]), torch.stack([cross, bend.sum()])])
        step = torch.linalg.solve(hessian, gradient)
        step = step * min(1.0, 4.0 / float(step.abs().max().clamp(min=1e-12)))
        slope, offset = slope - step[0], offset - step[1]
        if step.abs().max() < 1e-9:
            break
    if slope < 0:  # worse than chance on held-out images: say the base rate instead of the opposite
        return 0.0, float(torch.log(positive / negative))
    return float(slope / spread), float(offset - slope * centre / spread)


def _raw(models: Fit, cell: Standardised) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """Models in raw activation coordinates, models first."""
    if models.hidden is None:
        weight, bias = cell.to_raw(models.weight, models.bias)
        return weight.T.contiguous().float(), bias.float(), None
    inner, offset = models.hidden
    raw = inner / cell.spread[None, :, None]
    offset = offset - (raw * cell.centre[None, :, None]).sum(1)
    return models.weight.T.contiguous(), models.bias, (raw.mT.contiguous(), offset)
