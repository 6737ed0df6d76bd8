"""The five probes. Each fits k problems (a training set and a penalty each) on one standardised cell.

| kind | definition |
|---|---|
| mass_mean | w = difference of class means in standardised channels; threshold at the midpoint |
| lda | w = (shrunk within-class covariance)^-1 (difference of class means); threshold at the midpoint |
| logistic | L2-regularised, scikit-learn's objective |
| svm | hinge loss (its corner rounded), L2 |
| mlp | one hidden layer of rectified units: the control for what a line cannot see |
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from badhands.probes.settings import ProbeSettings
from badhands.probes.solver import curvature, hinge_loss, logistic_loss, minimise
from badhands.probes.standardise import Standardised
from badhands.probes.task import Task


@dataclass(frozen=True)
class Fit:
    """k fitted problems, in coordinates of `Standardised.x`."""

    weight: Tensor
    """[d, k]; mlp: [h, k]."""
    bias: Tensor
    """[k]"""
    hidden: tuple[Tensor, Tensor] | None = None
    """mlp: [k, d, h] and [k, h]."""
    gradient: float = 0.0
    """Largest gradient component left, over the k problems; 0 for closed forms, nan for mlp."""
    passes: int = 1
    """Reads of x."""

    def logits(self, x: Tensor) -> Tensor:
        """x: [n, d] -> [n, k] float32 (float64 for float64)."""
        if self.hidden is None:
            return (x @ self.weight.to(x.dtype)).to(self.weight.dtype) + self.bias
        inner, offset = self.hidden
        k, d, h = inner.shape
        flat = (x @ inner.permute(1, 0, 2).reshape(d, k * h).to(x.dtype)).to(inner.dtype) + offset.reshape(-1)
        return (torch.relu(flat).view(-1, k, h) * self.weight.T).sum(-1) + self.bias


def fit(cell: Standardised, task: Task, sets: list[int], penalties: list[float], settings: ProbeSettings) -> Fit:
    """Fit problem i on training set sets[i] with penalties[i]."""
    assert len(sets) == len(penalties)
    if settings.kind == "mass_mean":
        return _mass_mean(cell, sets)
    if settings.kind == "lda":
        return _lda(cell, task, sets, penalties)
    if settings.kind == "mlp":
        return _mlp(cell, task, sets, penalties, settings)
    device = cell.x.device
    # At zero weights every token of a class has one slope, and the classes weigh 1/2 each: the gradient is a difference
    # of class means, times 1/4 for the logistic loss (slope 1/2) and 1/2 for the hinge (slope 1).
    value, factor = (1.0, 0.5) if settings.kind == "svm" else (math.log(2), 0.25)
    difference = (cell.class_means[0] - cell.class_means[1])[:, sets] / cell.scale[:, sets]
    return descend(
        cell,
        torch.from_numpy(task.y)[:, None].to(device),
        task.weights(sets).to(device),
        sets,
        penalties,
        settings,
        precondition=curvature(cell.x, task.weights([task.full])[:, 0].to(device)),
        start=(value, factor * difference),
    )


def descend(
    cell: Standardised,
    y: Tensor,
    row_weight: Tensor,
    sets: list[int],
    penalties: list[float],
    settings: ProbeSettings,
    precondition: tuple[Tensor, Tensor, float] | None = None,
    start: tuple[float, Tensor] | None = None,
) -> Fit:
    """logistic and svm, for labels y [n, 1 or k] and row weights [n, k]."""
    solution = minimise(
        cell.x,
        y,
        row_weight,
        torch.tensor(penalties, device=cell.x.device),
        mean=cell.mean[:, sets],
        scale=cell.scale[:, sets],
        loss=hinge_loss if settings.kind == "svm" else logistic_loss,
        tolerance=settings.tolerance,
        max_passes=settings.max_passes,
        precondition=precondition,
        start=start,
    )
    return Fit(solution.weight, solution.bias, gradient=float(solution.gradient.max()), passes=solution.passes)


def _midpoint(cell: Standardised, weight: Tensor, sets: list[int]) -> Tensor:
    return -(weight * cell.class_means[:, :, sets].mean(0)).sum(0)


def _mass_mean(cell: Standardised, sets: list[int]) -> Fit:
    difference = cell.class_means[1][:, sets] - cell.class_means[0][:, sets]
    weight = difference / cell.scale[:, sets].square()
    return Fit(weight, _midpoint(cell, weight, sets))


def _lda(cell: Standardised, task: Task, sets: list[int], penalties: list[float]) -> Fit:
    x, device = cell.x, cell.x.device
    d = x.shape[1]
    base = torch.from_numpy(task.base).to(device, torch.float32)
    groups = torch.from_numpy(task.groups).to(device)
    gram = torch.zeros(2 * task.n_folds, d, d, device=device)  # second moments add up over folds
    for group in range(2 * task.n_folds):
        part = x[groups == group].float()
        gram[group] = (part * base[groups == group, None]).T @ part
    factors = torch.from_numpy(task.factors).to(device, torch.float32)
    weight = torch.empty(d, len(sets), device=device)
    for column, (of, share) in enumerate(zip(sets, penalties, strict=True)):
        negative, positive = cell.class_means[0][:, of].float(), cell.class_means[1][:, of].float()
        within = torch.einsum("g,gij->ij", factors[of], gram)
        within -= (torch.outer(negative, negative) + torch.outer(positive, positive)) / 2
        inverse = 1 / cell.scale[:, of].float()
        within = inverse[:, None] * within * inverse
        shrunk = (1 - share) * within + share * within.diagonal().mean() * torch.eye(d, device=device)
        factor, failed = torch.linalg.cholesky_ex(shrunk)
        if failed:  # no shrinkage and more channels than tokens
            shrunk += 1e-3 * within.diagonal().mean() * torch.eye(d, device=device)
            factor = torch.linalg.cholesky(shrunk)
        difference = ((positive - negative) * inverse)[:, None]
        weight[:, column] = torch.cholesky_solve(difference, factor)[:, 0] * inverse
    return Fit(weight, _midpoint(cell, weight, sets).float())


def _mlp(cell: Standardised, task: Task, sets: list[int], penalties: list[float], settings: ProbeSettings) -> Fit:
    """Adam over all problems side by side, in shuffled batches of tokens; penalty is decoupled weight decay."""
    x, device = cell.x, cell.x.device
    (n, d), k, h = x.shape, len(sets), settings.hidden
    generator = torch.Generator().manual_seed(settings.seed)
    inverse = (1 / cell.scale[:, sets]).float()  # [d, k]
    shift = cell.mean[:, sets].float() * inverse
    start = torch.randn(1, d, h, generator=generator).expand(k, d, h) * d**-0.5  # one start for all: problems compare
    inner = start.clone().to(device).requires_grad_()
    offset = torch.zeros(k, h, device=device, requires_grad=True)
    outer = (torch.randn(h, 1, generator=generator) * h**-0.5).expand(h, k).clone().to(device).requires_grad_()
    bias = torch.zeros(k, device=device, requires_grad=True)
    decay = torch.tensor(penalties, device=device)
    batch = min(1024, max(1, n // 10))
    updates = max(1, settings.epochs) * -(-n // batch)
    optimiser = torch.optim.Adam([inner, offset, outer, bias], lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=updates)
    y = torch.from_numpy(task.y).to(device)[:, None]
    row_weight = task.weights(sets).to(device)

    def folded() -> Fit:
        hidden = inner * inverse.T[:, :, None]
        return Fit(outer, bias, (hidden, offset - (inner * shift.T[:, :, None]).sum(1)), float("nan"), updates)

    with torch.enable_grad():
        for _ in range(updates):
            rows = torch.randint(n, (batch,), generator=generator).to(device)
            losses, _ = logistic_loss(folded().logits(x[rows].float()), y[rows])
            loss = (losses * row_weight[rows]).sum(0) * (n / batch)
            ridge = inner.square().sum((1, 2)) + outer.square().sum(0)
            optimiser.zero_grad()
            (loss + decay / 2 * ridge).sum().backward()
            optimiser.step()
            schedule.step()
    done = folded()
    assert done.hidden is not None
    hidden = (done.hidden[0].detach(), done.hidden[1].detach())
    return Fit(done.weight.detach(), done.bias.detach(), hidden, done.gradient, done.passes)
