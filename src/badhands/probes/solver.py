"""Many regularised linear classifiers of one data matrix, minimised side by side: one read of x serves them all.

Folds are columns of a weight matrix, penalties are columns of the parameter matrix. Each pass over x evaluates the loss
and the gradient of every column; a column whose step failed tries a shorter one in the same pass in which the others
move on, and a column that has converged leaves. The method is L-BFGS (Nocedal and Wright, algorithm 7.4) with the
leading eigenvectors of the data's second moment as its first guess of the curvature: activations have a few very strong
correlated channels, which is what slows plain L-BFGS down.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

HISTORY = 8
"""Pairs of steps kept by L-BFGS."""
RANK = 8
"""Eigenvectors of the second moment used to precondition, for wide activations; all of them up to EXACT channels."""
EXACT = 512
SAMPLE = 4
"""Of wide activations every fourth row shows the strong directions well enough."""
OUTSTANDING = 50
"""Of wide activations only eigenvalues this many times the mean of the others count: L-BFGS learns lesser ones."""
BLOCK_BYTES = 6 * 2**20
"""Rows of x handled at once on a CPU: well within its last-level cache."""
FLAT = 1e-6
"""In bfloat16 a column also stops when the next step promises less than this share of its loss."""
NOISE = 6e-4
"""Gradient components below this cannot be told from rounding in bfloat16: a smaller tolerance is raised to it."""
HINGE_CORNER = 0.5
"""The hinge is rounded to a parabola over this width of margin, so that it has a gradient everywhere."""

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(logit [n, k], y [n, k or 1] in 0..1) -> (loss [n, k], derivative with respect to the logit [n, k])."""


