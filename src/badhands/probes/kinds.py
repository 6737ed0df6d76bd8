"""The kinds of token probe, one object each. A kind fits k problems (a training set and a penalty each) on one cell.

Adding one is an entry in `KINDS` and a file in conf/probe/; docs/extending.md walks through it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from badhands.probes.objective import Loss, Problems, SecondMoment, hinge_loss, logistic_loss
from badhands.probes.solver import minimise
from badhands.probes.standardise import Standardised
from badhands.probes.training_rows import TrainingRows


class FitOptions(Protocol):
    """What a kind is told. `ProbeSettings` is one: it checks its kind against the table below."""

    @property
    def kind(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def tolerance(self) -> float: ...

    @property
    def max_passes(self) -> int: ...

    @property
    def hidden(self) -> int: ...

    @property
    def epochs(self) -> int: ...


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


@dataclass(frozen=True)
class Kind:
    """One kind of probe."""

    name: str
    fit: "Fitter"
    tuned: bool = True
    """It has a penalty, which nested grouped cross-validation chooses."""
    highest: float = math.inf
    """Largest penalty that makes sense."""
    hidden: bool = False
    """It has a layer of hidden units: `settings.hidden` of them."""


Fitter = Callable[[Standardised, TrainingRows, list[int], list[float], FitOptions], Fit]
"""Fits problem i on training set sets[i] with penalties[i]."""


def fit(
    cell: Standardised, training: TrainingRows, sets: list[int], penalties: list[float], settings: FitOptions
) -> Fit:
    """Fit problem i on training set sets[i] with penalties[i], by the kind that the settings name."""
    assert len(sets) == len(penalties)
    return KINDS[settings.kind].fit(cell, training, sets, penalties, settings)


def _descent(loss: Loss, at_zero: float, slope: float) -> Fitter:
    """L2-regularised minimisation of a convex loss of the margin.

    Args:
        at_zero, slope: value and size of the slope of the loss at margin 0. There every token of a class has one slope
            and the classes weigh 1/2 each, so the first gradient is a difference of class means.
    """

    def fitted(
        cell: Standardised, training: TrainingRows, sets: list[int], penalties: list[float], settings: FitOptions
    ) -> Fit:
        device = cell.x.device
        difference = (cell.class_means[0] - cell.class_means[1])[:, sets] / cell.scale[:, sets]
        problems = Problems(
            cell.x,
            torch.from_numpy(training.y)[:, None].to(device),
            training.weights(sets).to(device),
            torch.tensor(penalties, device=device),
            cell.mean[:, sets],
            cell.scale[:, sets],
            loss,
            SecondMoment.of(cell.x, training.weights([training.full])[:, 0].to(device)),
        )
        start = (at_zero, slope / 2 * difference)
        solution = minimise(problems, tolerance=settings.tolerance, max_passes=settings.max_passes, start=start)
        return Fit(solution.weight, solution.bias, gradient=float(solution.gradient.max()), passes=solution.passes)

    return fitted


def _midpoint(cell: Standardised, weight: Tensor, sets: list[int]) -> Tensor:
    return -(weight * cell.class_means[:, :, sets].mean(0)).sum(0)


def _mass_mean(
    cell: Standardised, training: TrainingRows, sets: list[int], penalties: list[float], settings: FitOptions
) -> Fit:
    """w = difference of class means in standardised channels; threshold at the midpoint."""
    difference = cell.class_means[1][:, sets] - cell.class_means[0][:, sets]
    weight = difference / cell.scale[:, sets].square()
    return Fit(weight, _midpoint(cell, weight, sets))


def _lda(
    cell: Standardised, training: TrainingRows, sets: list[int], penalties: list[float], settings: FitOptions
) -> Fit:
    """w = (shrunk within-class covariance)^-1 (difference of class means); threshold at the midpoint."""
    x, device = cell.x, cell.x.device
    d = x.shape[1]
    base = torch.from_numpy(training.base).to(device, torch.float32)
    groups = torch.from_numpy(training.groups).to(device)
    gram = torch.zeros(2 * training.n_folds, d, d, device=device)  # second moments add up over folds
    for group in range(2 * training.n_folds):
        part = x[groups == group].float()
        gram[group] = (part * base[groups == group, None]).T @ part
    factors = torch.from_numpy(training.factors).to(device, torch.float32)
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


def _mlp(
    cell: Standardised, training: TrainingRows, sets: list[int], penalties: list[float], settings: FitOptions
) -> Fit:
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
    y = torch.from_numpy(training.y).to(device)[:, None]
    row_weight = training.weights(sets).to(device)

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


KINDS = {
    kind.name: kind
    for kind in (
        Kind("logistic", _descent(logistic_loss, at_zero=math.log(2), slope=1 / 2)),
        Kind("mass_mean", _mass_mean, tuned=False),
        Kind("lda", _lda, highest=1.0),
        Kind("svm", _descent(hinge_loss, at_zero=1.0, slope=1.0)),
        Kind("mlp", _mlp, hidden=True),
    )
}
"""By the name that configuration uses."""
