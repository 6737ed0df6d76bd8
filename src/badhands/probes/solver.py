"""Many regularised linear classifiers of one data matrix, minimised side by side.

Each pass over x evaluates the loss and the gradient of every column; a column whose step failed tries a shorter one in
the same pass in which the others move on, and a column that has converged leaves. The method is L-BFGS (Nocedal and
Wright, algorithm 7.4) with the leading eigenvectors of the data's second moment as its first guess of the curvature:
activations have a few very strong correlated channels, which is what slows plain L-BFGS down.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from badhands.probes.objective import Problems

HISTORY = 8
"""Pairs of steps kept by L-BFGS."""
PATIENCE = 12
"""Shorter steps tried in a row before a column is given up."""
FLAT = 1e-6
"""In bfloat16 a column also stops when the next step promises less than this share of its loss."""
NOISE = 6e-4
"""Gradient components below this cannot be told from rounding in bfloat16: a smaller tolerance is raised to it."""


@dataclass(frozen=True)
class Solution:
    weight: Tensor
    """[d, k], in the coordinates of the x that was given."""
    bias: Tensor
    """[k]"""
    gradient: Tensor
    """[k] largest absolute component of the gradient at the end, in standardised coordinates."""
    passes: int
    """Reads of x."""

    def converged(self, tolerance: float) -> bool:
        return bool((self.gradient <= tolerance).all())


@torch.no_grad()
def minimise(
    problems: Problems,
    *,
    tolerance: float = 1e-4,
    max_passes: int = 200,
    start: tuple[float, Tensor] | None = None,
) -> Solution:
    """The minimum of every problem. A column that ran out of passes says so in `gradient`.

    Args:
        tolerance: stop a column when no component of its gradient exceeds this.
        start: loss of zero weights, and its gradient [d, k] where known (class means give it): saves the first pass.
    """
    tolerance = max(tolerance, NOISE) if problems.uses_bfloat16 else tolerance
    search = _Search(problems, start)
    best, best_gradient = search.theta.clone(), torch.full_like(search.value, torch.inf)
    while True:
        size = search.gradient.abs().amax(0)
        best[:, search.active], best_gradient[search.active] = search.theta, size
        moving = (size > tolerance) & (search.stalled < PATIENCE)
        if problems.uses_bfloat16:
            moving &= ~search.flat()
        if search.passes >= max_passes or not moving.any():
            return Solution(*problems.unstandardised(best), best_gradient, search.passes)
        if moving.sum() <= 0.75 * len(search.active):  # copies the history, so not for single columns
            search.keep(moving)
        search.step()


@dataclass(frozen=True)
class _Move:
    """One accepted step of every column; 0 where a column stayed."""

    step: Tensor
    """[d + 1, c], of theta."""
    gradient_change: Tensor
    """[d + 1, c]"""
    inverse: Tensor
    """[c], 1 / (step . gradient_change), 0 where the move teaches nothing about the curvature."""

    @classmethod
    def of(cls, step: Tensor, change: Tensor, accepted: Tensor) -> "_Move":
        product = (step * change).sum(0)
        useful = accepted & (product > 1e-10 * (step.square().sum(0) * change.square().sum(0)).sqrt())
        return cls(step, change, torch.where(useful, 1 / torch.where(useful, product, 1), 0))

    def keep(self, columns: Tensor) -> "_Move":
        return _Move(self.step[:, columns], self.gradient_change[:, columns], self.inverse[columns])


class _Search:
    """Where the columns that still move stand, and how they came there."""

    def __init__(self, problems: Problems, start: tuple[float, Tensor] | None) -> None:
        k, d = len(problems.penalty), problems.x.shape[1]
        self.problems = problems
        self.active = torch.arange(k, device=problems.x.device)
        """[c], the problems of the columns."""
        self.theta = torch.zeros(d + 1, k, dtype=problems.real, device=problems.x.device)
        """[d + 1, c], last row: bias."""
        if start is None:
            self.value, self.gradient = problems.evaluate(self.theta, self.active)
        else:
            self.value = self.theta.new_full((k,), start[0])
            self.gradient = torch.cat([start[1].to(problems.real), self.theta[-1:]])
        self.passes = int(start is None)
        self.moves: list[_Move] = []
        self.direction = -self._first_guess(self.gradient)
        self.length = torch.ones_like(self.value)
        self.stalled = torch.zeros_like(self.active)
        self._epsilon = 1e-5 if problems.uses_bfloat16 else torch.finfo(problems.real).eps

    def _first_guess(self, vector: Tensor) -> Tensor:
        return self.problems.newton_guess(vector, self.active)

    def flat(self) -> Tensor:
        """bool[c]: half the slope along the direction is what a Newton step would gain, and that is next to nothing."""
        return -(self.gradient * self.direction).sum(0) / 2 < FLAT * self.value

    def keep(self, columns: Tensor) -> None:
        """Leave the other columns behind."""
        self.active, self.value, self.length = self.active[columns], self.value[columns], self.length[columns]
        self.theta, self.gradient = self.theta[:, columns], self.gradient[:, columns]
        self.direction, self.stalled = self.direction[:, columns], self.stalled[columns]
        self.moves = [move.keep(columns) for move in self.moves]

    def step(self) -> None:
        """One pass over x: columns whose step lowers the loss move, the others will try a shorter one."""
        slope = (self.gradient * self.direction).sum(0)
        trial = self.theta + self.length * self.direction
        value, gradient = self.problems.evaluate(trial, self.active)
        self.passes += 1
        noise = self._epsilon * self.value.abs().clamp(min=1e-3)
        accepted = value <= self.value + 1e-4 * self.length * slope + noise
        step, change = torch.where(accepted, trial - self.theta, 0), torch.where(accepted, gradient - self.gradient, 0)
        self.moves = [*self.moves, _Move.of(step, change, accepted)][-HISTORY:]
        self.theta, self.gradient = (
            torch.where(accepted, trial, self.theta),
            torch.where(accepted, gradient, self.gradient),
        )
        self.value = torch.where(accepted, value, self.value)
        self.stalled = torch.where(accepted, 0, self.stalled + 1)
        fresh = -_two_loop(self.gradient, self.moves, self._first_guess)
        downhill = (fresh * self.gradient).sum(0) < 0
        fresh = torch.where(downhill, fresh, -self._first_guess(self.gradient))
        self.direction = torch.where(accepted, fresh, self.direction)
        self.length = torch.where(accepted, 1.0, self.length * 0.4)


def _two_loop(gradient: Tensor, moves: list[_Move], first: Callable[[Tensor], Tensor]) -> Tensor:
    """L-BFGS's product of the inverse curvature with the gradient, [d + 1, c]; moves with inverse 0 drop out."""
    vector = gradient.clone()
    factors = []
    for move in reversed(moves):
        factor = move.inverse * (move.step * vector).sum(0)
        vector -= factor * move.gradient_change
        factors.append(factor)
    result = first(vector) * _scale_of_guess(gradient[0], moves, first)
    for move, factor in zip(moves, reversed(factors), strict=True):
        result += move.step * (factor - move.inverse * (move.gradient_change * result).sum(0))
    return result


def _scale_of_guess(like: Tensor, moves: list[_Move], first: Callable[[Tensor], Tensor]) -> Tensor:
    """[c]: what the newest useful move of each column says about the size of the first guess, as usual for L-BFGS."""
    scale = torch.ones_like(like)
    found = torch.zeros_like(scale, dtype=torch.bool)
    for move in reversed(moves):
        fresh = (move.inverse > 0) & ~found
        if fresh.any():
            bent = (move.gradient_change * first(move.gradient_change)).sum(0)
            scale = torch.where(fresh, 1 / (move.inverse.clamp(min=1e-30) * bent.clamp(min=1e-30)), scale)
            found |= fresh
        if found.all():
            break
    return scale
