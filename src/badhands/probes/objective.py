"""What a linear probe minimises, for many problems on one data matrix: one read of x serves them all.

Folds are columns of a weight matrix, penalties are columns of the parameter matrix.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

RANK = 24
"""Eigenvectors of the second moment used to precondition, for wide activations; all of them up to EXACT channels."""
EXACT = 512
SAMPLE = 4
"""Of wide activations every fourth row shows the strong directions well enough."""
OUTSTANDING = 50
"""Precondition only eigenvalues above this multiple of the remaining mean, in wide activations."""
BLOCK_BYTES = 6 * 2**20
"""Rows of x handled at once on a CPU: well within its last-level cache."""
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
class SecondMoment:
    """Leading eigenvectors of sum_n w x x' of roughly standardised x, for a first guess of the curvature."""

    vectors: Tensor
    """[d, r]"""
    values: Tensor
    """[r]"""
    rest: float
    """Mean of the eigenvalues left out."""

    @classmethod
    def of(cls, x: Tensor, row_weight: Tensor, rank: int = RANK, seed: int = 0) -> "SecondMoment":
        """By two rounds of subspace iteration; exactly for at most EXACT channels.

        Args:
            x: [n, d] roughly standardised; row_weight: [n], sums to 1.
        """
        d = x.shape[1]
        if d <= EXACT:
            values, vectors = torch.linalg.eigh((x * row_weight[:, None].to(x.dtype)).T.float() @ x.float())
            return cls(vectors.to(row_weight.dtype), values.clamp(min=0).to(row_weight.dtype), 0.0)
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
        rest = max((d - values[keep].sum().item()) / (d - int(keep.sum())), 1e-3)
        return cls(vectors[:, keep], values[keep], rest)


@dataclass(frozen=True, eq=False)
class Problems:
    """k problems side by side: sum_n row_weight loss(logit) + penalty/2 |u|^2, u acting on (x - mean) / scale.

    The same objective as scikit-learn's LogisticRegression with C = 1 / penalty, where row_weight sums to 1.
    """

    x: Tensor
    """[n, d] float32, float64 or bfloat16; bfloat16 halves the traffic, products then carry 8 bits."""
    y: Tensor
    """[n, 1] or [n, k] in 0..1."""
    row_weight: Tensor
    """[n, k], each column sums to 1; 0 for rows that a problem must not see."""
    penalty: Tensor
    """[k]"""
    mean: Tensor
    """[d, k], each problem's own, from its own training rows."""
    scale: Tensor
    """[d, k]"""
    loss: Loss = logistic_loss
    second_moment: SecondMoment | None = None
    """Of x, where it is known."""

    def __post_init__(self) -> None:
        for name, value in (
            ("y", self.y.to(self.real).expand(len(self.x), len(self.penalty))),
            ("row_weight", self.row_weight.to(self.real)),
            ("penalty", self.penalty.to(self.x.device, self.real)),
        ):
            object.__setattr__(self, name, value)

    @property
    def uses_bfloat16(self) -> bool:
        return self.x.dtype == torch.bfloat16

    @property
    def real(self) -> torch.dtype:
        """Of parameters, losses and gradients."""
        return torch.float64 if self.x.dtype == torch.float64 else torch.float32

    @cached_property
    def inverse(self) -> Tensor:
        """[d, k], 1 / scale."""
        return 1 / self.scale.to(self.real)

    @cached_property
    def shift(self) -> Tensor:
        """[d, k], mean / scale."""
        return self.mean.to(self.real) * self.inverse

    @cached_property
    def _spectrum(self) -> SecondMoment:
        found = self.second_moment or SecondMoment.of(self.x, self.row_weight.mean(1))
        return SecondMoment(found.vectors.to(self.real), found.values.to(self.real), found.rest)

    def evaluate(self, theta: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
        """Value [c] and gradient [d + 1, c] of the problems `of` [c] at theta, whose last row is the bias."""
        u, bias = theta[:-1], theta[-1]
        raw = _halves(u * self.inverse[:, of], self.x.dtype)
        offset = bias - (u * self.shift[:, of]).sum(0)
        of_y, of_weight = self.y[:, of], self.row_weight[:, of]
        value, total, sums = torch.zeros_like(bias), torch.zeros_like(bias), torch.zeros_like(u)
        for rows in self._row_blocks():
            losses, slope = self.loss(_whole(self.x[rows] @ raw, len(of)) + offset, of_y[rows])
            slope = slope * of_weight[rows]
            value += (losses * of_weight[rows]).sum(0)
            total += slope.sum(0)
            sums += (slope.to(self.x.dtype).T @ self.x[rows]).T  # faster than x.T @ slope
        gradient = sums * self.inverse[:, of] - self.shift[:, of] * total + self.penalty[of] * u
        return value + self.penalty[of] / 2 * u.square().sum(0), torch.cat([gradient, total[None]])

    def _row_blocks(self) -> list[slice]:
        """On a CPU a pass goes block by block: the gradient finds the rows of the logits still in the cache."""
        n, d = self.x.shape
        rows = n if self.x.device.type != "cpu" else max(256, BLOCK_BYTES // (d * self.x.element_size()))
        return [slice(start, start + rows) for start in range(0, n, rows)]

    def newton_guess(self, vector: Tensor, of: Tensor) -> Tensor:
        """Times the inverse of (1/4 second moment + penalty): the largest curvature the logistic loss can have."""
        known = self._spectrum
        flat = known.rest / 4 + self.penalty[of]
        inner = known.vectors.T @ vector[:-1]
        along = known.vectors @ (inner * (1 / (known.values[:, None] / 4 + self.penalty[of]) - 1 / flat))
        return torch.cat([along + vector[:-1] / flat, 4 * vector[-1:]])

    def unstandardised(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [d, k] and biases [k] in the coordinates of x."""
        return theta[:-1] * self.inverse, theta[-1] - (theta[:-1] * self.shift).sum(0)


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
