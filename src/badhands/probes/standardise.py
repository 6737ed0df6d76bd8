"""Class and fold moments of one cell, and its activations brought to comparable channels in place."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from badhands.probes.training_rows import TrainingRows

CHUNK = 128
"""Rows handled at once: 128 x 3072 float32 stay in a core's own cache; 512 take twice as long."""


@dataclass(frozen=True)
class Standardised:
    """A cell's rows in common coordinates (x - centre) / spread, and each training set's own mean and scale there.

    The common coordinates only keep the numbers small. What a fit standardises with is its own training set's.
    """

    x: Tensor
    """[n, d] float32, float64 or bfloat16."""
    centre: Tensor
    spread: Tensor
    """[d], raw units."""
    mean: Tensor
    scale: Tensor
    """[d, sets], in coordinates of x."""
    class_means: Tensor
    """[2, d, sets]: of the negative and of the positive class, in coordinates of x."""

    def to_raw(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [d, k] and biases [k] on x, moved to raw activations."""
        raw = weight / self.spread.to(weight)[:, None]
        return raw, bias - (raw * self.centre.to(weight)[:, None]).sum(0)


def working_dtype(precision: str, stored: torch.dtype, width: int) -> torch.dtype:
    """The dtype of products with x, from `ProbeSettings.precision`."""
    if precision == "auto":
        return torch.bfloat16 if stored == torch.bfloat16 and width >= 1024 else torch.float32
    return {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}[precision]


def standardise(raw: Tensor, training: TrainingRows, precision: str = "auto") -> Standardised:
    """Bring raw [n, d] to common coordinates (in place where the dtype stays) and take the moments of every set.

    Raises:
        ValueError: activations that are not finite.
    """
    n, d = raw.shape
    dtype = working_dtype(precision, raw.dtype, d)
    real = torch.float64 if dtype == torch.float64 else torch.float32
    pivot = raw[:: max(1, n // 256)].to(real).mean(0)  # massive channels sit far from 0: squares are taken about this
    mass, first, second = _group_moments(raw, training, pivot)
    if not bool(torch.isfinite(second).all()):
        raise ValueError("activations are not finite: extract again, in bfloat16 rather than float16")
    centre = first.sum(0) / mass.sum()
    spread = _scale(second.sum(0) / mass.sum() - centre.square(), centre)
    out = raw if raw.dtype == dtype else torch.empty(n, d, dtype=dtype, device=raw.device)
    offset, inverse = (pivot.double() + centre).to(real), (1 / spread).to(real)
    for start in range(0, n, CHUNK):
        out[start : start + CHUNK] = (raw[start : start + CHUNK].to(real) - offset).mul_(inverse)
    mean, scale, by_class = _set_moments(first - mass[:, None] * centre, second, mass, centre, training)
    return Standardised(
        out,
        offset,
        spread.to(real),
        (mean / spread[:, None]).to(real),
        (scale / spread[:, None]).to(real),
        (by_class / spread[:, None]).to(real),
    )


def _group_moments(x: Tensor, training: TrainingRows, pivot: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per fold and class: mass [g], sums of x - pivot [g, d] and of squares [g, d]; float64, rows weighted 1 / n_i."""
    n, d = x.shape
    groups = 2 * training.n_folds
    one_hot = np.zeros((n, groups))
    one_hot[np.arange(n), training.groups] = training.base
    membership = torch.from_numpy(one_hot).to(x.device, pivot.dtype)
    first = torch.zeros(groups, d, dtype=torch.float64, device=x.device)
    second = torch.zeros(groups, d, dtype=torch.float64, device=x.device)
    for start in range(0, n, CHUNK):
        part = x[start : start + CHUNK].to(pivot.dtype) - pivot
        of = membership[start : start + CHUNK].T
        first += of @ part
        second += of @ part.square_()
    return membership.sum(0).double(), first, second


def _set_moments(
    first: Tensor, second: Tensor, mass: Tensor, centre: Tensor, training: TrainingRows
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation [d, sets] and class means [2, d, sets] of every training set.

    first is about `centre`, second about 0.
    """
    factors = torch.from_numpy(training.factors).to(first.device)
    mean = (factors @ first).T
    about_zero = mean + centre[:, None]
    scale = _scale((factors @ second).T - about_zero.square(), about_zero)
    by_class = torch.stack([2 * factors[:, label::2] @ first[label::2] for label in (0, 1)]).mT
    return mean, scale, by_class


def _scale(variance: Tensor, mean: Tensor) -> Tensor:
    """Standard deviation; 1 for a channel that does not vary."""
    constant = variance <= 1e-12 * (1 + mean.square())
    return torch.where(constant, 1.0, variance.clamp(min=0).sqrt())
