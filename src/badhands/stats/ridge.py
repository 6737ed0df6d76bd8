"""Ridge regression on image means with one fixed penalty: the headline probe, fitted for every labelling at once.

The penalty is the mean eigenvalue of the training images' kernel, the same rule in every fold and cell, so nothing is
chosen and nothing can be chosen badly. Scores are linear in the labels: a thousand permutations are one product, and
refitting without any one image has a closed form.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Features = Callable[[NDArray[np.intp]], Tensor]
"""Training images int[m] -> float32[n, d], features of all images in units of the training ones."""


@dataclass(frozen=True, eq=False)
class Ridge:
    """The fit on the images of all folds but one, for any labels."""

    train: NDArray[np.intp]
    test: NDArray[np.intp]
    hat: Tensor
    """float32[test, train]: held-out scores are hat @ labels of the training images."""
    dual: Tensor
    """float32[train, train]: dual coefficients are dual @ labels."""
    own: Tensor
    """float32[train], diagonal of the inverse kernel, which leaving one image out needs."""
    raw: Tensor
    """float32[test, train], test kernel times inverse kernel."""

    @classmethod
    def fit(cls, features: Features, train: NDArray[np.intp], test: NDArray[np.intp]) -> "Ridge":
        z = features(train)
        a, b = z[train], z[test]
        centre = a.mean(0)
        a, b = a - centre, b - centre
        kernel = a @ a.T
        unit = kernel.diagonal().mean()
        if not bool(unit > 0):  # nothing varies: every score is 0, every pair a tie
            zeros = torch.zeros(len(train), len(train))
            return cls(train, test, torch.zeros(len(test), len(train)), zeros, torch.ones(len(train)), zeros[:0])
        kernel.diagonal().add_(unit)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel))
        raw = (b @ a.T) @ inverse
        # Labels are centred on their training mean: subtract it here, once for all labellings.
        return cls(
            train,
            test,
            raw - raw.mean(1, keepdim=True),
            inverse - inverse.mean(1, keepdim=True),
            inverse.diagonal(),
            raw,
        )

    def scores(self, y: Tensor) -> Tensor:
        """float32[l, n] labels -> [l, test]."""
        return y[:, self.train] @ self.hat.T

    def without_each(self, y: Tensor) -> Tensor:
        """Held-out scores when training image i is left out, for every i: float32[n] labels -> [train, test]."""
        labels = y[self.train]
        coefficient = self.dual @ labels
        change = (coefficient / self.own)[:, None] * self.raw.T
        return (self.hat @ labels)[None] - change


def ridge_weights(z: Tensor, y: Tensor) -> Tensor:
    """float32[d]: weights of the same ridge on all images; features float32[n, d] and labels float32[n] get centred."""
    z, y = z - z.mean(0), y - y.mean()
    kernel = z @ z.T
    unit = kernel.diagonal().mean()
    if not bool(unit > 0):
        return torch.zeros(z.shape[1])
    kernel.diagonal().add_(unit)
    return z.T @ torch.linalg.solve(kernel, y)