def logistic_loss(logit: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of a label y in 0..1."""
    return torch.nn.functional.softplus(logit) - y * logit, torch.sigmoid(logit) - y


def hinge_loss(logit: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """max(0, 1 - s logit) for s = -1, +1, its corner rounded (Rennie 2005, Huberised)."""
    sign = 2 * y - 1
    gap = 1 - sign * logit + HINGE_CORNER / 2
    inside = gap.clamp(0, HINGE_CORNER)
    return inside.square() / (2 * HINGE_CORNER) + (gap - HINGE_CORNER).clamp(min=0), -sign * inside / HINGE_CORNER


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


def curvature(x: Tensor, row_weight: Tensor, rank: int = RANK, seed: int = 0) -> tuple[Tensor, Tensor, float]:
    """Leading eigenvectors of sum_n w x x', by two rounds of subspace iteration (exactly for at most EXACT channels).

    Args:
        x: [n, d] roughly standardised; row_weight: [n], sums to 1.

    Returns:
        vectors [d, r], values [r], and the mean of the eigenvalues left out.
    """
    d = x.shape[1]
    if d <= EXACT:
        values, vectors = torch.linalg.eigh((x * row_weight[:, None].to(x.dtype)).T.float() @ x.float())
        return vectors.to(row_weight.dtype), values.clamp(min=0).to(row_weight.dtype), 0.0
    x, row_weight = x[::SAMPLE].contiguous(), row_weight[::SAMPLE] / row_weight[::SAMPLE].sum()
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(d, rank, generator=generator).to(x.device)).Q
    values = torch.ones(rank, device=x.device)
    for _ in range(2):
        image = x.T @ (row_weight[:, None] * (x @ vectors.to(x.dtype)).float()).to(x.dtype)
        vectors, triangle = torch.linalg.qr(image.float())
        values = triangle.diagonal().abs()
    rest = max((d - values.sum().item()) / (d - rank), 1e-3)  # standardised: the trace is d
    keep = values > OUTSTANDING * rest
    return vectors[:, keep], values[keep], max((d - values[keep].sum().item()) / (d - int(keep.sum())), 1e-3)


@torch.no_grad()
def minimise(
    x: Tensor,
    y: Tensor,
    row_weight: Tensor,
    penalty: Tensor,
    *,
    mean: Tensor,
    scale: Tensor,
    loss: Loss = logistic_loss,
    tolerance: float = 1e-4,
    max_passes: int = 200,
    precondition: tuple[Tensor, Tensor, float] | None = None,
    start: tuple[float, Tensor] | None = None,
) -> Solution:
    """Minimise sum_n row_weight loss(logit) + penalty/2 |u|^2 for k problems, u acting on (x - mean) / scale.

    The same objective as scikit-learn's LogisticRegression with C = 1 / penalty, where row_weight sums to 1.

    Args:
        x: [n, d] float32, float64 or bfloat16; bfloat16 halves the traffic, products then carry 8 bits.
        y: [n, 1] or [n, k] in 0..1.
        row_weight: [n, k], each column sums to 1; 0 for rows that a problem must not see.
        penalty: [k].
        mean, scale: [d, k], each problem's own standardisation, from its own training rows.
        tolerance: stop a column when no component of its gradient exceeds this.
        start: loss of zero weights, and its gradient [d, k] where known (class means give it): saves the first pass.

    Returns:
        weights folded back to the coordinates of x. A column that ran out of passes says so in `gradient`.
    """
    n, d = x.shape
    k = penalty.shape[0]
    real = torch.float64 if x.dtype == torch.float64 else torch.float32
    device = x.device
    y = y.to(real).expand(n, k)
    row_weight, penalty = row_weight.to(real), penalty.to(device, real)
    inverse = 1 / scale.to(real)
    shift = mean.to(real) * inverse
    vectors, values, rest = precondition or curvature(x, row_weight.mean(1))
    vectors, values = vectors.to(real), values.to(real)

    best = torch.zeros(d + 1, k, dtype=real, device=device)  # last row: bias
    active = torch.arange(k, device=device)
    best_gradient = torch.full((k,), torch.inf, dtype=real, device=device)

    # On a CPU a pass goes block by block: the gradient finds the rows of the logits still in the cache.
    rows = n if device.type != "cpu" else max(256, BLOCK_BYTES // (d * x.element_size()))

    def evaluate(theta: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
        u, bias = theta[:-1], theta[-1]
        raw = _halves(u * inverse[:, of], x.dtype)
        offset = bias - (u * shift[:, of]).sum(0)
        of_y, of_weight = y[:, of], row_weight[:, of]
        value, total = torch.zeros_like(bias), torch.zeros_like(bias)
        sums = torch.zeros_like(u)
        for start in range(0, n, rows):
            part = x[start : start + rows]
            losses, slope = loss(_whole(part @ raw, len(of)) + offset, of_y[start : start + rows])
            weight = of_weight[start : start + rows]
            slope = slope * weight
            value += (losses * weight).sum(0)
            total += slope.sum(0)
            sums += part.T @ slope.to(x.dtype)
        gradient = sums * inverse[:, of] - shift[:, of] * total + penalty[of] * u
        return value + penalty[of] / 2 * u.square().sum(0), torch.cat([gradient, total[None]])

    def first_guess(vector: Tensor, of: Tensor) -> Tensor:
        """Inverse of (1/4 second moment + penalty): the largest curvature that the logistic loss can have."""
        flat = rest / 4 + penalty[of]
        inner = vectors.T @ vector[:-1]
        bent = vectors @ (inner * (1 / (values[:, None] / 4 + penalty[of]) - 1 / flat)) + vector[:-1] / flat
        return torch.cat([bent, 4 * vector[-1:]])

    theta = torch.zeros(d + 1, k, dtype=real, device=device)
    if start is None:
        value, gradient = evaluate(theta, active)
    else:
        value, gradient = theta.new_full((k,), start[0]), torch.cat([start[1].to(real), theta[-1:]])
    passes = int(start is None)
    steps: list[Tensor] = []  # differences of theta
    bends: list[Tensor] = []  # differences of the gradient
    inverses: list[Tensor] = []  # 1 / (step . bend), 0 where a column kept nothing
    direction = -first_guess(gradient, active)
    length = torch.ones(k, dtype=real, device=device)
    stalled = torch.zeros(k, dtype=torch.long, device=device)
    rough = x.dtype == torch.bfloat16
    tolerance = max(tolerance, NOISE) if rough else tolerance
    epsilon = 1e-5 if rough else torch.finfo(real).eps

    while True:
        size = gradient.abs().amax(0)
        best[:, active], best_gradient[active] = theta, size
        # Half the slope along the direction is what a Newton step would gain.
        flat = -(gradient * direction).sum(0) / 2 < FLAT * value
        keep = (size > tolerance) & (stalled < 12) & ~(flat & rough)
        if passes >= max_passes or not keep.any():
            break
        if keep.sum() <= 0.75 * len(active):  # compacting costs a copy of the history, so not for single columns
            active, theta, value, gradient = active[keep], theta[:, keep], value[keep], gradient[:, keep]
            direction, length, stalled = direction[:, keep], length[keep], stalled[keep]
            steps, bends = [s[:, keep] for s in steps], [b[:, keep] for b in bends]
            inverses = [i[keep] for i in inverses]
        slope = (gradient * direction).sum(0)
        trial = theta + length * direction
        trial_value, trial_gradient = evaluate(trial, active)
        passes += 1
        noise = epsilon * value.abs().clamp(min=1e-3)
        accept = trial_value <= value + 1e-4 * length * slope + noise
        step = torch.where(accept, trial - theta, 0)
        bend = torch.where(accept, trial_gradient - gradient, 0)
        product = (step * bend).sum(0)
        useful = accept & (product > 1e-10 * (step.square().sum(0) * bend.square().sum(0)).sqrt())
        steps.append(step)
        bends.append(bend)
        inverses.append(torch.where(useful, 1 / torch.where(useful, product, 1), 0))
        if len(steps) > HISTORY:
            for history in (steps, bends, inverses):
                history.pop(0)
        theta, gradient = torch.where(accept, trial, theta), torch.where(accept, trial_gradient, gradient)
        value = torch.where(accept, trial_value, value)
        stalled = torch.where(accept, 0, stalled + 1)
        fresh = -_two_loop(gradient, steps, bends, inverses, lambda v, of=active: first_guess(v, of))
        downhill = (fresh * gradient).sum(0) < 0
        fresh = torch.where(downhill, fresh, -first_guess(gradient, active))
        direction = torch.where(accept, fresh, direction)
        length = torch.where(accept, 1.0, length * 0.4)

    weight = best[:-1] * inverse
    return Solution(weight, best[-1] - (best[:-1] * shift).sum(0), best_gradient, passes)


def _halves(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in x's dtype. In bfloat16 as two columns, the second its rounding error: without it the loss is a
    staircase of the weight and the search stalls on the steps."""
    if dtype != torch.bfloat16:
        return weight
    high = weight.bfloat16()
    return torch.cat([high, (weight - high.float()).bfloat16()], 1)


def _whole(product: Tensor, k: int) -> Tensor:
    """Sum of the two halves' products, [n, k] float32 (as it is for other dtypes)."""
    return product if product.shape[1] == k else product[:, :k].float() + product[:, k:].float()


def _two_loop(
    gradient: Tensor,
    steps: list[Tensor],
    bends: list[Tensor],
    inverses: list[Tensor],
    first: Callable[[Tensor], Tensor],
) -> Tensor:
    """L-BFGS's product of the inverse curvature with the gradient, [d + 1, k]; entries with inverse 0 drop out."""
    vector = gradient.clone()
    factors = []
    for step, bend, inverse in zip(reversed(steps), reversed(bends), reversed(inverses), strict=True):
        factor = inverse * (step * vector).sum(0)
        vector -= factor * bend
        factors.append(factor)
    result = first(vector)
    # Scale the first guess by the newest useful pair of each column, as is usual for L-BFGS.
    scale = torch.ones_like(gradient[0])
    found = torch.zeros_like(scale, dtype=torch.bool)
    for bend, inverse in zip(reversed(bends), reversed(inverses), strict=True):
        fresh = (inverse > 0) & ~found
        if fresh.any():
            bent = (bend * first(bend)).sum(0)
            scale = torch.where(fresh, 1 / (inverse.clamp(min=1e-30) * bent.clamp(min=1e-30)), scale)
            found |= fresh
        if found.all():
            break
    result = result * scale
    for step, bend, inverse, factor in zip(steps, bends, inverses, reversed(factors), strict=True):
        result += step * (factor - inverse * (bend * result).sum(0))
    return result
